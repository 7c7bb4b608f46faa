"""Mistakes that people make in a configuration, one row each: what they write, and exactly what they are told."""

from __future__ import annotations

import pytest
from quotapool.domain.alert import AlertKind
from quotapool.settings import ConfigError
from quotapool.settings.draft import Draft
from quotapool.settings.errors import Place
from quotapool.settings.mistakes import _REMARKS, WORDS, plain
from quotapool.settings.model import Settings
from quotapool.settings.tree import at, section
from quotapool.settings.unknown_names import unknown_names

from tests.settings.conftest import KEY

KINDS = " or ".join(", ".join(f"'{kind}'" for kind in AlertKind).rsplit(", ", 1))
REAL = "sk-proj-Abcdefghijklmnop0123456789"  # nothing in it looks like a placeholder
NONE: dict[str, str] = {}
A = {"A": REAL}
KEYS = f"keys:\n  - secret: {REAL[:12]}"
A_CLIENT = "clients:\n  - {id: app, key: a-client-key-ours"
PLACEHOLDER = "is a placeholder; put a key of OpenAI in its place"
A_LITERAL = "is the text itself, not a variable's value; for that write ${NAME}"
ENDPOINT = "ends with an endpoint; write the base URL, the part before /v1/, such as https://api.openai.com"
NO_LIST = 'is neither one secret a line nor a JSON list of them, as in ["sk-...", "sk-..."]'
AS_LISTEN = "unknown option; did you mean 'listen: 127.0.0.1:8080'?"

NAMES = [
    (f"keys:\n  - api_key: {REAL}", NONE, "2:5: keys[0].api_key: unknown option; did you mean 'secret'?"),
    (f"keys:\n  - apiKey: {REAL}", NONE, "2:5: keys[0].apiKey: unknown option; did you mean 'secret'?"),
    (f"keys:\n  - key: {REAL}", NONE, "2:5: keys[0].key: unknown option; did you mean 'secret'?"),
    (f"keys:\n  - token: {REAL}", NONE, "2:5: keys[0].token: unknown option; did you mean 'secret'?"),
    ("keys:\n  - key_file: /k", NONE, "2:5: keys[0].key_file: unknown option; did you mean 'secret_file'?"),
    ("keys:\n  - secret: ${A}\n    name: a", A, "3:5: keys[0].name: unknown option; did you mean 'id'?"),
    ("keys:\n  - secret: ${A}\n    url: x", A, "3:5: keys[0].url: unknown option; did you mean 'upstream'?"),
    ("keys:\n  - secret: ${A}\n    base_url: x", A, "3:5: keys[0].base_url: unknown option; did you mean 'upstream'?"),
    ("keys:\n  - secret: ${A}\n    org: x", A, "3:5: keys[0].org: unknown option; did you mean 'account'?"),
    (
        "keys:\n  - secret: ${A}\n    models: [m]",
        A,
        "3:5: keys[0].models: unknown option; did you mean 'upstream.models'?",
    ),
    (
        "keys:\n  - secret: ${A}\n    rpm: 5",
        A,
        "3:5: keys[0].rpm: unknown option; limits belong to the account: accounts.<account>",
    ),
    ("port: 8080", KEY, f"1:1: port: {AS_LISTEN}"),
    ("host: 0.0.0.0", KEY, f"1:1: host: {AS_LISTEN}"),
    ("bind: 0.0.0.0", KEY, f"1:1: bind: {AS_LISTEN}"),
    ("base_url: https://x.example", KEY, "1:1: base_url: unknown option; did you mean 'upstream'?"),
    ("redis_url: redis://h", KEY, "1:1: redis_url: unknown option; did you mean 'redis'?"),
    ("log_level: debug", KEY, "1:1: log_level: unknown option; did you mean 'log.level'?"),
    ("max_retries: 3", KEY, "1:1: max_retries: unknown option; did you mean 'retry.max_attempts'?"),
    ("queue:\n  maxWait: 5s", KEY, "2:3: queue.maxWait: unknown option; did you mean 'max_wait'?"),
    ("limits:\n  rpm: 5", KEY, "2:3: limits.rpm: unknown option; did you mean 'default.rpm'?"),
    (
        "model_list: []",
        KEY,
        "1:1: model_list: is an option of LiteLLM; `quotapool migrate litellm FILE` takes over its configuration",
    ),
    (f"{A_CLIENT}, rpm: 5}}", KEY, "2:39: clients[0].rpm: unknown option; did you mean 'limits.rpm'?"),
    (
        "clients:\n  - {id: app, api_key: a-client-key-of-ours}",
        KEY,
        "2:15: clients[0].api_key: unknown option; did you mean 'key'?",
    ),
    (
        "teams:\n  search:\n    max_budget: 50",
        KEY,
        "3:5: teams.search.max_budget: unknown option; write it as budgets: [{usd: 50, per: month}]",
    ),
    (
        "alerts:\n  targets:\n    - webhook: https://h.example",
        KEY,
        "3:7: alerts.targets[0].webhook: unknown option; did you mean 'url'?",
    ),
]

