"""Databases as other proxies leave them: the tables of their published models, with rows that a test chooses.

The columns and their types follow those models (Go's GORM for three of them, Prisma for LiteLLM); where they are is
written in the docstrings of `quotapool.migrate`. GORM names a table by the plural of its struct.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import sqlalchemy
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Float, Integer, MetaData, String, Table, Text

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(name, MetaData(), *columns)


def _id() -> Column[Any]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


GPT_LOAD = [
    _table(
        "system_settings",
        _id(),
        Column("setting_key", String(255), nullable=False, unique=True),
        Column("setting_value", Text, nullable=False),
        Column("description", String(512)),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
    ),
    _table(
        "groups",
        _id(),
        Column("name", String(255), nullable=False, unique=True),
        Column("display_name", String(255)),
        Column("proxy_keys", Text),
        Column("description", String(512)),
        Column("group_type", String(50), default="standard"),
        Column("upstreams", JSON, nullable=False),
        Column("validation_endpoint", String(255)),
        Column("channel_type", String(50), nullable=False),
        Column("sort", Integer, default=0),
        Column("test_model", String(255), nullable=False),
        Column("param_overrides", JSON),
        Column("config", JSON),
        Column("header_rules", JSON),
        Column("model_redirect_rules", JSON),
        Column("model_redirect_strict", Boolean, default=False),
        Column("last_validated_at", DateTime),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
    ),
    _table(
        "group_sub_groups",
        _id(),
        Column("group_id", Integer, nullable=False),
        Column("sub_group_id", Integer, nullable=False),
        Column("weight", Integer, default=0),
    ),
    _table(
        "api_keys",
        _id(),
        Column("key_value", Text, nullable=False),
        Column("key_hash", String(128), index=True),
        Column("group_id", Integer, nullable=False, index=True),
        Column("status", String(50), nullable=False, default="active"),
        Column("notes", String(255), default=""),
        Column("request_count", BigInteger, nullable=False, default=0),
        Column("failure_count", BigInteger, nullable=False, default=0),
        Column("last_used_at", DateTime),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
    ),
]


def _channels(*more: Column[Any]) -> Table:
    return _table(
        "channels",
        _id(),
        Column("type", Integer, default=0),
        Column("key", Text),
        Column("status", Integer, default=1),
        Column("name", String(191), index=True),
        Column("weight", Integer, default=0),
        Column("created_time", BigInteger, default=0),
        Column("base_url", String(191), default=""),
        Column("other", Text),
        Column("balance", Float, default=0.0),
        Column("models", Text),
        Column("group", String(64), default="default"),
        Column("used_quota", BigInteger, default=0),
        Column("model_mapping", Text),
        Column("priority", BigInteger, default=0),
        *more,
    )


def _tokens(*more: Column[Any]) -> Table:
    return _table(
        "tokens",
        _id(),
        Column("user_id", Integer),
        Column("key", String(48), unique=True),
        Column("status", Integer, default=1),
        Column("name", String(191), index=True),
        Column("created_time", BigInteger, default=0),
        Column("accessed_time", BigInteger, default=0),
        Column("expired_time", BigInteger, default=-1),
        Column("remain_quota", BigInteger, default=0),
        Column("unlimited_quota", Boolean, default=False),
        Column("used_quota", BigInteger, default=0),
        *more,
    )


def _users(*more: Column[Any]) -> Table:
    return _table(
        "users",
        _id(),
        Column("username", String(191), unique=True),
        Column("password", String(191), nullable=False, default="$2a$10$not-a-hash"),
        Column("role", Integer, default=1),
        Column("status", Integer, default=1),
        Column("quota", BigInteger, default=0),
        Column("used_quota", BigInteger, default=0),
        Column("group", String(64), default="default"),
        *more,
    )


def _options() -> Table:
    return _table("options", Column("key", String(191), primary_key=True), Column("value", Text))


ONE_API = [
    _channels(Column("config", Text), Column("system_prompt", Text)),
    _tokens(Column("models", Text), Column("subnet", String(191), default="")),
    _users(),
    _options(),
]
NEW_API = [
    _channels(
        Column("openai_organization", Text),
        Column("test_model", Text),
        Column("status_code_mapping", String(1024), default=""),
        Column("auto_ban", Integer, default=1),
        Column("other_info", Text),
        Column("tag", String(191)),
        Column("setting", Text),
        Column("param_override", Text),
        Column("header_override", Text),
        Column("channel_info", JSON),
        Column("settings", Text),
    ),
    _tokens(
        Column("model_limits_enabled", Boolean, default=False),
        Column("model_limits", Text),
        Column("allow_ips", Text),
        Column("group", String(191), default=""),
        Column("deleted_at", DateTime),
    ),
    _users(Column("deleted_at", DateTime)),
    _options(),
]
PEERS = {"gpt-load": GPT_LOAD, "one-api": ONE_API, "new-api": NEW_API}

# What `prisma migrate` makes of LiteLLM's schema, without the columns that nothing here looks at.
LITELLM = (
    """CREATE TABLE "LiteLLM_BudgetTable" (budget_id TEXT PRIMARY KEY, max_budget DOUBLE PRECISION,
       soft_budget DOUBLE PRECISION, max_parallel_requests INTEGER, tpm_limit BIGINT, rpm_limit BIGINT,
       model_max_budget JSONB, budget_duration TEXT, budget_reset_at TIMESTAMP(3))""",
    """CREATE TABLE "LiteLLM_TeamTable" (team_id TEXT PRIMARY KEY, team_alias TEXT, organization_id TEXT,
       max_budget DOUBLE PRECISION, spend DOUBLE PRECISION NOT NULL DEFAULT 0, models TEXT[],
       max_parallel_requests INTEGER, tpm_limit BIGINT, rpm_limit BIGINT, budget_duration TEXT,
       blocked BOOLEAN NOT NULL DEFAULT false, model_max_budget JSONB NOT NULL DEFAULT '{}')""",
    """CREATE TABLE "LiteLLM_UserTable" (user_id TEXT PRIMARY KEY, user_alias TEXT, max_budget DOUBLE PRECISION,
       spend DOUBLE PRECISION NOT NULL DEFAULT 0, user_email TEXT, models TEXT[], max_parallel_requests INTEGER,
       tpm_limit BIGINT, rpm_limit BIGINT, budget_duration TEXT, model_max_budget JSONB NOT NULL DEFAULT '{}')""",
    """CREATE TABLE "LiteLLM_VerificationToken" (token TEXT PRIMARY KEY, key_name TEXT, key_alias TEXT,
       spend DOUBLE PRECISION NOT NULL DEFAULT 0, expires TIMESTAMP(3), models TEXT[],
       aliases JSONB NOT NULL DEFAULT '{}', config JSONB NOT NULL DEFAULT '{}', user_id TEXT, team_id TEXT,
       permissions JSONB NOT NULL DEFAULT '{}', max_parallel_requests INTEGER, metadata JSONB NOT NULL DEFAULT '{}',
       blocked BOOLEAN, tpm_limit BIGINT, rpm_limit BIGINT, max_budget DOUBLE PRECISION, budget_duration TEXT,
       allowed_routes TEXT[] DEFAULT ARRAY[]::TEXT[], model_max_budget JSONB NOT NULL DEFAULT '{}',
       budget_id TEXT, budget_limits JSONB)""",
)


def make(url: str, peer: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The tables of a peer in an empty database, with these rows by table."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for table in PEERS[peer]:
            table.create(connection)
            for _, alike in groupby(rows.get(table.name, []), key=tuple):  # by columns: what is absent is the default
                connection.execute(table.insert(), list(alike))
    engine.dispose()


def insert(url: str, table: str, rows: list[dict[str, Any]]) -> None:
    """Rows that name their columns; lists are PostgreSQL's arrays, mappings its JSON."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for row in rows:
            values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
            names = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join(f":{name}" for name in row)
            connection.execute(sqlalchemy.text(f'INSERT INTO "{table}" ({names}) VALUES ({marks})'), values)
    engine.dispose()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sealed_by_gpt_load(password: str, secret: str) -> str:
    """As gpt-load's own encryption writes it."""
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), b"gpt-load-encryption-v1", 100_000)
    nonce = secrets.token_bytes(12)
    return (nonce + AESGCM(key).encrypt(nonce, secret.encode(), None)).hex()


def upstreams(*urls: str) -> list[dict[str, Any]]:
    return [{"url": url, "weight": 1} for url in urls]
