"""Where the pool's keys come from, how they are cleaned, and which are refused."""

from __future__ import annotations

import hashlib

import pytest

from tests.settings.conftest import KEY

THREE_WAYS = ("OPENAI_API_KEYS=", "`keys:`", "`keys_file:`")


def secrets(settings) -> list[str]:
    return [key.secret.get_secret_value() for key in settings.keys]


def test_keys_are_given_as_variables_or_files(load_yaml, tmp_path):
    (tmp_path / "gamma").write_text("sk-gamma\n")
    text = "keys: [{id: alpha, secret: '${ALPHA}', account: acme}, {secret_file: gamma}]"
    settings = load_yaml(text, {"ALPHA": "sk-alpha"})
    assert secrets(settings) == ["sk-alpha", "sk-gamma"]
    # Without an id, a key has one by its secret's SHA-256 (sha256sum says e7b35190...);
    # without an account it is its own.
    assert [(key.id, key.account) for key in settings.keys] == [("alpha", "acme"), ("key-e7b35190",) * 2]
    assert tmp_path / "gamma" in settings.files


@pytest.mark.parametrize(
    "separated", ["sk-a,sk-b", "sk-a sk-b", "sk-a\nsk-b\n", " 'sk-a' ,\n \"sk-b\"", "Bearer sk-a, sk-b"]
)
def test_a_variable_holds_many_keys(load_yaml, separated):
    assert secrets(load_yaml(env={"OPENAI_API_KEYS": separated})) == ["sk-a", "sk-b"]


def test_the_usual_variable_counts_only_when_nothing_else_gives_keys(load_yaml):
    assert secrets(load_yaml(env={"OPENAI_API_KEY": "sk-usual"})) == ["sk-usual"]
    assert secrets(load_yaml(env={"OPENAI_API_KEY": "sk-usual", "OPENAI_API_KEYS": "sk-a"})) == ["sk-a"]
    assert secrets(load_yaml("keys: [{secret: sk-b}]", {"OPENAI_API_KEY": "sk-usual"})) == ["sk-b"]


def test_keys_of_all_sources_form_one_pool(load_yaml, tmp_path):
    (tmp_path / "keys.txt").write_text("\ufeff# team A\n\nsk-c\n  sk-d  \n", encoding="utf-8")
    settings = load_yaml("{keys: [{secret: sk-b}], keys_file: keys.txt}", {"OPENAI_API_KEYS": "sk-e"})
    assert secrets(settings) == ["sk-b", "sk-c", "sk-d", "sk-e"]
    assert tmp_path / "keys.txt" in settings.files


def test_a_keys_file_may_be_csv_with_columns_in_any_order(load_yaml, tmp_path):
    (tmp_path / "keys.csv").write_text('# export\naccount,secret,id\nacme,sk-a,a\n\n,"sk-b",b\n,sk-c\n')
    settings = load_yaml("keys_file: keys.csv", {})
    assert [(key.id, key.account) for key in settings.keys][:2] == [("a", "acme"), ("b", "b")]
    assert secrets(settings) == ["sk-a", "sk-b", "sk-c"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# nothing\n", "quotapool.yaml:1: keys_file: contains no secrets"),
        ("sk-a,acme\n", "keys.txt:1: contains a comma; a table must begin with a header such as id,secret,account"),
        ("secret,acount\nsk-a,x\n", "keys.txt:1: acount: unknown column; did you mean 'account'?"),
        ("\nid,secret\n\na,sk-a,b\n", "keys.txt:4: has 3 cells for 2 columns"),
        ("id,secret\na,\n", "keys.txt:2: secret: is required"),
        ("sk-a\n\nsk-admin-b\n", "keys.txt:3: secret: an sk-admin- key manages the organisation"),
        ("sk-a and b\n", "keys.txt:1: secret: contains spaces or line breaks"),
        ("sk-a\n# x\nsk-a\n", "keys.txt:3: has the same secret as keys.txt:1"),
    ],
)
def test_a_wrong_line_of_a_keys_file_is_named(refusal, tmp_path, content, expected):
    (tmp_path / "keys.txt").write_text(content)
    message = refusal("{keys_file: keys.txt, bad_key_lines: refuse}", {}).replace(f"{tmp_path}/", "")
    assert message.startswith(expected)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ("sk-a\n\nsk-admin-b\nsk-c\n", "keys.txt:3: secret: an sk-admin- key manages the organisation"),
        ("sk-a\nsk-b and b\nsk-c\n", "keys.txt:2: secret: contains spaces or line breaks"),
        ("sk-a\nsk-b,acme\nsk-c\n", "keys.txt:2: contains a comma"),
        ("sk-a\nsk-a\nsk-c\n", "keys.txt:2: has the same secret as keys.txt:1"),
        ("id,secret\na,sk-a\na,sk-b\nc,sk-c\n", "keys.txt:3: has the same id as keys.txt:2"),
        ("id,secret\na,sk-a\nb,sk-b,c\nc,sk-c\n", "keys.txt:3: has 3 cells for 2 columns"),
        ("id,secret\na,sk-a\nb,\nc,sk-c\n", "keys.txt:3: secret: is required"),
        ("id,secret\na,sk-a\nb c,sk-b\nc,sk-c\n", "keys.txt:3: id: "),
    ],
)
def test_a_bad_or_repeated_line_among_good_ones_is_named_and_left_out(load_yaml, tmp_path, content, warning):
    (tmp_path / "keys.txt").write_text(content)
    settings = load_yaml("keys_file: keys.txt", {})
    assert secrets(settings) == ["sk-a", "sk-c"]
    (named,) = settings.warnings
    assert named.replace(f"{tmp_path}/", "").startswith(warning)
    assert named.endswith("; this line is left out")
    assert "sk-b" not in named