YAML = [
    ("queue:\n\tmax_wait: 5s", "2:1: uses a tab as indentation; YAML wants spaces"),
    ("queue:\n  max_wait: 5s\n  \tmax_waiting: 5", "3:3: uses a tab as indentation; YAML wants spaces"),
    (
        "keys:\n  - secret: ${A}\n   account: a",
        "3:4: is indented by 3; after the lines above it can be 0, 2 or 4 spaces",
    ),
    ("keys:\n  - secret: a\n - secret: b", "3:2: is indented by 1; after the lines above it can be 0, 2 or 4 spaces"),
    (
        "keys:\n  - secret: a\n  account: b",
        "3:3: is no entry of the list that it stands in; begin it with -, or indent it by 4 spaces",
    ),
    ("workers: 2\n  pool: x", "2:3: is indented deeper than the line above, which has its value already"),
    ("workers:2\npool: x", "1:9: needs a blank after the colon"),
    ("workers:2", "1:9: needs a blank after the colon"),
    ("workers: 2\nqueue\npool: x", "2:1: has no colon; write name: value"),
    ("admin_token: abc: def", "1:17: has a second colon with a blank after it; put quotes around the value"),
    ("admin_token: 'abc' def", "1:20: something follows the value; put quotes around all of it"),
    ("admin_token: @abc", "1:14: begins with a character that has a meaning in YAML; put quotes around it"),
    ("allowed_hosts: [*]", "1:17: begins with * or &, which have a meaning in YAML; put quotes around it"),
    ('pool: "x\nworkers: 2', "1:7: the quote that begins here is not closed"),
    (
        "allowed_hosts: [a, b\nworkers: 2",
        "2:8: a comma or the closing ] is missing in the list that begins on line 1",
    ),
    ("keys: - secret: a", "1:7: a list begins on a line of its own, below its name"),
    ("keys: [{secret: ${A}}]", '1:17: ${NAME} within { } or [ ] needs quotes: "${NAME}"'),
    ("allowed_hosts: [a, ${A}, b]", '1:20: ${NAME} within { } or [ ] needs quotes: "${NAME}"'),
    (
        "admin_token: !env ADMIN",
        (
            "1:14: has a tag (!), which means nothing here; put quotes around text, "
            "and write ${NAME} for the value of an environment variable"
        ),
    ),
    ("workers\uff1a2", "1:8: has a fullwidth colon (U+FF1A); write the plain character"),
    ("pool: x\nworkers\uff1a2\nlisten: y", "2:8: has a fullwidth colon (U+FF1A); write the plain character"),
    ("pool: a\x1b[0m", "1:8: has a control character (U+001B); delete it"),
    (
        "work\u200bers: 2",
        '1:5: ["work\\u200bers"]: has a zero width space (U+200B) in its name; delete it',
    ),
    (
        "queue:\n\u00a0\u00a0max_wait: 5s",
        '2:1: ["\\xa0\\xa0max_wait"]: begins with a no-break space (U+00A0); delete it, and indent with plain spaces',
    ),
    (
        "workers: 2\n\ufeffpool: x",
        '2:1: ["\\ufeffpool"]: begins with a byte-order mark (U+FEFF); delete it, and indent with plain spaces',
    ),
    (
        "\u201cpool\u201d: x",
        '1:1: ["\u201cpool\u201d"]: has a left double quotation mark (U+201C) in its name; write plain quotes or none',
    ),
    ("[" * 5_000, "1:1: is nested too deeply"),
]

