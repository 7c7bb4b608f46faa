"""A port that other machines reach never opens by itself."""

from __future__ import annotations

import pytest
from quotapool.domain.request_record import ANONYMOUS
from quotapool.openai.refusal import Refusal
from quotapool.request.auth import ClientAuth

from tests.fakes.heads import head


def gate(*, clients: dict[str, str], keys_required: bool) -> ClientAuth:
    made = ClientAuth()
    made.configure(clients=clients, hosts=[], origins=[], allow_anonymous=False, keys_required=keys_required)
    return made


@pytest.mark.parametrize("headers", [{"Host": "127.0.0.1"}, {"Host": "localhost", "Authorization": "Bearer any-text"}])
def test_if_the_last_client_key_is_revoked_on_an_open_port_nobody_comes_in(headers):
    with pytest.raises(Refusal) as refused:
        gate(clients={}, keys_required=True).enter(head(headers))
    assert refused.value.status == 401


def test_on_loopback_no_key_is_needed():
    assert gate(clients={}, keys_required=False).enter(head({"Host": "127.0.0.1:8080"})) == ANONYMOUS
