"""Which requests may do without upstream, and whose answers they may be served. How: `reusable.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from quotapool.cache.recording import Recording
from quotapool.cache.store import CacheStore
from quotapool.domain.request_record import ANONYMOUS, RequestRecord
from quotapool.money.price_list import PriceList
from quotapool.openai.cacheable import canonical
from quotapool.openai.facts import Canonical
from quotapool.openai.headers import passed_on
from quotapool.pool.configuration import Configuration
from quotapool.request.cache_control import CacheControl, cache_control
from quotapool.request.client_request import ClientRequest
from quotapool.request.part_payment import PartPayment
from quotapool.request.recorder import Recorder
from quotapool.request.relay import Downstream
from quotapool.request.reusable import Ask, Reusable
from quotapool.settings import Client
from quotapool.settings.cache import Cache

_MOST_MODELS: Final = 1_000  # that clients named, for which it is known whether their answers are kept


class Reuse:
    """One process's part. `store` None: there is no cache. `under_way`: what is being found out at the moment, by name.

    `since`: when a client of this name was made (Unix seconds), so that the next one of the name is another; 0: it is
    of the configuration. `prices`: those in force; None: not known yet.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        since: Callable[[str], float],
        payment: PartPayment,
        prices: Callable[[], PriceList | None],
    ) -> None:
        self.store: CacheStore | None = None
        self.under_way: dict[bytes, Recording] = {}
        self.payment = payment
        self.prices = prices
        self._configuration = configuration
        self._since = since
        self._kept: tuple[Cache, dict[str, bool]] = Cache(), {}

    def of(
        self, down: Downstream, request: ClientRequest, client: Client | None, record: RequestRecord
    ) -> Reusable | Bypass | None:
        """How this request can do without upstream; None: there is no cache for it."""
        cache, store = self._configuration.now.settings.cache, self.store
        if store is None or not cache.models:
            return None
        if not cache.serves(None if client is None else client.cache) or not self._keeps(cache, request):
            return None
        control = cache_control(down.headers)
        asked = asked_of(down, request, control, cache)
        if isinstance(asked, str):
            record.cache, record.kept = "bypass", asked
            return Bypass(down, request)
        named = partial(store.secrets.name, scope_of(cache, client, self._since), place_of(down, request))
        return Reusable(self, store, cache, named, control, asked, request, down, client, record)

    def _keeps(self, cache: Cache, request: ClientRequest) -> bool:
        if request.endpoint.name == "models":
            return True
        if self._kept[0] is not cache or len(self._kept[1]) > _MOST_MODELS:
            self._kept = cache, {}
        known, model = self._kept[1], request.model
        keeps = known.get(model)
        if keeps is None:
            keeps = known[model] = cache.keeps(model)
        return keeps


def scope_of(cache: Cache, client: Client | None, since: Callable[[str], float]) -> str:
    """Equal for those who are served each other's answers."""
    if client is None:
        return cache.scope_of(ANONYMOUS, None)
    return cache.scope_of(client.id, client.team, since(client.id))


def place_of(down: Downstream, request: ClientRequest) -> str:
    """What an answer depends on besides the body."""
    where = request.endpoint.path
    if "openai-beta" in down.headers.first:  # it may shape the answer
        where = "\n".join([where, *passed_on(down.headers, "openai-beta")])
    return where


def asked_of(down: Downstream, request: ClientRequest, control: CacheControl, cache: Cache) -> Canonical | str:
    """What its answer depends on. A word: why it is not looked up."""
    if control.no_store:
        return "no_store"
    if request.body is None:
        return "form"
    asked = canonical(request.endpoint, down.method, down.target, request.text)
    if isinstance(asked, str) or asked.temperature <= cache.max_temperature or control.asks:
        return asked
    return "temperature"


class Bypass:
    """A request that upstream is asked as ever. Its client is told."""

    def __init__(self, down: Downstream, request: ClientRequest) -> None:
        self._down = down
        self._request = request

    async def serve(self, ask: Ask) -> None:
        """Raises what `ask` raises."""
        await ask(Recorder(self._down, "bypass", None, None), self._request)
