"""`quotapool plan --from` a real PostgreSQL or MySQL server that has the request logs of LiteLLM or gpt-load."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy
from quotapool.cli import plan_database
from quotapool.plan.sources.record import Collector, Known, SourceError

from tests.fakes import databases

BEGAN = datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC)
KNOWN = Known(lambda model: model, lambda _client: 30.0, {}, lambda *_: 1)


SPEND_LOGS = """
CREATE TABLE "LiteLLM_SpendLogs" (
  request_id text PRIMARY KEY, "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL, model text,
  model_group text, prompt_tokens int, completion_tokens int, spend float8, status text, metadata jsonb
);
INSERT INTO "LiteLLM_SpendLogs"
SELECT 'r' || n, timestamp '2026-11-18 11:06:40' + n * interval '1 s',
  timestamp '2026-11-18 11:06:42' + n * interval '1 s', 'gpt-4o', 'gpt-4o', 100, 50, 0.001, 'success',
  '{"user_api_key_alias": "app"}'
FROM generate_series(0, 2499) AS n
"""
REQUEST_LOGS = """
CREATE TABLE access_keys (id int PRIMARY KEY, name varchar(255));
INSERT INTO access_keys VALUES (7, 'search');
CREATE TABLE request_logs (
  id varchar(36) PRIMARY KEY, completed_at_ms bigint, access_key_id int, client_model varchar(255), status varchar(32),
  status_code int, duration_ms bigint, output_tokens bigint, uncached_input_tokens bigint
);
INSERT INTO request_logs VALUES ('a', 1795000001500, 7, 'gpt-4o', 'success', 200, 1500, 50, 100)
"""


def database(server, kind: str, statements: str) -> str:
    """One with these tables, as a user of these programs names it."""
    url = databases.new_database(server(kind), "peer")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    return source_of(url, kind)


def source_of(url: str, kind: str) -> str:
    """As a user of these programs names it."""
    host = url.rpartition("@")[2].partition("/")[0]
    if kind == "mysql":
        return f"peer:{databases.PASSWORD}@tcp({host})/peer?charset=utf8mb4&parseTime=True"
    return f"postgres://peer:p%40ss%2Fword%3A1@{host}/peer?sslmode=disable"


def read(source: str, since: datetime):
    assert plan_database.is_database(source)
    return plan_database.read(source, KNOWN, Collector(), tokens=None, since=since, progress=lambda *_: None)


def test_litellms_spend_logs_are_read_from_postgresql_from_a_time_on(server):
    source = database(server, "postgresql", SPEND_LOGS)
    found = read(source, datetime.fromtimestamp(0, UTC))
    assert len(found.demand) == 2500
    one = found.demand[0]
    assert (one.at, one.took_s, one.client, one.tokens) == (BEGAN.timestamp(), 2.0, "app", 150)
    later = read(source, BEGAN + timedelta(seconds=2000))
    assert len(later.demand) == 500
    assert later.since == BEGAN.timestamp() + 2000


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_gpt_load_2s_request_logs_are_read_from_both(server, kind):
    source = database(server, kind, REQUEST_LOGS)
    (one,) = read(source, datetime.fromtimestamp(0, UTC)).demand
    assert (one.at, one.took_s, one.client, one.reserved, one.tokens) == (BEGAN.timestamp(), 1.5, "search", 100, 150)
    with pytest.raises(SourceError, match="has no request to replay"):
        read(source, BEGAN + timedelta(minutes=1))
