"""Opens another program's database and reads it: SQLite by itself, MySQL and PostgreSQL through SQLAlchemy.

Nothing is ever written there. Rows come in pages by their key, each page a statement of its own: memory has a bound,
and no transaction is held open while keys are checked. No message contains a password, nor what the database said about
rows.
"""

from __future__ import annotations

import os
import re
import sqlite3
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from quotapool.migrate.found import SourceError

_AT_ONCE: Final = 1_000  # rows
_CONNECT_S: Final = 10
_READ_S: Final = 60
_BUSY_S: Final = 5.0
_HEAD: Final = b"SQLite format 3\0"
# Go's MySQL driver, as gpt-load, one-api and new-api name their databases: user:password@tcp(host:port)/name?options
_GO: Final = re.compile(
    r"(?P<user>[^:@/]*)(?::(?P<password>.*))?@(?P<net>tcp|unix)\((?P<at>[^()]+)\)/(?P<name>[^?/]+)"
    r"(?:\?(?P<options>.*))?",
    re.DOTALL,
)
_LIBPQ: Final = re.compile(r"\s*(?:host|user|dbname|port|password|sslmode)\s*=")
_PAIR: Final = re.compile(r"(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S*))")
_EXTRA: Final = "MySQL and PostgreSQL need more packages: pip install 'quotapool[migrate]'"

Row = Mapping[str, Any]


class Database(Protocol):
    """`where`: what it is, for people: a file or a host, without a login."""

    where: str

    def columns(self, table: str) -> frozenset[str]:
        """Of this table; none if there is no such table. Raises SourceError."""
        ...

    def page(
        self, table: str, columns: Sequence[str], key: str, after: Any, at_least: tuple[str, Any] | None = None
    ) -> list[Row]:
        """The next rows by `key`, from the first one if `after` is None. `at_least`: a column and its lowest value;
        rows below it may be left out. Raises SourceError."""
        ...


def rows(
    database: Database,
    table: str,
    needed: Sequence[str],
    *,
    also: Sequence[str] = (),
    key: str,
    at_least: tuple[str, Any] | None = None,
) -> Iterator[Row]:
    """Every row of a table, in the order of `key`. Columns that are not there are None, if they are not `needed`.
    `at_least`: a column and its lowest value; rows below it may be left out. Raises SourceError."""
    there = database.columns(table)
    if lacking := [name for name in (key, *needed) if name not in there]:
        raise SourceError(
            f"{database.where}: the table {table} has no column {', '.join(lacking)}, so this version of the program "
            "is not known here; start a recent version of it once, which brings its database up to date"
        )
    columns = [name for name in dict.fromkeys((key, *needed, *also)) if name in there]
    absent = dict.fromkeys(name for name in also if name not in there)
    after = None
    while page := database.page(table, columns, key, after, at_least):
        for row in page:
            yield {**absent, **row} if absent else row
        if (after := page[-1][key]) is None:  # the next page would be the same again
            raise SourceError(f"{database.where}: the table {table} has a row without {key}; is the copy complete?")


def resolved(source: str) -> str:
    """The source itself; of `env:NAME`, what that variable says, so that no password is in the list of processes.
    Raises SourceError."""
    if not source.startswith("env:"):
        return source
    name = source.removeprefix("env:")
    if not (text := os.environ.get(name, "").strip()):
        raise SourceError(f"the environment has no variable {name}")
    return text


def has_password(source: str) -> bool:
    """Whether this is an address that others can read in the list of processes, with its password."""
    server = None if source.startswith("env:") else _server_of(source)
    return server is not None and bool(server.password)


