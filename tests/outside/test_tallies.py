"""What a worker tallies of its answers, and when it had better not."""

from __future__ import annotations

from quotapool.domain.bucket import Moment
from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Granted, Observed, candidate_of, written_limits
from quotapool.ledger.messages import evidence_of
from quotapool.outside.tallies import UNSURE_S, OutsideTallies

from tests.fakes.connect import connect

T0 = 1_700_000_000.0
FULL = 58.8  # of 60 a minute, less 1.2 s of refill


def grant(
    kept: float = FULL - 1,
    *,
    account: str = "acme",
    at: float = T0,
    limits: Limits | None = None,
    learned: float = 60.0,
) -> Granted:
    """A reservation of one request of 60 a minute; `kept`: what our bucket holds after it."""
    candidate = candidate_of(
        account=account, key="k", account_fingerprint="", key_fingerprint="", written=written_limits(limits or Limits())
    )
    moments = {Dimension.RPM: Moment(kept, kept, 0.0, 1.0)}
    return Granted("id", "gpt-5", Cost(1, 100), candidate, at, 1.0, False, moments, {Dimension.RPM: learned})


def saw(
    granted: Granted, remaining: float, *, limit: float = 60.0, dimension: Dimension = Dimension.RPM, refused=False
):
    tallies = OutsideTallies()
    tallies.saw(granted, evidence_of(granted, [Observed(dimension, limit, remaining)], refused=refused))
    return tallies.taken()


def test_a_request_that_nobody_of_ours_made_is_seen():
    assert (saw(grant(), 59)["acme", "gpt-5"].requests.more, saw(grant(), 58)["acme", "gpt-5"].requests.more) == (0, 1)


def test_a_refusal_though_our_books_have_room_is_seen():
    assert saw(grant(), 0, refused=True)["acme", "gpt-5"].requests.more == 1


def test_a_limit_that_has_changed_is_not_compared_with_the_old_level():
    assert saw(grant(), 29, limit=30.0)["acme", "gpt-5"].requests.answers == 0
    assert saw(grant(learned=-1.0), 29)["acme", "gpt-5"].requests.answers == 0


def test_a_limit_without_a_level_of_ours_is_not_compared():
    assert saw(grant(), 5, dimension=Dimension.TPM)["acme", "gpt-5"].kept.answers == 0


def test_a_lower_limit_of_our_own_shows_less_than_there_is_and_never_more():
    # Given 30 a minute by our own choice, of which a full bucket holds 29.4
    half = grant(28.4, limits=Limits(rpm=30))
    assert saw(half, 59)["acme", "gpt-5"].requests.more == 0
    assert saw(half, 50)["acme", "gpt-5"].requests.more == 1


def test_tokens_are_compared_with_both_predictions():
    moments = {Dimension.TPM: Moment(kept=57_000.0, corrected=58_800.0 - 100, charged=0.0, recent=0.0)}
    candidate = grant().candidate
    granted = Granted("id", "gpt-5", Cost(1, 100), candidate, T0, 1.0, False, moments, {Dimension.TPM: 60_000.0})
    tally = saw(granted, 60_000 - 1_800, limit=60_000.0, dimension=Dimension.TPM)["acme", "gpt-5"]
    # 1,800 tokens are missing, as `kept` says; `corrected` says 100.
    assert (tally.kept.more, tally.kept.less, tally.corrected.more) == (0, 0, 1)


def test_the_requests_of_a_day_have_their_own_counts():
    moments = {Dimension.RPD: Moment(190.0, 190.0, 0.0, 0.0, taught_kept=-4.0)}
    granted = Granted("id", "gpt-5", Cost(1), grant().candidate, T0, 1.0, False, moments, {Dimension.RPD: 200.0})
    tally = saw(granted, 185, limit=200.0, dimension=Dimension.RPD)["acme", "gpt-5"]
    assert (tally.day.answers, tally.day.taught, tally.requests.answers) == (1, -4.0, 0)


def test_an_answer_that_used_more_than_was_reserved_is_noted_where_the_account_is_looked_at():
    tallies = OutsideTallies()
    tallies.overran(grant())
    assert tallies.taken() == {}
    tallies.saw(grant(), evidence_of(grant(), [Observed(Dimension.RPM, 60.0, 59)]))
    tallies.overran(grant())
    assert tallies.taken()["acme", "gpt-5"].overruns == 1


def test_of_many_answers_each_fourth_is_compared():
    tallies, row = OutsideTallies(), evidence_of(grant(), [Observed(Dimension.RPM, 60.0, 58)])
    for _ in range(64 + 400):
        tallies.saw(grant(), row)
    requests = tallies.taken()["acme", "gpt-5"].requests
    assert (requests.answers, requests.more) == (164, 164)


class TestAgainstAStore:
    """`drain` asks the ledger whether its buckets can be compared with upstream's at all."""

    async def test_after_a_store_began_its_buckets_are_full_and_upstreams_are_not(self, valkey_url):
        store = connect(valkey_url)
        ledger = Ledger(store, "test", patience_s=2.0, observer=Observer())
        began = float((await ledger.registry.begin_epoch(reseeded=False))[2:])
        tallies = OutsideTallies()
        assert tallies.drain(ledger) == {}  # it does not know the store yet
        row = evidence_of(grant(), [Observed(Dimension.RPM, 60.0, 50)])
        tallies.saw(grant(at=began + UNSURE_S - 1), row)
        assert tallies.drain(ledger) == {}
        tallies.saw(grant(at=began + UNSURE_S), row)
        assert tallies.drain(ledger)["acme", "gpt-5"].requests.more == 1
        # A store that lost its data has another epoch.
        await store.client.delete("qp:{test}:epoch")
        tallies.saw(grant(at=began + UNSURE_S + 1), row)
        await ledger.registry.begin_epoch(reseeded=True)
        assert tallies.drain(ledger) == {}
        await store.close()
