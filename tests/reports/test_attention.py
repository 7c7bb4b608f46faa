"""What an operator is told to look at, alike things together, and the sentence about the pool."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from quotapool.domain.forecast import Dry
from quotapool.domain.outside import OutsideUse
from quotapool.domain.periods import Per
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.domain.states import OPERATOR, WALLET, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import MONTHLY_STOP, PICO, Balance, Grant, Wallet
from quotapool.ledger.stored_rules import Level
from quotapool.observe.samples import Chunk, History, Reading, Room
from quotapool.reports import attention
from quotapool.reports.forecasts import as_it_is_felt, room_row, used_in_minute
from quotapool.reports.sentence import facts_of, sentence
from quotapool.shapes.now import CreditRow, DryTime, Fact, RoomRow, WaitingRow

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
AT = NOW.timestamp()
NAN = float("nan")
DRY = DryTime(0.0, 0.0, 0.0)


def out(name: str, state: State, reason: str, since: float = 0.0, by: str = "observed") -> attention.Concern:
    made = attention.of_record(Subject(name), Record(state, reason, since, until=since + 60, by=by))
    assert made is not None
    return made


def row(model: str = "gpt-5", dimension: str = "tpm", left: float = 500, dry: DryTime | None = None) -> RoomRow:
    return RoomRow(model, dimension, 1_000, left, 10, 1_000, 2, 0, dry)


def test_five_thousand_dead_keys_are_one_row():
    (found,) = attention.grouped(out(f"k/key-{n}", State.REMOVED, "invalid_api_key", 100.0 + n) for n in range(5_000))
    assert (found.severity, found.kind, found.code, found.count, found.since) == (
        *("critical", "key", "invalid_api_key", 5_000, 100.0),
    )
    assert found.ids == [f"key-{n}" for n in range(20)]
    assert found.next == "replace: make a new key at OpenAI and change the secret under the same id"
    assert found.actions == ["replace", "enable", "show_key"]


def test_the_most_urgent_first_then_those_that_concern_most():
    rows = attention.grouped(
        [
            out("k/idle", State.DISABLED, "operator", by=OPERATOR),
            out("a/poor", State.QUARANTINED, "insufficient_quota", 50.0),
            out("k/odd", State.SUSPECT, "missing_scope"),
            out("k/odder", State.SUSPECT, "missing_scope"),
            out("k/dead", State.REMOVED, "invalid_api_key"),
        ]
    )
    assert [(one.severity, one.code, one.count) for one in rows] == [
        ("critical", "invalid_api_key", 1),
        ("warning", "missing_scope", 2),
        ("warning", "insufficient_quota", 1),
        ("info", "operator", 1),
    ]
    assert rows[2].actions == ["topup", "probe", "show_account"]
    assert "(next try 1970-01-01 00:01:50 UTC)" in rows[2].next
    assert "next try" not in rows[1].next


def test_what_helps_fits_to_what_is_wrong():
    assert out("a/a", State.QUARANTINED, MONTHLY_STOP, by=WALLET).actions == ("show_account",)
    assert out("o/org-1", State.REMOVED, "organization_restricted").actions == ("enable", "show_account")
    assert attention.of_record(Subject("pool"), Record(State.REMOVED, "x", 0.0)) is None
    (locked,) = attention.grouped(attention.of_locked({"key-1": "a", "key-2": "b"}))
    assert (locked.code, locked.count, locked.actions) == ("locked", 2, ["show_key"])


def test_a_model_that_runs_dry_soon_and_one_that_is_empty():
    rows = [
        row(left=10, dry=DRY),
        row("gpt-day", "rpd", left=0, dry=DRY),
        row("gpt-soon", dry=DryTime(6.2, 4.4, 9.0)),
        row("gpt-chance", dry=DryTime(6.2, 4.4, None)),  # it may as well never be
        row("gpt-later", dry=DryTime(61.0, 59.0, 65.0)),
        row("gpt-tonight", "rpd", dry=DryTime(600.0, 500.0, 900.0)),
        row("gpt-well"),
    ]
    found = [(one.severity, one.id, one.next.partition(":")[0]) for one in attention.of_room(rows)]
    assert found == [
        ("warning", "gpt-5", "gpt-5 has no tpm left"),
        ("critical", "gpt-day", "gpt-day has no rpd left"),
        ("warning", "gpt-soon", "gpt-soon runs dry in about 6 min (4 min to 9 min; tpm)"),
        ("warning", "gpt-tonight", "gpt-tonight runs dry in about 10 h (8 h to 15 h; rpd)"),
    ]


def test_queues_are_news_when_they_are_long():
    rows = [
        WaitingRow("gpt-5", "tpm", "app", "", 9, 4.9),
        WaitingRow("gpt-5", "tpm", "bulk", "", 10, 0.5),
        WaitingRow("gpt-5", "", "app", "rpm", 1, 7.0),
    ]
    assert [(one.kind, one.id, one.actions) for one in attention.of_queues(rows)] == [
        ("model", "gpt-5", ("show_requests",)),
        ("client", "app", ("show_client",)),
    ]
    assert [one.next for one in attention.of_queues(rows)] == [
        "10 requests for gpt-5 wait for tpm, the first for 0 s",
        "1 request for gpt-5 waits for its rule rpm, the first for 7 s",
    ]


def test_credit_that_ends_soon_is_low_whether_or_not_a_threshold_is_set():
    grant = Grant(100 * PICO, expires_on=date(2026, 11, 25))
    wallets = {
        "soon": Wallet(remaining=50 * PICO, empty_at=NOW + timedelta(days=2)),
        "later": Wallet(remaining=50 * PICO, empty_at=NOW + timedelta(days=4)),
        "little": Wallet(remaining=2 * PICO, empty_at=NOW + timedelta(hours=1)),
        "wasted": Wallet(remaining=9 * PICO, expiring_unused=5 * PICO, balances=(Balance(grant, 9 * PICO),)),
        "used in time": Wallet(remaining=9 * PICO, balances=(Balance(grant, 9 * PICO),)),
    }
    found = list(attention.of_wallets(wallets, below=3 * PICO, within=timedelta(days=7), now=NOW))
    assert [(one.code, one.id) for one in found] == [
        *(("credit_low", "little"), ("credit_expires", "wasted"), ("credit_low", "soon")),
    ]


def test_clients_budgets_and_ends():
    rule = Rule("usd/month", Kind.BUDGET, Measure.USD, 50 * PICO, per=Per.MONTH, mode=Mode.HARD, warn_at=(0.8,))
    levels = {"client app": [Level(rule, 45 * PICO, 0.0, 0.0, None)], "client idle": [Level(rule, 0.0, 0.0, 0.0, None)]}
    found = list(attention.of_clients(levels, {"guest": AT + 86_400, "staff": AT + 90 * 86_400}, NOW))
    assert [(one.severity, one.code, one.id) for one in found] == [
        ("warning", "client_budget", "app"),
        ("info", "client_expires", "guest"),
    ]


def test_the_list_is_short_whatever_happens():
    rows = attention.grouped(out(f"k/key-{n}", State.SUSPECT, f"reason_{n}") for n in range(300))
    assert len(rows) == attention.MOST_ROWS


# ---- the sentence


def credit(account: str, empty_at: str | None) -> CreditRow:
    return CreditRow(account, 5.0, 1.0, 1.0, None, empty_at, None, None, None)


def said(**given) -> str:
    facts = {"usable": 4, "keys": 5, "room": [], "waiting": [], "credit": [], "store_away": False} | given
    return sentence(facts_of(**facts), AT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Serving: 4 of 5 keys."),
        ({"usable": 1, "keys": 1}, "Serving: 1 of 1 key."),
        ({"usable": 0}, "Not serving: none of 5 keys is usable."),
        ({"usable": 4_990, "keys": 5_000, "store_away": True},
         "The store is away, what follows is as it was last known. Serving: 4,990 of 5,000 keys."),
        ({"room": [row()]}, "Serving: 4 of 5 keys. No model runs dry at this pace."),
        ({"room": [row("gpt-4o", dry=DryTime(20, 15, 30)), row(dry=DryTime(6, 4, 9))],
          "credit": [credit("acme", "2026-12-20T03:00:00Z"), credit("umbrella", "2027-01-02T00:00:00Z")]},
         "Serving: 4 of 5 keys. gpt-5 runs dry in about 6 min (tpm). acme's credit lasts until 20 Dec."),
        ({"room": [row(left=0, dry=DRY)], "waiting": [WaitingRow("gpt-5", "tpm", "app", "", 12, 1.0)]},
         "Serving: 4 of 5 keys. gpt-5 has no room left (tpm). 12 requests wait in the queue."),
        ({"waiting": [WaitingRow("gpt-5", "tpm", "app", "", 1, 1.0)], "credit": [credit("a", "2027-01-02T00:00:00Z")]},
         "Serving: 4 of 5 keys. 1 request waits in the queue. a's credit lasts until 2 Jan 2027."),
        ({"credit": [credit("a", None)]}, "Serving: 4 of 5 keys."),
    ],
)  # fmt: skip
def test_the_pool_in_one_sentence(given, words):
    assert said(**given) == words


def test_facts_are_for_programs():
    facts = facts_of(
        usable=4, keys=5, room=[row(dry=DryTime(6, 4, 9))], waiting=[], credit=[credit("a", "2026-12-20T03:00:00Z")],
        store_away=False,
    )  # fmt: skip
    assert facts == [
        Fact("serving", number=4, of=5),
        Fact("dry", "gpt-5", "tpm", 6),
        Fact("credit", "a", at="2026-12-20T03:00:00Z"),
    ]


# ---- pace and forecast from samples


def history(*, used: float, dimension: str = "tpm", limit: float = 60_000.0, minutes: float = 5.0) -> History:
    """Samples every 5 s in which `used` a minute was used."""
    made, samples = History(), round(minutes * 12)
    for n in range(samples):
        chunk = Chunk()
        room = Room("gpt", dimension, limit, 1.0, limit, 1, 0, None if not n else used / 12)
        chunk.add(Reading(AT + 5 * n, 5.0 if n else 0.0, [room]), 0)
        made.add(chunk)
    return made


def test_a_minutes_budget_by_hand():
    # 90,000 a minute are used, 60,000 come back, 45,000 are left: 1.5 minutes
    room = Room("gpt", "tpm", 60_000, 45_000, 60_000, 2, 1)
    made = room_row(room, history(used=90_000))
    assert (made.used_per_minute, made.accounts, made.cooling) == (pytest.approx(90_000), 2, 1)
    assert made.dry is not None
    assert (made.dry.minutes, made.dry.earliest, made.dry.latest) == (pytest.approx(1.5, rel=1e-4),) * 3
    assert room_row(room, history(used=50_000)).dry is None
    assert room_row(room, history(used=90_000, minutes=1)).dry is None  # one minute: too short
    assert room_row(room, History()).used_per_minute == 0
    # A fiftieth of the limit is no room for anything, whatever the pace.
    assert room_row(Room("gpt", "tpm", 60_000, 1_200, 60_000, 2, 1), history(used=50_000)).dry == DRY


def test_a_days_budget_by_hand():
    # Of 14,400 a day 10 come back in a minute; 30 are used, 1,000 are left: 50 minutes
    room = Room("gpt", "rpd", 14_400, 1_000, 10, 1, 0)
    made = room_row(room, history(used=30, dimension="rpd", limit=14_400, minutes=60))
    assert made.dry is not None
    assert made.dry.minutes == pytest.approx(50, rel=1e-4)
    assert Dry(made.dry.minutes, made.dry.earliest, made.dry.latest).latest == pytest.approx(50, rel=1e-3)


def test_what_was_used_in_the_minute_before_each_sample():
    spans, used = [0.0, *[5.0] * 24], [NAN, *[10.0] * 12, *[20.0] * 12]
    found = used_in_minute(spans, used)
    assert found[:12] == [None] * 12  # the minute before is not known yet
    assert found[12] == 120
    assert found[18] == 6 * 10 + 6 * 20
    assert found[24] == 240
    # A replica took over, and does not know what was used before.
    gap = used_in_minute([5.0] * 30, [*[1.0] * 14, NAN, *[1.0] * 15])
    assert [n for n, one in enumerate(gap) if one is None] == [*range(11), *range(14, 26)]
    # Samples that are rarer than a minute
    assert used_in_minute([90.0, 90.0], [30.0, 60.0]) == [20.0, 40.0]


def test_a_budget_for_which_requests_wait_is_dry_whatever_is_left():
    row = RoomRow("gpt-5", "tpm", 12_000, 1_300, 16_500, 12_000, 3, 0, None)
    other = RoomRow("gpt-4o", "tpm", 12_000, 6_000, 9_000, 12_000, 3, 0, None)

    def waiting(model: str, *, rule: str = "", longest_s: float = 3.5) -> WaitingRow:
        return WaitingRow(model, "tpm", "app", rule, 14, longest_s)

    felt, untouched = as_it_is_felt([row, other], [waiting("gpt-5"), waiting("gpt-4o", rule="tpm")])
    assert felt == RoomRow("gpt-5", "tpm", 12_000, 1_300, 16_500, 12_000, 3, 0, DryTime(0, 0, 0))
    assert untouched is other  # those wait for their client's own rule
    assert as_it_is_felt([row], [waiting("gpt-5", longest_s=0.4)]) == [row]  # the pace of a budget that is used well


def test_accounts_that_others_use_are_one_row_and_a_drained_one_is_no_operators_own_doing():
    use = OutsideUse("acme", "gpt-4o", AT - 600, 40.0, 12_000.0, key="k-1", usd_per_hour=7.2)
    (one,) = attention.grouped(attention.of_outside_use([use]))
    assert (one.severity, one.kind, one.code, one.ids, one.since) == (
        *("warning", "account", "outside_use", ["acme"], AT - 600),
    )
    assert one.next == (
        "somebody else uses account acme: about 40 requests and 12,000 tokens a minute of gpt-4o, up to $7.20 an hour; "
        "its only key is k-1. See docs/outside-use.md"
    )
    both = [use, OutsideUse("beta", "gpt-4o", AT - 900, 5.0, 0.0)]
    (two,) = attention.grouped(attention.of_outside_use(both))
    assert (two.ids, two.count, two.since) == (["acme", "beta"], 2, AT - 900)
    assert "find out who" in two.next
    drained = out("a/acme", State.DRAINING, "outside_use")
    assert (drained.severity, drained.actions) == ("warning", ("enable", "show_account"))
    assert "quotapool keys enable" in drained.several
