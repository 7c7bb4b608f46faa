"""Files that belong together are written all or none, and nothing is overwritten unasked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from quotapool.cli.new_files import drafted


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def publish(directory: Path, *files: str) -> None:
    with drafted(directory) as draft:
        for name in files:
            draft.add(name, "new")
        draft.publish(force=False)


def test_files_appear_with_their_modes_once_they_are_published(tmp_path: Path):
    with drafted(tmp_path / "new" / "place") as draft:
        draft.add("secret", "s\n", 0o600)
        draft.add("open", "o\n", 0o644)
        assert names(tmp_path / "new" / "place") == [draft.path.name]
        draft.publish(force=False)
    assert names(tmp_path / "new" / "place") == ["open", "secret"]
    modes = [oct((tmp_path / "new" / "place" / name).stat().st_mode & 0o777) for name in ("secret", "open")]
    assert modes == ["0o600", "0o644"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_nothing_is_left_of_what_was_interrupted_not_even_a_directory(error: type[BaseException], tmp_path: Path):
    def interrupted() -> None:
        with drafted(tmp_path / "new" / "place") as draft:
            draft.add("secret", "s\n", 0o600)
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_nothing_either(number: signal.Signals, tmp_path: Path):
    def ended_in_between() -> None:
        with drafted(tmp_path) as draft:
            draft.add("secret", "s\n", 0o600)
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as ended:
        ended_in_between()
    assert ended.value.code == 128 + number
    assert names(tmp_path) == []


def test_one_file_that_is_there_keeps_all_others_from_being_written(tmp_path: Path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(FileExistsError) as refused:
        publish(tmp_path, "a", "b", "c")
    assert refused.value.filename == str(tmp_path / "b")
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        publish(tmp_path, "a")
    assert names(tmp_path) == ["a"]


def test_force_overwrites_and_gives_the_new_file_its_own_mode(tmp_path: Path):
    (tmp_path / "secret").write_text("old")
    (tmp_path / "secret").chmod(0o644)
    with drafted(tmp_path) as draft:
        draft.add("secret", "new", 0o600)
        draft.publish(force=True)
    assert (tmp_path / "secret").read_text() == "new"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_ctrl_c_while_files_are_moved_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    move = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with drafted(tmp_path) as draft:
        draft.add("a", "1")
        draft.add("b", "2")
        draft.publish(force=False)
    assert names(tmp_path) == ["a", "b"]
