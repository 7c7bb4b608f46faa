"""Admin keys and projects: the right kind of secret in the right place, or a sentence that says so."""

from __future__ import annotations

import pytest

ADMIN = "admin_keys: [{{organization: acme, secret: {secret}}}]"


def test_an_admin_key_is_kept_secret(load_yaml):
    settings = load_yaml(ADMIN.format(secret="sk-admin-abcdefgh"))
    assert settings.admin_keys[0].organization == "acme"
    assert settings.admin_keys[0].secret.get_secret_value() == "sk-admin-abcdefgh"
    assert "abcdefgh" not in repr(settings)
    assert "abcdefgh" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("sk-proj-abcdefgh", "is a project key"),
        ("sk-abcdefgh", "is a project key"),
        ("sess-abcdefgh", "session_key"),
        ("hunter2hunter2", "must be an admin key, sk-admin-"),
    ],
)
def test_another_kind_of_secret_is_explained_and_not_repeated(refusal, secret, words):
    message = refusal(ADMIN.format(secret=secret))
    assert words in message
    assert "https://platform.openai.com/settings/organization/admin-keys" in message
    assert secret not in message


def test_importing_limits_needs_an_admin_key(refusal, load_yaml):
    assert "needs admin_keys" in refusal("import_limits: true")
    assert load_yaml("import_limits: true\n" + ADMIN.format(secret="sk-admin-abcdefgh")).import_limits


def test_one_organisation_has_one_admin_key(refusal):
    two = "admin_keys: [{organization: a, secret: sk-admin-abcdefgh}, {organization: a, secret: sk-admin-ijklmnop}]"
    assert "the same organization as admin_keys[0]" in refusal(two)


def test_a_project_is_named_by_its_id(refusal, load_yaml):
    assert load_yaml("accounts: {a: {project: proj_Ab12}}").accounts["a"].project == "proj_Ab12"
    assert "must be a project id, proj_..." in refusal("accounts: {a: {project: production}}")


def test_an_accounts_limits_for_a_model_stand_over_all_others(load_yaml):
    settings = load_yaml(
        """
        accounts: {a: {rpm: 60, models: {"gpt-4o*": {rpm: 5}, gpt-4o-mini: {tpm: 7}}}}
        limits: {models: {gpt-4o: {rpm: 9, tpm: 100}}}
        """
    )
    assert settings.limits_for("a", "gpt-4o").rpm == 5
    assert settings.limits_for("a", "gpt-4o").tpm == 100
    assert (settings.limits_for("a", "gpt-4o-mini").rpm, settings.limits_for("a", "gpt-4o-mini").tpm) == (60, 7)
    assert settings.limits_for("a", "gpt-5").rpm == 60
    assert settings.limits_for("b", "gpt-4o").rpm == 9