VALUES = [
    (
        f"keys:\n  - secret: \u201c{REAL}\u201d",
        NONE,
        (
            "2:13: keys[0].secret: is within typographic quotes, such as a left double quotation mark (U+201C); "
            "write plain ones"
        ),
    ),
    (
        f"keys:\n  - secret: {REAL[:12]}\u200b{REAL}",
        NONE,
        "2:25: keys[0].secret: has a zero width space (U+200B); delete it",
    ),
    ("pool: 'a\u00a0b'", KEY, "1:9: pool: has a no-break space (U+00A0); delete it"),
    ("keys:\n  - secret: $A", A, f"2:13: keys[0].secret: {A_LITERAL}"),
    ("keys:\n  - secret: os.environ/A", A, f"2:13: keys[0].secret: {A_LITERAL}"),
    ("keys:\n  - secret: $(A)", A, f"2:13: keys[0].secret: {A_LITERAL}"),
    ("keys:\n  - secret: '{{ A }}'", A, f"2:13: keys[0].secret: {A_LITERAL}"),
    ("redis: $REDIS_URL", KEY, f"1:8: redis: {A_LITERAL}"),
    (
        "keys:\n  - secret: ${A:-x}",
        A,
        "2:13: keys[0].secret: has a default within ${ }, which is not supported; write ${NAME}, and set the variable",
    ),
    (
        "keys:\n  - secret: {{A}}",
        A,
        "2:14: keys[0].secret: {{ }} is not filled in here; write ${NAME} for the value of an environment variable",
    ),
    ("keys:\n  - secret: sk-your-key-here", NONE, f"2:13: keys[0].secret: {PLACEHOLDER}"),
    ("keys:\n  - secret: <your key>", NONE, f"2:13: keys[0].secret: {PLACEHOLDER}"),
    ("keys:\n  - secret: changeme", NONE, f"2:13: keys[0].secret: {PLACEHOLDER}"),
    ("keys:\n  - secret: OPENAI_KEY", NONE, "2:13: keys[0].secret: is a variable's name; write ${NAME} for its value"),
    ("upstream: https://api.openai.com/v1/chat/completions", KEY, f"1:11: upstream: {ENDPOINT}"),
    ("upstream: https://x.example/v1/embeddings/", KEY, f"1:11: upstream: {ENDPOINT}"),
    ("keys:\n- {secret: a, upstream: 'https://x.example/responses'}", NONE, f"2:25: keys[0].upstream.url: {ENDPOINT}"),
    (
        "keys:\n- {secret: a, upstream: 'https://x.openai.azure.com/openai/deployments/m/chat/completions?api-version=1'}",
        NONE,
        (
            "2:25: keys[0].upstream.url: is a deployment; write https://NAME.openai.azure.com/openai/v1, "
            "and the deployment's name under `models` of this upstream"
        ),
    ),
    (
        "upstream: https://platform.openai.com/v1",
        KEY,
        "1:11: upstream: is a website of OpenAI's; the API is https://api.openai.com",
    ),
    (
        "upstream: http://localhost:8080/v1",
        KEY,
        "1:11: upstream: is this proxy's own address (listen); it must be OpenAI's, or another server's",
    ),
    (
        "keys:\n- {secret: a, upstream: 'http://127.0.0.1:8080'}",
        NONE,
        "2:25: keys[0].upstream: is this proxy's own address (listen); it must be OpenAI's, or another server's",
    ),
    ("tiers:\n  t: {rpm: 5 k/min}", KEY, "2:12: tiers.t.rpm: must be a number, such as 1000, 500k or 2M"),
    (
        "alerts: {targets: [{url: 'https://h.example', kinds: [nonsense, brake]}]}",
        KEY,
        f"1:55: alerts.targets[0].kinds[0]: must be one of {KINDS}",
    ),
    (
        f"{A_CLIENT}, budgets: [{', '.join(['{usd: 1, per: day}'] * 33)}]}}",
        KEY,
        "2:39: clients[0].budgets: must have at most 32 entries",
    ),
    ("queue: {batch_leaves: 1}", KEY, "1:23: queue.batch_leaves: must be less than 1.0"),
    ("max_concurrent: 1.5", KEY, "1:17: max_concurrent: must be a whole number, such as 1000, 10k or 2M"),
]

