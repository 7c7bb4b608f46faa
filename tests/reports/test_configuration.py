"""Every option in force is told with the place where it was set, and no secret with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from quotapool.reports.configuration import DEFAULT, HIDDEN, configuration, option_rows, text_of
from quotapool.settings import Account, load, with_more
from quotapool.settings.model import UpstreamKey

FILE = """\
keys:
  - {secret: "${FIRST}", id: k1, account: acme}
keys_file: keys.txt
redis: redis://user:store-password@store:6379/0?password=another
queue:
  max_wait: 5s
accounts:
  acme: {rpm: 10, session_key: "sess-a-login-of-a-browser-0001"}
alerts:
  targets: [{url: "slack://a-token-of-slack/abc/def", name: ops}]
upstream_proxy: http://user:proxy-password@proxy:3128
clients:
  - {id: app, key: a-client-key-of-our-own}
"""
SECRETS = ("store-password", "another", "a-login", "a-token-of-slack", "proxy-password", "a-client-key", "sk-proj")


@pytest.fixture
def settings(tmp_path: Path):
    (tmp_path / "keys.txt").write_text("\n".join(f"sk-proj-{n:04d}-abcdefghijklmnop" for n in range(5_000)))
    (tmp_path / "quotapool.yaml").write_text(FILE)
    env = {"FIRST": "sk-proj-first-abcdefghijklmnop", "QUOTAPOOL_WORKERS": "2"}
    return load(tmp_path / "quotapool.yaml", env=env, overrides={"pool": "mine"})


def by_option(merged, configured=None):
    return {row.option: row for row in option_rows(merged, configured or merged)}


def test_each_option_has_its_value_and_its_place(settings, tmp_path):
    rows = by_option(settings)
    file = tmp_path / "quotapool.yaml"
    assert (rows["queue.max_wait"].value, rows["queue.max_wait"].default) == ("5", "30")
    assert rows["queue.max_wait"].source == f"{file}:6"
    assert (rows["workers"].value, rows["workers"].source) == ("2", "environment variable QUOTAPOOL_WORKERS")
    assert (rows["pool"].value, rows["pool"].source) == ("mine", "command line")
    assert (rows["max_removals"].value, rows["max_removals"].source) == ("3", DEFAULT)
    assert (rows["accounts.acme.rpm"].value, rows["accounts.acme.rpm"].source) == ("10", f"{file}:8")


def test_thousands_of_keys_are_one_row_with_their_sources(settings, tmp_path):
    more = [UpstreamKey.model_validate({"secret": f"sk-proj-more-{n}-abcdefghijk"}) for n in range(10)]
    merged = with_more(settings, more, {**settings.accounts, "new": Account.model_validate({"weight": 2})})
    rows = by_option(merged, settings)
    assert rows["keys"].value == "5,011 keys"
    assert rows["keys"].source == f"{tmp_path}/keys.txt: 5,000, {tmp_path}/quotapool.yaml: 1, store: 10"
    assert rows["clients"].value == "1 clients"
    assert (rows["accounts.new.weight"].value, rows["accounts.new.weight"].source) == ("2", "store")
    assert len(rows) < 200


def test_no_secret_is_told_not_even_one_in_a_url(settings):
    rows = by_option(settings)
    told = repr(configuration(settings, settings, ["workers"]))
    assert [secret for secret in SECRETS if secret in told] == []
    assert rows["redis"].value == f"redis://{HIDDEN}@store:6379/0?{HIDDEN}"
    assert rows["upstream_proxy.https"].value == f"http://{HIDDEN}@proxy:3128"
    assert rows["alerts.targets[0].url"].value == HIDDEN
    assert rows["accounts.acme.session_key"].value == HIDDEN


@pytest.mark.parametrize(
    "url", ["redis://:pa#ss@host:1", "redis://:p/w@host:1/0", "redis://:a?b@host:1", "redis://h?x=a@b"]
)
def test_a_url_that_is_written_in_an_odd_way_is_hidden_altogether(url):
    assert text_of("redis", SecretStr(url)) == HIDDEN


def test_what_waits_for_a_restart_and_the_warnings_are_told(settings):
    found = configuration(settings, settings, ["workers"])
    assert found.after_restart == ["workers"]
    assert found.warnings == list(settings.warnings) != []
    assert found.loaded_at == settings.origin.loaded_at > 1_700_000_000


def test_two_readings_of_one_file_are_equal_whenever_they_were(settings, tmp_path):
    env = {"FIRST": "sk-proj-first-abcdefghijklmnop", "QUOTAPOOL_WORKERS": "2"}
    assert load(tmp_path / "quotapool.yaml", env=env, overrides={"pool": "mine"}) == settings
