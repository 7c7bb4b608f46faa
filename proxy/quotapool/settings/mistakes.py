"""Other products' words for our options, and options that are looked for in the wrong place: what is meant by them.

A word is compared in lower case with underscores (`apiKey`, `api-key` and `API_KEY` are `api_key`), in the section that
it was found in. What it leads to is an option of that section, or with dots from the section of the same file on.
"""

# ruff: noqa: S106  # these are words, not passwords

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

_ADDRESS: Final = "listen: 127.0.0.1:8080"
_LITELLM: Final = "is an option of LiteLLM; `quotapool migrate litellm FILE` takes over its configuration"
_OF_ACCOUNTS: Final = "unknown option; limits belong to the account: accounts.<account>"
_OF_BUDGETS: Final = "unknown option; write it as budgets: [{usd: 50, per: month}]"
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _words(**by_option: str) -> dict[str, str]:
    """`listen="port host"` as {"port": "listen", "host": "listen"}; __ in an option is a dot."""
    return {word: option.replace("__", ".") for option, words in by_option.items() for word in words.split()}


_LIMITS: Final = _words(
    rpm="requests_per_minute rpm_limit max_rpm requests_per_min max_requests_per_minute",
    tpm="tokens_per_minute tpm_limit max_tpm tokens_per_min max_tokens_per_minute",
    rpd="requests_per_day rpd_limit max_rpd max_requests_per_day",
    tpd="tokens_per_day tpd_limit max_tpd max_tokens_per_day",
)
_RULES: Final = _words(
    limits__rpm="rpm requests_per_minute rpm_limit max_rpm rate_limit",
    limits__tpm="tpm tokens_per_minute tpm_limit max_tpm",
    limits__rpd="rpd requests_per_day rpd_limit max_rpd",
    limits__tpd="tpd tokens_per_day tpd_limit max_tpd",
    limits__concurrent="concurrent concurrency max_parallel_requests max_concurrent max_concurrency",
    notes="note comment comments description",
    name="alias title label display_name",
    time_zone="timezone tz",
)

WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Settings": {
        **dict.fromkeys(("port", "host", "bind", "address", "addr", "bind_addr", "bind_address"), _ADDRESS),
        **dict.fromkeys(("listen_address", "listen_addr", "listen_port", "server", "http_port"), _ADDRESS),
        **_words(
            admin_listen="admin_port admin_host admin_address admin_bind metrics_port metrics_listen metrics_address",
            upstream="base_url api_base openai_base_url openai_api_base upstream_url target target_url backend api_url "
            "base_urls upstreams endpoint",
            redis="redis_url redis_dsn redis_host redis_conn_string valkey valkey_url store store_url database_url",
            pool="namespace key_prefix redis_prefix",
            state_dir="data_dir state_path data_path directory work_dir",
            workers="num_workers worker_count processes worker_processes threads",
            tls="ssl https certificate ssl_certfile",
            allowed_origins="cors cors_origins allow_origins cors_allow_origins origins",
            allowed_hosts="hosts trusted_hosts",
            trusted_proxies="proxies trust_proxy forwarded_allow_ips real_ip_from",
            admin_token="auth_key admin_key admin_password password session_secret ui_password admin_api_key",
            keys="api_keys apikeys api_key openai_api_keys openai_api_key openai_keys secrets secret channels "
            "credentials upstream_keys",
            keys_file="key_file api_keys_file keys_path secrets_file",
            master_key="encryption_key salt_key crypto_secret encryption_secret",
            clients="users client tokens virtual_keys proxy_keys client_keys consumers allowed_keys access_keys",
            teams="team organizations departments",
            accounts="account organization projects",
            limits="rate_limit rate_limits ratelimit ratelimits limit",
            limits__models="models model_limits",
            limits__default="default",
            limits__default__rpm="rpm requests_per_minute rpm_limit",
            limits__default__tpm="tpm tokens_per_minute tpm_limit",
            limits__default__rpd="rpd requests_per_day",
            limits__default__tpd="tpd tokens_per_day",
            groups="model_groups aliases model_group_alias model_aliases model_mapping",
            queue__max_wait="queue_timeout wait_timeout max_wait",
            queue__max_waiting="queue_size max_queue max_queue_size",
            timeouts="timeout timeout_s request_timeout",
            timeouts__connect="connect_timeout",
            timeouts__first_byte="read_timeout response_timeout stream_timeout response_header_timeout",
            retry="retries",
            retry__max_attempts="max_retries num_retries retry_count max_attempts",
            drain_timeout="shutdown_timeout graceful_shutdown_timeout grace_period graceful_timeout",
            max_json_body="max_body_size body_limit max_body client_max_body_size max_request_body_size",
            max_concurrent="concurrency max_concurrency max_connections max_concurrent_requests",
            upstream_connections="max_idle_conns pool_size connections",
            upstream_proxy="proxy http_proxy https_proxy proxy_url outbound_proxy",
            ca_file="ca ca_cert ca_bundle ca_certs cafile",
            log="logging logs logger",
            log__level="log_level loglevel verbosity debug",
            log__format="log_format",
            metrics="prometheus telemetry",
            traces="tracing trace otel opentelemetry otlp",
            spend="budget budgets spending costs",
            spend__daily_limit_usd="max_budget daily_budget",
            spend__time_zone="timezone time_zone tz",
            prices="pricing price costs_per_token model_prices model_price",
            alerts="alerting notifications webhooks webhook slack",
            dashboard="ui web admin_ui",
            dashboard__oidc="oidc sso",
            objects="stored_objects files",
            safety="moderation",
        ),
    },
    "UpstreamKey": _words(
        secret="api_key apikey key token value openai_api_key secret_key sk auth_token bearer credential keys api_keys "
        "apikeys openai_api_keys secrets secret_keys tokens",
        secret_file="api_key_file key_file file path token_file secret_path key_path",
        id="name alias label key_name title key_id",
        account="org organization organisation project group org_id organization_id project_id team owner",
        upstream="base_url api_base url endpoint host upstream_url openai_api_base base_uri target azure_endpoint",
        upstream__models="models model model_mapping deployment deployments model_redirects",
        upstream__query="api_version query",
        upstream__header="header auth_type",
    ),
    "KeyUpstream": _words(
        url="base_url api_base endpoint host target azure_endpoint",
        query="api_version params",
        models="deployments deployment model_mapping model_redirects model",
        header="auth auth_header auth_type",
    ),
    "Account": {
        **_LIMITS,
        **_words(
            organization="org organisation organization_id org_id",
            project="project_id",
            monthly_limit_usd="budget monthly_budget monthly_limit max_budget limit_usd",
            grants="credit credits grant balance",
            weight="priority share",
        ),
    },
    "LimitSet": {**_LIMITS, **_words(ipm="images_per_minute")},
    "RateLimits": {
        **_LIMITS,
        **_words(concurrent="concurrency max_parallel_requests max_concurrent max_concurrency parallel"),
    },
    "GlobalLimits": {
        **_words(models="model by_model per_model", default="defaults all"),
        **{word: f"default.{option}" for word, option in _LIMITS.items()},
        **{name: f"default.{name}" for name in ("rpm", "tpm", "rpd", "tpd", "ipm")},
    },
    "Client": {
        **_RULES,
        **_words(
            key="api_key apikey token secret client_key password value proxy_key auth_key",
            key_hash="hash sha256 key_sha256 token_hash hashed_key",
            id="client user user_id client_id username key_alias",
            team="team_id group organization tenant",
            models="allowed_models model model_limits",
            expires_on="expires expires_at expiry expiration expired_time valid_until",
            labels="tags metadata",
            allowed_ips="ips ip_whitelist allowed_ip ip_allowlist allow_ips subnet networks",
            max_wait="timeout queue_timeout",
        ),
    },
    "RuleOptions": {**_RULES},
    "Budget": _words(
        usd="amount dollars max limit max_budget cost money",
        per="period duration interval budget_duration every window reset",
        models="model",
        mode="action on_exceeded",
        warn_at="warn alert_at soft_limit thresholds",
    ),
    "CreditGrant": _words(
        usd="amount dollars value", expires_on="expires expires_at expiry", granted_on="granted granted_at starts_on"
    ),
    "Queue": _words(
        max_wait="timeout max_time wait max_wait_s max_wait_time", max_waiting="size max_size length max_length limit"
    ),
    "Timeouts": _words(
        connect="connection connect_timeout",
        first_byte="response header read_header ttfb response_header",
        between_bytes="read idle stream read_timeout idle_timeout",
        total="request timeout overall max",
        client="write send client_body",
    ),
    "Retry": _words(max_attempts="max_retries retries attempts num_retries count max"),
    "Log": _words(level="severity verbosity log_level", format="type output encoding log_format"),
    "Alerts": _words(targets="webhook webhooks webhook_url slack email urls url channels"),
    "AlertTarget": _words(
        url="webhook webhook_url href address", secret="token signing_secret", kinds="events types alerts kind"
    ),
    "AdminKey": _words(secret="api_key key token admin_key", organization="org organisation account name id"),
    "Tls": _words(
        cert_file="cert certificate certfile ssl_certfile crt cert_path", key_file="key keyfile ssl_keyfile key_path"
    ),
    "Traces": _words(
        endpoint="url exporter collector otlp_endpoint otlp exporter_endpoint",
        ratio="sample_rate sampling sampler sampling_ratio sample_ratio sampling_rate",
        service="service_name name",
        attributes="resource resource_attributes tags labels",
    ),
    "Spend": _words(daily_limit_usd="daily_limit daily_budget max_budget", time_zone="timezone tz"),
    "ModelPrices": _words(
        input="input_cost prompt input_price",
        output="output_cost completion output_price",
        cached_input="cached cache_read input_cached",
    ),
    "Dashboard": _words(oidc="sso oauth", url="base_url public_url external_url", session="session_ttl session_length"),
    "Oidc": _words(
        issuer="issuer_url url provider discovery_url", client_secret="secret", client_id="id client", scopes="scope"
    ),
}