VARIABLES = [
    ("sk-...", f"entry 1.secret: {PLACEHOLDER}"),
    ("sk-\u2026", f"entry 1.secret: {PLACEHOLDER}"),
    ("sk-proj-xxxxxxxx", f"entry 1.secret: {PLACEHOLDER}"),
    (
        "sk-ant-api03-abcdefgh",
        (
            "entry 1.secret: is a key of Anthropic, which OpenAI refuses; "
            "for another service give the key its own `upstream`"
        ),
    ),
    (
        f"{REAL},AIzaSyAbcdefgh",
        "entry 2.secret: is a key of Google, which OpenAI refuses; for another service give the key its own `upstream`",
    ),
    ("qp-abcdefghijklmnop", "entry 1.secret: is a client key of Quotapool; the pool needs keys of OpenAI"),
    (
        "org-abcdefghijklmnop",
        "entry 1.secret: is the id of an organization, not a key; the pool needs a project key (sk-proj-...)",
    ),
    (
        "sk\u2013proj\u2013abc",
        "entry 1.secret: contains an en dash (U+2013), which no secret has; copy it again as plain text",
    ),
    (
        f"id,secret\na,{REAL}",
        "is a table; write secrets with commas between them, or give keys_file: PATH",
    ),
    (f"REDIS_URL={REAL}", "is NAME=value; write the secret alone, without the name"),
    (
        f'{{"key": "{REAL}"}}',
        NO_LIST,
    ),
]

FILES = [
    (f"api_key\n{REAL}", "keys.txt:1: api_key: unknown column; did you mean 'secret'?"),
    (f"Secret Key\n{REAL}", "keys.txt:1: secret_key: unknown column; did you mean 'secret'?"),
    (f"id;token\na;{REAL}", "keys.txt:1: token: unknown column; did you mean 'secret'?"),
    (f"keys\n{REAL}", "keys.txt:1: keys: unknown column; did you mean 'secret'?"),
    (f"name\n{REAL}", "keys.txt:1: name: unknown column; did you mean 'id'?"),
    # It may be a row without a header, and then this is a secret.
    ("token,AIzaSyAbc\n", ("keys.txt:1: token: unknown column; did you mean 'secret'?\n"
     "keys.txt:1: column 2: unknown column")),
    ("sk-a;acme", "keys.txt:1: contains a semicolon; a table must begin with a header such as id,secret,account"),
    ("sk-a|acme", "keys.txt:1: contains a vertical bar; a table must begin with a header such as id,secret,account"),
    ("DATABASE_PASSWORD=abc", "keys.txt:1: is NAME=value; write the secret alone, without the name"),
    ('id,secret\n"a,sk-a', "keys.txt:2: has an unclosed quote"),
    (
        '[{"key": "sk-a"}]',
        f"quotapool.yaml:1:12: keys_file: {NO_LIST}",
    ),
]  # fmt: skip


@pytest.fixture
def told(load_yaml, tmp_path):
    """Everything that is said of this YAML, without the folder's name."""

    def of(text: str = "", env=KEY, **more: object) -> str:
        with pytest.raises(ConfigError) as caught:
            load_yaml(text, env, **more)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return of


