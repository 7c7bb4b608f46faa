"""A command that stays goes by the settings of the moment: those of the running proxy, or of its own configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from quotapool.app.command_server import CommandServer
from quotapool.cli.followed import Followed
from quotapool.cli.running import settings_for
from quotapool.settings import Settings, load


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "QUOTAPOOL_STATE_DIR": str(tmp_path / "state")}


def write(file: Path, *keys: str, pool: str = "default") -> None:
    keys = "".join(f"  - {{id: {key}, secret: sk-proj-of-{key}-0123456789}}\n" for key in keys)
    new = file.with_suffix(".new")
    new.write_text(f"pool: {pool}\nkeys:\n{keys}")
    new.replace(file)


def ids(settings: Settings | None) -> list[str] | None:
    return None if settings is None else [key.id for key in settings.keys]


def test_a_given_configuration_is_read_again_when_its_file_has_changed(env, tmp_path):
    file = tmp_path / "quotapool.yaml"
    write(file, "a")
    followed = Followed(load(file, env=env), file, None, env)
    assert followed.changed() is None
    write(file, "a", "b")
    assert ids(followed.changed()) == ["a", "b"]
    assert followed.changed() is None


@pytest.mark.parametrize("text", ["keys: [", "pool: another\nkeys: [{id: b, secret: sk-proj-of-b-0123456789}]\n"])
def test_one_that_is_invalid_or_of_another_pool_is_left_alone_until_it_is_corrected(env, tmp_path, text):
    file = tmp_path / "quotapool.yaml"
    write(file, "a")
    followed = Followed(load(file, env=env), file, None, env)
    file.write_text(text)
    assert followed.changed() is None
    write(file, "c")
    assert ids(followed.changed()) == ["c"]


async def test_those_of_the_running_proxy_are_asked_for_again_when_it_has_loaded_others(env, tmp_path):
    file, state_dir = tmp_path / "quotapool.yaml", tmp_path / "state"
    state_dir.mkdir()
    write(file, "a")
    now = [load(file, env=env)]
    server = CommandServer(state_dir)
    await server.open()
    server.ready(lambda: now[0], now[0], "unix:///nowhere/valkey.sock")
    try:
        told = await asyncio.to_thread(settings_for, None, None, env)
        followed = Followed(told, None, None, env)
        assert await asyncio.to_thread(followed.changed) is None
        write(file, "a", "b")
        now[0] = load(file, env=env)
        assert ids(await asyncio.to_thread(followed.changed)) == ["a", "b"]
        assert await asyncio.to_thread(followed.changed) is None
    finally:
        await server.close()
    assert await asyncio.to_thread(followed.changed) is None
