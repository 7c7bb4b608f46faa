"""A store with a real fault each: what is said of it, what is still found out, and that no password is shown."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from quotapool import __version__
from quotapool.doctor import store as doctor
from quotapool.doctor.finding import Finding, Status
from quotapool.doctor.store import judged_delay
from quotapool.keys.seal import MasterKey, new_master_key
from quotapool.keys.vault import NewKey, Vault
from quotapool.ledger import rights
from quotapool.settings import Settings

from tests.doctor.conftest import gathered, lasting, named, statuses
from tests.fakes.certificates import Authority, server_context
from tests.fakes.connect import connect
from tests.fakes.faulty_store import FaultyStore, faulty_store
from tests.fakes.listening import listening
from tests.fakes.store import ledger_on
from tests.fakes.valkey import free_port, running_valkey
from tests.ledger.test_rights import acl_line

OK, SKIPPED, WARNING, PROBLEM = Status.OK, Status.SKIPPED, Status.WARNING, Status.PROBLEM
PASSWORD = "hunter2-of-the-store"
CODE = Path(doctor.__file__).parents[1]


async def examined(settings: Settings) -> list[Finding]:
    findings = await gathered(doctor.check(settings, None))
    shown = "\n".join(f"{finding.text} {finding.remedy}" for finding in findings)
    assert PASSWORD not in shown
    for finding in findings:
        assert bool(finding.remedy) is (finding.status in {WARNING, PROBLEM}), finding
    return findings


@pytest.fixture
def faulty(tmp_path):
    with faulty_store(tmp_path) as store:
        yield store


async def test_a_fit_store_has_nothing_but_persistence_to_be_said(settings_of, valkey_url):
    found = await examined(settings_of(redis=valkey_url))
    assert {check for check, status in lasting(found).items() if status is not OK} == {"store.persistence"}
    assert " calls of the script: p50 " in named(found, "store.delay").text
    assert named(found, "replicas").text == "no proxy serves the pool default now"


async def test_the_doctor_leaves_no_key_that_stays(settings_of, valkey_url):
    await examined(settings_of(redis=valkey_url))
    with redis.Redis(unix_socket_path=valkey_url.removeprefix("unix://")) as client:
        assert [key for key in client.keys("*") if client.ttl(key) < 0] == []
        assert [key for key in client.keys("*") if b":rights:" in key] == []


# ---- rights


@contextlib.asynccontextmanager
async def user(url: str, *rules: str) -> AsyncIterator[str]:
    """The URL for a user with the documented rights, and these rules after them."""
    admin = connect(url)
    await admin.client.execute_command("ACL", "SETUSER", "qp-user", "reset", f">{PASSWORD}", *acl_line(), *rules)
    await admin.client.execute_command("ACL", "LOG", "RESET")
    try:
        yield url.replace("unix://", f"unix://qp-user:{PASSWORD}@")
    finally:
        await admin.client.execute_command("ACL", "DELUSER", "qp-user")
        await admin.close()


async def test_the_documented_rights_are_enough_for_the_doctor_too(settings_of, valkey_url):
    async with user(valkey_url) as url:
        found = await examined(settings_of(redis=url))
        assert named(found, "store.rights").status is OK
        assert PROBLEM not in lasting(found).values()
        with redis.Redis(unix_socket_path=valkey_url.removeprefix("unix://")) as admin:
            assert admin.acl_log() == []


async def test_every_missing_command_is_named_not_only_the_first(settings_of, valkey_url):
    async with user(valkey_url, "-hsetnx", "-zadd", "-xadd") as url:
        found = await examined(settings_of(redis=url))
    lacking = [finding for finding in found if finding.check == "store.rights"]
    assert {finding.text.partition(" ")[0] for finding in lacking} == {"HSETNX", "ZADD", "XADD"}
    assert {finding.status for finding in lacking} == {PROBLEM}
    assert all("docs/managed-redis.md#rights-in-the-store" in finding.remedy for finding in lacking)


async def test_a_user_that_must_not_delete_leaves_nothing_for_long(settings_of, valkey_url):
    async with user(valkey_url, "-del") as url:
        lacking = named(await examined(settings_of(redis=url)), "store.rights")
    assert lacking.text.startswith("DEL is refused: ")
    assert "(keys" not in lacking.text  # on all of them
    with redis.Redis(unix_socket_path=valkey_url.removeprefix("unix://")) as client:
        assert all(0 <= client.pttl(key) <= 1000 for key in client.keys("*:rights:*"))


@pytest.mark.parametrize("missing", ["eval", "evalsha"])
async def test_scripts_that_are_not_allowed_are_told_once(settings_of, valkey_url, missing):
    async with user(valkey_url, f"-{missing}") as url:
        found = await examined(settings_of(redis=url))
    assert named(found, "store.rights").text.startswith("scripts cannot be run: ")
    assert f"'{missing}'" in named(found, "store.rights").text


async def test_info_that_is_not_allowed_is_told_and_the_rest_is_tried(settings_of, valkey_url):
    async with user(valkey_url, "-info") as url:
        found = await examined(settings_of(redis=url))
    told = [finding for finding in found if finding.check == "store.rights"]
    assert [finding.status for finding in told] == [PROBLEM, OK]
    assert "INFO is not allowed" in told[0].text
    assert named(found, "store.script").status is OK


async def test_keys_that_are_closed_are_named_by_their_beginning(settings_of, valkey_url):
    async with user(valkey_url, "resetkeys", "~qp:{default}*", "~qp:{default:cache}*") as url:
        found = await examined(settings_of(redis=url))
    (lacking,) = [finding for finding in found if finding.check == "store.rights"]
    assert lacking.status is PROBLEM
    assert "qp:{default:spend}" in lacking.text
    assert "qp:{default:login}" in lacking.text
    assert "qp:{default:cache}" not in lacking.text
    assert "qp:{default}," not in lacking.text


def test_all_kinds_of_keys_in_the_code_are_tried():
    """Hash tags as the code writes them: {pool}, {pool:spend}, {pool:obj:NN}, …"""
    written = set()
    for file in CODE.rglob("*.py"):
        written |= set(re.findall(r"qp:\{\{\{(?:self\._)?pool\}([a-z:]*)", file.read_text()))
    assert {":spend", ":cache", ":login", ""} < written
    tried = {prefix.removeprefix("qp:{pool").removesuffix("}") for prefix in rights.families("pool")}
    assert {":obj:" if tag == ":obj:00" else tag for tag in tried} == written


# ---- what the server is like


async def test_a_server_that_evicts_is_a_problem_and_all_else_is_examined(settings_of, tmp_path):
    with running_valkey(tmp_path, "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb") as url:
        found = await examined(settings_of(redis=url))
    eviction = named(found, "store.eviction")
    assert eviction.status is PROBLEM
    assert "allkeys-lru" in eviction.text
    assert eviction.remedy.startswith("Set maxmemory-policy to noeviction")
    assert named(found, "store.script").status is OK


async def test_a_server_that_is_full_is_a_problem(settings_of, tmp_path):
    with running_valkey(tmp_path, "--maxmemory", "100kb") as url:  # less than it takes when it is empty
        found = await examined(settings_of(redis=url))
    assert named(found, "store.memory").status is PROBLEM
    script = named(found, "store.script")
    assert (script.status, "OOM" in script.text, "more memory" in script.remedy) == (PROBLEM, True, True)


async def test_a_replica_is_a_problem(settings_of, tmp_path):
    with running_valkey(tmp_path, "--replicaof", "127.0.0.1", "1") as url:
        found = await examined(settings_of(redis=url))
    assert named(found, "store.role").status is PROBLEM


async def test_a_store_without_scripts_is_a_problem(settings_of, tmp_path):
    with running_valkey(tmp_path, "--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "") as url:
        found = await examined(settings_of(redis=url))
    assert "unknown command 'EVAL" in named(found, "store.rights").text


# ---- the way to it


async def test_a_stopped_store_is_a_problem_and_what_depends_on_it_is_skipped(settings_of, faulty: FaultyStore):
    faulty.go()
    found = await examined(settings_of(redis=faulty.url.replace("redis://", f"redis://:{PASSWORD}@")))
    lost = named(found, "store")
    assert lost.status is PROBLEM
    assert f"redis://127.0.0.1:{faulty.port}/0 cannot be used (connect)" in lost.text
    assert named(found, "store.rest").status is SKIPPED
    assert named(found, "keys.vault").status is SKIPPED


async def test_a_store_that_hangs_is_told_from_one_that_is_gone(settings_of, faulty: FaultyStore):
    faulty.hang()
    try:
        found = await examined(settings_of(redis=faulty.url))
    finally:
        faulty.heal()
    lost = named(found, "store")
    assert "(timeout)" in lost.text
    assert "does not answer" in lost.remedy


async def test_tls_to_a_server_without_it_is_one_of_the_reasons_that_are_named(settings_of, faulty: FaultyStore):
    """Some wait for the rest of what they take for a command, others close the connection."""
    found = await examined(settings_of(redis=faulty.url.replace("redis://", "rediss://")))
    assert "for a server of TLS, redis:// for one without" in named(found, "store").remedy


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "cannot be used (protocol): what answers there speaks no RESP"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "cannot be used (protocol): what answers there speaks no RESP"),  # TLS
        (b"-ERR this is another service\r\n" * 9, "refuses to answer: this is another service"),
    ],
)
async def test_what_is_no_redis_is_a_problem(settings_of, answer, said):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)

    port = free_port()
    async with listening(asyncio.start_server(serve, "127.0.0.1", port)):
        found = await examined(settings_of(redis=f"redis://127.0.0.1:{port}"))
    lost = named(found, "store")
    assert lost.status is PROBLEM
    assert f"redis://127.0.0.1:{port}/0 {said}" in lost.text
    assert named(found, "store.rest").status is SKIPPED


@pytest.mark.parametrize(("delay_s", "possible"), [(0.07, {WARNING, PROBLEM}), (0.3, {PROBLEM})])
async def test_a_slow_store_is_measured_and_not_given_up_on(settings_of, faulty: FaultyStore, delay_s, possible):
    faulty.slow(delay_s)
    found = await examined(settings_of(redis=faulty.url))
    assert named(found, "store.delay").status in possible
    assert named(found, "store.script").status is OK


@pytest.mark.parametrize(
    ("took", "status", "words"),
    [
        ([0.001] * 100, OK, "100 calls of the script: p50 1.0 ms, p99 1.0 ms; a call has 250 ms"),
        ([0.001] * 99 + [9.0], OK, "p50 1.0 ms, p99 1.0 ms"),  # one of a hundred is an exception,
        ([0.001] * 98 + [0.06, 9.0], WARNING, "p99 60.0 ms"),  # two are not
        ([0.049] * 100, OK, "p99 49.0 ms"),
        ([0.05] * 100, WARNING, "p99 50.0 ms"),
        ([0.249] * 6, WARNING, "6 calls of the script: p50 249 ms, p99 249 ms"),
        ([0.1] * 3 + [0.25] * 2, PROBLEM, "p50 100 ms, p99 250 ms; a call has 250 ms, so it would often count as down"),
        ([1.5], PROBLEM, "1 calls of the script: p50 1,500 ms"),
    ],
)
def test_calls_are_judged_by_the_time_that_one_has(took, status, words):
    finding = judged_delay(took[::-1])
    assert finding.status is status
    assert words in finding.text


async def test_a_wrong_password_is_told_without_the_password(settings_of, faulty: FaultyStore):
    found = await examined(settings_of(redis=faulty.url.replace("redis://", f"redis://nobody:{PASSWORD}@")))
    assert "(login)" in named(found, "store").text
    assert "user and password" in named(found, "store").remedy
    assert not named(found, "store").text.endswith(".")  # the remedy follows as another sentence


@pytest.mark.parametrize(("ahead_s", "status"), [(0.0, OK), (30.0, WARNING), (-30.0, WARNING)])
async def test_a_clock_that_differs_is_told(settings_of, faulty: FaultyStore, ahead_s, status):
    faulty.set_clock(ahead_s)
    clock = named(await examined(settings_of(redis=faulty.url)), "store.clock")
    assert clock.status is status
    if ahead_s:
        shown = float(clock.text.split()[4])
        assert abs(shown - abs(ahead_s)) < 1
        assert ("ahead of" in clock.text) is (ahead_s > 0)


@contextlib.asynccontextmanager
async def over_tls(url: str, authority: Authority, directory: Path, ends: dt.timedelta) -> AsyncIterator[int]:
    """The port of a TLS listener in front of the store, whose certificate ends so long from now."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, beyond = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        tasks.update(asyncio.ensure_future(pump(*ends)) for ends in ((reader, beyond), (there, writer)))

    context, port = server_context(authority, directory, ends=ends), free_port()
    async with listening(asyncio.start_server(serve, "127.0.0.1", port, ssl=context)):
        yield port
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize(
    ("days", "options", "reached", "certificate"),
    [
        (30, "", OK, OK),
        (5, "", OK, WARNING),
        (-2, "", PROBLEM, PROBLEM),
        (-2, "?ssl_cert_reqs=none", OK, PROBLEM),
    ],
)
async def test_the_stores_certificate_is_looked_at_before_it_ends(
    settings_of, valkey_url, tmp_path, days, options, reached, certificate
):
    authority = Authority.make(tmp_path)
    async with over_tls(valkey_url, authority, tmp_path, dt.timedelta(days=days, hours=1)) as port:
        found = await examined(settings_of(redis=f"rediss://127.0.0.1:{port}{options}", ca_file=authority.ca_file))
    assert named(found, "store").status is reached
    assert named(found, "store.certificate").status is certificate
    assert ("store.tls" in statuses(found)) is bool(options)  # that it is not verified


