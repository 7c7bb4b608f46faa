"""The demonstration of `quotapool demo`, on a real language model instead of a simulated upstream.

    python demo/run_on_model.py --port 8080 --admin-port 9090

Exit codes: 0 stopped; 2 something is in the way, and the message says what.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model_server import MODEL_NAME
from quotapool.cli.demo import AT_ONCE, run
from quotapool.cli.demo_parts import Upstream

KEYS = ["sk-model-0", "sk-model-1", "sk-model-2"]


def model() -> Upstream:
    server = str(Path(__file__).with_name("model_server.py"))
    command = [sys.executable, server, "--port", "0", "--keys", ",".join(KEYS), "--threads", "1"]
    return Upstream(MODEL_NAME, command, KEYS, MODEL_NAME, at_once=AT_ONCE, is_simulated=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8080, help="the clients' port (default: %(default)s)")
    parser.add_argument("--admin-port", type=int, default=9090, help="the operators' port (default: %(default)s)")
    options = parser.parse_args()
    sys.exit(run(model(), options.port, options.admin_port))