@pytest.mark.parametrize(("text", "env", "expected"), NAMES)
def test_a_name_that_is_none_of_ours_leads_to_ours(told, text, env, expected):
    assert told(text, env) == f"quotapool.yaml:{expected}"


@pytest.mark.parametrize(("text", "expected"), YAML)
def test_what_is_not_yaml_is_told_by_place_and_remedy(told, text, expected):
    assert told(text, A) == f"quotapool.yaml:{expected}"


@pytest.mark.parametrize(("text", "env", "expected"), VALUES)
def test_a_wrong_value_is_told_where_it_begins(told, text, env, expected):
    assert told(text, env) == f"quotapool.yaml:{expected}"


@pytest.mark.parametrize(("value", "expected"), VARIABLES)
def test_what_is_no_list_of_keys_in_the_variable_is_told(told, value, expected):
    assert told(env={"OPENAI_API_KEYS": value}) == f"environment variable OPENAI_API_KEYS: {expected}"


@pytest.mark.parametrize(("content", "expected"), FILES)
def test_what_is_no_file_of_keys_is_told(told, tmp_path, content, expected):
    (tmp_path / "keys.txt").write_text(content)
    assert told("keys_file: keys.txt\nbad_key_lines: refuse", NONE) == expected


def test_a_variable_of_another_name_leads_to_ours(told):
    expected = "environment variable QUOTAPOOL_PORT: unknown option; did you mean 'QUOTAPOOL_LISTEN'?"
    assert told(env={**KEY, "QUOTAPOOL_PORT": "8080"}) == expected


# ---- what is accepted


@pytest.mark.parametrize(
    "value",
    [
        "sk-a;sk-b", "sk-a|sk-b", "sk-a; sk-b;", '["sk-a", "sk-b"]', '[\n  "sk-a",\n  "sk-b"\n]\n',
        "OPENAI_API_KEY=sk-a OPENAI_KEY_2=sk-b", "export OPENAI_API_KEYS='sk-a,sk-b'", "KEY1=sk-a\nKEY2=sk-b",
    ],
)  # fmt: skip
def test_keys_are_taken_whatever_is_between_them(load_yaml, tmp_path, value):
    assert secrets(load_yaml(env={"OPENAI_API_KEYS": value})) == ["sk-a", "sk-b"]
    (tmp_path / "keys.txt").write_text(value)
    assert secrets(load_yaml("keys_file: keys.txt", {})) == ["sk-a", "sk-b"]


@pytest.mark.parametrize(
    "content",
    [
        "id;secret;account\na;sk-a;acme\nb;sk-b;\n",
        "id\tsecret\taccount\na\tsk-a\tacme\nb\tsk-b\n",
        "| id | secret | account |\n|----|:------:|---|\n| a | sk-a | acme |\n| b | sk-b | |\n",
        "Id, Secret, Account\na,sk-a,acme\nb,sk-b\n",
    ],
)
def test_a_table_of_keys_may_have_any_usual_mark_between_its_cells(load_yaml, tmp_path, content):
    (tmp_path / "keys.txt").write_text(content)
    keys = load_yaml("keys_file: keys.txt", {}).keys
    assert [(key.id, key.secret.get_secret_value(), key.account) for key in keys] == [
        ("a", "sk-a", "acme"), ("b", "sk-b", "b"),
    ]  # fmt: skip


def test_a_list_with_dashes_and_comments_is_one_secret_a_line(load_yaml, tmp_path):
    (tmp_path / "keys.txt").write_text("- sk-a  # team A\n- 'sk-b'\n")
    assert secrets(load_yaml("keys_file: keys.txt", {})) == ["sk-a", "sk-b"]


def test_a_secret_with_signs_of_base64_stays_whole(load_yaml, tmp_path):
    (tmp_path / "keys.txt").write_text("abcd==\nefg=\n")
    settings = load_yaml("keys_file: keys.txt\nupstream: https://x.example", {"OPENAI_API_KEYS": "hij=,klm=="})
    assert secrets(settings) == ["abcd==", "efg=", "hij=", "klm=="]