def is_database_file(path: Path) -> bool:
    """Whether a file is SQLite's, by its first bytes. Raises SourceError."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HEAD)) == _HEAD
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None


def file_of(source: str) -> Path | None:
    """The file that this source is; None: it is on a server."""
    if _server_of(source) is not None:
        return None
    path = re.sub(r"^sqlite(?:3|\+\w+)?:(?:///|//)?", "", source).partition("?")[0]
    return Path(path)


def opened(source: str) -> AbstractContextManager[Database]:
    """The database that `source` (as `resolved` gives it) names. Raises SourceError, also when it is entered."""
    server = _server_of(source)
    if server is not None:
        return _on_server(server)
    path = file_of(source)
    if path is None or not path.is_file():
        # What is no file may be an address with a password in it.
        what = f"{path}: no such file" if path is not None and "@" not in source and "=" not in source else "SOURCE"
        raise SourceError(
            f"{what} is neither a file nor an address such as mysql://user:password@host/name, "
            "postgresql://user:password@host/name or user:password@tcp(host:3306)/name"
        )
    if not is_database_file(path):
        raise SourceError(f"{path} is not an SQLite database")
    return _file(path)


# ---- SQLite


class _File:
    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.where = str(path)
        self._path = path
        self._connection = connection

    def columns(self, table: str) -> frozenset[str]:
        return frozenset(row["name"] for row in self._ask("SELECT name FROM pragma_table_info(?)", (table,)))

    def page(
        self, table: str, columns: Sequence[str], key: str, after: Any, at_least: tuple[str, Any] | None = None
    ) -> list[Row]:
        names = ", ".join(f'"{name}"' for name in columns)  # of the code, never of the database
        bounds = [] if after is None else [(f'"{key}" > ?', after)]
        if at_least is not None and isinstance(at_least[1], int | float):  # SQLite has times as texts of any form
            bounds.append((f'"{at_least[0]}" >= ?', at_least[1]))
        condition = f"WHERE {' AND '.join(bound for bound, _ in bounds)}" if bounds else ""
        values = tuple(value for _, value in bounds)
        statement = f'SELECT {names} FROM "{table}" {condition} ORDER BY "{key}" LIMIT {_AT_ONCE}'  # noqa: S608 - see above
        return [dict(row) for row in self._ask(statement, values)]

    def _ask(self, statement: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _broken(self._path, error) from None


@contextmanager
def _file(path: Path) -> Iterator[Database]:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            yield _File(path, connection)
    except sqlite3.Error as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: sqlite3.Error) -> SourceError:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return SourceError(
            f"{path} is locked by another program for {_BUSY_S:g} s; stop that program, or copy the file"
        )
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return SourceError(
            f"{path} cannot be opened: its -wal file needs a -shm file beside it, which cannot be written there. Copy "
            "all files that begin with this name to a directory of your own, and give that copy"
        )
    return SourceError(f"{path} cannot be read as an SQLite database ({code or 'damaged'}); is the copy complete?")


# ---- MySQL and PostgreSQL


class _Server:
    """Where a database is. `options`: those of the address, for the driver."""

    def __init__(self, kind: str, *, user: str, password: str, host: str, port: int | None, name: str) -> None:
        self.kind = kind
        self.user = user
        self.password = password
        self.host = host
        self.port = port
        self.name = name
        self.socket = ""
        self.options: dict[str, str] = {}

    @property
    def where(self) -> str:
        at = self.socket or f"{self.host}:{self.port or {'mysql': 3306}.get(self.kind, 5432)}"
        return f"{'MySQL' if self.kind == 'mysql' else 'PostgreSQL'} at {at}"


def _server_of(source: str) -> _Server | None:
    """None: it is a file. Raises SourceError."""
    if match := _GO.fullmatch(source):
        host, _, port = match["at"].rpartition(":") if match["net"] == "tcp" else ("localhost", "", "")
        server = _Server(
            "mysql",
            user=match["user"],
            password=match["password"] or "",
            host=(host or match["at"]).strip("[]"),
            port=int(port) if host and port.isdigit() and len(port) < 6 else None,
            name=match["name"],
        )
        server.socket = match["at"] if match["net"] == "unix" else ""
        server.options = _pairs(match["options"] or "")
        return server
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    kind = {"mysql": "mysql", "mariadb": "mysql", "postgres": "postgresql", "postgresql": "postgresql"}
    if scheme.partition("+")[0] in kind:
        return _of_url(kind[scheme.partition("+")[0]], source)
    if _LIBPQ.match(source):
        return _of_libpq(source)
    return None


def _of_url(kind: str, source: str) -> _Server:
    try:
        url = urlsplit(source)
        server = _Server(
            kind,
            user=unquote(url.username or ""),
            password=unquote(url.password or ""),
            host=url.hostname or "localhost",
            port=url.port,
            name=unquote(url.path.strip("/")),
        )
        server.options = _pairs(url.query)
    except ValueError:
        raise SourceError(
            "the address cannot be read: special characters of the password have to be percent-encoded"
        ) from None
    if not server.name:
        raise SourceError("the address names no database: it ends with /NAME")
    return server


def _pairs(query: str) -> dict[str, str]:
    return {name: unquote(value) for name, _, value in (pair.partition("=") for pair in query.split("&")) if value}


def _of_libpq(source: str) -> _Server:
    """PostgreSQL's `host=… user=… dbname=…`, with what Go's driver puts among it."""
    given = {name: re.sub(r"\\(.)", r"\1", quoted or plain) for name, quoted, plain in _PAIR.findall(source)}
    port = given.pop("port", "")
    server = _Server(
        "postgresql",
        user=given.pop("user", ""),
        password=given.pop("password", ""),
        host=given.pop("host", "localhost"),
        port=int(port) if port.isdigit() and len(port) < 6 else None,
        name=given.pop("dbname", ""),
    )
    if not server.name:
        raise SourceError("the address names no database: dbname=NAME")
    server.options = given
    return server


class _Tables:
    def __init__(self, where: str, engine: Any) -> None:
        self.where = where
        self._engine = engine

    def columns(self, table: str) -> frozenset[str]:
        import sqlalchemy

        try:
            found = sqlalchemy.inspect(self._engine).get_columns(table)
        except sqlalchemy.exc.NoSuchTableError:
            return frozenset()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise _unusable(self.where, error) from None
        return frozenset(column["name"] for column in found)

    def page(
        self, table: str, columns: Sequence[str], key: str, after: Any, at_least: tuple[str, Any] | None = None
    ) -> list[Row]:
        import sqlalchemy

        clause = sqlalchemy.table(table, *map(sqlalchemy.column, columns))
        order = clause.c[key]
        statement = sqlalchemy.select(*clause.c).order_by(order).limit(_AT_ONCE)
        if after is not None:
            statement = statement.where(order > after)
        if at_least is not None:
            statement = statement.where(sqlalchemy.column(at_least[0]) >= at_least[1])
        try:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(statement).mappings()]
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise _unusable(self.where, error) from None


@contextmanager
def _on_server(server: _Server) -> Iterator[Database]:
    try:
        import sqlalchemy
    except ImportError:
        raise SourceError(_EXTRA) from None
    driver, arguments = _driver(server)
    url = sqlalchemy.URL.create(
        driver, server.user or None, server.password or None, server.host, server.port, server.name
    )
    try:
        engine = sqlalchemy.create_engine(url, connect_args=arguments, hide_parameters=True)
        with engine.connect():
            pass
    except ImportError:
        raise SourceError(_EXTRA) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unusable(server.where, error) from None
    try:
        yield _Tables(server.where, engine)
    finally:
        engine.dispose()


def _driver(server: _Server) -> tuple[str, dict[str, Any]]:
    """SQLAlchemy's name of the driver, and what it is told: it reads only, and waits for an end."""
    if server.kind == "mysql":
        arguments: dict[str, Any] = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            "init_command": "SET SESSION TRANSACTION READ ONLY",
            "charset": "utf8mb4",
        }
        if server.socket:
            arguments["unix_socket"] = server.socket
        if (tls := server.options.get("tls", "false")) != "false":  # Go's: true, skip-verify, preferred
            context = ssl.create_default_context()
            if tls != "true":
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            arguments["ssl"] = context
        return "mysql+pymysql", arguments
    options = f"-c default_transaction_read_only=on -c statement_timeout={_READ_S * 1000}"
    if re.fullmatch(r"\w{1,63}", schema := server.options.get("schema", "")):  # Prisma's
        options += f" -c search_path={schema}"
    known = ("sslmode", "sslrootcert", "sslcert", "sslkey")  # of the others, ORMs have their own
    given = {name: value for name, value in server.options.items() if name in known}
    return "postgresql+psycopg", {**given, "connect_timeout": _CONNECT_S, "options": options}


def _unusable(where: str, error: Exception) -> SourceError:
    """What the driver says is only looked at: it may show rows and logins."""
    text = str(getattr(error, "orig", None) or error).lower()
    for signs, why in (
        (("access denied", "password authentication failed", "no pg_hba", "permission denied"), "refuses this login"),
        (("unknown database", "does not exist"), "has no such database, table or user"),
        (("timed out", "timeout", "canceling statement"), "did not answer in time"),
        (("refused", "can't connect", "connection failed", "could not translate", "resolve"), "cannot be reached"),
    ):
        if any(sign in text for sign in signs):
            return SourceError(f"{where} {why}")
    return SourceError(f"{where} cannot be read ({type(getattr(error, 'orig', error)).__name__})")
