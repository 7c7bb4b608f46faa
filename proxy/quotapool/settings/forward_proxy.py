"""The forward proxy between us and upstream: its options, the environment's, and which hosts are reached directly.

The environment is read as curl reads it (curl(1), "ENVIRONMENT"): `https_proxy` or `HTTPS_PROXY` for https upstreams,
`http_proxy` in lower case only for http ones, `all_proxy` or `ALL_PROXY` for both, lower case first; `no_proxy` or
`NO_PROXY` has host names, which include their subdomains, addresses, networks, or a single `*` for all.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from quotapool.settings.values import Section, hidden

DIRECT: Final = "direct"
_FORM: Final = "must be http://[user:password@]host:port"
_DIRECT_HOST: Final = re.compile(r"[A-Za-z0-9_.:*/\[\]-]{1,255}")


def check_proxy(secret: SecretStr) -> SecretStr:
    """The URL of a proxy that is reached by plain HTTP; port 1080 and the scheme http by default, as with curl."""
    text = secret.get_secret_value().strip().rstrip("/")
    if "://" not in text:
        text = f"http://{text}"
    try:
        url = urlsplit(text)
        port = url.port or 1080
    except ValueError:
        raise ValueError(_FORM) from None
    if url.scheme != "http":
        raise ValueError(f"{_FORM}; TLS and SOCKS proxies are not supported")
    if not url.hostname or url.path or url.query or url.fragment or re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError(_FORM)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    login, at, _ = url.netloc.rpartition("@")
    return SecretStr(f"http://{login}{at}{host}:{port}")


def check_direct_host(name: str) -> str:
    name = name.strip().lower()
    if not _DIRECT_HOST.fullmatch(name) or ("*" in name and name != "*"):
        raise ValueError("must be a host name, an address, a network such as 10.0.0.0/8, or * for all")
    return name


ProxyUrl = Annotated[SecretStr, AfterValidator(check_proxy), hidden]


class ForwardProxies(Section):
    """By the upstream's scheme. `no_proxy`: hosts that are reached directly nevertheless."""

    https: ProxyUrl | None = None
    http: ProxyUrl | None = None
    no_proxy: tuple[Annotated[str, AfterValidator(check_direct_host)], ...] = ()

    def url_for(self, base: str) -> str | None:
        """The URL of the proxy for this upstream, with its login; None: no proxy."""
        url = urlsplit(base)
        proxy = self.https if url.scheme == "https" else self.http
        if proxy is None or any(_covers(name, url.hostname or "") for name in self.no_proxy):
            return None
        return proxy.get_secret_value()

    def secrets(self) -> Iterator[str]:
        """What must not be shown anywhere: passwords, and the logins as they are in the header."""
        for proxy in (self.https, self.http):
            if proxy is not None:
                url = urlsplit(proxy.get_secret_value())
                yield from filter(None, {url.password or "", unquote(url.password or ""), login_of(url.netloc)})


def login_of(netloc: str) -> str:
    """What follows `Basic ` in Proxy-Authorization (RFC 7617) for `user:password@host`; "" without a login."""
    login, _, _ = netloc.rpartition("@")
    user, _, password = login.partition(":")
    return base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode() if login else ""


def _covers(name: str, host: str) -> bool:
    if name == "*":
        return True
    name, host = name.strip("[]").strip("."), host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _from_text(given: Any) -> Any:
    if isinstance(given, SecretStr):
        given = given.get_secret_value()
    if not isinstance(given, str):
        return given
    return {} if given.strip().lower() == DIRECT else {"https": given, "http": given}


ForwardProxyOption = Annotated[ForwardProxies, BeforeValidator(_from_text)]


def from_environment(variable: Callable[[str], str]) -> tuple[str, dict[str, Any]] | None:
    """The variable that was found, and the option's value; None if the environment names no proxy."""

    def first(*names: str) -> tuple[str, str]:
        return next(((name, value) for name in names if (value := variable(name).strip())), ("", ""))

    https = first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    http = first("http_proxy", "all_proxy", "ALL_PROXY")
    if not https[1] and not http[1]:
        return None
    bypassed = re.split(r"[,\s]+", first("no_proxy", "NO_PROXY")[1])
    option = {"https": https[1] or None, "http": http[1] or None, "no_proxy": [name for name in bypassed if name]}
    return https[0] or http[0], option
