"""Rules for all tests: what is missing on a laptop is skipped and said; in CI it is a failure."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.helm import Helm
from tests.fakes.valkey import forget_all, running_valkey
from tests.fakes.virtual_time import virtual_store_url, virtual_time

__all__ = ["virtual_store_url", "virtual_time"]

# A machine that other programs load is slow, not wrong: no property is judged by the time that an example took.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Who runs the tests in the background has them ignore Ctrl-C, and every program that they start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
HOW_TO_GET = {
    "chromium": "apt-get install chromium",
    "helm": "`go install helm.sh/helm/v3/cmd/helm@v3.22.0`, with Go",
    "otelcol": "`builder --config .ci/otelcol.yaml`, with Go's go.opentelemetry.io/collector/cmd/builder@v0.165.0",
    "promtool": "apt-get install prometheus",
    "prometheus": "apt-get install prometheus",
    "prometheus-alertmanager": "apt-get install prometheus-alertmanager",
    "amtool": "apt-get install prometheus-alertmanager",
    "redis-server": "apt-get install redis-server",
    "redis-cli": "apt-get install redis-tools",
    "jq": "apt-get install jq",
    "node": "apt-get install nodejs npm",
    "mariadbd": "apt-get install mariadb-server",
    "mariadb-install-db": "apt-get install mariadb-server",
    "postgres": "apt-get install postgresql",
    "initdb": "apt-get install postgresql",
    "npm": "apt-get install npm",
    "nginx": "apt-get install nginx",
    "haproxy": "apt-get install haproxy",
    "caddy": "apt-get install caddy",
    "ruby": "apt-get install ruby",
    "javac": "apt-get install default-jdk-headless",
    "gcc": "apt-get install gcc libc6-dev",
    "mandoc": "apt-get install mandoc",
    "systemd-analyze": "apt-get install systemd",
    "a Python >= 3.11 outside root's home directory, with its headers": "apt-get install python3-venv python3-dev",
    "tests/clients": "`make .venv/.clients`, with npm and the network",
    "what makes the site": "`make .venv/.site`, with the network",
    "what builds the page": "`make .venv/.page`, with npm and the network",
}


def missing(what: str) -> None:
    """Skip with advice; in CI fail, since a test that does not run proves nothing."""
    message = f"{what} is not installed: {HOW_TO_GET.get(what, 'see CONTRIBUTING.md')}"
    if IN_CI:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of a real program, or a skip (a failure in CI)."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            missing(name)
        return str(path)

    return find


@pytest.fixture(scope="session")
def client_programs(program: Callable[[str], str]) -> Path:
    """Where the pinned client programs of `tests/clients` are: `node_modules`, and `python`, an environment."""
    program("node")
    if not Path(sys.prefix, ".clients").exists():
        missing("tests/clients")
    return Path(sys.prefix, "clients")


@pytest.fixture(scope="session")
def helm(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(program("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the real Valkey that all tests of one process (of one lane under xdist) share."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def empty_valkey(shared_valkey: str) -> str:
    """The shared one, emptied for this test."""
    forget_all(shared_valkey)
    return shared_valkey


@pytest.fixture
def valkey_url(request: pytest.FixtureRequest) -> str:
    """A real, empty Valkey, which keeps to virtual time if the test does.

    Tests that stop or configure their server start one of their own (`fakes/valkey.py`).
    """
    is_virtual = "virtual_time" in request.fixturenames
    url: str = request.getfixturevalue("virtual_store_url" if is_virtual else "empty_valkey")
    return url


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI no skip passes silently, whoever asked for it."""
    outcome = yield
    report = outcome.get_result()
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