def test_a_line_that_repeats_a_key_of_the_configuration_is_left_out_too(load_yaml, tmp_path):
    (tmp_path / "keys.txt").write_text("sk-b\nsk-c\n")
    settings = load_yaml("{keys: [{id: b, secret: '${K}'}], keys_file: keys.txt}", {"K": "sk-b"})
    assert settings.keys[0].id == "b"
    assert secrets(settings) == ["sk-b", "sk-c"]
    assert len(settings.warnings) == 1


def test_thousands_of_bad_lines_are_a_few_warnings_and_a_number(load_yaml, tmp_path):
    (tmp_path / "keys.txt").write_text("sk-good\n" + "not a secret\n" * 3_000)
    settings = load_yaml("keys_file: keys.txt", {})
    assert secrets(settings) == ["sk-good"]
    assert len(settings.warnings) < 30
    assert settings.warnings[-1].endswith("2980 more lines are left out")


def test_a_file_of_which_no_line_can_be_used_is_refused(refusal, tmp_path):
    (tmp_path / "keys.txt").write_text("sk-a,acme\nsk-b,acme\n")
    assert len(refusal("keys_file: keys.txt").splitlines()) == 2


def test_a_problem_elsewhere_is_refused_although_bad_lines_are_left_out(refusal, tmp_path):
    (tmp_path / "keys.txt").write_text("sk-a\nnot a secret\n")
    assert refusal("{keys_file: keys.txt, workers: 0}") == "quotapool.yaml:1: workers: must be at least 1"


# ---- default ids

# Both SHA-256 begin with 0c0fbc87; the first goes on with e5c516c5, the second with cfdf899f, so that one is smaller.
TWINS = ("sk-proj-collision-00082599", "sk-proj-collision-00084618")


def ids(settings) -> dict[str, str]:
    return {key.secret.get_secret_value(): key.id for key in settings.keys}


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_secrets_with_one_default_id_the_same_one_gets_a_longer_one_in_any_order(load_yaml, tmp_path, order):
    (tmp_path / "keys.txt").write_text("\n".join(TWINS[::order]))
    settings = load_yaml("keys_file: keys.txt", {})
    assert ids(settings) == {TWINS[0]: "key-0c0fbc87e5c516c5", TWINS[1]: "key-0c0fbc87"}
    assert {key.id for key in settings.keys} == {key.account for key in settings.keys}
    assert settings.warnings == ()


def test_a_written_id_is_kept_and_the_default_one_gives_way(load_yaml, tmp_path):
    (tmp_path / "keys.txt").write_text(f"id,secret\n,{TWINS[0]}\nkey-0c0fbc87,sk-other\n")
    assert ids(load_yaml("keys_file: keys.txt", {})) == {TWINS[0]: "key-0c0fbc87e5c516c5", "sk-other": "key-0c0fbc87"}


def test_an_account_that_was_written_stays_with_a_longer_id(load_yaml, tmp_path):
    (tmp_path / "keys.csv").write_text(f"secret,account\n{TWINS[0]},acme\n{TWINS[1]},acme\n")
    settings = load_yaml("keys_file: keys.csv", {})
    assert len({key.id for key in settings.keys}) == 2
    assert {key.account for key in settings.keys} == {"acme"}


def test_the_ids_of_a_pool_without_collisions_are_what_they_always_were(load_yaml):
    # sha256("sk-proj-one"), as `printf %s sk-proj-one | sha256sum` prints it
    assert [key.id for key in load_yaml("").keys] == ["key-492edba9"]


def test_a_file_of_a_hundred_thousand_lines_has_as_many_ids(load_yaml, tmp_path):
    written = [f"sk-proj-collision-{n:08}" for n in range(100_000)]
    (tmp_path / "keys.txt").write_text("\n".join(written))
    settings = load_yaml("keys_file: keys.txt", {})
    assert len({key.id for key in settings.keys}) == 100_000
    of_32_bits = {hashlib.sha256(secret.encode()).hexdigest()[:8] for secret in written}
    assert 0 < 100_000 - len(of_32_bits) == sum(len(key.id) > len("key-0c0fbc87") for key in settings.keys)


