"""Every option, its type and its default, as frozen pydantic models. `config/quotapool.example.yaml` explains them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from quotapool.domain.quantities import Dimension, Limits
from quotapool.settings.advice import Advice
from quotapool.settings.alerts import Alerts
from quotapool.settings.budgets import LimitTable, ModelGroups
from quotapool.settings.cache import Cache
from quotapool.settings.clients import Client
from quotapool.settings.dashboard import Dashboard
from quotapool.settings.forward_proxy import ForwardProxyOption
from quotapool.settings.money import Funds, ModelPrices, Spend
from quotapool.settings.organisation import AdminKey, ProjectId
from quotapool.settings.outside_use import OutsideUseOptions
from quotapool.settings.path_aliases import PathAliases
from quotapool.settings.rules import RuleOptions
from quotapool.settings.tls import Tls
from quotapool.settings.traces import Traces
from quotapool.settings.unknown_names import Named, unknown_names
from quotapool.settings.upstreams import UpstreamOfKey
from quotapool.settings.values import (
    Address,
    AddressOption,
    Amount,
    Duration,
    HostName,
    ModelName,
    Name,
    NetworkName,
    PoolName,
    PositiveDuration,
    RedisUrl,
    Section,
    Size,
    Token,
    UpstreamSecret,
    UpstreamUrl,
    WebOrigin,
    Whole,
    sha256_hex,
)

BurstSpan = Annotated[PositiveDuration, Field(le=60)]

_ID_DIGITS = (8, 16, 32, 64)  # of a default id: the first that no other key has


class LimitSet(Section):
    """Configured budgets: requests and tokens per minute and day, images per minute. Absent: learned."""

    rpm: Amount | None = None
    tpm: Amount | None = None
    rpd: Amount | None = None
    tpd: Amount | None = None
    ipm: Amount | None = None

    @property
    def limits(self) -> Limits:
        """The same as a domain value."""
        return Limits(*(getattr(self, dimension.value, None) for dimension in Dimension))


def default_key_id(secret: str, is_taken: Callable[[str], bool] = lambda _: False) -> str:
    """The id of a key that was given none. `is_taken`: whether another secret has this id, as happens once among
    some tens of thousands; then it is longer."""
    digest = sha256_hex(secret)
    return next(
        name for digits in _ID_DIGITS if not is_taken(name := f"key-{digest[:digits]}") or digits == len(digest)
    )


class UpstreamKey(Section):
    """One OpenAI secret of the pool. Without `account`, it is an account of its own."""

    # The order matters: each default depends on the fields above it.
    secret: UpstreamSecret
    secret_file: Path | None = None  # where `secret` was read from; a change of it is a reason to reload
    id: Name = Field(default_factory=lambda data: default_key_id(data["secret"].get_secret_value()))
    account: Name = Field(default_factory=lambda data: data["id"])
    upstream: UpstreamOfKey | None = None  # None: the pool's


class Account(LimitSet, Funds):
    """An OpenAI project or organisation: its own limits override its tier's. `burst` in seconds of a minute's limit."""

    organization: Name | None = None
    tier: str | None = None
    weight: Amount = 1.0
    burst: BurstSpan | None = None
    models: dict[ModelName, LimitSet] = {}
    project: ProjectId | None = None


class GlobalLimits(Section):
    """Limits for all accounts: by model pattern (fnmatch), else the default."""

    default: LimitSet = LimitSet()
    models: dict[ModelName, LimitSet] = {}
    burst: BurstSpan = 60.0


class Queue(Section):
    """How long (seconds) and how many requests wait for budget, and the share of it that batch traffic leaves free."""

    max_wait: Duration = 30.0
    max_waiting: Whole = Field(default=1000, ge=0)
    batch_leaves: float = Field(default=0.1, ge=0, lt=1)


class Timeouts(Section):
    """How long to wait for upstream, in seconds. `total` None: a stream may last as long as it keeps coming. `client`:
    for a client that neither sends the rest of its body nor takes its answer."""

    connect: PositiveDuration = 10.0
    first_byte: PositiveDuration = 600.0
    between_bytes: PositiveDuration = 600.0
    total: PositiveDuration | None = None
    client: PositiveDuration = 60.0


class Retry(Section):
    """`max_attempts` counts the first one; `budget` is the largest share of active requests that are retries."""

    max_attempts: int = Field(default=5, ge=1)
    budget: float = Field(default=0.2, ge=0, le=1)


class Safety(Section):
    """What is done about policy refusals. `suspend_after`: this many within an hour; 0: no client is suspended."""

    identifier: bool = False
    suspend_after: int = Field(default=0, ge=0)


class StoredObjects(Section):
    """How long (seconds) the account of a stored response is remembered, and whether unknown ids are searched for."""

    retention: PositiveDuration = 30 * 86_400.0
    search: bool = False


class Log(Section):
    """`auto`: console on a terminal, else JSON."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Metrics(Section):
    """`models`: names that metrics may show in addition to the known ones and those under `limits` and `groups`.
    `detail`: what has series of its own."""

    models: tuple[ModelName, ...] = ()
    detail: Literal["pool", "account", "key"] = "key"


