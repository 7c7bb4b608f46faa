"""`tls:` names two files; what is wrong with them is reported at the start, not at the first connection."""

from __future__ import annotations

import pytest
from quotapool.settings import ConfigError, load

from tests.fakes.certificates import Authority


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority.make(tmp_path)


def loaded(tmp_path, text: str):
    (tmp_path / "quotapool.yaml").write_text(f"keys: [{{secret: sk-test}}]\ntls: {text}\n")
    return load(tmp_path / "quotapool.yaml", env={"HOME": str(tmp_path)})


def test_the_files_are_relative_to_the_configuration_and_watched(tmp_path, authority):
    cert_file, key_file = authority.issue(tmp_path)
    settings = loaded(tmp_path, "{cert_file: tls.crt, key_file: tls.key}")
    assert (settings.tls.cert_file, settings.tls.key_file) == (cert_file, key_file)
    assert {cert_file, key_file} <= set(settings.files)


def test_without_tls_there_is_none(tmp_path):
    assert loaded(tmp_path, "null").tls is None


def refused(tmp_path) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, "{cert_file: tls.crt, key_file: tls.key}")
    return str(error.value)


def test_a_missing_file_is_named(tmp_path, authority):
    authority.issue(tmp_path)
    (tmp_path / "tls.key").unlink()
    said = refused(tmp_path)
    assert "tls.key_file" in said
    assert "no such file" in said


def test_a_key_of_another_certificate_is_refused(tmp_path, authority):
    authority.issue(tmp_path)
    key = (tmp_path / "tls.key").read_bytes()
    authority.issue(tmp_path)
    (tmp_path / "tls.key").write_bytes(key)
    assert "does not belong to the certificate" in refused(tmp_path)


@pytest.mark.parametrize(("file", "option"), [("tls.crt", "tls.cert_file"), ("tls.key", "tls.key_file")])
def test_a_file_that_holds_something_else_is_named(tmp_path, authority, file, option):
    authority.issue(tmp_path)
    (tmp_path / file).write_text("this is no certificate\n")
    assert option in refused(tmp_path)


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(tmp_path, authority):
    authority.issue(tmp_path, passphrase=b"a passphrase")
    assert "needs a passphrase" in refused(tmp_path)