def test_files_that_cannot_be_read_are_named(refusal):
    assert refusal("keys_file: none.txt", {}) == (
        "quotapool.yaml:1: keys_file: cannot be read: No such file or directory"
    )
    assert refusal("keys:\n- secret_file: none", {}) == (
        "quotapool.yaml:2: keys[0].secret_file: cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    "copied",
    ["sk-a", " sk-a\r\n", '"sk-a"', "'sk-a'", "Bearer sk-a", "bearer  'sk-a'", '"Bearer sk-a"\n', "' \"sk-a\" '"],
)  # fmt: skip
def test_what_was_copied_along_is_removed(load_yaml, copied):
    assert secrets(load_yaml("keys: [{secret: '${K}'}]", {"K": copied})) == ["sk-a"]


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ("sk-admin-abc", "keys[0].secret: an sk-admin- key manages the organisation and cannot serve requests"),
        ("Bearer SK-ADMIN-abc", "keys[0].secret: an sk-admin- key"),
        ("sess-abc", "keys[0].secret: a sess- token is a browser's session key and cannot serve requests"),
        ("", "keys[0].secret: is empty"),
        ("Bearer ", "keys[0].secret: is empty"),
        ("sk-a\nsk-b", "keys[0].secret: contains spaces"),
        ("sk-ä", "keys[0].secret: contains a latin small letter a with diaeresis (U+00E4), which no secret has"),
    ],
)
def test_what_cannot_be_an_upstream_key_is_refused(refusal, secret, expected):
    assert f"quotapool.yaml:1: {expected}" in refusal("keys: [{secret: '${K}'}]", {"K": secret})


def test_the_same_secret_or_id_twice_names_both_places(refusal):
    text = "keys:\n- {id: a, secret: sk-1}\n- {id: b, secret: sk-1}\n- {id: a, secret: sk-2}"
    assert refusal(text, {"OPENAI_API_KEYS": "sk-2"}).splitlines() == [
        "quotapool.yaml:3: keys[1]: has the same secret as quotapool.yaml:2: keys[0]",
        "quotapool.yaml:4: keys[2]: has the same id as quotapool.yaml:2: keys[0]",
        "environment variable OPENAI_API_KEYS: entry 1: has the same secret as quotapool.yaml:4: keys[2]",
    ]


@pytest.mark.parametrize("env", [{}, {"OPENAI_API_KEYS": ""}, {"OPENAI_API_KEY": " "}])
def test_without_any_key_the_three_ways_to_give_some_are_named(refusal, env):
    assert all(way in refusal(env=env) for way in THREE_WAYS)


def test_a_client_is_kept_as_the_hash_of_its_key(load_yaml):
    # printf %s client-key-of-mine | sha256sum
    digest = "4650d95d9512ea0d93abba1a0342e99e3e5faf04a2b5b44daeee4bfe301e78c8"
    (client,) = load_yaml("clients: [{id: a, key: client-key-of-mine}]").clients
    assert (client.key, client.key_hash) == (None, digest)
    (client,) = load_yaml(f"clients: [{{id: a, key_hash: 'sha256:{digest.upper()}'}}]").clients
    assert client.key_hash == digest


ONE, TWO = "client-key-number-1", "client-key-number-2"


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        ("[{id: a}]", "clients[0]: needs either key or key_hash"),
        ("[{id: a, key: tooshort}]", "clients[0]: key is too short: at least 16 characters"),
        ("[{id: a, key_hash: abc}]", "clients[0].key_hash: must be the SHA-256"),
        (f"[{{key: {ONE}}}]", "clients[0].id: is required"),
        (f"[{{id: a, key: {ONE}}}, {{id: a, key: {TWO}}}]", "clients[1].id: is the same id as clients[0]"),
        (f"[{{id: a, key: {ONE}}}, {{id: b, key: {ONE}}}]", "clients[1]: has the same key as clients[0]"),
        ("[{id: a, key: '${UPSTREAM}'}]", "clients[0]: has the upstream key main; clients must not have"),
    ],
)
def test_a_client_that_cannot_be_distinguished_is_refused(refusal, clients, expected):
    text = f"keys: [{{id: main, secret: '${{UPSTREAM}}'}}]\nclients: {clients}"
    assert refusal(text, {"UPSTREAM": "sk-proj-upstream-1"}).startswith(f"quotapool.yaml:2: {expected}")


def test_a_pool_may_start_without_keys_if_it_says_so(load_yaml):
    assert load_yaml("keys: []", {}).keys == ()


def test_a_master_key_comes_from_the_environment_and_is_refused_in_the_file(load_yaml, refusal):
    text = "a-master-key-of-thirty-two-letters"
    assert load_yaml("master_key: ${MASTER}", {"MASTER": text, **KEY}).master_key.get_secret_value() == text
    message = refusal(f"master_key: {text}")
    assert (
        message
        == "quotapool.yaml:1: master_key: must come from the environment, as ${NAME}; or use master_key_file: PATH"
    )


def test_a_master_key_file_is_watched(load_yaml, tmp_path):
    settings = load_yaml("master_key_file: master")
    assert settings.master_key_file == tmp_path / "master"
    assert tmp_path / "master" in settings.files
