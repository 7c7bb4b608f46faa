"""This machine with a real fault each: directories that cannot be used, and limits that are too low."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from quotapool.app.command_socket import Answer, Head
from quotapool.doctor import machine
from quotapool.doctor.finding import Status
from quotapool.settings import load

from tests.doctor.conftest import gathered, lasting, named

OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM


def running(pid: int, state_dir: Path) -> Answer:
    """As a proxy of this process id would answer."""
    return Answer(Head(pid=pid, release="0.0", phase="", state_dir=str(state_dir)), b"", pid, state_dir)


async def test_a_new_machine_has_nothing_to_be_done_and_stays_as_it_is(settings_of, tmp_path):
    found = await gathered(machine.check(settings_of(), None))
    assert set(lasting(found).values()) == {OK}
    assert f"is made with the first start: {tmp_path} can be written to" in named(found, "state_dir").text
    assert list(tmp_path.iterdir()) == []


async def test_a_place_beside_the_configurations_directory_is_told_without_dots(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "quotapool.yaml").write_text("state_dir: ../state\nkeys: [{secret: sk-test}]\n")
    settings = load(tmp_path / "conf" / ".." / "conf" / "quotapool.yaml", env={"HOME": str(tmp_path)})
    finding = named(await gathered(machine.check(settings, None)), "state_dir")
    assert finding.text.startswith(f"{tmp_path}/state, and is made with the first start: {tmp_path} can")


async def test_a_state_dir_of_a_proxy_is_fine(settings_of):
    settings = settings_of()
    settings.state_dir.mkdir(mode=0o700)
    (settings.state_dir / "admin-token").touch(mode=0o600)
    found = await gathered(machine.check(settings, None))
    assert set(lasting(found).values()) == {OK}
    assert [path.name for path in settings.state_dir.iterdir()] == ["admin-token"]


@pytest.mark.parametrize(
    "place", ["/proc/self/quotapool", "/sys/quotapool"]
)  # nobody makes a file there, not even root
async def test_a_state_dir_that_cannot_be_written_to_is_a_problem(settings_of, place):
    finding = named(await gathered(machine.check(settings_of(state_dir=place), None)), "state_dir")
    assert finding.status is PROBLEM
    assert "read-only" in finding.remedy
    assert finding.text.startswith(f"{place} ")  # not a file that was only made to try


async def test_a_file_in_the_place_of_the_state_dir_is_a_problem(settings_of, tmp_path):
    (tmp_path / "file").touch()
    finding = named(
        await gathered(machine.check(settings_of(state_dir=tmp_path / "file" / "state"), None)), "state_dir"
    )
    assert (finding.status, finding.text) == (PROBLEM, f"{tmp_path / 'file'} is not a directory")


async def test_what_others_may_read_is_told_with_the_command_that_ends_it(settings_of):
    settings = settings_of()
    settings.state_dir.mkdir(mode=0o700)
    settings.state_dir.chmod(0o755)
    for name in ("admin-token", "master-key"):
        (settings.state_dir / name).touch()
        (settings.state_dir / name).chmod(0o640)
    found = await gathered(machine.check(settings, None))
    assert named(found, "state_dir").remedy == f"chmod 700 {settings.state_dir}"
    assert {finding.remedy for finding in found if finding.check == "state_dir.mode"} == {
        f"chmod 600 {settings.state_dir / name}" for name in ("admin-token", "master-key")
    }


async def test_counters_need_a_place(settings_of, monkeypatch):
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, "/proc/self/nothing")
    monkeypatch.setattr("tempfile.tempdir", "/proc/self/nothing")
    finding = named(await gathered(machine.check(settings_of(), None)), "metrics_dir")
    assert finding.status is PROBLEM
    assert "TMPDIR" in finding.remedy


async def test_the_limit_of_files_is_compared_with_what_is_configured(settings_of):
    """`max_concurrent` clients, as many connections upstream at most, and forty more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fits = (hard - 40) // 2
    for concurrent, status in ((fits, OK), (fits + 1, WARNING)):
        settings = settings_of(max_concurrent=concurrent, upstream_connections=concurrent)
        assert named(await gathered(machine.check(settings, None)), "file_limit").status is status


async def test_of_a_running_proxy_its_own_limit_counts(settings_of, tmp_path):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finding = named(await gathered(machine.check(settings_of(), running(os.getpid(), tmp_path))), "file_limit")
    assert finding.text.startswith(f"process {os.getpid()} may have {soft:,} open files")
