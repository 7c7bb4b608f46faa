"""A key's own upstream: a URL or a URL with details, one for all keys of an account."""

from __future__ import annotations

import pytest
from quotapool.settings import ConfigError, from_wire, load, to_wire

HEAD = "upstream: https://api.openai.com\nkeys:\n"


def loaded(tmp_path, text: str):
    file = tmp_path / "quotapool.yaml"
    file.write_text(HEAD + text)
    return load(file, env={"A": "sk-proj-aaaa", "B": "0123456789abcdef0123456789abcdef", "HOME": "/home/op"})


def test_a_url_is_enough(tmp_path):
    settings = loaded(tmp_path, "  - {id: a, secret: '${A}', upstream: 'http://127.0.0.1:11434/v1'}\n")
    upstream = settings.keys[0].upstream
    assert upstream is not None
    assert (upstream.url, upstream.header, upstream.query, upstream.models) == (
        "http://127.0.0.1:11434", "bearer", {}, {},
    )  # fmt: skip


def test_azures_details_reach_the_workers_completely(tmp_path):
    text = """
  - id: b
    secret: ${B}
    upstream:
      url: https://acme.openai.azure.com/openai/v1/
      header: api-key
      query: {api-version: preview}
      models: {gpt-4.1: acme-41}
"""
    settings = loaded(tmp_path, text)
    upstream = from_wire(to_wire(settings)).keys[0].upstream
    assert upstream == settings.keys[0].upstream
    assert upstream is not None
    assert (upstream.url, upstream.header) == ("https://acme.openai.azure.com/openai", "api-key")
    assert (upstream.query, upstream.models) == ({"api-version": "preview"}, {"gpt-4.1": "acme-41"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  - {secret: '${A}', upstream: 'ftp://x'}\n", "must be an http:// or https:// URL"),
        ("  - {secret: '${A}', upstream: {url: 'https://x', header: basic}}\n", "header"),
        ("  - {secret: '${A}', upstream: {url: 'https://x', query: {'a&b': c}}}\n", "names in a query"),
        ("  - {secret: '${A}', upstream: {url: 'https://x', modells: {a: b}}}\n", "models"),
        (
            (
                "  - {id: a, secret: '${A}', account: one, upstream: 'https://x'}\n"
                "  - {id: b, secret: '${B}', account: one}\n"
            ),
            "differs from that of a in the same account",
        ),
    ],
)
def test_what_cannot_be_meant_is_explained(text, says, tmp_path):
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert says in str(refused.value)


def test_a_secret_that_would_travel_unencrypted_is_warned_about(tmp_path):
    settings = loaded(tmp_path, "  - {id: a, secret: '${A}', upstream: 'http://llm.example/v1'}\n")
    assert any("unencrypted" in warning for warning in settings.warnings)
