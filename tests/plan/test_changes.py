"""What is asked to be changed is read from options, and what is wrong with one is said of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from quotapool.domain.quantities import Limits
from quotapool.plan.changes import BadChange, Changes, changed
from quotapool.plan.scenario import OTHERS, Outage, PlanAccount, PlanClient, Scenario, Traffic
from quotapool.settings.model import LimitSet, Settings

GROUP = "gpt-5.6-sol"
TODAY = Scenario(
    (
        PlanAccount("acme", {GROUP: Limits(rpm=500, tpm=100_000)}, ("key-1", "key-2")),
        PlanAccount("acme.eu", {GROUP: Limits(rpm=900)}, ("key-3",)),
    ),
    clients={"app": PlanClient()},
    out=frozenset({"key-9", "rested"}),
)
HUGE = "9" * 400  # beyond a float
USUAL = {GROUP: Limits(rpm=500, tpm=100_000)}
NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC).timestamp()


def moment(text: str) -> float:
    hour, _, minute = text.partition(":")
    return NOON + 3600 * (int(hour) - 12) + 60 * int(minute)


def applied(usual=USUAL, settings=None, **changes) -> tuple[Scenario, list[str]]:
    return changed(
        TODAY,
        Changes(**changes),
        settings=settings or Settings(),
        usual=usual,
        clients={"app", "batch-job"},
        models={GROUP},
        moment=moment,
    )


def test_without_changes_the_pool_stays_as_it_is():
    assert applied() == (TODAY, [])


def test_accounts_are_added_like_one_that_there_is_or_with_limits_that_are_written():
    scenario, assumed = applied(add_accounts=2, like="acme")
    assert [account.id for account in scenario.accounts] == ["acme", "acme.eu", "new-1", "new-2"]
    assert scenario.accounts[2].limits == TODAY.accounts[0].limits
    assert assumed == []
    scenario, _ = applied(add_accounts=1, limits=("rpm=5k,tpm=2M", f"{GROUP}:tpm=3M"))
    assert scenario.accounts[2].limits_of("any") == Limits(rpm=5_000, tpm=2_000_000)
    assert scenario.accounts[2].limits_of(GROUP) == Limits(rpm=5_000, tpm=3_000_000)


def test_limits_that_are_given_one_by_one_count_together():
    scenario, _ = applied(add_accounts=1, limits=("rpm=5k", "tpm=2M"))
    assert scenario.accounts[2].limits_of("any") == Limits(rpm=5_000, tpm=2_000_000)


def test_a_tier_is_the_configurations_or_openais_and_what_it_does_not_name_is_said():
    own = Settings(tiers={"big": LimitSet(tpm=9_000_000)})
    scenario, assumed = applied(add_accounts=1, tier="big", settings=own)
    assert scenario.accounts[2].limits_of(GROUP) == Limits(rpm=500, tpm=9_000_000)
    assert assumed == [f"tier big does not name every limit of {GROUP}: the rest is what most accounts have"]
    scenario, assumed = applied(add_accounts=1, tier="launch")
    assert scenario.accounts[2].limits_of(GROUP) == Limits(rpm=10_000, tpm=4_000_000)
    assert assumed == ["the limits of tier launch are those that OpenAI's guide named on 2026-11-22"]


@pytest.mark.parametrize("tier", ["tier3", "Tier 3", "TIER_3", "3"])
def test_two_accounts_of_a_numbered_tier_are_added_and_where_its_limits_are_from_is_said(tier):
    scenario, assumed = applied(add_accounts=2, tier=tier)
    assert [account.limits_of(GROUP) for account in scenario.accounts[2:]] == [Limits(5_000, 2_000_000)] * 2
    (said,) = assumed
    assert said.startswith(f"the limits of tier {tier} are those of OpenAI's model pages from July to September 2026")


def test_limits_that_are_written_beside_a_tier_count_instead_of_it():
    usual = {**USUAL, "our-model": Limits()}
    scenario, _ = applied(usual=usual, add_accounts=1, tier="3", limits=("our-model:tpm=2M", f"{GROUP}:rpm=7"))
    assert scenario.accounts[2].limits_of("our-model") == Limits(tpm=2_000_000)
    assert scenario.accounts[2].limits_of(GROUP) == Limits(7, 2_000_000)
    scenario, _ = applied(usual=usual, add_accounts=1, tier="3", limits=("rpm=9",))
    assert scenario.accounts[2].limits_of("our-model") == Limits(rpm=9)
    assert scenario.accounts[2].limits_of(GROUP) == Limits(9, 2_000_000)


def test_keys_limits_clients_traffic_and_outages_are_changed():
    scenario, _ = applied(without=("key-2", "acme.eu"), limit=(f"acme.{GROUP}.tpm=2M",))
    assert [(account.id, account.keys) for account in scenario.accounts] == [("acme", ("key-1",))]
    assert scenario.accounts[0].limits_of(GROUP) == Limits(rpm=500, tpm=2_000_000)
    scenario, _ = applied(weights=("app=2",), priorities=("batch-job=batch",), max_wait="1m")
    assert (scenario.client("app").weight, scenario.priorities) == (2.0, {"batch-job": -1})
    assert (scenario.max_wait_s, scenario.max_wait_for_all) == (60.0, True)
    scenario, _ = applied(traffic=("x2", "client:app=150%", f"model:{GROUP}=0.5"))
    assert scenario.traffic == (Traffic(2.0), Traffic(1.5, client="app"), Traffic(0.5, model=GROUP))
    scenario, _ = applied(outages=("acme.eu", "acme=14:00..15:30"))
    assert scenario.outages[0].account == "acme.eu"
    assert scenario.outages[1] == Outage("acme", NOON + 7200, NOON + 12_600)


def test_a_change_may_name_an_account_that_another_adds():
    scenario, _ = applied(add_accounts=1, like="acme", limit=("new-1.tpm=1",), without=("acme", "acme.eu"))
    assert [account.id for account in scenario.accounts] == ["new-1"]
    assert scenario.accounts[0].limits_of(GROUP).tpm == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"like": "acme"}, "--like acme: only says of what kind added accounts are; --add-accounts says how many"),
        ({"add_accounts": 1}, "--add-accounts 1: needs one of --tier NAME, --like ACCOUNT and --limits"),
        (
            {"add_accounts": 1, "like": "acme", "tier": "grow"},
            "--like acme: says all of added accounts, so it goes without",
        ),
        ({"add_accounts": 1, "like": "akme"}, "there is no account 'akme'; did you mean 'acme'?"),
        ({"add_accounts": 20_000, "like": "acme"}, "must be between 1 and 10,000"),
        ({"add_accounts": 1, "limits": ("xpm=5",)}, "--limits xpm=5: 'xpm' is none of rpm, tpm"),
        ({"add_accounts": 1, "limits": ("rpm=many",)}, "--limits rpm=many: must be a number, such as 1000, 500k or 2M"),
        ({"add_accounts": 1, "limits": ("rpm",)}, "--limits rpm: is written rpm=5000,tpm=2M"),
        ({"add_accounts": 1, "limits": (f"{GROUP}:tpm=-2M",)}, f"--limits {GROUP}:tpm=-2M: must be a number"),
        (
            {"add_accounts": 1, "limits": (f"{GROUP}x:tpm=2M",)},
            f"the record has no requests that use limits of '{GROUP}x'; did you mean '{GROUP}'?",
        ),
        (
            {"limit": (f"acme.{GROUP}x.tpm=2M",)},
            f"--limit acme.{GROUP}x.tpm=2M: the record has no requests that use limits of '{GROUP}x'",
        ),
        ({"add_accounts": 1, "limits": (":tpm=2",)}, "--limits :tpm=2: names no model before the colon"),
        ({"add_accounts": 1, "limits": ("rpm=1", "rpm=2")}, "--limits rpm=2: rpm is given twice"),
        ({"add_accounts": 1, "limits": (f"rpm={HUGE}",)}, "at most 1,000,000,000,000"),
        ({"add_accounts": 1, "limits": ("rpm=0",)}, "a limit is above 0"),
        ({"add_accounts": 1, "tier": "tier6"}, "there is no tier 'tier6' here (tier1, tier2, tier3,"),
        ({"add_accounts": 1, "tier": "free"}, "write limits instead, --limits rpm=5000,tpm=2M"),
        ({"without": ("acme", "acme.eu")}, "--without acme.eu: no account would be left"),
        ({"limit": ("acme.tpm",)}, "--limit acme.tpm: is written NAME=VALUE"),
        ({"without": ("acme", "key-1")}, "--without key-1: 'key-1' cannot serve, so it is out already"),
        ({"without": ("key-9",)}, "--without key-9: 'key-9' cannot serve, so it is out already"),
        ({"outages": ("rested",)}, "--outage rested: 'rested' cannot serve, so it is out already"),
        ({"without": ("",)}, "--without '': there is no key or account"),
        ({"limit": (f"acme.tpm={HUGE}",)}, "a limit is a number from 0 to 1,000,000,000,000"),
        ({"limit": ("nobody.tpm=5",)}, "there is no account 'nobody'"),
        ({"traffic": ("double",)}, "--traffic double: is written x2"),
        ({"traffic": ("app=x2",)}, "--traffic app=x2: is written client:NAME=x2"),
        ({"traffic": ("client:=x2",)}, "--traffic client:=x2: is written client:NAME=x2"),
        ({"traffic": (f"x{HUGE}",)}, "from 0 to 1000"),
        ({"traffic": ("client:carl=x2",)}, "the record has no client 'carl'"),
        ({"traffic": ("x9999",)}, "from 0 to 1000"),
        ({"weights": ("carl=2",)}, "there is no client 'carl'"),
        ({"weights": ("app=0",)}, "--client-weight app=0: a weight is above 0"),
        ({"weights": (f"app={HUGE}",)}, "a weight is above 0, from 1e-06 to 1,000,000"),
        ({"priorities": ("app=urgent",)}, "'urgent' is none of high, normal, batch"),
        ({"outages": ("acme=14:00",)}, "is written ACCOUNT=14:00..15:30"),
        ({"outages": ("acme=15:00..14:00",)}, "an outage ends after it began"),
        ({"max_wait": f"{HUGE}s"}, "a wait is from 0 to 31 days"),
        ({"max_wait": f"{'9' * 308}s{'9' * 308}s"}, "the number is too large"),
        ({"max_wait": "long"}, "--max-wait long: must be a duration"),
    ],
)
def test_what_cannot_be_done_is_said_of_its_option(changes, why):
    with pytest.raises(BadChange) as refused:
        applied(**changes)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tier_of_openais_needs_limits_of_every_model_of_the_record():
    usual = {**USUAL, "gpt-4o": Limits(), "-": Limits()}
    with pytest.raises(BadChange, match=r"no limits of gpt-4o in tier 'grow': .*--limits gpt-4o:rpm=5000,tpm=2M"):
        applied(usual=usual, add_accounts=1, tier="grow")
    many = {**USUAL, **{f"ours-{n}": Limits() for n in range(7)}}
    with pytest.raises(BadChange, match=r"no limits of ours-0, ours-1, ours-2, ours-3, ours-4 and 2 more in tier '3'"):
        applied(usual=many, add_accounts=1, tier="3")


def test_changes_are_repeated_as_they_were_asked_for():
    changes = Changes(2, "grow", None, traffic=("x2",), without=("key-7",), max_wait="5s")
    assert changes.words == ["--add-accounts 2", "--tier grow", "--traffic x2", "--without key-7", "--max-wait 5s"]
    assert OTHERS == ""
