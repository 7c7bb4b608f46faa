"""What a request charges the limits and budgets of its client and its team: the most it may use, then what it used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from fnmatch import fnmatchcase
from typing import Final
from zoneinfo import ZoneInfo

from quotapool.domain.answer_sizes import AnswerSizes
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.rules import Kind, Measure, Mode
from quotapool.ledger.rules import CLIENT, TEAM, Charge, Standing
from quotapool.money.billing import billed_usage, price_of
from quotapool.money.highest_cost import highest_price, highest_usage
from quotapool.money.price_list import PriceList
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.request.client_request import ClientRequest
from quotapool.settings import Client
from quotapool.settings.rules import RuleOptions

_MOST_REMEMBERED: Final = 10_000  # clients' models, of which sizes are known
_MOST_MODELS: Final = 1_000  # of one client, whose rules were looked up


_UNSEEN: Final = AnswerSizes()


class _Terms:
    """One client's rules, its team's included."""

    __slots__ = ("_by_model", "names_models", "standings")

    def __init__(self, standings: tuple[Standing, ...]) -> None:
        self.standings = standings
        # Money depends on the model, and so does a rule for some of them.
        self.names_models = any(s.rule.models or s.rule.measure is Measure.USD for s in standings)
        self._by_model: dict[str, tuple[Standing, ...]] = {}

    def of(self, model: str) -> tuple[Standing, ...]:
        """Those that are about this model."""
        found = self._by_model.get(model)
        if found is None:
            found = tuple(s for s in self.standings if not s.rule.models or fnmatchcase(model, s.rule.models))
            if len(self._by_model) >= _MOST_MODELS:
                self._by_model.clear()
            self._by_model[model] = found
        return found


class Charging:
    """One process's knowledge of its clients' rules. `prices`: those in force; None: not known yet."""

    def __init__(self, prices: Callable[[], PriceList | None]) -> None:
        self._prices = prices
        self._terms: dict[str, _Terms] = {}
        self._known: dict[tuple[str, str], Standing] = {}
        self._sizes: dict[tuple[str, str], AnswerSizes] = {}

    def __repr__(self) -> str:
        return f"<Charging of {len(self._terms)} clients with rules>"

    def configure(self, clients: Iterable[Client], teams: Mapping[str, RuleOptions], time_zone: str) -> None:
        """Charge by these from now on. What was seen of a rule stays known."""
        before, self._known = self._known, {}

        def standings(subject: str, options: RuleOptions) -> list[Standing]:
            zone = _zone(options.time_zone or time_zone)
            found = []
            for rule in options.rules():
                standing = self._known.get((subject, rule.id)) or before.get((subject, rule.id))
                if standing is None or standing.zone != zone:
                    standing = Standing(subject, rule, zone)
                standing.rule = rule
                self._known[subject, rule.id] = standing
                found.append(standing)
            return found

        terms: dict[str, _Terms] = {}
        for client in clients:
            own = standings(f"{CLIENT}{client.id}", client)
            if client.team is not None and client.team in teams:
                own += standings(f"{TEAM}{client.team}", teams[client.team])
            if own:
                terms[client.id] = _Terms(tuple(own))
        self._terms = terms

    def needs_models(self, client: str) -> bool:
        """Whether what it is charged depends on the models that a request names."""
        terms = self._terms.get(client)
        return terms is not None and terms.names_models

    def standings(self, client: str) -> tuple[Standing, ...]:
        """All rules of a client, its team's included."""
        terms = self._terms.get(client)
        return () if terms is None else terms.standings

    def of_model(self, client: str, model: str) -> tuple[Standing, ...]:
        """Those of a client's rules, its team's included, that are about this model."""
        terms = self._terms.get(client)
        return () if terms is None else terms.of(model)

    def charge(self, client: str, request: ClientRequest) -> Charge | None:
        """The most that a request may use of each rule; None: its client has none. Raises Refusal (403, 503): a budget
        in dollars cannot be kept without a price."""
        terms = self._terms.get(client)
        if terms is None:
            return None
        return self.charge_of(terms.of(request.model), client, request)

    def charge_of(self, standings: Sequence[Standing], client: str, request: ClientRequest) -> Charge | None:
        usage: Usage | None = None
        usd: float | None = None
        amounts: list[float] = []
        for standing in standings:
            rule = standing.rule
            if rule.measure is Measure.REQUESTS:
                amounts.append(request.cost.requests)
            elif rule.measure is Measure.CONCURRENT:
                amounts.append(1)
            elif rule.kind is Kind.RATE:  # as OpenAI's own limiter counts
                amounts.append(request.cost.tokens)
            else:
                usage = usage or self._highest(client, request)
                if rule.measure is Measure.TOKENS:
                    amounts.append(usage.total)
                    continue
                if usd is None:
                    usd = self._highest_price(request, usage, is_hard=rule.mode is Mode.HARD)
                amounts.append(usd or 0.0)
        guessed = usage is not None and not request.output and usage.completion > 0
        return Charge(standings, amounts, guessed) if standings else None

    def used(
        self,
        charge: Charge,
        attempt: AttemptRecord,
        record: RequestRecord,
        *,
        is_answer: bool,
        request: ClientRequest | None = None,
    ) -> list[float]:
        """What an attempt used of each rule. One that upstream did not charge, and that is no answer to the client
        (`is_answer`), used nothing. `request`: to learn from how large it and its answer really were."""
        usage = billed_usage(attempt, record)
        usd: float | None = None
        used: list[float] = []
        for standing, amount in zip(charge.standings, charge.amounts, strict=True):
            rule = standing.rule
            if rule.measure is Measure.REQUESTS:
                used.append(amount if is_answer or usage is not None else 0.0)
            elif rule.measure is Measure.CONCURRENT or usage is None:
                used.append(0.0)
            elif rule.measure is Measure.TOKENS:
                used.append(float(usage.total + sum(of_tool.total for _, of_tool in usage.by_tools)))
            else:
                if usd is None:
                    usd = self._price(record.model, attempt.tier, usage, amount)
                used.append(usd)
        if request is not None and usage is not None and usage.certainty is Certainty.EXACT:
            self._learn(record.client, request, usage)
        return used

    def _highest(self, client: str, request: ClientRequest) -> Usage:
        sizes = self._sizes.get((client, request.model), _UNSEEN)
        estimate = request.endpoint.estimate
        prompt = sizes.prompt(request.prompt_tokens) if estimate is not None else request.prompt_tokens
        output = request.output
        if not output and estimate is not None and estimate != "embeddings":
            output = sizes.output * request.choices
        heard = int(request.length or 0) if request.endpoint.path.startswith("audio/tr") else 0
        images = request.cost.images
        return highest_usage(
            prompt=prompt, output=output, images=images, characters=request.characters, sound_bytes=heard
        )

    def _highest_price(self, request: ClientRequest, usage: Usage, *, is_hard: bool) -> float | None:
        if not (request.model and request.cost.requests):
            return None  # files and the like cost nothing by the request
        prices = self._prices()
        if prices is None:
            if is_hard:
                raise Refusal(replies.PRICES_NOT_LOADED, retry_after_s=1.0)
            return None
        usd = highest_price(prices, request.model, request.tier, usage)
        if usd is None and is_hard:
            raise Refusal(replies.CLIENT_MODEL_UNPRICED, param="model")
        return usd

    def _price(self, model: str, tier: str, usage: Usage, otherwise: float) -> float:
        prices = self._prices()
        usd = None if prices is None else price_of(prices, model, tier, usage)
        return otherwise if usd is None else float(usd)

    def _learn(self, client: str, request: ClientRequest, usage: Usage) -> None:
        key = client, request.model
        sizes = self._sizes.get(key)
        if sizes is None:
            if len(self._sizes) >= _MOST_REMEMBERED:
                self._sizes.clear()
            sizes = self._sizes[key] = AnswerSizes()
        output = None if request.output else usage.completion // max(1, request.choices)
        sizes.learn(request.prompt_tokens, usage.prompt, output)


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
