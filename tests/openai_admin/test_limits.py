"""OpenAI's limits of a project as limits of this configuration: what is taken, and what an operator wrote stays."""

from __future__ import annotations

import yaml
from quotapool.domain.quantities import Limits
from quotapool.openai_admin.limits import fragment, limits_by_group, with_imported
from quotapool.openai_admin.shapes import RateLimit
from quotapool.settings import Settings, for_workers, from_wire, to_wire


def settings(account=None, **more):
    keys = [{"id": "alpha", "secret": "sk-proj-alpha000000", "account": "acme"}]
    return Settings.model_validate({"keys": keys, "accounts": {"acme": account or {}}, **more})


def row(model, rpm=None, tpm=None, **more):
    return RateLimit(id=f"rl-{model}", model=model, max_requests_per_1_minute=rpm, max_tokens_per_1_minute=tpm, **more)


def test_each_limit_goes_to_its_own_dimension():
    limits = row("gpt-image-1", 500, 30_000, max_images_per_1_minute=5, max_requests_per_1_day=10_000,
                 batch_1_day_max_input_tokens=90_000, max_audio_megabytes_per_1_minute=3)  # fmt: skip
    # Tokens of batches are no requests' tokens per day, so tpd stays free.
    assert limits_by_group(settings(), [limits]) == {"gpt-image-1": Limits(rpm=500, tpm=30_000, rpd=10_000, ipm=5)}


def test_a_group_takes_the_row_of_its_own_name():
    groups = {"gpt-4o": ["gpt-4o", "chatgpt-4o-latest"]}
    rows = [row("chatgpt-4o-latest", 1), row("gpt-4o-2024-08-06", 2), row("gpt-4o", 3), row("gpt-4o-mini", 4)]
    found = limits_by_group(settings(groups=groups), rows)
    assert found == {"gpt-4o": Limits(rpm=3), "gpt-4o-mini": Limits(rpm=4)}


def test_nothing_and_zero_are_no_limits():
    assert limits_by_group(settings(), [row("tts-1"), row("dall-e-2", 0, 0)]) == {}


def test_imported_limits_hold_for_their_account_and_model_only():
    served = with_imported(settings(limits={"default": {"rpm": 9}}), {"acme": [row("gpt-4o", 500, 30_000)]})
    assert served.limits_for("acme", "gpt-4o") == Limits(rpm=500, tpm=30_000)
    assert served.limits_for("acme", "gpt-5.5") == Limits(rpm=9)
    assert served.limits_for("other", "gpt-4o") == Limits(rpm=9)


def test_limits_configured_for_the_account_stay():
    written = settings({"rpm": 60, "models": {"gpt-4o": {"tpm": 1000}}})
    assert written.limits_for("acme", "gpt-4o") == Limits(rpm=60, tpm=1000)  # looked up before, and not remembered
    rows = [row("gpt-4o", 500, 30_000, max_requests_per_1_day=7), row("gpt-4.1", 500, 40_000)]
    served = with_imported(written, {"acme": rows})
    assert served.limits_for("acme", "gpt-4o") == Limits(rpm=60, tpm=1000, rpd=7)
    assert served.limits_for("acme", "gpt-4.1") == Limits(rpm=60, tpm=40_000)
    assert written.accounts["acme"].models.keys() == {"gpt-4o"}


def test_new_limits_take_the_place_of_older_ones():
    written = settings()
    assert with_imported(written, {"acme": [row("gpt-4o", 500)]}).limits_for("acme", "gpt-4o").rpm == 500
    assert with_imported(written, {"acme": [row("gpt-4o", 700)]}).limits_for("acme", "gpt-4o").rpm == 700


def test_the_fragment_is_valid_configuration():
    written = settings({"project": "proj_A"})
    text = fragment(written, {"acme": [row("gpt-4o", 500, 30_000), row("gpt-4.1", 60)]})
    document = yaml.safe_load(text)
    assert document["accounts"]["acme"]["project"] == "proj_A"
    pasted = settings(document["accounts"]["acme"])
    assert pasted.limits_for("acme", "gpt-4o") == Limits(rpm=500, tpm=30_000)
    assert pasted.limits_for("acme", "gpt-4.1") == Limits(rpm=60)


def test_workers_get_limits_and_neither_admin_keys_nor_logins():
    written = settings(
        {"session_key": "sess-canary0000000"}, admin_keys=[{"organization": "a", "secret": "sk-admin-canary0000"}]
    )
    wire = to_wire(for_workers(with_imported(written, {"acme": [row("gpt-4o", 500)]})))
    assert b"canary" not in wire
    assert from_wire(wire).limits_for("acme", "gpt-4o").rpm == 500
    assert b"sk-proj-alpha000000" in wire
