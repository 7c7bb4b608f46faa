"""What a worker's process runs: `python -m quotapool.app.worker_process SLOT CONTROL_FD LISTEN_FD`."""

from __future__ import annotations

import sys

# structlog imports rich wherever it is installed: 4 MiB of each worker, for coloured tracebacks that no worker prints.
sys.modules["rich"] = None  # type: ignore[assignment]  # so that importing it fails

from quotapool.app.worker import main  # noqa: E402

if __name__ == "__main__":
    main(sys.argv[1:])
