"""Embeddings by item: whichever inputs are kept, a client gets what upstream alone would have sent it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import struct
from collections.abc import Callable, Sequence

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cache.entry import Cost, Entry, Form
from quotapool.cache.items import CONTENT_TYPE, EmbeddingItems, Served
from quotapool.domain.request_record import Saved

from tests.fakes.caches import processes

# ---- what stands on both sides


class Kept:
    """An entry in memory. `age_s` is set by the test."""

    def __init__(self, entry: Entry, age_s: float) -> None:
        self.entry = entry
        self.age_s = age_s


class Memory:
    """A store in memory: its entries are as old as `age_s` said when they were put."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Kept] = {}
        self.age_s = 0.0
        self.put: list[list[bytes]] = []  # the names of each call
        self.looked_up: list[bytes] = []
        self.takes_s = 0.0

    async def look_up_items(self, names: Sequence[bytes], *, max_age_s: float | None) -> list[Kept | None]:
        self.looked_up += names
        await asyncio.sleep(self.takes_s)
        kept = [self.entries.get(name) for name in names]
        return [one if one and (max_age_s is None or one.age_s <= max_age_s) else None for one in kept]

    def put_items(self, entries: Sequence[tuple[bytes, Entry]], *, ttl_s: float, client: str) -> None:
        assert (ttl_s, client) == (60.0, "ann")
        self.put.append([name for name, _ in entries])
        self.entries |= {name: Kept(entry, self.age_s) for name, entry in entries}


class Upstream:
    """Its vectors are a function of model, dimensions and input, in 32-bit floats. `spelling`: how it writes them."""

    def __init__(self, spelling: str = "short") -> None:
        self.spelling = spelling
        self.version = "v1"
        self.calls: list[bytes] = []
        self.breaks: Callable[[dict], object] | None = None  # what it makes of its answer
        self.refuses = False

    async def ask(self, body: bytes) -> bytes | None:
        await asyncio.sleep(0)
        return None if self.refuses else self.answer(body)

    def answer(self, body: bytes) -> bytes:
        self.calls.append(body)
        document = json.loads(body)
        inputs = document["input"]
        inputs = inputs if isinstance(inputs, list) and not isinstance(inputs[0], int) else [inputs]
        model = f"{document['model']}-{self.version}"
        length = document.get("dimensions", 4)
        data = [
            {"object": "embedding", "index": index, "embedding": self.vector(model, length, one, document)}
            for index, one in enumerate(inputs)
        ]
        random.Random(len(self.calls)).shuffle(data)  # a client goes by `index`
        tokens = tokens_of(inputs)
        answer = {
            "object": "list",
            "data": data,
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        if self.breaks is not None:
            answer = self.breaks(answer)
        return answer if isinstance(answer, bytes) else json.dumps(answer, indent=2).encode()

    def vector(self, model: str, length: int, one: object, document: dict) -> object:
        digest = hashlib.sha512(json.dumps([model, length, one]).encode()).digest() * (length // 16 + 1)
        singles = struct.pack(f"<{length}f", *[n / 2**34 for n in struct.unpack_from(f"<{length}i", digest)])
        if document.get("encoding_format") == "base64":
            return base64.b64encode(singles).decode()
        wide = struct.unpack(f"<{length}f", singles)
        if self.spelling == "short":
            return [fewest_digits(number) for number in wide]
        return list(wide) if self.spelling == "wide" else [number * (1 + 1e-12) for number in wide]


def tokens_of(inputs: object) -> int:
    """A character is one token."""
    return sum(map(tokens_of, inputs)) if isinstance(inputs, list) else len(inputs) if isinstance(inputs, str) else 1


def fewest_digits(number: float) -> float:
    """As OpenAI writes a 32-bit float."""
    return next(
        short
        for short in (float(f"%.{digits}g" % number) for digits in range(1, 10))
        if struct.pack("<f", short) == struct.pack("<f", number)
    )


class Pool:
    """Both, and the part under test between them."""

    def __init__(self, spelling: str = "short", *, max_entry: int = 2**20) -> None:
        self.store, self.upstream = Memory(), Upstream(spelling)
        self.items = EmbeddingItems(self.store)
        self.max_entry = max_entry

    async def serve(
        self, body: object, *, max_age_s: float | None = None, only_kept: bool = False
    ) -> Served | str | None:
        return await self.items.serve(
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            names=lambda canonical: hashlib.sha256(canonical).digest()[:16],
            max_age_s=max_age_s,
            ask=None if only_kept else self.upstream.ask,
            ttl_s=60.0,
            max_entry=self.max_entry,
            client="ann",
            price=lambda tokens: 20_000 * tokens,
        )

    async def answer(self, body: object, **more: object) -> dict:
        return json.loads(whole(await self.serve(body, **more)))

    @property
    def asked(self) -> list[object]:
        """The inputs of each call."""
        return [json.loads(body)["input"] for body in self.upstream.calls]


def whole(served: Served | str | None) -> bytes:
    assert isinstance(served, Served), served
    body = b"".join(served.parts)
    assert served.size == len(body)
    return body


def body(inputs: object, **more: object) -> dict:
    return {"model": "m", "input": inputs, **more}


# ---- equal answers

ONE = st.one_of(st.sampled_from(["a", "b", "é\n", "c" * 40]), st.lists(st.integers(0, 3), min_size=1, max_size=2))
REQUEST = st.fixed_dictionaries(
    {
        "input": st.one_of(
            ONE,
            st.lists(st.sampled_from(["a", "b", "é\n", "c" * 40]), min_size=1, max_size=6),
            st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=2), min_size=1, max_size=6),
        )
    },
    optional={
        "encoding_format": st.sampled_from(["float", "base64"]),  # without it, the SDK asks for base64 and decodes it
        "dimensions": st.sampled_from([3, 17]),
    },
)