def secrets(settings) -> list[str]:
    return [key.secret.get_secret_value() for key in settings.keys]


def test_thousands_and_millions_may_be_written_short_wherever_an_amount_is(load_yaml):
    settings = load_yaml("""
        tiers: {t: {rpm: 5k, tpm: 2M, rpd: 1.5k, tpd: 1e6, ipm: 5}}
        accounts: {proj: {tpm: 3M, monthly_limit_usd: 2k, grants: [{usd: $100}], models: {gpt-4o: {rpm: 1k}}}}
        limits: {default: {rpm: 4k}, models: {gpt-4o: {tpm: 1B}}}
        long_context: {gpt-5.5: 272k}
        clients: [{id: a, key: a-client-key-of-ours, limits: {rpm: 1k}, budgets: [{usd: $50, per: month}]}]
        teams: {s: {budgets: [{tokens: 2M, per: day}, {usd: 1.5k, per: month}]}}
        queue: {max_waiting: 5k}
        max_concurrent: 3k
        requests_kept: 20k
    """)
    tier, account = settings.tiers["t"], settings.accounts["proj"]
    assert (tier.rpm, tier.tpm, tier.rpd, tier.tpd, tier.ipm) == (5_000, 2_000_000, 1_500, 1_000_000, 5)
    assert (account.tpm, account.monthly_limit_usd, account.grants[0].usd) == (3_000_000, 2_000, 100)
    assert account.models["gpt-4o"].rpm == 1_000
    assert (settings.limits.default.rpm, settings.limits.models["gpt-4o"].tpm) == (4_000, 1_000_000_000)
    assert settings.long_context["gpt-5.5"] == 272_000
    assert (settings.clients[0].limits.rpm, settings.clients[0].budgets[0].usd) == (1_000, 50)
    assert [budget.tokens or budget.usd for budget in settings.teams["s"].budgets] == [2_000_000, 1_500]
    assert (settings.queue.max_waiting, settings.max_concurrent, settings.requests_kept) == (5_000, 3_000, 20_000)


@pytest.mark.parametrize("secret", ["changeme", "sk-ant-api03-x", "AIzaSyAbc", "OPENAI_KEY", "gsk_abc", "EMPTY"])
def test_another_upstream_may_have_keys_of_any_form(load_yaml, secret):
    settings = load_yaml(f"keys: [{{secret: {secret}, upstream: 'https://x.example'}}]", NONE)
    assert secrets(settings) == [secret]
    assert secrets(load_yaml("upstream: https://x.example", {"OPENAI_API_KEYS": secret})) == [secret]


@pytest.mark.parametrize(
    "secret",
    ["sk-myK3y", "sk-proj-your9abc", "sk-svcacct-abc", "sk-None-abc", "sk-adder", "sk-thehere", "sk-Xxxa"],
)
def test_a_key_that_only_resembles_a_placeholder_is_taken(load_yaml, secret):
    assert secrets(load_yaml(env={"OPENAI_API_KEYS": secret})) == [secret]


def test_people_may_write_any_character_in_what_people_read(load_yaml):
    text = f"{A_CLIENT}, name: \u201cZo\u00eb\u201d, notes: a\u00a0b $X, labels: {{team: \u200d}}}}"
    client = load_yaml(text).clients[0]
    assert (client.name, client.notes) == ("\u201cZo\u00eb\u201d", "a\u00a0b $X")


def test_a_character_that_is_written_as_an_escape_is_meant(load_yaml):
    assert load_yaml('groups: {g: ["a\\u00a0b"]}').groups["g"] == ("a\u00a0b",)


