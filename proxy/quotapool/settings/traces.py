"""Options about traces: the collector that gets them, and which requests are kept.

The variables of OpenTelemetry count where the configuration says nothing: in Kubernetes an operator sets them in pods.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and /otel/protocol/exporter/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError

from quotapool.settings.errors import Place
from quotapool.settings.values import PositiveDuration, Section, hidden

NEEDS_PACKAGES: Final = "needs OpenTelemetry's packages: pip install 'quotapool[otel]'"
_FORM: Final = "must be the http:// or https:// URL of a collector, such as http://localhost:4318"
_OTLP: Final = "OTEL_EXPORTER_OTLP"
_PATH: Final = "/v1/traces"  # the specification's, below a base URL
_GRPC_PORT: Final = 4317
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,4094}[!-~])?")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_RATIOS: Final = {"always_on": "1", "always_off": "0", "parentbased_always_on": "1", "parentbased_always_off": "0"}
_WITH_RATIO: Final = frozenset({"traceidratio", "parentbased_traceidratio"})
_MUST: Final = {
    "endpoint": _FORM,
    "ratio": "must be a number from 0 to 1",
    "compression": "must be none or gzip",
    "service": "must have 1 to 256 characters",
}
_PAIR: Final = {  # without their names: in a list without "=" a header's secret is one
    "headers": "must be name=value,name=value: a header's name, and one line of ASCII",
    "attributes": "must be name=value,name=value: letters, digits or _ . / -, and 1 to 256 characters",
}


def check_endpoint(value: Any) -> Any:
    text = value.strip() if isinstance(value, str) else ""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise ValueError(_FORM) from None
    if url.scheme not in {"http", "https"} or not url.hostname or re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError(_FORM)
    if url.username is not None or url.password is not None:
        raise ValueError("contains credentials, which belong in traces.headers")
    if url.query or url.fragment:
        raise ValueError("must not have a query (?) or a fragment (#)")
    return text


def check_header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError("must be the name of a header")
    return name.lower()


def check_header_value(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if not _VALUE.fullmatch(text):
        raise ValueError("must be one line of ASCII, with 1 to 4096 characters")
    return SecretStr(text)


def check_attribute(name: str) -> str:
    if not _ATTRIBUTE.fullmatch(name):
        raise ValueError("must be a name of 1 to 128 letters, digits or _ . / -")
    return name


CollectorUrl = Annotated[str, BeforeValidator(check_endpoint)]
HeaderValue = Annotated[SecretStr, AfterValidator(check_header_value), hidden]
Text = Annotated[str, Field(min_length=1, max_length=256)]


class Traces(Section):
    """`endpoint` None: no traces. A URL without a path gets `/v1/traces`. `ratio`: of requests without a `traceparent`.
    `propagate`: upstream gets a `traceparent` of ours. `timeout`: for one message to the collector, in seconds."""

    endpoint: CollectorUrl | None = None
    headers: dict[Annotated[str, AfterValidator(check_header)], HeaderValue] = {}
    ratio: float = Field(default=0.01, ge=0, le=1)
    propagate: bool = False
    service: Text = "quotapool"
    attributes: dict[Annotated[str, AfterValidator(check_attribute)], Text] = {}
    compression: Literal["none", "gzip"] = "none"
    timeout: PositiveDuration = 10.0

    @property
    def url(self) -> str:
        """Where spans are sent; "": nowhere."""
        endpoint = self.endpoint or ""
        return endpoint.rstrip("/") + _PATH if endpoint and urlsplit(endpoint).path in {"", "/"} else endpoint

    def secrets(self) -> Iterator[str]:
        """Values of headers, and what follows `Bearer ` or `Basic ` in them."""
        for value in self.headers.values():
            text = value.get_secret_value()
            yield text
            if rest := text.partition(" ")[2].strip():
                yield rest

    def warnings(self) -> Iterator[str]:
        """What is valid, and hardly meant."""
        if self.endpoint is None:
            return
        url = urlsplit(self.endpoint)
        if url.port == _GRPC_PORT:
            yield "traces.endpoint: collectors speak gRPC on port 4317; OTLP over HTTP, which is sent, has port 4318"
        if url.scheme == "http" and self.headers and url.hostname not in {"localhost", "127.0.0.1", "::1"}:
            yield "traces.endpoint: http:// sends traces.headers over the network unencrypted"


def is_installed() -> bool:
    """Whether OpenTelemetry's packages are."""
    try:
        return find_spec("opentelemetry.sdk") is not None and find_spec("opentelemetry.exporter.otlp.proto") is not None
    except ModuleNotFoundError:
        return False