def sdk(answer: Callable[[bytes], bytes]) -> openai.OpenAI:
    """The official SDK, for which `answer` is the network."""
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=answer(request.read())))
    return openai.OpenAI(api_key="sk-test", base_url="http://pool/v1", http_client=httpx2.Client(transport=transport))


@given(st.sampled_from(["short", "wide", "double"]), st.lists(REQUEST, min_size=1, max_size=6))
def test_the_sdk_gets_equal_objects_whichever_inputs_are_kept(spelling, requests):
    pool, alone = Pool(spelling), Upstream(spelling)
    through = sdk(lambda text: whole(asyncio.run(pool.serve(text))))
    direct = sdk(alone.answer)
    for request in requests:
        before = len(pool.upstream.calls)
        got = through.embeddings.create(model="m", **request)
        expected = direct.embeddings.create(model="m", **request)
        assert sorted(got.data, key=lambda one: one.index) == sorted(expected.data, key=lambda one: one.index)
        assert (got.model, got.object) == (expected.model, expected.object)
        tokens = sum(tokens_of(json.loads(call)["input"]) for call in pool.upstream.calls[before:])
        assert (got.usage.prompt_tokens, got.usage.total_tokens) == (tokens, tokens)


@given(st.sampled_from(["short", "wide", "double"]), st.lists(REQUEST, min_size=1, max_size=12))
def test_no_input_is_asked_for_twice_in_one_form(spelling, requests):
    pool = Pool(spelling)
    for request in requests:
        asyncio.run(pool.serve({"model": "m"} | request))
    sent = []
    for call in map(json.loads, pool.upstream.calls):
        inputs = call["input"]
        inputs = inputs if isinstance(inputs, list) and not isinstance(inputs[0], int) else [inputs]
        form = call.get("encoding_format", "float")
        sent += [json.dumps([one, call.get("dimensions"), form]) for one in inputs]
    assert len(sent) == len(set(sent))


# ---- what goes upstream


