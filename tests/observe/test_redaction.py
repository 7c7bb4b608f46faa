"""No text leaves with a secret in it, however the secret is escaped."""

from __future__ import annotations

import html
import json
import sys
import threading
from urllib.parse import quote

import pytest
from quotapool.observe.redaction import Redactor, to_be_listed

ODD = 'pa"ss/w\\ö rd&1'  # a store's password: no shape, and every character that some format escapes
KEY = "sk-proj-Abc123_def456-Ghi789T3BlbkFJjkl012MNO345"


@pytest.mark.parametrize(
    "escaped",
    [
        lambda secret: secret,
        json.dumps,
        lambda secret: json.dumps(secret, ensure_ascii=False),
        lambda secret: quote(secret, safe=""),
        html.escape,
        repr,
    ],
    ids=["plain", "json", "json unicode", "url", "html", "repr"],
)
def test_a_known_secret_is_found_however_it_is_escaped(escaped):
    shown = escaped(ODD)
    cleaned = Redactor([ODD]).clean(f"before {shown} after")
    assert shown.strip("\"'") not in cleaned
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")
    assert "[redacted]" in cleaned


def test_a_key_is_known_by_its_shape_even_when_nobody_added_it():
    assert Redactor().clean(f"Authorization: Bearer {KEY}") == "Authorization: Bearer [redacted]"


def test_a_secret_that_begins_with_another_one_leaves_no_end_behind():
    redactor = Redactor(["hunter22", "hunter22-longer-Tail"])
    assert redactor.clean("x hunter22-longer-Tail y hunter22 z") == "x [redacted] y [redacted] z"


def test_a_secret_added_later_is_known_at_once_even_for_remembered_words():
    redactor = Redactor()
    assert redactor.word("my-model-name") == "my-model-name"
    redactor.add("my-model-name")
    assert redactor.word("my-model-name") == "[redacted]"


def test_of_many_secrets_those_need_to_be_listed_that_are_neither_known_nor_recognised():
    assert to_be_listed([KEY, ODD, "hunter22", "hunter23"], ["hunter22"]) in ([ODD, "hunter23"], ["hunter23", ODD])


def test_a_too_short_secret_is_refused_rather_than_blacking_out_every_word():
    redactor = Redactor()
    assert redactor.add("redis") is False
    assert redactor.clean("redis is up") == "redis is up"


def test_a_body_that_is_json_stays_json():
    # Given an upstream that echoes the key at the very end of a string, without a full stop
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "status": 401}}).encode()
    cleaned = json.loads(Redactor().clean_bytes(body))
    assert cleaned == {"error": {"message": "Incorrect API key provided: [redacted]", "status": 401}}


def test_a_body_that_is_not_json_is_cleaned_as_text_and_odd_bytes_survive():
    assert Redactor().clean_bytes(b"\xff\xfe " + KEY.encode()) == b"\xff\xfe [redacted]"


def test_a_clean_body_is_the_same_object():
    body = b'{"choices":[]}'
    assert Redactor([ODD]).clean_bytes(body) is body


def test_secrets_are_found_in_nested_values_names_and_foreign_objects():
    class Holder:
        def __str__(self) -> str:
            return f"Holder({KEY})"

    cleaned = Redactor([ODD]).scrub({"a": [KEY, {ODD: 1}], "b": (Holder(), 2.5, None, True)})
    assert cleaned == {"a": ["[redacted]", {"[redacted]": 1}], "b": ["Holder([redacted])", 2.5, None, True]}


def test_a_redactor_does_not_show_what_it_knows():
    assert ODD not in repr(Redactor([ODD]))


def test_a_secret_is_hidden_from_the_moment_it_is_added_whatever_other_threads_clean():
    """The thread that sends traces cleans names while a reload adds secrets."""
    redactor, over = Redactor(), threading.Event()
    failed: list[Exception] = []

    def clean_on() -> None:
        try:
            while not over.is_set():
                redactor.clean("a name of a model")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test has to tell
            failed.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    others = [threading.Thread(target=clean_on) for _ in range(3)]
    try:
        for thread in others:
            thread.start()
        for number in range(300):
            secret = f"odd-shaped-secret-{number:04d}"
            redactor.add(secret)
            assert secret not in redactor.clean(f"it is {secret}.")
    finally:
        over.set()
        for thread in others:
            thread.join()
        sys.setswitchinterval(usual)
    assert failed == []
