"""All checks together: side by side, in the time there is, and whatever one of them does, the others are shown."""

from __future__ import annotations

import asyncio
import threading

import pytest
from quotapool.doctor import threads
from quotapool.doctor.examine import Subject, _in_time, examine
from quotapool.doctor.finding import Finding, Status, ok

from tests.doctor.conftest import SECRET, named, statuses
from tests.fakes.certificates import Authority
from tests.fakes.faulty_store import faulty_store
from tests.fakes.listening import listening
from tests.fakes.valkey import free_port

PASSWORD = "hunter2-of-the-store"


async def test_a_store_and_an_upstream_that_hang_leave_what_else_was_found(settings_of, tmp_path):
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    port = free_port()
    with faulty_store(tmp_path) as store:
        store.hang()
        async with listening(asyncio.start_server(silent, "127.0.0.1", port)):
            settings = settings_of(
                redis=store.url,
                upstream=f"http://127.0.0.1:{port}",
                listen=f"127.0.0.1:{free_port()}",
                admin_listen=f"127.0.0.1:{free_port()}",
            )
            found = await examine(Subject(settings), seconds=3.0)
        store.heal()
    assert named(found, "store").text == "not finished within 3 s"
    assert named(found, "upstream").text == "not finished within 3 s"
    fine = {check for check, status in statuses(found).items() if status is Status.OK}
    assert {"configuration", "listen", "admin_listen", "state_dir", "metrics_dir"} <= fine


async def test_what_was_found_before_the_end_of_the_time_is_kept():
    async def check():
        yield ok("store", "found at once")
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    found = await _in_time("upstream", check(), loop.time() + 0.05, 0.05)
    assert [(finding.check, finding.status) for finding in found] == [
        ("store", Status.OK),
        ("upstream", Status.WARNING),
    ]


async def test_a_check_that_fails_hides_no_other_and_tells_no_secret():
    async def check():
        yield ok("store", "found at once")
        raise ValueError(PASSWORD)

    found = await _in_time("upstream", check(), asyncio.get_running_loop().time() + 5, 5)
    assert [finding.check for finding in found] == ["store", "upstream"]
    assert found[1] == Finding("upstream", Status.WARNING, "the check itself failed (ValueError)", found[1].remedy)


async def test_no_secret_of_the_configuration_is_in_any_finding(settings_of, valkey_url):
    secrets = [SECRET, PASSWORD, "a-token-of-operators-0123456789", "0123456789abcdef0123456789abcdefXY"]
    settings = settings_of(
        redis=valkey_url.replace("unix://", f"unix://nobody:{PASSWORD}@"),
        upstream=f"http://127.0.0.1:{free_port()}",
        upstream_proxy=f"http://jane:{PASSWORD}@127.0.0.1:{free_port()}",
        admin_token=secrets[2],
        master_key=secrets[3],
        alerts={"targets": [{"url": f"https://no-such-host.invalid/{PASSWORD}"}]},
    )
    found = await examine(Subject(settings))
    assert named(found, "store").status is Status.PROBLEM
    shown = "\n".join(f"{finding.text}\n{finding.remedy}" for finding in found)
    assert [secret for secret in secrets if secret in shown] == []


async def test_ports_that_somebody_else_has_are_named(settings_of, valkey_url):
    async with listening(asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port := free_port())):
        settings = settings_of(
            redis=valkey_url,
            listen=f"127.0.0.1:{port}",
            admin_listen=f"127.0.0.1:{free_port()}",
            upstream="http://[::1]:1",
        )
        found = await examine(Subject(settings))
    assert named(found, "listen").status is Status.PROBLEM
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in named(found, "listen").text
    assert named(found, "admin_listen").status is Status.OK


@pytest.mark.parametrize("damage", ["", "another key"])
async def test_the_listeners_certificate_is_looked_at(settings_of, tmp_path, valkey_url, damage):
    authority = Authority.make(tmp_path)
    cert_file, key_file = authority.issue(tmp_path)
    settings = settings_of(
        redis=valkey_url,
        tls={"cert_file": cert_file, "key_file": key_file},
        listen=f"127.0.0.1:{free_port()}",
        admin_listen=f"127.0.0.1:{free_port()}",
        upstream="http://[::1]:1",
    )
    if damage:
        kept = cert_file.read_bytes()
        authority.issue(tmp_path)
        cert_file.write_bytes(kept)
    finding = named(await examine(Subject(settings)), "listen.certificate")
    if damage:
        assert (finding.status, "does not belong" in finding.text) == (Status.PROBLEM, True)
    else:
        assert (finding.status, "1 day more" in finding.text) == (Status.WARNING, True)  # it ends within two days


def test_a_call_that_never_returns_does_not_keep_the_command_from_ending():
    """It is a daemon's thread: neither the loop's end nor the interpreter's waits for it."""
    never, before = threading.Event(), {*threading.enumerate()}

    async def main() -> str:
        blocked = asyncio.create_task(asyncio.to_thread(never.wait))
        answer = await asyncio.to_thread(lambda: "an answer")
        blocked.cancel()
        return answer

    assert threads.run(main()) == "an answer"
    assert [thread for thread in threading.enumerate() if thread not in before and not thread.daemon] == []
    never.set()


def test_what_a_thread_raises_reaches_who_waits_for_it():
    async def main() -> None:
        await asyncio.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        threads.run(main())