async def test_only_what_is_missing_goes_upstream_in_one_call():
    pool = Pool()
    await pool.serve(body(["a", "b"]))
    answer = await pool.answer(b'{"user":"u", "input" : ["c", "a","\\u0064","b"] ,"model":"m"}')
    assert pool.upstream.calls[1] == b'{"user":"u", "input" : ["c","\\u0064"] ,"model":"m"}'
    assert [one["index"] for one in answer["data"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


async def test_the_first_request_and_its_answer_pass_byte_for_byte():
    pool = Pool()
    text = b'{ "input":["a", "\\u0062"],"model":"m" }'
    served = await pool.serve(text)
    assert served.as_it_came
    assert pool.upstream.calls == [text]
    assert whole(served) == Upstream().answer(text)
    assert (served.items, served.hits, served.saved) == (2, 0, Saved())


async def test_of_a_full_hit_upstream_hears_and_bills_nothing():
    pool = Pool()
    pool.store.age_s = 7.0
    await pool.serve(body(["a"]))
    pool.store.age_s = 3.0
    await pool.serve(body(["bcd"]))
    served = await pool.serve(body(["bcd", "a"]))
    assert pool.asked == [["a"], ["bcd"]]
    assert json.loads(whole(served))["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert not served.as_it_came
    assert (served.items, served.hits) == (2, 2)
    assert served.age_s == (await pool.serve(body(["a", "bcd"]))).age_s == 7.0
    assert served.saved == Saved(requests=1, prompt=4, pico=80_000)


async def test_an_input_that_comes_twice_goes_upstream_once():
    pool = Pool()
    served = await pool.serve(body(["aaa", "b", "aaa", "\u0061aa"]))
    assert pool.asked == [["aaa", "b"]]
    answer = json.loads(whole(served))
    assert len(answer["data"]) == 4
    assert answer["data"][0]["embedding"] == answer["data"][2]["embedding"] == answer["data"][3]["embedding"]
    assert answer["data"][0]["embedding"] != answer["data"][1]["embedding"]
    assert answer["usage"]["prompt_tokens"] == 4
    assert (served.hits, served.saved) == (2, Saved(0, 6, 0, 120_000))


async def test_a_text_alone_is_the_same_input_as_in_a_list():
    pool = Pool()
    for inputs in ("a", ["a"], [1, 2], [[1, 2]], ["a"], [[1, 2]]):
        await pool.serve(body(inputs))
    assert pool.asked == ["a", [1, 2]]


@pytest.mark.parametrize("more", [{"dimensions": 5}, {"model": "n"}, {"unknown": 1}])
async def test_another_vector_is_another_entry(more):
    pool = Pool()
    await pool.serve(body(["a"]))
    await pool.serve(body(["a"]) | more)
    assert pool.asked == [["a"], ["a"]]


@pytest.mark.parametrize(
    ("spelling", "forms", "calls"),
    [
        ("short", ["float", "base64", "float"], 1),
        ("wide", ["float", "base64", "float"], 1),
        ("double", ["float", "base64", "float", "base64"], 2),  # no 32-bit float is told by them
        ("short", ["base64", "float", "base64", "float"], 2),  # how upstream writes numbers is not known
        ("wide", ["base64", "float", "base64", "float"], 2),
    ],
)
async def test_a_form_is_asked_for_at_most_once_and_then_both_are_known(spelling, forms, calls):
    pool, alone = Pool(spelling), Upstream(spelling)
    for form in forms:
        request = body(["a"], encoding_format=form)
        got = await pool.answer(request)
        assert got["data"] == json.loads(alone.answer(json.dumps(request).encode()))["data"]
    assert len(pool.asked) == calls


async def test_entries_that_are_too_old_are_asked_for_again():
    pool = Pool()
    pool.store.age_s = 10.0
    await pool.serve(body(["a"]))
    await pool.serve(body(["a"]), max_age_s=10.0)
    await pool.serve(body(["a"]), max_age_s=9.0)
    assert pool.asked == [["a"], ["a"]]


async def test_without_a_call_only_what_is_kept_is_served():
    pool = Pool()
    await pool.serve(body(["a"]))
    assert await pool.serve(body(["a", "b"]), only_kept=True) == "not_cached"
    assert len((await pool.answer(body(["a"]), only_kept=True))["data"]) == 1
    assert pool.asked == [["a"]]


# ---- what cannot be put together


def without_last(answer: dict) -> dict:
    return answer | {"data": answer["data"][:-1]}


def with_element(**members: object) -> Callable[[dict], dict]:
    return lambda answer: answer | {"data": [one | members for one in answer["data"]]}


BROKEN = {
    "an element is missing": without_last,
    "an index is given twice": with_element(index=0),
    "an element too many": lambda answer: answer | {"data": [*answer["data"], answer["data"][0]]},
    "an index is beyond": with_element(index=9),
    "members that OpenAI has not": with_element(score=1),
    "vectors of two lengths": lambda answer: (
        answer | {"data": [answer["data"][0] | {"embedding": [1]}, answer["data"][1]]}
    ),
    "no vectors": with_element(embedding=[]),
    "other numbers": with_element(embedding=["1"]),
    "no usage": lambda answer: {name: member for name, member in answer.items() if name != "usage"},
    "not JSON": lambda _: b"<html>",
    "another model": lambda answer: answer | {"model": "m-v2"},
    "another length": with_element(embedding=[0.5]),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_an_answer_that_does_not_fit_leads_to_the_client_s_own_request(what):
    pool = Pool()
    await pool.serve(body(["a"]))
    pool.upstream.breaks = BROKEN[what]
    text = json.dumps(body(["a", "b", "c"])).encode()
    served = await pool.serve(text)
    assert pool.asked == [["a"], ["b", "c"], ["a", "b", "c"]]
    assert pool.upstream.calls[2] == text
    assert served.as_it_came
    alone = Upstream()
    alone.calls = [b"", b""]
    alone.breaks = pool.upstream.breaks
    assert whole(served) == alone.answer(text)


@pytest.mark.parametrize("what", [what for what in BROKEN if not what.startswith("another")])
async def test_nothing_is_kept_of_an_answer_that_cannot_be_read(what):
    pool = Pool()
    pool.upstream.breaks = BROKEN[what]
    await pool.serve(body(["b", "c"]))
    assert not pool.store.entries


async def test_a_new_version_of_a_model_replaces_the_old_one_s_vectors():
    pool = Pool()
    await pool.serve(body(["a", "b"]))
    pool.upstream.version = "v2"
    assert (await pool.answer(body(["a", "b", "c"])))["model"] == "m-v2"
    pool.upstream.refuses = True
    assert (await pool.answer(body(["c", "b", "a"])))["model"] == "m-v2"


async def test_vectors_of_two_versions_are_never_in_one_answer():
    pool = Pool()
    pool.store.age_s = 9.0
    await pool.serve(body(["a", "b"]))
    pool.upstream.version, pool.store.age_s = "v2", 1.0
    await pool.serve(body(["c"]))
    answer = await pool.answer(body(["a", "c", "b"]))  # the youngest is the version of today
    assert pool.asked == [["a", "b"], ["c"], ["a", "b"]]
    alone = Upstream()
    alone.version = "v2"
    expected = json.loads(alone.answer(json.dumps(body(["a", "c", "b"])).encode()))
    assert answer["model"] == "m-v2"
    assert answer["data"] == sorted(expected["data"], key=lambda one: one["index"])


async def test_forms_of_two_versions_are_never_put_side_by_side():
    pool = Pool()
    await pool.serve(body("a", encoding_format="base64"))
    pool.upstream.version = "v2"
    await pool.serve(body("a", encoding_format="float"))
    expected = Upstream().vector("m-v2", 4, "a", {"encoding_format": "base64"})
    answer = await pool.answer(body("a", encoding_format="base64"))
    assert (answer["model"], answer["data"][0]["embedding"]) == ("m-v2", expected)


async def test_a_call_that_fails_is_answered_by_its_caller_and_nothing_is_kept():
    pool = Pool()
    pool.upstream.refuses = True
    assert await pool.serve(body(["a", "b"])) is None
    assert not pool.store.entries


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        (["a", ""], "input_form"),
        ([[1], []], "input_form"),
        (["a"] * 2049, "too_many_items"),
        ([[7] * 150_000, [8] * 150_001], "too_many_tokens"),
    ],
)
async def test_what_openai_would_refuse_is_not_looked_up(inputs, word):
    pool = Pool()
    assert await pool.serve(body(inputs)) == word
    assert pool.store.looked_up == pool.upstream.calls == []


# ---- what is kept


async def test_tokens_are_exact_of_inputs_that_went_alone_else_by_length():
    pool = Pool()
    await pool.serve(body("é"))  # 1 token, as `Upstream` counts; 2 bytes
    await pool.serve(body([[1, 2, 3], [4]]))
    await pool.serve(body(["é", "ééé", "aaaaaa"]))  # 9 tokens, of 6 and 6 bytes
    for inputs, tokens in (("é", 1), ([[1, 2, 3]], 3), ([4], 1), ("ééé", 4), ("aaaaaa", 5)):
        served = await pool.serve(body(inputs))
        assert served.saved == Saved(1, tokens, 0, 20_000 * tokens), inputs


async def test_without_a_price_saved_dollars_are_not_known():
    pool = Pool()
    serve = pool.items.serve
    text = json.dumps(body(["a", "b"])).encode()
    for _ in range(2):
        served = await serve(
            text,
            names=lambda canonical: canonical,
            max_age_s=None,
            ask=pool.upstream.ask,
            ttl_s=60.0,
            max_entry=2**20,
            client="ann",
            price=lambda _: None,
        )
    assert served.saved == Saved(1, 2, 0, None)


async def test_an_entry_names_its_model_and_its_cost_and_has_no_text():
    pool = Pool()
    await pool.serve(body(["canary"]))
    (kept,) = pool.store.entries.values()
    assert (kept.entry.model, kept.entry.form, kept.entry.content_type) == ("m", Form.JSON, CONTENT_TYPE)
    assert kept.entry.cost == Cost(6, 0, 120_000)
    assert b"canary" not in kept.entry.body


async def test_vectors_longer_than_an_entry_may_be_are_not_kept():
    pool = Pool(max_entry=1024)
    await pool.serve(body(["a"], dimensions=100))  # 800 bytes
    assert len(pool.store.entries) == 1
    await pool.serve(body(["a"], dimensions=128))  # 1,024 bytes, and what is said of them
    assert len(pool.store.entries) == 1


@pytest.mark.parametrize(
    "entry",
    [
        Entry(Form.JSON, b'{"object":"list"}'),
        Entry(Form.JSON, b"", CONTENT_TYPE),
        Entry(Form.JSON, b"\xc1", CONTENT_TYPE),
        Entry(Form.JSON, b"\x92\xa1m\x91\x01", CONTENT_TYPE),  # ["m", [1]]
        Entry(Form.JSON, b"\x92\xa1m\x93\xc4\x04\x00\x00\x80?\xc4\x00\xc3"),  # ["m", [1.0, b"", true]]
    ],
)
async def test_an_entry_that_is_no_vector_is_not_served(entry):
    pool = Pool()
    await pool.serve(body(["a"]))
    (name,) = pool.store.entries
    pool.store.entries[name] = Kept(entry, 0.0)
    expected = Upstream().answer(json.dumps(body(["a"])).encode())
    assert (await pool.answer(body(["a"])))["data"] == json.loads(expected)["data"]
    assert len(pool.asked) == 2


async def test_others_run_while_a_large_answer_is_made():
    """Some 16,000 numbers at once, so that others wait for less than 2 ms or so."""
    inputs, length, turns = 128, 1024, 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    pool = Pool("wide")
    task = asyncio.create_task(others())
    for _ in range(2):
        turns = 0
        served = await pool.serve(body([str(n) for n in range(inputs)], dimensions=length))
        assert turns >= inputs * length // 2**14
    assert served.hits == inputs
    task.cancel()
    assert len(served.parts) > 1
    expected = json.loads(Upstream("wide").answer(pool.upstream.calls[0]))["data"]
    assert json.loads(whole(served))["data"] == sorted(expected, key=lambda one: one["index"])
    assert [len(names) for names in pool.store.put] == [64, 64], "so are its entries given to the store"
    assert len(pool.store.entries) == inputs


@pytest.mark.parametrize(("takes_s", "hits"), [(0.2, 300), (0.25, 128)])
async def test_a_slow_store_is_not_waited_for_beyond_its_quarter_of_a_second(virtual_time, takes_s, hits):
    """It has that for each portion of 128 inputs; after one in which it was slower, the rest is asked for."""
    pool = Pool()
    inputs = [str(n) for n in range(300)]
    await pool.serve(body(inputs))
    pool.store.looked_up, pool.store.takes_s = [], takes_s
    served = await pool.serve(body(inputs))
    assert served.hits == len(pool.store.looked_up) == hits
    assert [len(asked) for asked in pool.asked[1:]] == ([172] if hits == 128 else [])


# ---- in the real store


async def test_vectors_that_one_process_kept_serve_another(valkey_url):
    async with processes(valkey_url) as (one, other):
        pool, replica = Pool(), Pool()
        for part, store in ((pool, one), (replica, other)):
            await store.ask(b"another name....", lead=False)  # no entry is dated before the store has told the time
            part.items = EmbeddingItems(store)
        inputs = [f"input {n}" for n in range(100)]
        for form in ("float", "base64"):
            request = body([*inputs[:50], "more"], encoding_format=form, dimensions=1536)
            await pool.serve(request)
            await one.settled()
        served = await replica.serve(body(inputs, encoding_format="base64", dimensions=1536))
        expected = json.loads(
            Upstream().answer(json.dumps(body(inputs, encoding_format="base64", dimensions=1536)).encode())
        )
        assert json.loads(whole(served))["data"] == sorted(expected["data"], key=lambda element: element["index"])
        assert replica.asked == [inputs[50:]]
        assert served.hits == 50
        assert one.unkept == one.failed == other.failed == []
        assert other.damaged == 0
