"""`path_aliases`: what may be written, and what is refused with a sentence."""

from __future__ import annotations

import pytest
from quotapool.settings import ConfigError, load


def loaded(tmp_path, text: str):
    (tmp_path / "q.yaml").write_text(f"keys: []\npath_aliases:\n{text}")
    return load(tmp_path / "q.yaml", env={"HOME": str(tmp_path)})


def test_an_alias_is_a_beginning_of_paths_with_or_without_a_slash_at_its_end(tmp_path):
    settings = loaded(tmp_path, "  /proxy/*/: /\n  /: /v1\n  /openai/deployments/*: /v1/\n")
    assert settings.path_aliases == {"/proxy/*": "/", "/": "/v1", "/openai/deployments/*": "/v1"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("proxy/*: /", "a path begins with /"),
        ("/proxy/g*: /", "a path begins with /"),
        ("/a/../b: /", "dots"),
        ("/v1/old: /v1", "need no alias"),
        ("/V1: /v1", "need no alias"),
        ("/quotapool/x: /", "need no alias"),
        ("/x: /admin", "is / or begins with /v1"),
        ("/x: https://elsewhere.example.com/v1", "is / or begins with /v1"),
        ("/x: /v1/../admin", "dots"),
    ],
)
def test_what_cannot_be_an_alias_is_refused_where_it_stands(tmp_path, line, why):
    with pytest.raises(ConfigError, match=why) as error:
        loaded(tmp_path, f"  {line}\n")
    assert "q.yaml:" in str(error.value)


def test_there_are_at_most_a_hundred(tmp_path):
    with pytest.raises(ConfigError, match="more than 100"):
        loaded(tmp_path, "".join(f"  /p{number}: /\n" for number in range(101)))
