"""What a supervisor has of a pool, without its processes, on a real store."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from quotapool.app.sampling import Sampling
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.waiting import Waiting
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.ledger.grants import Observed
from quotapool.money.spend_store import SpendStore
from quotapool.observe.redaction import Redactor
from quotapool.observe.samples import SampleStore
from quotapool.operators.keys import KeyOperations
from quotapool.operators.overview import Overview
from quotapool.reports.now import NowReader
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on


class Pool:
    """What a supervisor has, without its processes."""

    def __init__(self, url: str, keys: int, **options) -> None:
        self.store = connect(url)
        self.ledger = ledger_on(self.store)
        named = [{"id": f"key-{n}", "account": f"a-{n:05}", "secret": f"sk-proj-secret-{n}"} for n in range(keys)]
        self.settings = Settings.model_validate({"pool": "test", "keys": named, **options})
        self.overview = Overview(self.settings, self.ledger)
        sources = KeySources(
            Vault(self.store, "test"), self.settings, on_secret=lambda _: None, log=structlog.get_logger()
        )
        self.operations = KeyOperations(self.overview, sources, Redactor([]))
        self.waiting: list[Waiting] = []
        self.samples = SampleStore(self.store, "test", "one")
        self.sampling = Sampling(self.overview, self.samples, lambda: self.waiting)
        self.spend = SpendStore(self.store, "test")
        self.now = NowReader(self.operations, self.samples, self._status)

    async def _status(self):
        return await self.overview.credit.assess(datetime.now(UTC))

    async def use(self, account: str, group: str, left: float) -> None:
        """One request, whose answer names a limit of 1,000 requests per minute and what is left of it."""
        grant = await granted(self.ledger, group, Cost(1, 10), [candidate(account)])
        self.ledger.settle(grant, observed=[Observed(Dimension.RPM, 1_000, left)])
        await self.ledger.flush()

    async def again(self):
        """What is told once the answer of a moment ago is forgotten."""
        self.now._last = None
        return await self.now.read()

    async def close(self) -> None:
        await self.store.close()
