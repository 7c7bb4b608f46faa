"""Real reverse proxies in front of the proxy, with the configurations of `config/in-front`, as an unprivileged user."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.fakes.certificates import Authority
from tests.fakes.processes import wait_until
from tests.fakes.valkey import free_port

RECIPES: Final = Path(__file__).parents[2] / "config" / "in-front"
NOBODY: Final = 65534
NAME: Final = "llm.example.com"  # in the recipes; here it is 127.0.0.1
PROXY_IN_RECIPES: Final = "127.0.0.1:8080"
OTHER_FOLDERS: Final = "/usr/sbin:/usr/local/sbin"  # where Debian puts servers, and a user's PATH does not look
Edits: TypeAlias = dict[str, str]  # what stands in a recipe: what stands there in this test


@dataclass(frozen=True)
class Place:
    """Where a reverse proxy runs, and with what: the files' texts name these."""

    folder: Path
    port: int
    proxy: str
    certificate: Path
    key: Path


def edited(file: str, edits: Edits) -> str:
    """A recipe with the test's own ports, names and files. What is edited must be there."""
    text = (RECIPES / file).read_text()
    for old, new in edits.items():
        assert old in text, f"{file} has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx(place: Place, edits: Edits, plain: str = "") -> list[str]:
    """`plain`: a recipe of the test's own, instead of ours."""
    ours = {
        PROXY_IN_RECIPES: place.proxy,
        "listen 443 ssl": f"listen {place.port} ssl",
        "/etc/ssl/llm.example.com/fullchain.pem": str(place.certificate),
        "/etc/ssl/llm.example.com/privkey.pem": str(place.key),
    }
    (place.folder / "quotapool.conf").write_text(plain or edited("nginx.conf", {**ours, **edits}))
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (place.folder / "main.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {place.folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n"
        f"access_log off;\n{''.join(f'{path}_temp_path {place.folder}/{path};' for path in paths)}\n"
        f"include {place.folder}/quotapool.conf;\n}}\n"
    )
    return ["-e", "stderr", "-c", f"{place.folder}/main.conf"]


def haproxy(place: Place, edits: Edits) -> list[str]:
    both = place.folder / "both.pem"
    both.write_bytes(place.certificate.read_bytes() + place.key.read_bytes())
    ours = {
        PROXY_IN_RECIPES: place.proxy,
        "bind :443": f"bind :{place.port}",
        "/etc/haproxy/llm.example.com.pem": str(both),
        "maxconn 10000": "maxconn 200",  # a user may open few files
    }
    (place.folder / "haproxy.cfg").write_text(edited("haproxy.cfg", {**ours, **edits}))
    return ["-db", "-f", f"{place.folder}/haproxy.cfg"]


def caddy(place: Place, edits: Edits) -> list[str]:
    ours = {
        PROXY_IN_RECIPES: place.proxy,
        f"\n{NAME} {{": f"\nhttps://{NAME}:{place.port} {{\n\ttls {place.certificate} {place.key}",
    }
    quiet = "{\n\tadmin off\n\tauto_https disable_redirects\n\tlog {\n\t\tlevel WARN\n\t}\n}\n"
    (place.folder / "Caddyfile").write_text(quiet + edited("Caddyfile", {**ours, **edits}))
    return ["run", "--adapter", "caddyfile", "--config", f"{place.folder}/Caddyfile"]


def traefik(place: Place, edits: Edits) -> list[str]:
    routes = {
        PROXY_IN_RECIPES: place.proxy,
        "/etc/ssl/llm.example.com/fullchain.pem": str(place.certificate),
        "/etc/ssl/llm.example.com/privkey.pem": str(place.key),
    }
    ours = {":443": f":{place.port}", "/etc/traefik/": f"{place.folder}/"}
    (place.folder / "traefik-quotapool.yml").write_text(edited("traefik-quotapool.yml", routes))
    (place.folder / "traefik.yml").write_text(edited("traefik.yml", {**ours, **edits}))
    return ["--configfile", f"{place.folder}/traefik.yml"]


COMMANDS: Final[dict[str, Callable[[Place, Edits], list[str]]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "caddy": caddy,
    "traefik": traefik,
}


def program_of(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{OTHER_FOLDERS}")


@dataclass
class InFront:
    """A reverse proxy that runs. `trust` is for clients: its certificate's authority."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    authority: Authority
    log_file: Path

    @property
    def base_url(self) -> str:
        return f"https://{NAME}:{self.port}/v1"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.ca_file))

    def connect(self, patience: float = 20, caller: str = "") -> socket.socket:
        source = (caller, 0) if caller else None
        return socket.create_connection(("127.0.0.1", self.port), patience, source)

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Any = None,
        *,
        caller: str = "",
        patience: float = 20,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer from its head on. `body`: a document, or an upload's pieces; `caller`: from which address."""
        connection = http.client.HTTPSConnection(NAME, self.port)
        connection.sock = self.trust.wrap_socket(self.connect(patience, caller), server_hostname=NAME)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
        try:
            connection.request(method, path, body, headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def pids(self) -> list[int]:
        """Its processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


@contextlib.contextmanager
def in_front(name: str, proxy: str, edits: Edits | None = None, *, port: int = 0, plain: str = "") -> Iterator[InFront]:
    """`name` before the proxy at the address `proxy`, with its recipe, `edits` made; or with `plain`, without TLS."""
    program = program_of(name)
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="in-front-") as made:  # not below the tests' own folder, which is root's
        folder = Path(made)
        authority = Authority.make(folder)
        place = Place(folder, port or free_port(), proxy, *authority.issue(folder, NAME, names=(NAME,)))
        arguments = nginx(place, {}, plain) if plain else COMMANDS[name](place, edits or {})
        log_file = folder / "log"
        with log_file.open("wb") as output:
            process = subprocess.Popen(
                [program, *arguments],
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": made},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **_unprivileged(folder),
            )
        running = InFront(name, place.port, process, authority, log_file)
        try:
            trust = running.trust if not plain else None
            wait_until(lambda: _answers(place.port, trust) or process.poll() is not None, f"{name} listens")
            assert process.poll() is None, log_file.read_text()
            yield running
        finally:
            process.terminate()
            process.wait(10)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Arguments of Popen: not as root, if that is who tests."""
    if os.geteuid() != 0:
        return {}
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _answers(port: int, trust: ssl.SSLContext | None) -> bool:
    """Traefik listens before it has read its certificate, so with TLS a handshake has to succeed."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            if trust is not None:
                trust.wrap_socket(connection, server_hostname=NAME).close()
    except OSError:
        return False
    return True
