"""Outside use: use of an account that none of our books explain, found by comparing what upstream has left with them.

Each answer's `remaining` shows what a bucket upstream lacked when our request was admitted. Our own bucket says what it
should have lacked by our use alone, of all replicas: a full bucket less the level right after that reservation. If only
we use it, the two differ by the network alone: a request that arrives earlier or later than it was reserved, or
overtakes another. In each such pair one is read too high and one too low. Somebody else's use changes only one:
upstream lacks more.

So each answer is one of three: upstream lacks more than our books explain, less, or the same (`outside_tally.py`). How
often it lacks *less* is what the network does to this account, measured on itself; about as often it would lack *more*
without anybody else. Where a level has followed upstream downwards meanwhile (`taught` of `bucket.py`), that is use by
others too. The evidence of each slice of ten seconds is a log-likelihood ratio: upstream lacks more in SHARE more of
the answers, against no such thing. Its cumulative sum (Page, 1954) never falls below zero, so it forgets what is over,
and a slice is bounded, so that one pause of the network or of a process is never enough.

Requests are counted by both sides in the same way. Tokens are an estimate on both sides. They prove something only
where upstream is seen to count as we do, by requests that found the bucket full and make it lack just what we had
estimated; where answers do not use far more than that; and as long as requests do not contradict them.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

SLICE_S: Final = 10.0
NAMED: Final = 13.0  # evidence: a log-likelihood ratio
MOST_A_SLICE: Final = 3.0  # so at least five slices must agree
SHARE: Final = 0.12
LEAST_NOISE: Final = 0.005  # of the answers
NOISE_UPWARDS: Final = 1.3  # times that downwards, at most
UNEVEN: Final = 0.6  # of the noise; it is not balanced in each slice
NOISE_ANSWERS: Final = 500.0  # the noise is the average of about so many
OVERRUNS: Final = 0.05  # of the answers: if more used more than was estimated for them, tokens prove nothing
LEAST_ALONE: Final = 5.0  # requests that found the bucket full, to know how upstream counts
EXACT_SHARE: Final = 0.3  # of them, whatever others use
ALONE_ANSWERS: Final = 200.0
TAUGHT_SHARE: Final = 0.05  # of the refill: what a level is corrected by without anybody else
TAUGHT_WEIGHT: Final = 40.0
DAY_NOISE: Final = 0.1  # requests that a level of a day is corrected by, for each answer
CLEAR: Final = 0.1  # by which one prediction of tokens must fit better than the other one, to be believed alone
BINDING: Final = 0.9  # of the answers found the bucket less than full
HEARD_ANSWERS: Final = 5000.0  # requests contradict tokens by about so many
LEAST_SHARE: Final = 0.005  # of the answers: so often at least requests show who uses many tokens
RATE_S: Final = 300.0  # rates are averages of about that time
FADED: Final = 6.0  # evidence that chance alone has at times
QUIET_S: Final = 600.0  # with less than that, and it is over
UNSEEN_S: Final = 3600.0  # without answers, and nobody can say any more


class Slice(msgspec.Struct, array_like=True):
    """Of one dimension, in some seconds: as `Counts` of `outside_tally.py`."""

    answers: float = 0.0
    more: float = 0.0
    less: float = 0.0
    lacked: float = 0.0
    explained: float = 0.0
    exact: float = 0.0
    limit: float = 0.0
    at: float = 0.0
    taught: float = 0.0

    @property
    def net(self) -> float:
        """Answers by which upstream lacked more, less those that the network explains: what overtakes is overtaken."""
        return self.more - NOISE_UPWARDS * self.less

    @property
    def binds(self) -> bool:
        """Our requests wait for this limit. They come as it refills then, so evenly that the network can only make them
        less even, and what other limits show is no evidence; what this level is corrected by is."""
        return self.explained > BINDING * self.answers

    @property
    def shows_noise(self) -> bool:
        """False: nothing differs while our requests wait for this limit, whatever the network does (`DELAY_S` of
        `outside_tally.py`). It must not be taken for quiet as soon as they wait no longer."""
        return self.less > 0 or not self.binds

    def add(self, other: Slice) -> None:
        self.answers += other.answers
        self.more += other.more
        self.less += other.less
        self.lacked += other.lacked
        self.explained += other.explained
        self.exact += other.exact
        if other.at >= self.at:
            self.limit, self.at, self.taught = other.limit, other.at, other.taught


class Slices(msgspec.Struct, array_like=True):
    """Of one (account, model group): as `Tally`. None: no answer named that limit."""

    requests: Slice | None = None
    kept: Slice | None = None
    corrected: Slice | None = None
    day: Slice | None = None
    overruns: float = 0.0

    def add(self, other: Slices) -> None:
        self.requests = _added(self.requests, other.requests)
        self.kept = _added(self.kept, other.kept)
        self.corrected = _added(self.corrected, other.corrected)
        self.day = _added(self.day, other.day)
        self.overruns += other.overruns


def _added(one: Slice | None, other: Slice | None) -> Slice | None:
    if one is None or other is None:
        return other if one is None else one
    one.add(other)
    return one


class Known(msgspec.Struct, array_like=True):
    """What is remembered of one dimension.

    `answers`, `less`: decaying sums of the slices that show noise, which is their ratio; `wrong`: how badly this
    prediction fits upstream; `limit`, `at`, `taught`: of the newest answer; `used`: what others used a second, on
    average of the last `used_s`; `alone`, `exact`: requests that found the bucket full, by our books, and those of
    which upstream counted the tokens as we did, decaying sums.
    """

    answers: float = 0.0
    less: float = 0.0
    wrong: float = 0.0
    limit: float = 0.0
    at: float = 0.0
    taught: float = 0.0
    used: float = 0.0
    used_s: float = 0.0
    alone: float = 0.0
    exact: float = 0.0

    @property
    def counts_alike(self) -> bool:
        """Whether upstream is known to count tokens as this prediction does."""
        return self.alone >= LEAST_ALONE and self.exact >= EXACT_SHARE * self.alone

    def follow(self, new: Slice, period_s: float) -> float:
        """How much the level was corrected downwards since the slice before, a second (negative: upwards)."""
        span, down = new.at - self.at, self.taught - new.taught
        is_known = self.limit == new.limit and span > 0 and abs(down) <= new.limit
        self.limit, self.at, self.taught = new.limit, new.at, new.taught
        down_s = down / max(1.0, span) if is_known else 0.0
        fade = max(0.0, 1 - new.answers / NOISE_ANSWERS)
        if new.shows_noise:
            self.answers = self.answers * fade + new.answers
            self.less = self.less * fade + new.less
        refill_s = new.limit / period_s
        if new.answers > 0:
            # Others make upstream lack more. That it lacks less, or that our level is raised, refutes the prediction.
            refuted = new.less / new.answers + max(0.0, -down_s / refill_s)
            differs = (new.more + new.less) / new.answers + abs(down_s) / refill_s
            self.wrong = self.wrong * fade + (1 - fade) * (differs + 2 * refuted)
            shown = (new.lacked - new.explained) / new.answers * refill_s + down_s
            passed_s = max(SLICE_S, min(span, RATE_S))
            self.used_s = min(RATE_S, self.used_s + passed_s)
            self.used += (shown - self.used) * passed_s / self.used_s
        return down_s

    def learn_counting(self, new: Slice) -> None:
        alone = new.answers - new.explained
        left = max(0.0, 1 - alone / ALONE_ANSWERS)
        self.alone, self.exact = self.alone * left + alone, self.exact * left + new.exact

    @property
    def noise(self) -> float:
        return LEAST_NOISE + UNEVEN * self.less / max(1.0, self.answers)


class Judgement(msgspec.Struct, array_like=True):
    """One (account, model group): what is known, and how strong the evidence is.

    `overruns`: the share of answers that used far more than was estimated;
    `by_requests`, `by_tokens`: evidence of outside use, from 0 to twice NAMED; `heard`, `heard_net`, `heard_all`: what
    requests have said since tokens speak of somebody; `since`: when the evidence began, `shown`: when it was last
    FADED or more, `seen`: when the newest answer was reserved (Unix seconds).
    """

    requests: Known = msgspec.field(default_factory=Known)
    kept: Known = msgspec.field(default_factory=Known)
    corrected: Known = msgspec.field(default_factory=Known)
    day: Known = msgspec.field(default_factory=Known)
    overruns: float = 0.0
    by_requests: float = 0.0
    by_tokens: float = 0.0
    heard: float = 0.0
    heard_net: float = 0.0
    heard_all: float = 0.0
    since: float = 0.0
    shown: float = 0.0
    seen: float = 0.0

    def take(self, new: Slices) -> None:
        """About ten seconds' tallies of all processes."""
        parts = [part for part in (new.requests, new.kept, new.day) if part is not None]
        if not parts:
            return
        answers = max(part.answers for part in parts)
        self.seen = max(self.seen, *(part.at for part in parts))
        fade = max(0.0, 1 - answers / NOISE_ANSWERS)
        self.overruns = self.overruns * fade + (1 - fade) * new.overruns / answers
        requests, tokens = self._of_requests(new), self._of_tokens(new)
        if new.requests is not None and new.requests.binds:
            tokens = min(tokens, requests)
        elif (leading := new.corrected if self.tokens is self.corrected else new.kept) is not None and leading.binds:
            requests = min(requests, tokens)
        self._hear(new.requests)
        if not self.trusts_tokens or self.contradicted:
            tokens, self.by_tokens = 0.0, 0.0
        self.by_requests = _sum(self.by_requests, requests)
        self.by_tokens = _sum(self.by_tokens, _bounded(tokens + max(0.0, requests)) if tokens else 0.0)
        if self.strength == 0:
            self.since = 0.0
        elif not self.since:
            self.since = self.seen - SLICE_S
            for known in (self.requests, self.kept, self.corrected, self.day):
                known.used_s = min(known.used_s, SLICE_S)
        if self.strength >= FADED:
            self.shown = self.seen

    @property
    def strength(self) -> float:
        return max(self.by_requests, self.by_tokens)

    @property
    def requests_per_minute(self) -> float:
        """About how many requests others make, since the evidence began or in the last minutes."""
        return 60 * max(0.0, self.requests.used, self.day.used)

    @property
    def tokens_per_minute(self) -> float:
        return 60 * max(0.0, self.tokens.used)

    @property
    def tokens(self) -> Known:
        """What is known of tokens by the prediction that fits upstream better."""
        return self.corrected if self.corrected.wrong < self.kept.wrong else self.kept

    @property
    def trusts_tokens(self) -> bool:
        """Whether upstream is known to count our requests' tokens as we do: else what it lacks more may be our own."""
        return self.overruns <= OVERRUNS and (self.kept.counts_alike or self.corrected.counts_alike)

    @property
    def contradicted(self) -> bool:
        """Whoever uses tokens makes requests: these are fewer than LEAST_SHARE, by three standard deviations."""
        return self.heard_net + 3 * math.sqrt(self.heard_all + 1) < LEAST_SHARE * self.heard

    def _of_requests(self, new: Slices) -> float:
        found = [_of_minute(self.requests, new.requests)] if new.requests is not None else []
        if new.day is not None:
            found.append(_of_day(self.day, new.day))
        return max(found, default=0.0)

    def _of_tokens(self, new: Slices) -> float:
        """While neither prediction fits clearly better, both have to show it."""
        if new.kept is None or new.corrected is None:
            return 0.0
        kept, corrected = _of_minute(self.kept, new.kept), _of_minute(self.corrected, new.corrected)
        if self.by_tokens == 0:  # else what others use may be all that shows
            self.kept.learn_counting(new.kept)
            self.corrected.learn_counting(new.corrected)
        better = self.corrected.wrong - self.kept.wrong
        if abs(better) < CLEAR:
            return min(kept, corrected)
        return kept if better > 0 else corrected

    def _hear(self, new: Slice | None) -> None:
        if self.by_tokens == 0 and not self.contradicted:
            self.heard = self.heard_net = self.heard_all = 0.0
        if new is not None:
            fade = max(0.0, 1 - new.answers / HEARD_ANSWERS)
            self.heard = self.heard * fade + new.answers
            self.heard_net = self.heard_net * fade + new.more - new.less
            self.heard_all = self.heard_all * fade + new.more + new.less