_REMARKS: Final[Mapping[str, Mapping[str, str]]] = {
    "Settings": dict.fromkeys(
        ("model_list", "litellm_settings", "general_settings", "router_settings", "environment_variables"), _LITELLM
    ),
    "UpstreamKey": {
        **dict.fromkeys(("rpm", "tpm", "rpd", "tpd", "ipm", "tier", "limits", *_LIMITS), _OF_ACCOUNTS),
        "weight": "unknown option; it belongs to the account: accounts.<account>.weight",
        "priority": "unknown option; accounts.<account>.weight gives an account more of the load",
        **dict.fromkeys(
            ("enabled", "disabled", "status", "active"), "unknown option; `quotapool keys disable ID` takes a key out"
        ),
    },
    **dict.fromkeys(
        ("Client", "RuleOptions"),
        dict.fromkeys(("budget", "max_budget", "quota", "monthly_budget", "budget_duration"), _OF_BUDGETS),
    ),
    "Log": dict.fromkeys(("file", "path", "filename"), "unknown option; the log goes to standard error"),
}


def plain(name: str) -> str:
    """`apiKey`, `API-KEY` and `api key` as api_key."""
    return _HUMP.sub("_", name.strip()).lower().replace("-", "_").replace(" ", "_")


def in_other_words(section: type[BaseModel], name: str) -> str | None:
    """The option of this section that other products call `name`."""
    word = plain(name)
    return word if word in section.model_fields else WORDS.get(section.__name__, {}).get(word)


def remark(section: type[BaseModel] | None, name: str) -> str | None:
    """What to say of `name` here instead of `unknown option`."""
    return _REMARKS.get(section.__name__, {}).get(plain(name)) if section else None
