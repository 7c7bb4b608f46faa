"""Who is judged, and who is not."""

from __future__ import annotations

from quotapool.domain.outside_use import SLICE_S, UNSEEN_S, Slice, Slices
from quotapool.outside.shared_tallies import Stored
from quotapool.outside.watch import FEWER_S, OutsideWatch

T0 = 1_700_000_000.0
ACME, OTHER = ("acme", "gpt-5"), ("other", "gpt-5")


def used_by_others(n: int) -> Slices:
    return Slices(Slice(20, 20, 0, 20, 0, 0, 60.0, T0 + n * SLICE_S))


def watched(slices: int = 6) -> OutsideWatch:
    watch = OutsideWatch()
    for n in range(slices):
        watch.take({ACME: used_by_others(n), OTHER: Slices(Slice(20, 0, 0, 0, 0, 0, 60.0, T0 + n * SLICE_S))})
    return watch


def test_only_the_account_that_others_use_is_named():
    assert [name for name, _ in watched().begun((), T0 + 60)] == [ACME]
    assert list(watched(4).begun((), T0 + 40)) == []


def test_of_accounts_that_are_shared_on_purpose_nothing_is_said():
    watch = watched()
    assert list(watch.begun(["acme"], T0 + 60)) == []
    (found,) = watch.begun((), T0 + 60)
    watch.named[ACME] = Stored(found[1].since, found[1])
    assert list(watch.begun((), T0 + 60)) == []  # it is named already
    assert list(watch.ended((), T0 + 60)) == []
    assert list(watch.ended(["acme"], T0 + 60)) == [ACME]


def test_another_replica_goes_on_where_the_first_one_was():
    (found,) = watched().begun((), T0 + 60)
    watch = OutsideWatch({ACME: Stored(found[1].since, found[1])})
    assert (list(watch.begun((), T0 + 70)), list(watch.ended((), T0 + 70))) == ([], [])
    assert list(watch.ended((), T0 + 60 + UNSEEN_S)) == [ACME]


def test_while_fewer_processes_serve_than_before_nothing_is_judged():
    watch = OutsideWatch()
    assert watch.may_judge(4, T0)
    assert watch.may_judge(4, T0 + 10)
    assert not watch.may_judge(3, T0 + 20)  # it may serve from its share, with no store
    assert not watch.may_judge(3, T0 + 10 + FEWER_S)
    assert watch.may_judge(3, T0 + 11 + FEWER_S)
    assert watch.may_judge(5, T0 + 20 + FEWER_S)


def test_what_is_not_used_for_long_is_forgotten():
    watch = watched()
    watch.tidy(T0 + UNSEEN_S)
    assert watch.judged(OTHER) is not None
    watch.tidy(T0 + 60 + UNSEEN_S)
    assert watch.judged(OTHER) is None