def is_named(judged: Judgement, *, before: bool, now: float) -> bool:
    """Whether outside use is to be named now; `before`: it was. `now`: Unix seconds."""
    if now - judged.seen >= UNSEEN_S:
        return False
    if not before:
        return judged.strength >= NAMED
    return judged.strength >= FADED or now - judged.shown < QUIET_S


def _of_minute(known: Known, new: Slice) -> float:
    down_s = known.follow(new, 60.0)
    shown = likelihood(new.net, new.answers, known.noise, SHARE)
    taught = TAUGHT_WEIGHT * (down_s * 60 / new.limit - TAUGHT_SHARE)
    return _bounded(max(shown, taught) if taught > 0 else shown)


def _of_day(known: Known, new: Slice) -> float:
    """A day's bucket is almost never full, so its level has followed upstream by exactly what others used."""
    span_s = new.at - known.at
    down = known.follow(new, 86_400.0) * max(1.0, span_s)
    return _bounded(down - DAY_NOISE * new.answers)


def likelihood(more: float, answers: float, noise: float, share: float) -> float:
    """Log-likelihood ratio of `more` in so many `answers`, for a rate of `noise` plus `share` against `noise`."""
    base = min(noise, 0.8)
    raised = min(base + share, 0.98)
    return more * math.log(raised / base) + (answers - more) * math.log((1 - raised) / (1 - base))


def _bounded(evidence: float) -> float:
    return max(-MOST_A_SLICE, min(MOST_A_SLICE, evidence))


def _sum(before: float, evidence: float) -> float:
    return max(0.0, min(2 * NAMED, before + evidence))
