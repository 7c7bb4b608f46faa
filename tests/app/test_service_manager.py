"""What systemd is told: one datagram to the socket that it names, and nothing that could hold up a start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from quotapool.app.service_manager import notify


@pytest.mark.parametrize("address", ["a path", "an abstract name"])
def test_the_state_arrives_as_one_datagram(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = str(tmp_path / "notify") if address == "a path" else f"@quotapool-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if name.startswith("@") else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        manager.settimeout(30)
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "vsock:2:1", "@nobody-listens"])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_a_manager_that_does_not_read_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        for _ in range(1000):  # more than its buffer holds
            notify("READY=1")