async def test_an_unknown_authority_is_told_with_its_remedy(settings_of, valkey_url, tmp_path):
    authority = Authority.make(tmp_path)
    async with over_tls(valkey_url, authority, tmp_path, dt.timedelta(days=60)) as port:
        found = await examined(settings_of(redis=f"rediss://127.0.0.1:{port}"))
    assert "(tls)" in named(found, "store").text
    assert "ca_file" in named(found, "store").remedy
    assert named(found, "store.certificate").status is OK


async def test_a_file_of_the_url_that_is_not_there_is_named(settings_of, tmp_path):
    missing = tmp_path / "no-ca.pem"
    found = await examined(settings_of(redis=f"rediss://127.0.0.1:{free_port()}?ssl_ca_certs={missing}"))
    assert f"cannot read {missing}" in named(found, "store").text


# ---- who serves, and with which keys


async def test_replicas_of_other_versions_are_counted(settings_of, valkey_url):
    store = connect(valkey_url)
    ours, older = ledger_on(store, "default"), ledger_on(store, "default")
    for ledger in (ours, older):
        await ledger.registry.begin_epoch(reseeded=False)
        await ledger.heartbeat()
    assert named(await examined(settings_of(redis=valkey_url)), "replicas").status is OK
    names = await store.client.hkeys("qp:{default}:releases")
    assert len(names) == 2
    await store.client.hset("qp:{default}:releases", names[0], "0.0.9")
    replicas = named(await examined(settings_of(redis=valkey_url)), "replicas")
    assert replicas.status is WARNING
    assert replicas.text == f"2 workers serve the pool default: 1 of 0.0.9, 1 of {__version__}; this is {__version__}"
    await store.close()