def from_environment(
    variable: Callable[[str], str], *, has_endpoint: bool
) -> tuple[dict[str, tuple[Any, Place]], list[str]]:
    """Options by name, with where they are from, and warnings. `has_endpoint`: the configuration names one itself; then
    only what describes this process is taken, and no header of another collector's.

    What a variable says wrongly is left out with a warning, as the specification asks for: it may be for others."""
    found, warnings = _written(variable, has_endpoint=has_endpoint)
    for option, (value, place) in list(found.items()):
        if option in _PAIR:
            valid = {name: text for name, text in value.items() if _is_valid(option, {name: text})}
            found[option] = valid, place
            if any(text or option == "headers" for name, text in value.items() if name not in valid):
                warnings.append(f"{place}: what is not valid in it is ignored; it {_PAIR[option]}")
        elif not _is_valid(option, value):
            del found[option]
            warnings.append(f"{place}: it is ignored; it {_MUST[option]}")
    return found, warnings


def _is_valid(option: str, value: Any) -> bool:
    try:
        Traces.model_validate({option: value})
    except ValidationError:
        return False
    return True


def _written(variable: Callable[[str], str], *, has_endpoint: bool) -> tuple[dict[str, tuple[Any, Place]], list[str]]:
    found: dict[str, tuple[Any, Place]] = {}

    def take(option: str, *names: str, read: Callable[[str], Any] = str) -> None:
        for name in names:
            if option not in found and (value := variable(name).strip()):
                found[option] = read(value), Place(f"environment variable {name}")

    take("service", "OTEL_SERVICE_NAME")
    take("attributes", "OTEL_RESOURCE_ATTRIBUTES", read=_pairs)
    if "attributes" in found and "service.name" in (attributes := found["attributes"][0]):
        name = attributes.pop("service.name")
        found.setdefault("service", (name, found["attributes"][1]))
    if has_endpoint:
        return found, []
    exporters = variable("OTEL_TRACES_EXPORTER").strip().lower()
    is_off = variable("OTEL_SDK_DISABLED").strip().lower() == "true"
    if is_off or (exporters and "otlp" not in exporters.split(",")):
        return found, []
    take("endpoint", f"{_OTLP}_TRACES_ENDPOINT")
    take("endpoint", f"{_OTLP}_ENDPOINT", read=lambda base: base.rstrip("/") + _PATH)
    if "endpoint" not in found:
        return found, []
    place = found["endpoint"][1]
    protocol = variable(f"{_OTLP}_TRACES_PROTOCOL").strip() or variable(f"{_OTLP}_PROTOCOL").strip()
    if protocol == "grpc":
        del found["endpoint"]
        return found, [f"{place}: no traces are sent: {_OTLP}_PROTOCOL is grpc, and only http/protobuf is spoken"]
    if not is_installed():
        del found["endpoint"]
        return found, [f"{place}: no traces are sent: that {NEEDS_PACKAGES}"]
    take("headers", f"{_OTLP}_TRACES_HEADERS", f"{_OTLP}_HEADERS", read=_pairs)
    take("compression", f"{_OTLP}_TRACES_COMPRESSION", f"{_OTLP}_COMPRESSION", read=str.lower)
    sampler = variable("OTEL_TRACES_SAMPLER").strip().lower()
    if sampler in _WITH_RATIO:
        take("ratio", "OTEL_TRACES_SAMPLER_ARG")
    elif sampler in _RATIOS:
        found["ratio"] = _RATIOS[sampler], Place("environment variable OTEL_TRACES_SAMPLER")
    elif sampler:
        known = ", ".join(sorted({*_RATIOS, *_WITH_RATIO}))
        return found, [f"environment variable OTEL_TRACES_SAMPLER: it is ignored; it must be one of {known}"]
    return found, []


def _pairs(text: str) -> dict[str, str]:
    """`name=value,name=value`, percent-encoded."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}
