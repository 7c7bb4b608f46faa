"""What a request charges the limits and budgets of its client and its team: the most it may use, then what it used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from quotapool.domain.answer_sizes import FRAMING, AnswerSizes
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord, Saved
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.ledger.rules import CLIENT, TEAM, Charge, RuleSet, Standing
from quotapool.ledger.stored_rules import zone_named
from quotapool.money.billing import billed_usage, price_of
from quotapool.money.highest_cost import highest_price, highest_usage
from quotapool.money.price_list import PriceList
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.request.client_request import ClientRequest
from quotapool.request.overrun import StreamBound
from quotapool.settings import Client
from quotapool.settings.rules import RuleOptions

_MOST_REMEMBERED: Final = 10_000  # clients' models, of which sizes are known
_MOST_MODELS: Final = 1_000  # of one client, whose rules were looked up
_UNSEEN: Final = AnswerSizes()
_ALL: Final = frozenset(Kind)
_LASTING: Final = frozenset({Kind.RATE, Kind.BUDGET})
_BUDGETS: Final = frozenset({Kind.BUDGET})
# What a rule counts, in the order in which it is looked at.
_REQUESTS, _CONCURRENT, _RATE_TOKENS, _TOKENS, _USD = range(5)


class _Applying:
    """The rules that are about one model, and what each of them counts."""

    __slots__ = ("counts", "has_hard_usd", "rules")

    def __init__(self, standings: Sequence[Standing]) -> None:
        self.rules = RuleSet(standings)
        self.counts = [_counted(standing.rule) for standing in standings]
        self.has_hard_usd = any(s.rule.measure is Measure.USD and s.rule.mode is Mode.HARD for s in standings)


def _counted(rule: Rule) -> int:
    match rule.measure:
        case Measure.REQUESTS:
            return _REQUESTS
        case Measure.CONCURRENT:
            return _CONCURRENT
        case Measure.TOKENS:
            return _RATE_TOKENS if rule.kind is Kind.RATE else _TOKENS
        case _:
            return _USD


class _Subject:
    """A client or a team. What `before` knew of a rule that is still there is known."""

    __slots__ = ("options", "standings", "zone")

    def __init__(self, name: str, options: RuleOptions, zone: str, before: _Subject | None) -> None:
        self.options = options
        self.zone = zone
        known: dict[str, Standing] = {}
        if before is not None and before.zone == zone:
            known = {standing.rule.id: standing for standing in before.standings}
        self.standings: tuple[Standing, ...] = tuple(
            self._standing(name, rule, known.get(rule.id)) for rule in options.rules()
        )

    def _standing(self, name: str, rule: Rule, known: Standing | None) -> Standing:
        if known is not None and known.rule == rule:
            return known
        standing = Standing(name, rule, zone_named(self.zone))
        if known is not None:
            standing.continues(known)
        return standing


class _Terms:
    """One client's rules, its team's included."""

    __slots__ = ("_budgets", "_by_model", "_differs", "_without_slots", "has_hard_budget", "names_models", "standings")

    def __init__(self, standings: tuple[Standing, ...]) -> None:
        self.standings = standings
        self._differs = any(s.rule.models for s in standings)
        # Money depends on the model, and so does a rule for some of them.
        self.names_models = self._differs or any(s.rule.measure is Measure.USD for s in standings)
        self.has_hard_budget = any(
            s.is_budget and s.rule.mode is Mode.HARD and s.rule.measure is not Measure.REQUESTS for s in standings
        )
        self._by_model: dict[str, _Applying] = {}
        self._without_slots: dict[str, _Applying] = {}
        self._budgets: dict[str, _Applying] = {}

    def of(self, model: str, *, slots: bool = True) -> _Applying:
        """Those that are about this model. `slots`: and what may be in use at the same time."""
        return self._of(model, self._by_model, _ALL) if slots else self._of(model, self._without_slots, _LASTING)

    def budgets_of(self, model: str) -> _Applying:
        """Those that are about this model and count by the calendar."""
        return self._of(model, self._budgets, _BUDGETS)

    def _of(self, model: str, by_model: dict[str, _Applying], kinds: frozenset[Kind]) -> _Applying:
        if not self._differs:
            model = ""  # callers invent names, and here all are alike
        found = by_model.get(model)
        if found is None:
            about = (s for s in self.standings if not s.rule.models or fnmatchcase(model, s.rule.models))
            if len(by_model) >= _MOST_MODELS:
                by_model.clear()
            found = by_model[model] = _Applying([s for s in about if s.rule.kind in kinds])
        return found


class Charging:
    """One process's knowledge of its clients' rules. `prices`: those in force; None: not known yet."""

    def __init__(self, prices: Callable[[], PriceList | None]) -> None:
        self._prices = prices
        self._terms: dict[str, _Terms] = {}
        self._cuts: frozenset[str] = frozenset()  # clients whose streams are cut where they use up a budget
        self._subjects: dict[str, _Subject] = {}
        self._sizes: dict[tuple[str, str], AnswerSizes] = {}

    def __repr__(self) -> str:
        return f"<Charging of {len(self._terms)} clients with rules>"

    def configure(self, clients: Iterable[Client], teams: Mapping[str, RuleOptions], time_zone: str) -> None:
        """Charge by these from now on. What was seen of a rule stays known; what has not changed is not made anew."""
        before, subjects = self._subjects, dict[str, _Subject]()

        def standings(subject: str, options: RuleOptions) -> tuple[Standing, ...]:
            found = subjects.get(subject)
            if found is None:
                found, zone = before.get(subject), options.time_zone or time_zone
                if found is None or found.options is not options or found.zone != zone:
                    found = _Subject(subject, options, zone, found)
                subjects[subject] = found
            return found.standings

        terms: dict[str, _Terms] = {}
        cuts: set[str] = set()
        for client in clients:
            own = standings(f"{CLIENT}{client.id}", client)
            if client.team is not None and client.team in teams:
                own += standings(f"{TEAM}{client.team}", teams[client.team])
            if own:
                known = self._terms.get(client.id)
                terms[client.id] = known if known is not None and known.standings == own else _Terms(own)
                if client.on_stream_overrun == "cut":
                    cuts.add(client.id)
        self._subjects, self._terms, self._cuts = subjects, terms, frozenset(cuts)

    def needs_models(self, client: str) -> bool:
        """Whether what it is charged depends on the models that a request names."""
        terms = self._terms.get(client)
        return terms is not None and terms.names_models

    def standings(self, client: str) -> tuple[Standing, ...]:
        """All rules of a client, its team's included."""
        terms = self._terms.get(client)
        return () if terms is None else terms.standings

    def rules_of_response(self, client: str, model: str) -> RuleSet | None:
        """Those that a response in a session must fit: the session has its slot. None: there are none."""
        terms = self._terms.get(client)
        rules = None if terms is None else terms.of(model, slots=False).rules
        return rules if rules is not None and rules.standings else None

    def charge(self, client: str, request: ClientRequest, *, slots: bool = True) -> Charge | None:
        """The most that a request may use of each rule; None: its client has none. `slots`: a place among those in use
        at the same time, too. Raises Refusal (403, 503): a budget in dollars cannot be kept without a price."""
        terms = self._terms.get(client)
        if terms is None:
            return None
        if request.endpoint.unseen_cost and terms.has_hard_budget:  # whichever models it will use
            raise Refusal(replies.CLIENT_COST_UNSEEN)
        applying = terms.of(request.model, slots=slots)
        usage: Usage | None = None
        usd: float | None = None
        amounts: list[float] = []
        for counted in applying.counts:
            if counted == _REQUESTS:
                amounts.append(request.cost.requests)
            elif counted == _CONCURRENT:
                amounts.append(1)
            elif counted == _RATE_TOKENS:  # as OpenAI's own limiter counts
                amounts.append(request.cost.tokens)
            else:
                if usage is None:
                    usage = self._highest(client, request)
                if counted == _TOKENS:
                    amounts.append(usage.prompt + usage.completion)
                    continue
                if usd is None:
                    usd = self._highest_price(request, usage, is_hard=applying.has_hard_usd) or 0.0
                amounts.append(usd)
        if not amounts:
            return None
        return Charge(applying.rules, amounts, usage is not None and not request.output and usage.completion > 0)

    def charge_part(self, client: str, request: ClientRequest, part: float, saved: Saved | None) -> Charge | None:
        """What a client's budgets hold for an answer that upstream was not asked for, in whole units: this `part` of
        what was `saved`, or of the most that it may be (None: not known yet). None: there is nothing to charge. Limits
        (rates, requests at once) are not charged: they share out what upstream allows. Raises Refusal as `charge`."""
        terms = self._terms.get(client)
        if terms is None or part <= 0:
            return None
        applying = terms.budgets_of(request.model)
        if not applying.counts:
            return None
        if saved is None:
            usage, requests = self._highest(client, request), request.cost.requests
        else:
            usage, requests = Usage(Certainty.EXACT, saved.prompt, saved.completion), saved.requests
        amounts: list[float] = []
        for counted in applying.counts:
            if counted == _REQUESTS:
                amount = float(requests)
            elif counted == _TOKENS:
                amount = float(usage.prompt + usage.completion)
            elif saved is not None and saved.pico is not None:
                amount = float(saved.pico)
            else:
                amount = self._highest_price(request, usage, is_hard=applying.has_hard_usd) or 0.0
            amounts.append(math.ceil(amount * part))
        return Charge(applying.rules, amounts, saved is None and not request.output and usage.completion > 0)

    @staticmethod
    def used_part(charge: Charge, part: float, saved: Saved) -> list[float]:
        """What an answer used of each rule that upstream was not asked for: this `part` of what was `saved`."""
        used: list[float] = []
        for standing, held in zip(charge.rules.standings, charge.amounts, strict=True):
            measure = standing.rule.measure
            if measure is Measure.REQUESTS:
                used.append(saved.requests * part)
            elif measure is Measure.TOKENS:
                used.append((saved.prompt + saved.completion) * part)
            else:
                used.append(held if saved.pico is None else saved.pico * part)
        return used

    def most(self, client: str, request: ClientRequest) -> float | None:
        """The most that it may cost, in picodollars; None: not known. For operators, who ask about one."""
        return self._highest_price(request, self._highest(client, request), is_hard=False)

    def bound(
        self, charge: Charge | None, client: str, request: ClientRequest, now: Callable[[], float]
    ) -> StreamBound | None:
        """How far a stream may go on that uses more than it holds; None: to its end. `now`: the store's second."""
        if charge is None or not charge.guessed or client not in self._cuts:
            return None
        held, prices = self._highest(client, request).completion, self._prices()

        def price_of(tokens: int) -> float:
            usage = Usage(Certainty.EXACT, 0, tokens)
            return 0.0 if prices is None else highest_price(prices, request.model, request.tier, usage) or 0.0

        return StreamBound(charge, held, price_of, now)

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
        # What is done in the background is never seen: it is charged at the most it may use.
        unseen = usage is not None and request is not None and request.background
        usd = -1.0
        used: list[float] = []
        for standing, amount in zip(charge.rules.standings, charge.amounts, strict=True):
            measure = standing.rule.measure
            if measure is Measure.REQUESTS:
                used.append(amount if is_answer or usage is not None else 0.0)
            elif measure is Measure.CONCURRENT or usage is None:
                used.append(0.0)
            elif unseen:
                used.append(amount)
            elif measure is Measure.TOKENS:
                tokens = usage.prompt + usage.completion
                used.append(tokens + sum(of_tool.total for _, of_tool in usage.by_tools) if usage.by_tools else tokens)
            else:
                if usd < 0:
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
            if request.output and usage.prompt <= request.prompt_tokens + FRAMING:
                return  # as it was taken for
            if len(self._sizes) >= _MOST_REMEMBERED:
                self._sizes.clear()
            sizes = self._sizes[key] = AnswerSizes()
        output = None if request.output else usage.completion // max(1, request.choices)
        sizes.learn(request.prompt_tokens, usage.prompt, output)
