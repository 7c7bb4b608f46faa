"""An embeddings request by its inputs, and an answer by its elements."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.embedding_items import (
    AnswerReader,
    Item,
    Split,
    around,
    element,
    reduced,
    shares,
    split,
)

INPUTS = st.one_of(
    st.lists(st.text(min_size=1), min_size=1, max_size=8),
    st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=5), min_size=1, max_size=8),
)


def items(body: object, **dumps: object) -> list[Item]:
    request = split(json.dumps(body, **dumps).encode())
    assert isinstance(request, Split), request
    found = [request.item(at) for at in range(len(request.raws))]
    assert None not in found
    return found


def canonical(body: object, **dumps: object) -> list[bytes]:
    return [item.canonical for item in items(body, **dumps)]


# ---- requests


@given(INPUTS, st.booleans(), st.sampled_from([None, 1]))
def test_an_input_has_the_same_text_however_and_among_whatever_it_is_written(inputs, escaped, indent):
    together = canonical({"model": "m", "input": inputs, "user": "a"}, ensure_ascii=escaped, indent=indent)
    alone = [canonical({"encoding_format": "base64", "input": [one], "model": "m"})[0] for one in inputs]
    assert together == alone
    assert [canonical({"model": "m", "input": one})[0] for one in inputs] == alone
    assert len(set(alone)) == len({json.dumps(one) for one in inputs})


@pytest.mark.parametrize(
    "other",
    [{"model": "n"}, {"dimensions": 256}, {"dimensions": None}, {"input_type": "query"}, {"input": "b"},
     {"input": [97]}, {"input": "A"}, {"input": "a "}],
)  # fmt: skip
def test_what_may_shape_a_vector_is_in_its_text(other):
    assert canonical({"model": "m", "input": "a"}) != canonical({"model": "m", "input": "a"} | other)


def test_no_text_of_an_input_is_that_of_a_request():
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(canonical({"model": "m", "input": "a"})[0])


def test_members_of_other_members_have_one_order():
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert canonical({"model": "m", "x": one, "input": "a"}) == canonical({"input": "a", "x": two, "model": "m"})


@pytest.mark.parametrize(
    ("inputs", "tokens", "weights"),
    [
        ("héllo", [0], [6]),
        (["a", "bcd"], [0, 0], [1, 3]),
        ([1, 2, 3], [3], [3]),
        ([[1, 2, 3], [4]], [3, 1], [3, 1]),
    ],
)
def test_inputs_are_texts_or_lists_of_token_ids(inputs, tokens, weights):
    found = items({"model": "m", "input": inputs})
    assert [item.tokens for item in found] == tokens
    assert [item.weight for item in found] == weights


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "unreadable"),
        (b"[]", "unreadable"),
        (b'{"model":"m"}', "unreadable"),
        (b'{"input":"a"}', "unreadable"),
        (b'{"model":null,"input":"a"}', "unreadable"),
        (b'{"model":"m","input":"a"', "unreadable"),
        (b'{"model":"m","input":"a","encoding_format":"int8"}', "encoding_format"),
        (b'{"model":"m","input":"a","encoding_format":1}', "encoding_format"),
        (b'{"model":"m","input":"a","stream":true}', "stream"),
        (b'{"model":"m","input":[]}', "input_form"),
        (b'{"model":"m","input":null}', "input_form"),
        (b'{"model":"m","input":{"a":1}}', "input_form"),
        (b'{"model":"m","input":["a",[1]]}', "input_form"),
        (b'{"model":"m","input":["a",null]}', "input_form"),
        (json.dumps({"model": "m", "input": ["a"] * 2049}).encode(), "too_many_items"),
    ],
)
def test_other_requests_stay_whole(text, word):
    assert split(text) == word


@pytest.mark.parametrize(
    "inputs",
    [b'""', b'["a",""]', b"[[]]", b"[[1],[ ]]", b"[1,-1]", b"[1,2.5]", b'[1,"a"]', b"[[1,[2]]]",
     b'"\\ud83d"', b"5", b"[true]"],
)  # fmt: skip
def test_inputs_that_openai_would_not_take_are_none(inputs):
    request = split(b'{"model":"m","input":%b}' % inputs)
    assert isinstance(request, str) or None in [request.item(at) for at in range(len(request.raws))]


def test_2048_inputs_are_split():
    assert len(items({"model": "m", "input": ["a"] * 2048})) == 2048


@pytest.mark.parametrize(
    ("asked", "base64"),
    [("", False), (',"encoding_format":"float"', False), (',"encoding_format":"base64"', True),
     (',"encoding_format":null', False)],
)  # fmt: skip
def test_numbers_are_asked_for_unless_it_is_base64(asked, base64):
    request = split(b'{"model":"m","input":"a"%b}' % asked.encode())
    assert isinstance(request, Split)
    assert request.base64 is base64


def test_all_but_the_inputs_goes_on_byte_for_byte():
    text = (
        b'{ "user" : "\\u0061",\n "input":[ "x" , "\\u0062", "input" ],"model": "m", "new":{"input":["x"]},"a":2.0e1}'
    )
    request = split(text)
    assert reduced(request, [request.item(1), request.item(2)]) == (
        b'{ "user" : "\\u0061",\n "input":["\\u0062","input"],"model": "m", "new":{"input":["x"]},"a":2.0e1}'
    )
    request = split(b'{"input": [[1, 2],[3 ]],"model":"m"}')
    assert reduced(request, [request.item(1)]) == b'{"input": [[3 ]],"model":"m"}'


@given(INPUTS, st.data())
def test_a_reduced_request_asks_for_these_inputs_and_nothing_else_is_different(inputs, data):
    body = {"model": "m", "input": inputs, "dimensions": 3, "user": "input"}
    request = split(json.dumps(body, ensure_ascii=data.draw(st.booleans())).encode())
    places = data.draw(st.lists(st.integers(0, len(inputs) - 1), min_size=1, unique=True))
    sent = json.loads(reduced(request, [request.item(at) for at in places]))
    assert sent == body | {"input": [inputs[at] for at in places]}


# ---- tokens


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=50), st.integers(0, 300_000))
def test_shares_add_up_and_none_is_off_by_a_token(weights, total):
    found = shares([Item(b"", b"", 0, weight) for weight in weights], total)
    assert sum(found) == total
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1


@given(st.lists(st.integers(1, 8192), min_size=1, max_size=30))
def test_of_token_ids_each_share_is_exact(counts):
    assert shares([Item(b"", b"", count, count) for count in counts], sum(counts)) == counts


def test_a_single_input_was_all_of_it():
    assert shares([Item(b"", b"", 0, 77)], 19) == [19]


# ---- answers

USAGE = {"prompt_tokens": 8, "total_tokens": 8}


def read(answer: bytes) -> tuple[list[tuple[int, object]], AnswerReader]:
    reader = AnswerReader(answer)
    return [(one.index, json.loads(bytes(one.embedding))) for one in reader], reader


@given(
    st.lists(st.one_of(st.lists(st.floats(-1, 1), max_size=4), st.text("AZ+/="))),
    st.sampled_from([None, 2]),
    st.permutations(["object", "data", "model", "usage", "id"]),
    st.booleans(),
)
def test_elements_are_read_from_an_answer_in_any_layout(vectors, indent, order, index_last):
    def one(index: int, vector: object) -> dict[str, object]:
        members = {"object": "embedding", "index": index, "embedding": vector}
        return dict(reversed(members.items())) if index_last else members

    whole = {
        "object": "data",
        "data": [one(*pair) for pair in enumerate(vectors)],
        "model": "m-2",
        "usage": USAGE,
        "id": "x",
    }
    answer = json.dumps({name: whole[name] for name in order}, indent=indent).encode()
    elements, reader = read(answer)
    if not vectors:
        assert not reader.ended_well, "no embeddings request has no vectors"
        return
    assert reader.ended_well
    assert elements == list(enumerate(vectors))
    assert (reader.model, reader.tokens) == ("m-2", 8)
    joined = [element(index, json.dumps(vector).encode()) for index, vector in elements]
    assert json.loads(reader.head + b",".join(joined) + reader.tail) == whole


ELEMENT = b'{"object":"embedding","index":0,"embedding":[1]}'
REST = b'"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}'


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "nothing"),
        (b'{"error":{"message":"no"}}', "an error"),
        (b'{"data":[%b],"model":"m"}' % ELEMENT, "no usage"),
        (b'{"data":[%b],"usage":{"prompt_tokens":8}}' % ELEMENT, "no model"),
        (b'{"data":[%b,],%b}' % (ELEMENT, REST), "a comma too many"),
        (b'{"data":[%b %b],%b}' % (ELEMENT, ELEMENT, REST), "a comma too few"),
        (b'{"data":[%b],%b' % (ELEMENT, REST), "cut"),
        (b'{"data":[%b' % ELEMENT, "cut behind an element"),
        (b'{"data":[{"object":"embedding"', "cut in an element"),
        (b'{"data":[{"index":0,"embedding":[1],"score":1}],%b}' % REST, "an unknown member of an element"),
        (b'{"data":[{"index":"0","embedding":[1]}],%b}' % REST, "an index that is no number"),
        (b'{"data":[{"embedding":[1]}],%b}' % REST, "no index"),
        (b'{"data":[1],%b}' % REST, "no elements"),
        (b'{"more":{"data":[%b]},%b}' % (ELEMENT, REST), "another member's data"),
        (b'{"more":{"data":[%b]},"d\\u0061ta":[1],%b}' % (ELEMENT, REST), "another member's data, and its own"),
        (b'{"data":[%b],%b,"data":[]}' % (ELEMENT, REST), "data twice"),
        (b'{"data":[%b],%b,"padding":"%b"}' % (ELEMENT, REST, b"a" * 70_000), "too much behind it"),
    ],
)
def test_what_is_no_answer_does_not_end_well(answer, why):
    _, reader = read(answer)
    assert not reader.ended_well, why


@given(st.integers(0, len(ELEMENT) + len(REST) + 11))
def test_an_answer_that_is_cut_anywhere_does_not_end_well(length):
    whole = b'{"data":[%b],%b}' % (ELEMENT, REST)
    assert len(whole) == len(ELEMENT) + len(REST) + 12
    assert not read(whole[:length])[1].ended_well


def test_an_answer_that_nobody_was_asked_for_bills_nothing():
    head, tail = around('m"2')
    assert json.loads(head + element(0, b'"AACAPw=="') + tail) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": "AACAPw=="}],
        "model": 'm"2',
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
