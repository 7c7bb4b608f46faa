"""The base class of options, and the kinds of values they may have: addresses, URLs, durations, sizes, names, secrets.

Every parser raises ValueError with a sentence for the operator, which never repeats the value: it might be a secret
that was put in the wrong place.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    SerializationInfo,
)

from quotapool.settings.characters import named

_STORES: Final = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
REVEAL: Final = "reveal secrets"  # key in the serialisation context, set by transfer.to_wire

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]{0,3})")
_COUNT: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kmb]?)")
_TIMES: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
# What requests are sent to, as it is copied from a page about one of them.
_ENDPOINT: Final = re.compile(
    r".*/(completions|responses|embeddings|models|moderations|realtime|images/\w+|audio/\w+|files|batches|threads)"
)
_WEBSITES: Final = frozenset({"platform.openai.com", "chat.openai.com", "chatgpt.com", "openai.com", "www.openai.com"})
_NAME: Final = re.compile(r"[A-Za-z0-9_.@:/+-]{1,128}")
_POOL: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+")
_HOST: Final = re.compile(r"[a-z0-9_.-]+(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?")
_HOST_AND_PORT: Final = re.compile(r"(?P<host>[^\s:\[\]/@]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d+))?")
_OPENAI_SECRET: Final = re.compile(r"(?i)(sk|sess)-")


class Section(BaseModel):
    """The base class of every group of options. Unknown options are errors; nothing changes after loading; a validation
    error never prints its input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def is_any(self) -> bool:
        """True for all addresses of this machine."""
        return self.host in {"0.0.0.0", "::"}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    match = _HOST_AND_PORT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match["port"] is None:
        raise ValueError("must be host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return Address(match["host"].strip("[]"), _port(match["port"]))


def _port(text: str) -> int:
    port = int(text) if len(text) <= 5 else 65_536
    if port > 65_535:
        raise ValueError("the port must be 0 to 65535")
    return port


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `30s`, `2m`, `1h`, `7d`, `1m30s`, or a plain number (seconds)."""
    message = "must be a duration: 500ms, 30s, 2m, 1h, or a number of seconds"
    if isinstance(value, str):
        text = value.strip().lower().replace(" ", "")
        parts = _DURATION_PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return math.fsum(float(number) * _UNIT_S[unit] for number, unit in parts)
        try:
            value = float(text)
        except ValueError:
            raise ValueError(message) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(message)
    if value < 0:
        raise ValueError("a duration cannot be negative")
    return float(value)


def parse_size(value: object) -> int:
    """Bytes from `64MiB`, `512KiB`, `10MB`, or a plain number (bytes)."""
    match = _SIZE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match and match[2] in _UNIT_BYTES:
        return int(float(match[1]) * _UNIT_BYTES[match[2]])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("must be a size: 512KiB, 64MiB, 1GiB, or a number of bytes")


def parse_count(value: object) -> float:
    """A number of requests or tokens: 1000, `500k`, `2M`, `1.5B`."""
    match = _COUNT.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match:
        return float(match[1]) * _TIMES[match[2]]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # 1e6, which is text in YAML
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError("must be a number, such as 1000, 500k or 2M")


def parse_whole(value: object) -> int:
    """A number of things: 1000, `10k`."""
    message = "must be a whole number, such as 1000, 10k or 2M"
    try:
        count = parse_count(value)
    except (ValueError, OverflowError):
        raise ValueError(message) from None
    if not count.is_integer():
        raise ValueError(message)
    return int(count)


def parse_upstream(value: object) -> str:
    """The URL before `/v1`, without a trailing slash; a path prefix is kept."""
    try:
        url = urlsplit(value.strip() if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("must be a valid URL, such as https://api.openai.com") from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("must be an http:// or https:// URL, such as https://api.openai.com")
    if url.username is not None or url.password is not None:
        raise ValueError("contains credentials, which belong in keys:")
    if url.hostname in _WEBSITES:
        raise ValueError("is a website of OpenAI's; the API is https://api.openai.com")
    if "/openai/deployments/" in url.path:
        raise ValueError(
            "is a deployment; write https://NAME.openai.azure.com/openai/v1, and the deployment's name under "
            "`models` of this upstream"
        )
    path = url.path.rstrip("/")
    if _ENDPOINT.fullmatch(path):
        raise ValueError(
            "ends with an endpoint; write the base URL, the part before /v1/, such as https://api.openai.com"
        )
    if url.query or url.fragment:
        raise ValueError("must not have a query (?) or a fragment (#)")
    _check_hosts(url.netloc)
    prefix = path.removesuffix("/v1").rstrip("/")
    return f"{url.scheme}://{url.netloc.lower()}{prefix}"


def check_redis(secret: SecretStr) -> SecretStr:
    """Refuse a URL that no store connection supports; the forms are listed in the example configuration."""
    text = secret.get_secret_value().strip()
    scheme, colon, rest = text.partition(":")
    base, _, kind = scheme.lower().partition("+")
    if not colon or base not in _STORES or kind not in {"", "sentinel", "cluster"}:
        raise ValueError("must be a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL")
    if base == "unix":
        if not re.fullmatch(r"unix://([^/@]*@)?/[^?]+(\?.*)?", text):
            raise ValueError("must be unix:///path/to/the/socket")
        return SecretStr(text)
    if not rest.startswith("//"):
        raise ValueError(f"must begin with {scheme}://")
    location, _, _ = rest[2:].partition("?")
    hosts, _, path = location.rpartition("@")[2].partition("/")
    _check_hosts(hosts)
    if "," in hosts and not kind:
        raise ValueError("names several hosts; that needs redis+sentinel:// or redis+cluster://")
    service, _, database = path.partition("/")
    if kind == "sentinel" and (not service or not (database or "0").isdigit()):
        raise ValueError("must end with the service's name: redis+sentinel://host:26379/NAME[/DATABASE]")
    if kind == "cluster" and path.strip("/") not in {"", "0"}:
        raise ValueError("a cluster only has database 0")
    if not kind and not (path or "0").isdigit():
        raise ValueError("must end with the number of the database: redis://host:6379/0")
    return SecretStr(text)


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        match = _HOST_AND_PORT.fullmatch(host)
        if match is None:
            raise ValueError("must name a host: scheme://host:port")
        _port(match["port"] or "0")


def clean_secret(text: str) -> str:
    """The text without the spaces, newlines, quotes and `Bearer ` that are often copied along with a secret."""
    while (cleaned := re.sub(r"(?i)^bearer(\s+|$)", "", text.strip().strip("'\"").strip())) != text:
        text = cleaned
    return text


def check_token(secret: SecretStr) -> SecretStr:
    """A secret that can travel in a header, cleaned."""
    text = clean_secret(secret.get_secret_value())
    if not text:
        raise ValueError("is empty")
    for character in text:
        if character in " \t\r\n":
            raise ValueError("contains spaces or line breaks; is it more than one secret?")
        if not "!" <= character <= "~":
            raise ValueError(f"contains {named(character)}, which no secret has; copy it again as plain text")
    return SecretStr(text)


def check_upstream_secret(secret: SecretStr) -> SecretStr:
    """A cleaned secret that may serve clients' requests."""
    secret = check_token(secret)
    lowered = secret.get_secret_value().lower()
    if lowered.startswith("sk-admin-"):
        raise ValueError(
            "an sk-admin- key manages the organisation and cannot serve requests; "
            "create a project key (sk-proj-...) for the pool"
        )
    if lowered.startswith("sess-"):
        raise ValueError(
            "a sess- token is a browser's session key and cannot serve requests; "
            "create a project key (sk-proj-...) for the pool"
        )
    return secret


def check_name(name: str) -> str:
    if _OPENAI_SECRET.match(name):
        raise ValueError("looks like a secret; use a name that may be shown in logs and metrics")
    if not _NAME.fullmatch(name):
        raise ValueError("must be a name of 1 to 128 letters, digits or _ . @ : / + -")
    return name


def check_pool(name: str) -> str:
    if not _POOL.fullmatch(name):
        raise ValueError("must be a name of 1 to 64 letters, digits or _ . -")
    return name


def check_origin(origin: str) -> str:
    origin = origin.strip().lower().rstrip("/")
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("must be an origin such as https://app.example.com, without a path or *")
    return origin


def check_host(host: str) -> str:
    host = host.strip().lower()
    if not _HOST.fullmatch(host):
        raise ValueError("must be a host name such as quotapool.internal, without a scheme or path")
    return host


def check_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        raise ValueError("must be an IP address or a network, such as 10.1.2.3 or 10.0.0.0/8") from None


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_key_hash(text: str) -> str:
    text = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("must be the SHA-256 of the client's key: 64 hexadecimal digits")
    return text


def _write_secret(secret: SecretStr, info: SerializationInfo[Any]) -> str:
    revealed = isinstance(info.context, dict) and info.context.get(REVEAL) is True
    return secret.get_secret_value() if revealed else str(secret)


hidden = PlainSerializer(_write_secret, when_used="json")

AddressOption = Annotated[Address, PlainValidator(parse_address), PlainSerializer(str, when_used="json")]
Duration = Annotated[float, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[Duration, Field(gt=0)]
Amount = Annotated[float, BeforeValidator(parse_count), Field(gt=0, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(parse_whole)]
Size = Annotated[int, BeforeValidator(parse_size)]
UpstreamUrl = Annotated[str, BeforeValidator(parse_upstream)]
RedisUrl = Annotated[SecretStr, AfterValidator(check_redis), hidden]
Token = Annotated[SecretStr, AfterValidator(check_token), hidden]
UpstreamSecret = Annotated[SecretStr, AfterValidator(check_upstream_secret), hidden]
Name = Annotated[str, AfterValidator(check_name)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
PoolName = Annotated[str, AfterValidator(check_pool)]
WebOrigin = Annotated[str, AfterValidator(check_origin)]
NetworkName = Annotated[str, AfterValidator(check_network)]
HostName = Annotated[str, AfterValidator(check_host)]
KeyHash = Annotated[str, AfterValidator(check_key_hash)]