@dataclass(frozen=True, slots=True)
class Origin:
    """What loading produces besides the options: files to watch for changes, warnings to log once, and for people where
    each option was written (`places.py`; `keys`: how many came from where), and when it was read (Unix seconds).
    `names`: those that something else should have."""

    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    names: tuple[Named, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    loaded_at: float = field(default=0.0, compare=False)


def home_of(env: Mapping[str, str]) -> Path:
    """The user's home directory, or / for a user without one, as in container engines."""
    if home := env.get("HOME"):
        return Path(home)
    try:
        return Path("~").expanduser()
    except RuntimeError:
        return Path("/")


def default_state_dir(env: Mapping[str, str]) -> Path:
    """The user's state directory, according to the XDG base directory specification."""
    base = env.get("XDG_STATE_HOME", "")
    if Path(base).is_absolute():  # the specification: relative paths are to be ignored
        return Path(base) / "quotapool"
    return home_of(env).absolute() / ".local" / "state" / "quotapool"


class Settings(Section):
    """The whole configuration. Durations in seconds, sizes in bytes, secrets as SecretStr."""

    listen: AddressOption = Address("127.0.0.1", 8080)
    admin_listen: AddressOption = Address("127.0.0.1", 9090)
    upstream: UpstreamUrl = "https://api.openai.com"
    redis: RedisUrl | None = None
    pool: PoolName = "default"
    state_dir: Path = Field(default_factory=lambda: default_state_dir(os.environ))
    workers: int = Field(default=1, ge=1, le=256)
    tls: Tls | None = None
    allow_anonymous: bool = False
    allowed_hosts: tuple[HostName, ...] = ()
    allowed_origins: tuple[WebOrigin, ...] = ()
    path_aliases: PathAliases = {}
    trusted_proxies: tuple[NetworkName, ...] = ()
    admin_token: Token | None = None
    dashboard: Dashboard = Dashboard()

    keys: tuple[UpstreamKey, ...] = ()
    keys_file: Path | None = None
    bad_key_lines: Literal["leave_out", "refuse"] = "leave_out"  # read in keys.py
    master_key: Token | None = None
    master_key_file: Path | None = None
    tiers: dict[Name, LimitSet] = {}
    accounts: dict[Name, Account] = {}
    limits: GlobalLimits = GlobalLimits()
    admin_keys: tuple[AdminKey, ...] = ()
    admin_upstream: UpstreamUrl | None = None
    import_limits: bool = False
    groups: dict[ModelName, tuple[ModelName, ...]] = {}
    long_context: dict[ModelName, Whole] = {}
    sticky: bool = True
    merge_organizations: bool = False
    max_removals: int = Field(default=3, ge=0)
    probe_budget_usd: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    safety: Safety = Safety()
    clients: tuple[Client, ...] = ()
    teams: dict[Name, RuleOptions] = {}

    cache: Cache = Cache()
    objects: StoredObjects = StoredObjects()
    advice: Advice = Advice()

    queue: Queue = Queue()
    drain_timeout: Duration = 25.0
    on_redis_loss: Literal["serve", "refuse"] = "serve"
    store_patience: PositiveDuration = 2.0
    inject_usage: bool = True
    stream_hold: Duration = 0.5
    finish_cut_streams: bool = False
    max_json_body: Size = 64 * 2**20
    max_ws_message: Size = 64 * 2**20
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    upstream_proxy: ForwardProxyOption | None = None  # still None once loaded: the environment names none either
    upstream_connections: Whole = Field(default=1000, ge=1)
    max_concurrent: Whole = Field(default=2000, ge=1)
    ca_file: Path | None = None
    log: Log = Log()
    requests_kept: Whole = Field(default=10_000, ge=0, le=1_000_000)
    metrics: Metrics = Metrics()
    traces: Traces = Traces()
    spend: Spend = Spend()
    alerts: Alerts = Alerts()
    outside_use: OutsideUseOptions = OutsideUseOptions()
    prices: dict[ModelName, ModelPrices] = {}

    _origin: Origin = PrivateAttr(default=Origin())

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about a usable configuration, one line each, without secrets. Of names that nobody has only when
        asked for, and anew with keys that were added at run time."""
        return self._origin.warnings + unknown_names(self, self._origin.names)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that this configuration was read from: a change of any is a reason to load it again."""
        return self._origin.files

    @property
    def origin(self) -> Origin:
        """Where it was read from, and when."""
        return self._origin

    def proxy_for(self, upstream: str) -> str | None:
        """The URL of the forward proxy for this upstream, with its login, which must not be shown; None: no proxy."""
        return None if self.upstream_proxy is None else self.upstream_proxy.url_for(upstream)

    def group_of(self, model: str) -> str:
        """The model group whose limits `model` shares."""
        return self._groups.of(model)

    def burst_for(self, account: str) -> float:
        """How many seconds of a minute's limit this account may use at once."""
        own = self.accounts.get(account)
        return self.limits.burst if own is None or own.burst is None else own.burst

    def limits_for(self, account: str, model_group: str) -> Limits:
        """The configured limits of this account and model group; None in a dimension: learn it from upstream."""
        return self._limits.of(account, model_group)

    def bind_problem(self) -> str | None:
        """Why the clients' port must not be opened with these settings, and three remedies; None: it may be.

        For when the store has no clients either.
        """
        if self.listen.is_loopback or self.clients or self.allow_anonymous:
            return None
        place = self._origin.places.get("listen")
        return (f"{place}: " if place else "") + (
            f"listen: {self.listen} can be reached from other machines, and there is no client key: anyone who finds "
            "the port could spend the pool's money.\n"
            "Make a key (`quotapool clients add NAME`, or clients:), or "
            f"listen: 127.0.0.1:{self.listen.port}, or, on a network that you trust, allow_anonymous: true"
        )

    @cached_property
    def _groups(self) -> ModelGroups:
        return ModelGroups(self.groups)

    @cached_property
    def _limits(self) -> LimitTable:
        accounts = {
            name: account.limits.over(self.tiers[account.tier].limits if account.tier else Limits())
            for name, account in self.accounts.items()
        }
        models = {pattern: written.limits for pattern, written in self.limits.models.items()}
        own_models = {
            name: {pattern: written.limits for pattern, written in account.models.items()}
            for name, account in self.accounts.items()
            if account.models
        }
        return LimitTable(accounts, self.limits.default.limits, models, own_models)
