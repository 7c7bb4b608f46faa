"""Opening other programs' databases: every address they use, and what is said when one cannot be read."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import pytest
from quotapool.migrate import database as databases_of_peers
from quotapool.migrate.database import file_of, has_password, is_database_file, opened, resolved, rows
from quotapool.migrate.found import SourceError
from quotapool.migrate.program import check_kind

from tests.fakes import databases
from tests.fakes.valkey import free_port

PASSWORD = "a-secret-password-9"


def refused(source: str) -> str:
    """What is said of it; never with the password."""
    with pytest.raises(SourceError) as error, opened(source):
        pass
    assert PASSWORD not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("peer", ["gpt-load", "one-api", "new-api"])
def test_each_program_is_told_by_its_tables_and_another_one_is_named(peer, make):
    with opened(make("sqlite", peer, {}).source) as database:
        check_kind(database, peer)
        for other in {"gpt-load", "one-api", "new-api", "litellm"} - {peer}:
            with pytest.raises(SourceError, match=f"is a database of {peer}: `quotapool migrate {peer}`"):
                check_kind(database, other)


def test_gpt_load_2_is_recognised_and_the_way_to_go_is_told(tmp_path):
    with sqlite3.connect(tmp_path / "two.db") as connection:
        connection.execute("CREATE TABLE access_keys (id INTEGER, key_value TEXT)")
        connection.execute("CREATE TABLE credentials (id INTEGER, data TEXT)")
    with (
        opened(str(tmp_path / "two.db")) as database,
        pytest.raises(SourceError, match="Export the keys of each group"),
    ):
        check_kind(database, "gpt-load")


def test_an_empty_database_has_no_tables_of_any_program(tmp_path):
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE x (id INTEGER)")
    with opened(str(tmp_path / "empty.db")) as database, pytest.raises(SourceError, match="has no tables of one-api"):
        check_kind(database, "one-api")


# ---- SQLite


def test_all_rows_come_page_by_page_in_order(tmp_path, monkeypatch):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE t (id INTEGER PRIMARY KEY, "group" TEXT)')
        connection.executemany('INSERT INTO t ("group") VALUES (?)', [(str(number),) for number in range(2_500)])
    with opened(str(path)) as database:
        found = [row["group"] for row in rows(database, "t", ("group",), also=("absent",), key="id")]
    assert found == [str(number) for number in range(2_500)]


def test_rows_without_a_key_end_the_reading_and_do_not_repeat_it(tmp_path):
    file = tmp_path / "odd.db"
    with sqlite3.connect(file) as connection:
        connection.executescript("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT); INSERT INTO t VALUES (NULL, 'x')")
    with opened(str(file)) as database, pytest.raises(SourceError, match="the table t has a row without id"):
        list(rows(database, "t", ("a",), key="id"))


def test_what_is_still_in_the_write_ahead_log_is_read_while_the_program_runs(tmp_path):
    path = tmp_path / "wal.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    writer.execute("INSERT INTO t VALUES (7)")
    assert path.with_name("wal.db-wal").stat().st_size > 0
    with opened(f"{path}?_busy_timeout=3000") as database:  # as one-api and new-api write SQLITE_PATH
        assert [row["id"] for row in rows(database, "t", (), key="id")] == [7]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database._connection.execute("DELETE FROM t")
    writer.close()


def test_a_locked_database_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(databases_of_peers, "_BUSY_S", 0.05)
    path = tmp_path / "locked.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    writer.execute("BEGIN EXCLUSIVE")
    assert "is locked by another program" in refused(str(path))
    writer.close()


def test_a_file_that_is_no_database_or_a_broken_one_is_refused(tmp_path):
    text = tmp_path / "text.db"
    text.write_text("sk-one\n")
    assert refused(str(text)) == f"{text} is not an SQLite database"
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\0" + b"\xff" * 5_000)
    assert "cannot be read as an SQLite database" in refused(str(broken))
    assert "no such file" in refused(str(tmp_path / "nowhere.db"))
    assert "is neither a file nor an address" in refused(f"root:{PASSWORD}@nowhere")
    assert is_database_file(broken)
    with pytest.raises(SourceError, match="Is a directory"):
        is_database_file(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="drops root's rights")
def test_a_write_ahead_log_in_a_directory_that_cannot_be_written_says_what_to_copy(tmp_path):
    path = tmp_path / "ro" / "wal.db"
    path.parent.mkdir()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    image = {name: (path.parent / name).read_bytes() for name in ("wal.db", "wal.db-wal")}
    writer.close()
    for name, content in image.items():
        (path.parent / name).write_bytes(content)
    path.parent.chmod(0o555)
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        directory.chmod(directory.stat().st_mode | 0o055)
    code = (
        "import os, sys; sys.path[:0] = sys.argv[2:]; from quotapool.migrate.database import opened; os.setuid(65534)\n"
        "from quotapool.migrate.found import SourceError\n"
        "try:\n with opened(sys.argv[1]) as d: print(d.columns('t'))\n"
        "except SourceError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), *sys.path], capture_output=True, text=True)
    assert "Copy all files that begin with this name" in done.stdout, (done.stdout, done.stderr)


# ---- servers


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("root:pa:ss@tcp(db.example.com:3307)/oneapi?charset=utf8mb4", "MySQL at db.example.com:3307"),
        ("root:p@ss/w@tcp(db)/oneapi", "MySQL at db:3306"),
        ("root@unix(/run/mysqld/mysqld.sock)/oneapi", "MySQL at /run/mysqld/mysqld.sock"),
        ("mysql://u:p@h/d", "MySQL at h:3306"),
        ("mariadb+pymysql://u:p@h:1/d", "MySQL at h:1"),
        ("postgres://u:p@h/d?sslmode=disable", "PostgreSQL at h:5432"),
        ("postgresql+psycopg://u:p@[::1]:7/d", "PostgreSQL at ::1:7"),
        (r"host='h' user=u password='a b\'c' dbname=d", "PostgreSQL at h:5432"),
        ("root:p@tcp(h:3306)/d?tls=skip-verify&loc=Local", "MySQL at h:3306"),
        ("host=h user=u password=p dbname=d port=9 sslmode=disable TimeZone=Asia/Shanghai", "PostgreSQL at h:9"),
    ],
)
def test_every_form_of_an_address_that_these_programs_use_is_understood(source, where):
    found = databases_of_peers._server_of(source)
    assert (found.where, file_of(source), has_password(source)) == (where, None, found.password != "")
    passwords = {"root:pa:ss": "pa:ss", "root:p@ss": "p@ss/w", "root@": "", "host='h'": "a b'c"}
    assert found.password == next((p for begin, p in passwords.items() if source.startswith(begin)), "p")


def test_a_file_has_no_password_and_a_variable_keeps_one(monkeypatch):
    monkeypatch.setenv("SQL_DSN", f"root:{PASSWORD}@tcp(h)/d")
    assert not has_password("/data/one-api.db")
    assert not has_password("env:SQL_DSN")
    assert resolved("env:SQL_DSN") == f"root:{PASSWORD}@tcp(h)/d"
    with pytest.raises(SourceError, match="no variable NOT_THERE"):
        resolved("env:NOT_THERE")


def test_a_schema_of_prismas_and_tls_of_gos_driver_are_kept():
    server = databases_of_peers._server_of("postgresql://u:p@h/d?schema=litellm&sslmode=require&connection_limit=5")
    arguments = databases_of_peers._driver(server)[1]
    assert "search_path=litellm" in arguments["options"]
    assert arguments["sslmode"] == "require"
    secure = databases_of_peers._driver(databases_of_peers._server_of("u:p@tcp(h)/d?tls=true"))[1]["ssl"]
    loose = databases_of_peers._driver(databases_of_peers._server_of("u:p@tcp(h)/d?tls=skip-verify"))[1]["ssl"]
    assert (secure.check_hostname, loose.check_hostname) == (True, False)
    assert "ssl" not in databases_of_peers._driver(databases_of_peers._server_of("u:p@tcp(h)/d"))[1]


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_server_that_is_not_there_is_named_without_its_password(scheme):
    port = free_port()
    text = refused(f"{scheme}://peer:{PASSWORD}@127.0.0.1:{port}/peer")
    assert f"at 127.0.0.1:{port} cannot be reached" in text


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_wrong_password_and_a_wrong_database_are_told_apart(kind, server):
    url = server(kind)
    at = url.rpartition("@")[2]
    assert "refuses this login" in refused(f"{kind}://peer:{PASSWORD}@{at}/peer")
    good = f"{kind}://peer:p%40ss%2Fword%3A1@{at}"
    assert "has no such database" in refused(f"{good}/not_there")
    assert "the address names no database" in refused(good)


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_nothing_can_be_written_through_what_was_opened(kind, server):
    url = databases.new_database(server(kind), "readonly")
    databases.execute(url, "CREATE TABLE t (id INTEGER)")
    import sqlalchemy

    refused_by_it = pytest.raises(sqlalchemy.exc.SQLAlchemyError, match=r"(?i)read.only")
    with opened(url) as database, database._engine.connect() as connection, refused_by_it:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))


def test_without_the_extra_a_server_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    assert "pip install 'quotapool[migrate]'" in refused("mysql://u:p@h/d")
