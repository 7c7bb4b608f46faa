"""Real MariaDB and PostgreSQL servers, each in a directory of its own, and each as a user without rights."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fakes.valkey import free_port

PASSWORD = "p@ss/word:1"
START_S = 60.0


def find(name: str) -> str | None:
    """A server's program; Debian keeps those of PostgreSQL out of the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or shutil.which(name, path="/usr/sbin") or (str(versions[-1]) if versions else None)


@contextlib.contextmanager
def _directory() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A directory, and how to start programs as its owner: root may run neither server."""
    path = Path(tempfile.mkdtemp(prefix="qp-db-", dir="/tmp"))
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": path}
    options["env"] = {"PATH": os.environ["PATH"], "HOME": str(path), "LC_ALL": "C"}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        yield path, options
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running_mariadb() -> Iterator[str]:
    """The SQLAlchemy URL, without a database's name, of a server that ends with this."""
    with _directory() as (path, options):
        log = (path / "log").open("wb")
        install = [find("mariadb-install-db"), "--no-defaults", f"--datadir={path}/data", "--skip-test-db"]
        install += ["--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, stderr=log, timeout=START_S * 2, **options)
        port = free_port()
        command = [find("mariadbd"), "--no-defaults", f"--datadir={path}/data", f"--socket={path}/s", f"--port={port}"]
        command += ["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=16M", f"--pid-file={path}/pid"]
        command += ["--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
        with _served(command, log, options):
            root = f"mysql+pymysql://root@127.0.0.1:{port}"
            _ask(
                f"{root}/mysql",
                "CREATE USER 'peer'@'127.0.0.1' IDENTIFIED BY 'p@ss/word:1'",
                "GRANT ALL ON *.* TO 'peer'@'127.0.0.1'",
            )
            yield f"mysql+pymysql://peer:p%40ss%2Fword%3A1@127.0.0.1:{port}"


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The same of PostgreSQL."""
    with _directory() as (path, options):
        log = (path / "log").open("wb")
        (path / "password").write_text(PASSWORD)
        (path / "password").chmod(0o644)
        install = [find("initdb"), f"--pgdata={path}/data", "--username=peer", "--auth=scram-sha-256", "--no-sync"]
        install += [f"--pwfile={path}/password", "--encoding=UTF8"]
        subprocess.run(install, check=True, stderr=log, timeout=START_S * 2, **options)
        port = free_port()
        command = [find("postgres"), "-D", f"{path}/data", "-p", str(port), "-h", "127.0.0.1", "-k", str(path), "-F"]
        with _served(command, log, options):
            url = f"postgresql+psycopg://peer:p%40ss%2Fword%3A1@127.0.0.1:{port}"
            _ask(f"{url}/postgres", "SELECT 1")
            yield url


@contextlib.contextmanager
def _served(command: list[Any], log: Any, options: dict[str, Any]) -> Iterator[None]:
    process = subprocess.Popen(command, stderr=log, **options)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(url: str, *statements: str) -> None:
    """As soon as the server is there."""
    import sqlalchemy

    deadline = time.monotonic() + START_S
    while True:
        try:
            execute(url, *statements)
        except sqlalchemy.exc.OperationalError:
            assert time.monotonic() < deadline, "the database did not start"
            time.sleep(0.1)
        else:
            return


def execute(url: str, *statements: str) -> None:
    """Each by itself."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def new_database(url: str, name: str) -> str:
    """The URL of an empty database of a server."""
    home = "mysql" if url.startswith("mysql") else "postgres"
    execute(f"{url}/{home}", f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    return f"{url}/{name}"


def server(kind: str, missing: Callable[[str], None]) -> contextlib.AbstractContextManager[str]:
    """The server of this kind, or a skip."""
    programs = {"mysql": ("mariadbd", "mariadb-install-db"), "postgresql": ("postgres", "initdb")}
    for program in programs[kind]:
        if find(program) is None:
            missing(program)
    return running_mariadb() if kind == "mysql" else running_postgres()