# ---- OPENAI_API_KEY


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"OPENAI_API_KEY": "any-text"}, "it is no key of OpenAI's (sk-...)"),
        ({"OPENAI_API_KEY": "qp-abcdefgh"}, "it is a client key of Quotapool"),
        (
            {"OPENAI_API_KEY": REAL, "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"},
            "OPENAI_BASE_URL names another server than `upstream`, so it is a key for that one",
        ),
    ],
)
def test_what_a_client_exports_is_no_key_of_the_pool(load_yaml, told, env, why):
    assert told(env=env).startswith(f"no upstream keys (OPENAI_API_KEY is ignored: {why}). Provide them in one of")
    settings = load_yaml("keys: []", env)
    assert (settings.keys, settings.warnings) == (
        (), (f"environment variable OPENAI_API_KEY: is ignored: {why}",),
    )  # fmt: skip
    assert REAL not in told(env=env)


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("", {"OPENAI_API_KEY": REAL}),
        ("", {"OPENAI_API_KEY": REAL, "OPENAI_BASE_URL": "https://api.openai.com/v1/"}),
        ("upstream: https://x.example", {"OPENAI_API_KEY": "abc", "OPENAI_BASE_URL": "https://x.example/v1"}),
        ("upstream: https://x.example", {"OPENAI_API_KEY": "abc"}),
    ],
)
def test_the_usual_variable_is_a_key_of_the_pool_if_it_is_for_the_pools_upstream(load_yaml, text, env):
    assert secrets(load_yaml(text, env)) == [env["OPENAI_API_KEY"]]


# ---- warnings

MODEL = "no known model has this name (if it is right, list it under metrics.models too)"
ACCOUNT = "no key has this account (unless one is added later)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limits:\n  models:\n    gpt4o: {rpm: 5}", f"3:5: limits.models.gpt4o: {MODEL}; did you mean 'gpt-4o'?"),
        ("limits: {models: {'gtp-5.5:long': {}}}",
         f"1:19: limits.models[\"gtp-5.5:long\"]: {MODEL}; did you mean 'gpt-5.5'?"),
        ("groups:\n  mine: [gpt-4o, gpt-4o-mni]", f"2:18: groups.mine[1]: {MODEL}; did you mean 'gpt-4o-mini'?"),
        ("long_context: {gtp-5.5: 5}", f"1:16: long_context[\"gtp-5.5\"]: {MODEL}; did you mean 'gpt-5.5'?"),
        ("prices: {whisper1: {input: 5}}", f"1:10: prices.whisper1: {MODEL}; did you mean 'whisper-1'?"),
        (f"{A_CLIENT}, models: [zzzzzzz]}}", f"2:48: clients[0].models[0]: {MODEL}"),
        (
            "teams:\n  s:\n    budgets: [{usd: 5, per: day, models: gpt-4oo}]",
            f"3:42: teams.s.budgets[0].models: {MODEL}; did you mean 'gpt-4o'?",
        ),
        ("keys: [{secret: '${A}', account: acme}]\naccounts: {acem: {rpm: 5}}",
         f"2:12: accounts.acem: {ACCOUNT}; did you mean 'acme'?"),
        ("keys: [{secret: '${A}', account: acme}]\noutside_use: {accounts_shared: [acem]}",
         f"2:33: outside_use.accounts_shared[0]: {ACCOUNT}; did you mean 'acme'?"),
        (f"{A_CLIENT}}}\nalerts: {{targets: [{{url: 'https://h.example', clients: [ap]}}]}}",
         ("3:57: alerts.targets[0].clients[0]: no client under clients: has this id "
         "(unless `quotapool clients add` made it); did you mean 'app'?")),
        ("cache: {models: ['gpt-5*', 'gtp-4o*']}",
         ("1:28: cache.models[1]: no known model matches this (if one does, list it under metrics.models too); "
         "did you mean 'gpt-4o'?")),
    ],
)  # fmt: skip
def test_a_name_that_nobody_has_is_a_warning_with_the_nearest(load_yaml, tmp_path, text, expected):
    (warning,) = load_yaml(text, {**KEY, **A}).warnings
    assert warning.replace(f"{tmp_path}/", "") == f"quotapool.yaml:{expected}"


