"""The simulator's command line: `python -m quotapool.simulator --port 0 --keys 10 --rpm 60 --tpm 40000`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from quotapool.simulator.config import FIXED_TAIL, Limits, SimulatorConfig, generated_accounts, read_config
from quotapool.simulator.server import run

WRONG_CONFIGURATION: Final = 2

_FEW_SECRETS: Final = 5
_NEXT_LINE: Final = "\n" + " " * 13
_BODY: Final = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}'


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="quotapool simulate", description="An OpenAI-like upstream for demos and tests."
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=8090, help="port, 0 for a free one (default: %(default)s)")
    made.add_argument("--config", type=Path, help="YAML or JSON file with accounts, keys and limits")
    made.add_argument("--keys", type=int, default=3, help="accounts of one key each (default: %(default)s)")
    made.add_argument("--rpm", type=int, default=500, help="requests per minute of each account and model; 0: no limit")
    made.add_argument("--tpm", type=int, default=200_000, help="tokens per minute; 0: no limit")
    made.add_argument("--rpd", type=int, default=0, help="requests per day; 0: no limit (default)")
    made.add_argument(
        "--charging", choices=("keep", "correct"), help="keep the estimate charged, or correct it to the usage"
    )
    made.add_argument(
        "--answers", choices=("by_prompt", "by_call"), help="another text for each prompt (default), or for each call"
    )
    made.add_argument("--latency-ms", type=float, help="milliseconds before the first byte")
    made.add_argument("--tokens-per-second", type=float, help="speed of each answer (default: at once)")
    made.add_argument("--completion-tokens", type=int, help="length of an answer that nothing cuts shorter")
    return made


def configuration(arguments: argparse.Namespace) -> SimulatorConfig:
    """The file's settings, overridden by the command line's speed and charging.

    `--keys`, `--rpm`, `--tpm` and `--rpd` define the accounts if the file has none. Raises OSError, ValueError and
    msgspec.ValidationError.
    """
    settings: dict[str, Any] = {} if arguments.config is None else read_config(arguments.config)
    for name in ("charging", "answers", "latency_ms", "tokens_per_second", "completion_tokens"):
        value = getattr(arguments, name)
        if value is not None:
            settings[name] = value
    config = msgspec.convert(settings, SimulatorConfig)
    if config.accounts:
        return config
    limits = msgspec.convert({name: getattr(arguments, name) or None for name in ("rpm", "tpm", "rpd")}, Limits)
    return msgspec.structs.replace(config, accounts=generated_accounts(arguments.keys, limits))


def announcement(url: str, config: SimulatorConfig) -> str:
    """The line that programs read, which ends with the URL, and for people what to send there. Few secrets of many, so
    that a program that reads the first line only does not fill the pipe; none that may be a real one."""
    secrets = [secret for account in config.accounts for secret in account.keys if secret.endswith(FIXED_TAIL)]
    shown = secrets[:_FEW_SECRETS]
    if not shown:
        keys = ["those in the file"]
    elif len(shown) < len(secrets):
        keys = [*shown, f"and {len(secrets) - len(shown):,} more like these"]
    else:
        keys = shown
    key = shown[0] if shown else "<KEY>"
    return f"""simulator listening on {url}

  base URL   {url}/v1
  keys       {_NEXT_LINE.join(keys)}

  curl {url}/v1/chat/completions \\
    -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{_BODY}'

Serving until Ctrl-C."""


async def serve_until_signalled(config: SimulatorConfig, host: str, port: int) -> None:
    def announce(url: str) -> None:
        print(announcement(url, config), flush=True)

    serving = asyncio.ensure_future(run(config, host, port, announce))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 with one line for a wrong option, file or port."""
    arguments = parser().parse_args(argv)
    try:
        config = configuration(arguments)
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            runner.run(serve_until_signalled(config, arguments.host, arguments.port))
    except (OSError, ValueError, msgspec.ValidationError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return WRONG_CONFIGURATION
    return 0


def fast_loop() -> Any:
    """uvloop's, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
