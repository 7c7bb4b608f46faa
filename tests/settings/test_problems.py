"""A wrong configuration earns one clear message: file, line, option, what is wrong, what was meant."""

from __future__ import annotations

import textwrap

import pytest
from quotapool.settings import ConfigError, load


def yaml_text(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def test_an_unknown_option_names_its_line_and_the_nearest_real_one(refusal):
    text = """
        keys:
          - secret: a
          - secret: b
          - secret: c
            acount: acme
    """
    expected = "quotapool.yaml:5: keys[2].acount: unknown option; did you mean 'account'?"
    assert refusal(yaml_text(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listne: x", "quotapool.yaml:1: listne: unknown option; did you mean 'listen'?"),
        ("queue:\n  maxwait: 1s", "quotapool.yaml:2: queue.maxwait: unknown option; did you mean 'max_wait'?"),
        ("max_waiting: 5", "quotapool.yaml:1: max_waiting: unknown option; did you mean 'queue.max_waiting'?"),
        ("zzz: 1", "quotapool.yaml:1: zzz: unknown option"),
        (
            "accounts:\n  acme:\n    wieght: 2",
            "quotapool.yaml:3: accounts.acme.wieght: unknown option; did you mean 'weight'?",
        ),
        (
            'limits:\n  models:\n    "gpt-4o*":\n      rmp: 5',
            'quotapool.yaml:4: limits.models["gpt-4o*"].rmp: unknown option; did you mean \'rpm\'?',
        ),
    ],
)  # fmt: skip
def test_an_unknown_option_is_found_at_any_depth(refusal, text, expected):
    assert refusal(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("workers: many", "quotapool.yaml:1: workers: must be a whole number"),
        ("workers: 0", "quotapool.yaml:1: workers: must be at least 1"),
        ("allow_anonymous: perhaps", "quotapool.yaml:1: allow_anonymous: must be true or false"),
        ("queue: 5", "quotapool.yaml:1: queue: must be a mapping (lines of name: value)"),
        ("allowed_hosts: proxy.internal", "quotapool.yaml:1: allowed_hosts: must be a list (lines of - item)"),
        ("tiers:\n  trial:\n    rpm: 0", "quotapool.yaml:3: tiers.trial.rpm: must be greater than 0"),
        ("on_redis_loss: pray", "quotapool.yaml:1: on_redis_loss: must be one of 'serve' or 'refuse'"),
        ("pool: 5", "quotapool.yaml:1: pool: must be text; put quotes around it"),
        ("retry: {budget: 2}", "quotapool.yaml:1: retry.budget: must be at most 1.0"),
        ("keys: sk-a", "quotapool.yaml:1: keys: must be a list (lines of - item)"),
        ("keys: [sk-a]", "quotapool.yaml:1: keys[0]: must be a mapping with secret: ${NAME} or secret_file: PATH"),
        ("keys: [{id: a}]", "quotapool.yaml:1: keys[0]: needs either secret: ${NAME} or secret_file: PATH"),
        ("- a\n- b", "quotapool.yaml:1: must be a mapping (lines of name: value)"),
        ("pool: 2024-13-45", "quotapool.yaml:1: pool: is not a valid value; if it is text, put quotes around it"),
        ("tiers:\n  5: {rpm: 1}", "quotapool.yaml:2: tiers: has a name that is not text; put quotes around it"),
        (
            "accounts:\n  acme: {tier: trail}\ntiers:\n  trial: {rpm: 3}",
            "quotapool.yaml:2: accounts.acme.tier: there is no such tier under tiers:; did you mean 'trial'?",
        ),
        (
            "groups:\n  a: [m]\n  b:\n    - n\n    - m",
            "quotapool.yaml:5: groups.b[1]: this model is also in the group a",
        ),
        (
            "listen: 127.0.0.1:9\nadmin_listen: 127.0.0.1:9",
            "quotapool.yaml:2: admin_listen: is the same address as listen; operators need a separate port",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_in_an_operators_words(refusal, text, expected):
    assert refusal(text) == expected


def test_all_problems_are_told_at_once_one_a_line(refusal):
    text = """
        listen: nowhere
        upstream: ftp://x
        queue: {max_wait: soon}
        keys:
          - secret: ${NOT_THERE}
          - secret: sk-admin-x
    """
    assert [line.split(": ")[1] for line in refusal(yaml_text(text)).splitlines()] == [
        "keys[0].secret",
        "keys[1].secret",
        "listen",
        "upstream",
        "queue.max_wait",
    ]


def test_the_problems_can_be_read_by_a_program(load_yaml, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_yaml("\nworkesr: 2")
    (problem,) = caught.value.problems
    assert (problem.place.source, problem.place.line) == (str(tmp_path / "quotapool.yaml"), 2)
    assert (problem.option, problem.nearest) == (("workesr",), "workers")


def test_thousands_of_problems_do_not_fill_the_screen(refusal, tmp_path):
    (tmp_path / "keys.txt").write_text("sk-admin-x\n" * 3000)
    lines = refusal("keys_file: keys.txt").splitlines()
    assert len(lines) == 51
    assert lines[-1] == "... and 2950 more"


@pytest.mark.parametrize(
    ("text", "line"), [("a: [1, 2\nb: 3", 2), ("a:\n\tb: 1", 2), ("a: *nothing", 1), ("a: 1\n--- \nb: 2", 2)]
)
def test_broken_yaml_is_told_by_its_line_and_nothing_else_is(refusal, text, line):
    message = refusal(text, env={})
    assert message.startswith(f"quotapool.yaml:{line}: ")
    assert "\n" not in message


def test_an_option_written_twice_is_refused(refusal):
    message = refusal("queue:\n  max_wait: 1s\n  max_waiting: 2\n  max_wait: 3s")
    assert message == "quotapool.yaml:4: queue.max_wait: is given twice; first on line 2"


def test_yaml_anchors_and_merges_work_and_what_is_written_out_wins(load_yaml):
    text = "tiers:\n  a: &a {rpm: 3, tpm: 5}\n  b:\n    <<: *a\n    rpm: 7"
    tiers = load_yaml(text).tiers
    assert (tiers["b"].rpm, tiers["b"].tpm) == (7, 5)


def test_yaml_that_contains_itself_is_refused(refusal):
    assert "nested too deeply" in refusal("tiers: &a\n  a: *a")


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml", env={})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, env={})
    (tmp_path / "binary").write_bytes(b"a: 1\n\xff\x00")
    with pytest.raises(ConfigError, match=r"binary: is not UTF-8 text \(see line 2\); save it as UTF-8"):
        load(tmp_path / "binary", env={})
    (tmp_path / "wide").write_bytes("workers: 2".encode("utf-16"))
    with pytest.raises(ConfigError, match="wide: is UTF-16 text; save it as UTF-8"):
        load(tmp_path / "wide", env={})


def test_an_empty_file_is_a_configuration_of_defaults(load_yaml):
    assert load_yaml("").workers == 1
    assert load_yaml("\ufeff# only a comment, by an editor that writes a byte-order mark\n").workers == 1


@pytest.mark.parametrize(
    ("listen", "more", "allowed"),
    [
        ("127.0.0.1:8080", "", True),
        ("0.0.0.0:8080", "", False),
        ("10.1.2.3:8080", "", False),
        ("0.0.0.0:8080", "allow_anonymous: true", True),
        ("0.0.0.0:8080", "clients: [{id: a, key: 'sixteen letters..'}]".replace(" letters", "-letters"), True),
    ],
)
def test_listening_beyond_this_machine_needs_client_keys_or_a_clear_wish(load_yaml, listen, more, allowed):
    problem = load_yaml(f"listen: {listen}\n{more}").bind_problem()
    assert (problem is None) is allowed
    if problem:
        # I expect three remedies.
        assert "quotapool clients add" in problem
        assert "listen: 127.0.0.1:8080" in problem
        assert "allow_anonymous: true" in problem