@pytest.mark.parametrize(
    "text",
    [
        "limits: {models: {gpt-4o: {}, gpt-4o-2024-08-06: {}, 'gtp*': {}, 'ft:gtp:acme::x': {}, 'gpt-5.5:long': {}}}",
        "limits: {models: {mine: {}}}\ngroups: {mine: [gpt-4o]}",
        "limits: {models: {gpt-99: {}}}\nmetrics: {models: [gpt-99]}",
        "limits: {models: {dall-e-3: {}, text-embedding-3-small: {}, omni-moderation-latest: {}}}",
        "upstream: https://x.example\nlimits: {models: {llama: {}}}",
        "keys: [{secret: a, upstream: {url: 'https://x.example', models: {m: n}}}]\nlimits: {models: {m: {}}}",
        "keys: [{secret: a, upstream: 'https://x.example'}]\nlimits: {models: {llama: {}}}",
        "keys: []\naccounts: {acme: {}}",
        "keys: []\noutside_use: {accounts_shared: [acme]}",
        "keys: [{secret: a, account: acme}]\noutside_use: {accounts_shared: [acme]}",
        "cache: {models: ['*', 'gpt-5*', gpt-4o, 'text-embedding-*', 'omni-moderation-*', 'gpt-4o-2024-*', 'ft:gtp*']}",
        "upstream: https://x.example\ncache: {models: ['llama*']}",
        "metrics: {models: [gpt-99-large]}\ncache: {models: ['gpt-99*']}",
    ],
)
def test_a_name_that_somebody_may_have_is_no_warning(load_yaml, text):
    assert load_yaml(text, {} if "keys: []" in text else KEY).warnings == ()


def test_an_account_whose_key_was_added_at_run_time_is_known(load_yaml):
    settings = load_yaml("accounts: {acme: {}}")
    assert len(settings.warnings) == 1
    added = settings.keys[0].model_copy(update={"account": "acme"})
    merged = settings.model_copy(update={"keys": (*settings.keys, added)})
    assert unknown_names(merged, merged.origin.names) == ()


def test_thousands_of_unknown_names_are_a_few_warnings_and_a_number(load_yaml):
    models = ", ".join(f"zz{n}: {{}}" for n in range(3_000))
    warnings = load_yaml(f"limits: {{models: {{{models}}}}}").warnings
    assert (len(warnings), warnings[-1]) == (
        21, "2,980 more names of models, accounts, clients or teams are not known",
    )  # fmt: skip


def test_a_thousand_secrets_in_the_file_are_one_warning(load_yaml, tmp_path):
    written = "".join(f"  - secret: {REAL}{n:04}\n" for n in range(1_000))
    (warning,) = load_yaml(f"keys:\n{written}", {}).warnings
    assert warning.replace(f"{tmp_path}/", "") == (
        "quotapool.yaml:2:13: keys[0].secret and 999 more: these secrets are in the file itself; "
        "use ${NAME}, secret_file or keys_file to keep them out"
    )


# ---- the tables


def sections() -> dict[str, type]:
    """All groups of options by their class's name."""
    found: dict[str, type] = {}
    waiting: list[type] = [Settings]
    while waiting:
        model = waiting.pop()
        found[model.__name__] = model
        inner = (section(model, (name, *rest, "x")) for name in model.model_fields for rest in ((), (0,)))
        waiting += [one for one in inner if one is not None and one.__name__ not in found]
    return found


def test_the_words_of_others_lead_to_options_that_exist_and_are_none_themselves():
    known = sections()
    for name, words in WORDS.items():
        for word, option in words.items():
            path = tuple(option.partition(":")[0].split("."))
            assert at(known[name], path) is not None, (name, word, option)
            assert word not in known[name].model_fields, (name, word)
            assert plain(word) == word
    assert {*_REMARKS} <= {*known}


def test_a_place_is_a_file_with_line_and_column():
    assert str(Place("a.yaml", 3, 7)) == "a.yaml:3:7"
    draft = Draft(places={("a",): Place("a.yaml", 3, 1)}, value_places={("a",): Place("a.yaml", 3, 4)})
    draft.put(("a",), 5, Place("command line"))
    assert str(draft.place_of(("a",))) == "command line"
