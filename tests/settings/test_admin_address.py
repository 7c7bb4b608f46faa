"""Which address a health check asks, whatever else is written in the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from quotapool.settings import load
from quotapool.settings.admin_address import admin_address

KEY = {"OPENAI_API_KEYS": "sk-aaaaaaaaaaaaaaaaaaaa"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Variables that name a configuration and an image's defaults."""
    (tmp_path / "image.yaml").write_text("listen: 0.0.0.0:1\nadmin_listen: 0.0.0.0:9\n")
    (tmp_path / "own.yaml").write_text("queue: {max_wait: 1s, max_waiting: 3}\nadmin_listen: '${HOST}:7'\nworkers: 2\n")
    return {
        **KEY,
        "HOST": "10.0.0.1",
        "QUOTAPOOL_CONFIG": str(tmp_path / "own.yaml"),
        "QUOTAPOOL_DEFAULTS": str(tmp_path / "image.yaml"),
    }


def test_it_is_the_one_that_the_proxy_listens_on(files):
    for left_out in ((), ("QUOTAPOOL_CONFIG",), ("QUOTAPOOL_CONFIG", "QUOTAPOOL_DEFAULTS")):
        env = {name: value for name, value in files.items() if name not in left_out}
        assert admin_address(None, env) == str(load(None, env=env).admin_listen)
        env["QUOTAPOOL_ADMIN_LISTEN"] = "127.0.0.1:5"
        assert admin_address(None, env) == str(load(None, env=env).admin_listen) == "127.0.0.1:5"
    own = Path(files.pop("QUOTAPOOL_CONFIG"))
    assert admin_address(own, files) == "10.0.0.1:7"
    assert admin_address(None, files) == "0.0.0.0:9"
    assert admin_address(None, {}) == "127.0.0.1:9090"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("admin_listen: 127.0.0.1:7\nkeys: [\n  oops", "127.0.0.1:7"),  # not YAML, further on
        ("admin_listen: 127.0.0.1:7\nno_such_option: 1", "127.0.0.1:7"),
        ("{workers: 1, admin_listen: '[::1]:7'}", "[::1]:7"),
        ("objects: {admin_listen: 1.1.1.1:1}\n", "0.0.0.0:9"),  # not this one
        ("keys:\n- admin_listen\n- 1.1.1.1:1\n", "0.0.0.0:9"),
        ("workers: admin_listen\nadmin_listen: 1.1.1.1:1\n", "1.1.1.1:1"),
        ("admin_listen: [1, 2]\n", "0.0.0.0:9"),
        ("- admin_listen\n", "0.0.0.0:9"),
        ("\x00", "0.0.0.0:9"),
        ("", "0.0.0.0:9"),
    ],
)
def test_mistakes_elsewhere_in_the_file_do_not_matter(files, tmp_path, text, address):
    (tmp_path / "own.yaml").write_text(text)
    assert admin_address(None, files) == address
    (tmp_path / "own.yaml").unlink()
    assert admin_address(None, files) == "0.0.0.0:9"