async def test_notes_of_processes_that_ended_are_forgotten(valkey_url):
    store = connect(valkey_url)
    await store.client.hset("qp:{default}:releases", "0123456789ab", "0.0.1")
    ledger = ledger_on(store, "default")
    await ledger.registry.begin_epoch(reseeded=False)
    await ledger.heartbeat()
    assert list((await store.client.hgetall("qp:{default}:releases")).values()) == [__version__.encode()]
    await store.close()


async def _sealed(url: str, master_key: str) -> None:
    store = connect(url)
    await Vault(store, "default").put([NewKey("late", "sk-late-0123456789", "print", {})], MasterKey(master_key))
    await store.close()


async def test_a_vault_needs_its_own_master_key(settings_of, valkey_url):
    right, wrong = new_master_key(), new_master_key()
    await _sealed(valkey_url, right)
    fine = named(await examined(settings_of(redis=valkey_url, master_key=right)), "keys.vault")
    assert (fine.status, fine.text) == (OK, "opens: 1 key was added at run time")
    for options in ({}, {"master_key": wrong}):
        vault = named(await examined(settings_of(redis=valkey_url, **options)), "keys.vault")
        assert vault.status is PROBLEM
        assert vault.text.endswith("Not served: 1 of 1 key")


async def test_a_master_key_that_cannot_be_read_is_a_problem(settings_of, valkey_url, tmp_path):
    found = await examined(settings_of(redis=valkey_url, master_key_file=tmp_path / "no-master-key"))
    assert named(found, "keys.master_key").status is PROBLEM


