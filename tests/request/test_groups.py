"""Who shares a budget, as upstream tells it, and to which account a request likes to go.

Model groups learned from "(for limit X)", long contexts, organisations, weights, and the same account for one prompt.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter

import pytest
from quotapool.domain.access import Use
from quotapool.domain.pool import Key, Pool

from tests.fakes.edge import Client, Reply, chat_answer, chat_body, error

SNAPSHOT, FAMILY = "gpt-4.1-2025-04-14", "gpt-4.1"
ODD = "gpt-4.1-preview"  # no name that anybody could know to be of gpt-4.1


def shared(limit: str = FAMILY, model: str = ODD) -> Reply:
    """OpenAI's words of 2025 (openai-upstream facts §1)."""
    said = (
        f"Rate limit reached for {model} (for limit {limit}) in organization org-x on tokens per min (TPM): "
        "Limit 30000, Used 29000, Requested 2000. Please try again in 2s."
    )
    return error(429, "rate_limit_exceeded", said, "tokens", retry_after="2")


async def groups_of(pool) -> set[str]:
    """The model groups that have buckets."""
    _, found = await pool.ledger.stored.all()
    return {group for _, group in found}


# ---- groups that upstream tells


async def test_a_refusal_for_a_limit_of_another_name_teaches_the_group(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(shared())
    client = await pool.ask(Client(chat_body(ODD)))
    assert client.status == 200
    assert pool.recorder.groups == [(ODD, FAMILY)]
    await pool.ask(Client(chat_body(ODD)))
    await pool.ask(Client(chat_body(FAMILY)))
    # I expect both of them in one bucket from then on, and what was used goes along: the refused request, and after it
    # the second try and two more.
    taken = [await pool.taken(account, FAMILY) for account in "ab"]
    assert sum(requests for requests, _ in taken) == 4


async def test_it_is_told_once(open_pool):
    pool = await open_pool({"a": 1, "b": 1, "c": 1})
    pool.upstream.next(shared(), shared())
    await pool.ask(Client(chat_body(ODD)))
    await pool.ask(Client(chat_body(ODD)))
    assert pool.recorder.groups == [(ODD, FAMILY)]


async def test_the_other_replica_hears_of_it_and_a_restart_remembers(open_pool):
    one, other = await open_pool({"a": 1, "b": 1}), await open_pool({"a": 1, "b": 1})
    one.upstream.next(shared())
    await one.ask(Client(chat_body(ODD)))
    await other.ledger.heartbeat()
    await other.sync._refreshing
    assert other.roster.group_of(ODD) == FAMILY
    assert other.upstream.sent == []
    born_later = await open_pool({"a": 1, "b": 1})
    assert born_later.roster.group_of(ODD) == FAMILY


async def test_a_store_that_lost_its_memory_hears_of_it_again(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(shared())
    await pool.ask(Client(chat_body(ODD)))
    await pool.store.client.flushall()
    await pool.ledger.heartbeat()
    await pool.sync._refreshing
    assert pool.roster.group_of(ODD) == FAMILY
    assert await pool.ledger.registry.learned_groups() == {ODD: FAMILY}


async def test_a_snapshot_that_shares_its_aliass_limit_is_no_news(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(shared(FAMILY, SNAPSHOT))
    await pool.ask(Client(chat_body(SNAPSHOT)))
    assert pool.recorder.groups == []
    assert await pool.ledger.registry.learned_groups() == {}


async def test_groups_that_somebody_wrote_win(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, groups={"mine": [ODD, "gpt-5"]})
    pool.upstream.next(shared())
    await pool.ask(Client(chat_body(ODD)))
    assert pool.roster.group_of(ODD) == "mine"
    assert pool.recorder.groups == []


async def test_groups_that_somebody_wrote_win_over_what_was_learned_before(open_pool):
    before = await open_pool({"a": 1, "b": 1})
    before.upstream.next(shared())
    await before.ask(Client(chat_body(ODD)))
    after = await open_pool({"a": 1, "b": 1}, groups={"mine": [ODD, "gpt-5"]})
    assert after.roster.group_of(ODD) == "mine"


async def test_a_shared_limit_whose_name_is_in_a_written_group_means_that_group(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, groups={"mine": [FAMILY, "gpt-5"]})
    pool.upstream.next(shared())
    await pool.ask(Client(chat_body(ODD)))
    assert pool.roster.group_of(ODD) == "mine"


# ---- long contexts


LONG = {"long_context": {FAMILY: 1_000}}


def prompt(tokens: int, **more) -> Client:
    """A prompt of about so many tokens: four characters each."""
    return Client(chat_body(FAMILY, 10, messages=[{"role": "user", "content": "x" * (4 * tokens)}], **more))


async def test_long_prompts_have_a_budget_of_their_own_where_upstream_limits_them_apart(open_pool):
    pool = await open_pool({"a": 1}, **LONG)
    await pool.ask(prompt(500))
    assert await groups_of(pool) == {FAMILY}
    await pool.ask(prompt(1_500))
    assert await groups_of(pool) == {FAMILY, f"{FAMILY}:long"}
    assert (await pool.taken("a", FAMILY))[0] == (await pool.taken("a", f"{FAMILY}:long"))[0] == 1


async def test_without_being_told_they_have_not(open_pool):
    pool = await open_pool({"a": 1})
    await pool.ask(prompt(1_500))
    assert await groups_of(pool) == {FAMILY}


async def test_a_long_prompts_refusal_leaves_short_ones_alone(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_wait": 0}, **LONG)
    refused = error(429, "rate_limit_exceeded", "Rate limit reached", "tokens", retry_after="30")
    pool.upstream.next(refused)
    long, short = await pool.ask(prompt(1_500)), await pool.ask(prompt(500))
    assert (long.status, short.status) == (429, 200)


async def test_the_name_of_a_long_contexts_limit_moves_no_short_prompts(open_pool):
    """Given upstream that calls it "gpt-4.1-long-context", I expect short prompts to stay where they were."""
    pool = await open_pool({"a": 1, "b": 1}, **LONG)
    pool.upstream.next(shared("gpt-4.1-long-context", FAMILY))
    await pool.ask(prompt(1_500))
    assert pool.roster.group_of(FAMILY) == FAMILY


# ---- organisations


def of(organization: str) -> Reply:
    return chat_answer().named(OpenAI_Organization=organization)


async def test_two_accounts_of_one_organisation_are_told_once(open_pool):
    pool = await open_pool({"a": 1, "b": 1, "c": 1})
    pool.upstream.always = {"a1": of("org-1"), "b1": of("org-1"), "c1": of("org-2")}
    for _ in range(40):
        client = await pool.ask()
        assert client.header("openai-organization") is None  # the operators' business
    assert set(pool.accounts_asked) == {"a", "b", "c"}
    assert [set(pair) for pair in pool.recorder.twins] == [{"a", "b"}]
    assert len(pool.roster.pool.accounts) == 3  # they keep their budgets: nobody asked for more than a warning


async def test_by_option_accounts_of_one_organisation_share_one_budget(open_pool):
    pool = await open_pool({"a": 2, "b": 1, "c": 1}, merge_organizations=True)
    pool.upstream.always = {key: of("org-1" if key[0] in "ab" else "org-2") for key in ("a1", "a2", "b1", "c1")}
    for _ in range(12):
        await pool.ask()
    ((gone, kept),) = pool.recorder.twins
    assert {gone, kept} == {"a", "b"}
    assert set(pool.roster.pool.accounts) == {kept, "c"}
    assert len(pool.roster.pool.accounts[kept].keys) == 3
    seen, before = len(pool.upstream.sent), (await pool.taken(kept))[0]
    for _ in range(40):
        await pool.ask()
    of_both = [sent.key for sent in pool.upstream.sent[seen:] if sent.key != "c1"]
    assert set(of_both) == {"a1", "a2", "b1"}
    assert (await pool.taken(kept))[0] == before + len(of_both)  # all on one bucket
    assert len(pool.recorder.twins) == 1


async def test_three_accounts_of_one_organisation_become_one(open_pool):
    pool = await open_pool({"a": 1, "b": 1, "c": 1}, merge_organizations=True)
    pool.upstream.otherwise = of("org-1")
    for _ in range(20):
        await pool.ask()
    assert len(pool.roster.pool.accounts) == 1
    assert len(pool.recorder.twins) == 2


async def test_a_reload_does_not_part_what_was_merged(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, merge_organizations=True)
    pool.upstream.otherwise = of("org-1")
    for _ in range(8):
        await pool.ask()
    pool.roster.reload(pool.roster.prepare(pool.settings, pool.roster._keys))
    assert len(pool.roster.pool.accounts) == 1


# ---- weights


async def test_an_account_of_more_weight_gets_more_while_all_have_room(open_pool):
    heavy = {"b": {"weight": 4.0}}
    pool = await open_pool({"a": 1, "b": 1, "c": 1}, accounts=heavy)
    for _ in range(150):  # it is in two of three random pairs: by chance once in 100,000 runs not in half of them
        await pool.ask()
    asked = Counter(pool.accounts_asked)
    assert asked["b"] > asked["a"] + asked["c"]
    plain = await open_pool({"a": 1, "b": 1, "c": 1}, pool="plain")
    for _ in range(30):
        await plain.ask()
    assert max(Counter(plain.accounts_asked).values()) < 20


# ---- one prompt, one account

MANY = {f"a{n}": 1 for n in range(12)}


async def test_requests_of_one_prompt_cache_key_go_to_one_account(open_pool):
    pool = await open_pool(MANY)
    by_key = {}
    for key in ("invoices", "letters", "code"):
        before = len(pool.accounts_asked)
        for _ in range(8):
            await pool.ask(Client(chat_body(prompt_cache_key=key)))
        by_key[key] = set(pool.accounts_asked[before:])
    assert all(len(accounts) == 1 for accounts in by_key.values())


async def test_long_prompts_that_begin_alike_go_to_one_account(open_pool):
    """From 1,024 tokens upstream caches; the first 4,096 bytes of the body tell."""
    pool = await open_pool(MANY)
    manual = "You are a clerk. " * 500
    for n in range(8):
        said = [{"role": "system", "content": manual}, {"role": "user", "content": f"question {n}"}]
        await pool.ask(Client(chat_body(messages=said)))
    assert len(set(pool.accounts_asked)) == 1


async def test_short_prompts_are_spread(open_pool):
    pool = await open_pool(MANY)
    for _ in range(20):
        await pool.ask()
    assert len(set(pool.accounts_asked)) > 3


async def test_by_option_nothing_is_sticky(open_pool):
    pool = await open_pool(MANY, sticky=False)
    for _ in range(20):
        await pool.ask(Client(chat_body(prompt_cache_key="invoices")))
    assert len(set(pool.accounts_asked)) > 3


async def test_an_account_that_is_short_is_spared(open_pool):
    """Cached tokens are cheaper, but not worth waiting for."""
    pool = await open_pool(MANY, limits={"default": {"rpm": 1_000_000, "tpm": 100_000}})
    await pool.ask(Client(chat_body(prompt_cache_key="invoices")))
    (favourite,) = pool.accounts_asked
    await pool.drain(favourite, 5_000)  # 5 %
    await pool.ask(Client(chat_body(prompt_cache_key="invoices")))  # told by the grant, or found without room
    before = len(pool.accounts_asked)
    for _ in range(6):
        await pool.ask(Client(chat_body(max_tokens=4_000, prompt_cache_key="invoices")))
    assert favourite not in pool.accounts_asked[before + 1 :]


async def test_an_account_that_refused_is_left_for_the_next_one(open_pool):
    pool = await open_pool(MANY)
    await pool.ask(Client(chat_body(prompt_cache_key="invoices")))
    (favourite,) = pool.accounts_asked
    pool.upstream.next(error(401, "account_deactivated"))
    client = await pool.ask(Client(chat_body(prompt_cache_key="invoices")))
    assert client.status == 200
    again = [(await pool.ask(Client(chat_body(prompt_cache_key="invoices")))).status for _ in range(4)]
    assert again == [200] * 4
    assert pool.accounts_asked[1] == favourite
    assert favourite not in pool.accounts_asked[2:]
    assert len(set(pool.accounts_asked[3:])) == 1  # the ring's next one, for all of them


# ---- the ring


def ring(accounts: list[str]) -> Pool:
    return Pool(Key(f"{name}1", name, f"fp-{name}") for name in accounts)


def favourites(pool: Pool, numbers: list[int]) -> dict[int, str]:
    rng = random.Random(1)
    return {n: pool.key_at(pool.pick("g", Use("m"), now=0.0, rng=rng, sticky=n)[0]).account for n in numbers}


NUMBERS = [zlib.crc32(f"prompt {n}".encode()) for n in range(2_000)]


def test_an_account_that_leaves_or_comes_moves_only_its_own_numbers():
    names = [f"acct-{n}" for n in range(12)]
    all_of_them, without = favourites(ring(names), NUMBERS), favourites(ring(names[:5] + names[6:]), NUMBERS)
    moved = {n for n in NUMBERS if all_of_them[n] != without[n]}
    assert moved == {n for n in NUMBERS if all_of_them[n] == "acct-5"}
    assert moved


def test_reloads_lead_to_the_same_ring_as_a_start():
    names = [f"acct-{n}" for n in range(12)]
    pool = ring(names)
    for some in (names[:5], [*names[:5], "new"], ["new"], names[3:], names[:5] + names[6:]):
        pool.replace(Key(f"{name}1", name, f"fp-{name}") for name in some)
        assert favourites(pool, NUMBERS) == favourites(ring(some), NUMBERS)


def test_the_order_of_the_configuration_does_not_matter():
    names = [f"acct-{n}" for n in range(12)]
    assert favourites(ring(names), NUMBERS) == favourites(ring(names[::-1]), NUMBERS)


@pytest.mark.parametrize("pattern", ["a{}", "acct-{}", "key-{:08x}", "project-{}-europe"])
def test_numbers_are_spread_over_all_accounts(pattern):
    """Given sixteen places each on the ring, an account's share has a standard deviation of a quarter of its mean: I
    expect none below a third or above two and a half times its mean."""
    names = [pattern.format(n) for n in range(12)]
    shares = Counter(favourites(ring(names), NUMBERS).values())
    mean = len(NUMBERS) / len(names)
    assert {name for name in names if not mean / 3 < shares[name] < 2.5 * mean} == set()
