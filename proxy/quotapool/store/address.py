"""Where the store is: the URL kinds of `redis:` in the configuration, read once and checked.

    redis://[user[:password]@]host[:6379][/db]           one server (rediss:// is the same over TLS)
    unix://[user[:password]@]/path/to/socket[?db=0]      one server on this machine
    redis+sentinel://[user[:password]@]host[:26379],.../master-name[/db]
    redis+cluster://[user[:password]@]host[:6379],...
    rediss+sentinel:// and rediss+cluster://             the same over TLS (Sentinels too)
    valkey:// and valkeys:// for redis:// and rediss://, also before +sentinel and +cluster

Options after `?`, the same names as in redis-py; any other is an error, because redis-py would let an
option such as `retry_on_timeout` in the URL override what `store.py` must guarantee:

    db, client_name
    ssl_ca_certs, ssl_certfile, ssl_keyfile              files, PEM
    ssl_check_hostname=no                                the certificate may carry another host's name
    ssl_cert_reqs=none                                   no verification; allowed because some managed services
                                                         offer nothing else, and shown in `describe()`
    sentinel_username, sentinel_password                 if the Sentinels have a password of their own

No message of this module repeats any part of the URL: a password with an unescaped `/` or `@` would be in it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl, unquote


class Kind(StrEnum):
    SINGLE = "single"
    UNIX = "unix"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": (Kind.SINGLE, False),
    "rediss": (Kind.SINGLE, True),
    "unix": (Kind.UNIX, False),
    "redis+sentinel": (Kind.SENTINEL, False),
    "rediss+sentinel": (Kind.SENTINEL, True),
    "redis+cluster": (Kind.CLUSTER, False),
    "rediss+cluster": (Kind.CLUSTER, True),
}
_TLS_OPTIONS: Final = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs"}
_SENTINEL_OPTIONS: Final = {"sentinel_username", "sentinel_password"}
# RFC 3986, appendix B. Not `urlsplit`: it expects one host, and from Python 3.13 refuses several with one in brackets.
_URL: Final = re.compile(r"(?:([^:/?#]+)://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_OPTIONS: Final = {"db", "client_name"} | _TLS_OPTIONS | _SENTINEL_OPTIONS


@dataclass(frozen=True, slots=True)
class Login:
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server's certificate is checked. Without `ca_file` the system's authorities are trusted."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """One store. `hosts` is empty for `unix`, `path` is set only there; `tls` is None over plain TCP."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    client_name: str | None = None
    login: Login = field(default_factory=Login)
    sentinel_login: Login = field(default_factory=Login)
    tls: Tls | None = None

    def describe(self) -> str:
        """The URL without user, password and options: for logs, `check` and error messages."""
        if self.kind is Kind.UNIX:
            return f"unix://{self.path}"
        scheme = "rediss" if self.tls else "redis"
        if self.kind is not Kind.SINGLE:
            scheme += f"+{self.kind}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        place = {Kind.SENTINEL: f"/{self.master}/{self.db}", Kind.CLUSTER: ""}.get(self.kind, f"/{self.db}")
        note = " (certificate not verified)" if self.tls and not self.tls.verify else ""
        return f"{scheme}://{hosts}{place}{note}"


def parse(url: str, *, ca_file: str | None = None) -> Address:
    """The address that `url` names; `ca_file` (PEM) is used if the URL gives no `ssl_ca_certs`.

    Raises ValueError, naming the part that is wrong but never its value.
    """
    scheme, netloc, path, query = _split(url)
    if scheme not in _SCHEMES:
        raise ValueError(f"redis URL: the scheme must be one of {', '.join(f'{s}://' for s in _SCHEMES)}")
    kind, over_tls = _SCHEMES[scheme]
    options = _options(query)
    if options.keys() & _TLS_OPTIONS and not over_tls:
        raise ValueError("redis URL: ssl_ options need a rediss:// scheme")
    if options.keys() & _SENTINEL_OPTIONS and kind is not Kind.SENTINEL:
        raise ValueError("redis URL: sentinel_ options need a redis+sentinel:// scheme")
    credentials, _, location = netloc.rpartition("@")
    hosts, socket, master, db_text = _place(kind, location, path)
    if "db" in options and db_text:
        raise ValueError("redis URL: the database is given twice, in the path and in ?db=")
    db = _number(options.get("db") or db_text or "0", "database")
    if kind is Kind.CLUSTER and db:
        raise ValueError("redis URL: a cluster has only database 0")
    return Address(
        kind=kind,
        hosts=hosts,
        path=socket,
        master=master,
        db=db,
        client_name=options.get("client_name"),
        login=_login(credentials),
        sentinel_login=Login(options.get("sentinel_username"), options.get("sentinel_password")),
        tls=_tls(options, ca_file) if over_tls else None,
    )


def _split(url: str) -> tuple[str, str, str, str]:
    """(scheme, user and hosts, path, query)."""
    found = _URL.fullmatch(url.strip())  # matches anything, if only as a path
    scheme, netloc, path, query, fragment = found.groups("") if found else ("",) * 5
    if fragment or "@" in path:
        raise ValueError("redis URL: write / as %2F, # as %23, ? as %3F and @ as %40 in user name and password")
    return scheme.lower().replace("valkey", "redis", 1), netloc, path, query


def _place(kind: Kind, netloc: str, path: str) -> tuple[tuple[tuple[str, int], ...], str, str, str]:
    """(hosts, socket path, master name, database as text) of the part after the credentials."""
    if kind is Kind.UNIX:
        if netloc or not path.startswith("/"):
            raise ValueError("redis URL: unix:// needs an absolute path, as in unix:///run/redis.sock")
        return (), unquote(path), "", ""
    hosts = tuple(_host(text, 26379 if kind is Kind.SENTINEL else 6379) for text in netloc.split(","))
    if kind is Kind.SINGLE and len(hosts) > 1:
        raise ValueError("redis URL: several hosts need redis+sentinel:// or redis+cluster://")
    steps = [unquote(step) for step in path.strip("/").split("/")] if path.strip("/") else []
    master = ""
    if kind is Kind.SENTINEL:
        if not steps:
            raise ValueError("redis URL: redis+sentinel:// needs the master's name after the hosts")
        master = steps.pop(0)
    if len(steps) > 1:
        raise ValueError("redis URL: the path holds more than a database number")
    return hosts, "", master, steps[0] if steps else ""


def _host(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not (closed and _is_ipv6(host) and (not rest or rest.startswith(":"))):
            raise ValueError("redis URL: the text in brackets is not an IPv6 address")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ValueError("redis URL: a host name is missing")
    number = _number(port or str(default_port), "port")
    if not 0 < number < 65536:
        raise ValueError("redis URL: the port is out of range")
    return unquote(host), number


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _login(credentials: str) -> Login:
    user, _, password = credentials.partition(":")
    return Login(unquote(user) or None, unquote(password) or None)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"redis URL: unknown option; known ones are {', '.join(sorted(_OPTIONS))}")
        options[name] = value
    return options


def _tls(options: dict[str, str], ca_file: str | None) -> Tls:
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in {"required", "none"}:
        raise ValueError("redis URL: ssl_cert_reqs is 'required' or 'none'")
    return Tls(
        ca_file=options.get("ssl_ca_certs", ca_file),
        cert_file=options.get("ssl_certfile"),
        key_file=options.get("ssl_keyfile"),
        verify=requirement == "required",
        check_hostname=options.get("ssl_check_hostname", "yes").lower() not in {"no", "false", "0"},
    )


def _number(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"redis URL: the {part} is not a number")
    return int(text)