async def test_a_state_directory_that_cannot_be_looked_into_is_told_and_the_rest_is_checked(settings_of):
    found = await examined(settings_of(state_dir="/tmp/" + 300 * "x"))  # as if it were closed, also to root
    assert "cannot be read" in named(found, "keys.master_key").text
    assert named(found, "keys.vault").status is SKIPPED


async def test_an_open_port_without_clients_is_a_problem_as_it_is_at_a_start(settings_of, valkey_url):
    settings = settings_of(redis=valkey_url, listen=f"0.0.0.0:{free_port()}")
    clients = named(await examined(settings), "clients")
    assert clients.status is PROBLEM
    assert "quotapool clients add" in clients.remedy


async def test_a_pool_without_keys_is_told(settings_of, valkey_url):
    assert named(await examined(settings_of(redis=valkey_url, keys=[])), "keys").status is WARNING


# ---- the embedded store


async def test_the_embedded_store_is_tried_without_making_it(settings_of):
    settings = settings_of()
    found = await examined(settings)
    assert set(lasting(found).values()) == {OK}
    assert not settings.state_dir.exists()


async def test_an_embedded_store_with_data_is_started_and_stopped_again(settings_of):
    settings = settings_of()
    (settings.state_dir / "valkey").mkdir(parents=True)
    found = await examined(settings)
    assert "was started for this" in named(found, "store.embedded").text
    assert named(found, "store").status is OK
    assert not (settings.state_dir / "valkey.json").exists()


async def test_a_file_that_valkey_cannot_read_is_told_in_its_own_words(settings_of):
    settings = settings_of()
    folder = settings.state_dir / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("this is no manifest\n")
    found = await examined(settings)
    assert "the embedded Valkey ended with status 1" in named(found, "store").text
    assert "valkey.log" in named(found, "store").remedy
    assert named(found, "store.rest").status is SKIPPED
