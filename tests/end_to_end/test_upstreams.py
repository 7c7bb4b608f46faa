"""One pool, several upstreams: each key goes to its own, also after a reload."""

from __future__ import annotations

import signal

import yaml

from tests.fakes.processes import fetch, wait_until
from tests.fakes.running import chat_body, post_json, seen_upstream


def asked(simulator) -> list[dict]:
    return [seen for seen in seen_upstream(simulator) if seen["path"].startswith("/v1/chat")]


def test_keys_with_an_upstream_of_their_own_are_used_there_and_a_reload_moves_them(start_simulator, start_proxy):
    main, other, third = start_simulator(1), start_simulator(2), start_simulator(2)
    own = {"url": f"{other.url}/v1", "query": {"api-version": "preview"}, "models": {"gpt-4o-mini": "gpt-4o"}}
    keys = [
        {"id": "main", "secret": main.secrets[0]},
        {"id": "own", "secret": other.secrets[1], "upstream": own},
    ]
    config = {"upstream": main.url, "keys": keys}
    proxy = start_proxy(config)
    bodies = 24
    for _ in range(bodies):
        assert post_json(proxy.base_url, "/v1/chat/completions", chat_body()).status == 200
    here, there = asked(main), asked(other)
    assert len(here) + len(there) == bodies
    assert min(len(here), len(there)) > 2
    assert {seen["path"] for seen in here} == {"/v1/chat/completions"}
    assert {seen["path"] for seen in there} == {"/v1/chat/completions?api-version=preview"}
    assert len({seen["body_sha256"] for seen in (*here, *there)}) == 2  # the same request, with a model's name changed
    # A model that only the pool's upstream has.
    for _ in range(6):
        assert post_json(proxy.base_url, "/v1/chat/completions", chat_body(model="gpt-4o")).status == 200
    assert len(asked(other)) == len(there)
    listed = fetch(f"{proxy.base_url}/models")
    assert listed[0] == 200
    assert '"gpt-4o-mini"' in listed[1]
    # Reloaded, the key goes elsewhere.
    keys[1]["upstream"] = third.url
    written = yaml.safe_load(proxy.config_file.read_text())
    proxy.config_file.write_text(yaml.safe_dump({**written, "keys": keys}))
    proxy.process.send_signal(signal.SIGHUP)

    def moved() -> bool:
        assert post_json(proxy.base_url, "/v1/chat/completions", chat_body()).status == 200
        return bool(asked(third))

    wait_until(moved, "the key is used at its new upstream")
    before = len(asked(other))
    for _ in range(6):
        assert post_json(proxy.base_url, "/v1/chat/completions", chat_body()).status == 200
    assert len(asked(other)) == before
