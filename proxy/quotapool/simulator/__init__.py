"""An OpenAI-like upstream for demos and tests. It shares no code with the proxy, so each can prove the other wrong."""

from quotapool.simulator.billing import simulated_session_secret
from quotapool.simulator.command import main
from quotapool.simulator.config import AccountConfig, Limits, SimulatorConfig, generated_accounts, simulated_secret
from quotapool.simulator.organisation import simulated_admin_secret
from quotapool.simulator.server import RUNNER_OPTIONS, build_app, run

__all__ = [
    "RUNNER_OPTIONS",
    "AccountConfig",
    "Limits",
    "SimulatorConfig",
    "build_app",
    "generated_accounts",
    "main",
    "run",
    "simulated_admin_secret",
    "simulated_secret",
    "simulated_session_secret",
]
