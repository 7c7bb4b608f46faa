"""Which path another path stands for."""

from __future__ import annotations

import pytest
from quotapool.openai.endpoints import resolve
from quotapool.openai.replies import PATH_NOT_ALLOWED, PATH_NOT_FOUND
from quotapool.web.aliases import Aliases

ALL = Aliases({"/proxy/*": "/", "/proxy/azure": "/v1", "/openai/deployments/*": "/v1", "/": "/v1"})


@pytest.mark.parametrize(
    ("target", "real"),
    [
        ("/proxy/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/proxy/my-group/v1/models?limit=2", "/v1/models?limit=2"),
        ("/proxy/azure/embeddings", "/v1/embeddings"),  # as long, and without a *
        ("/openai/deployments/gpt-4o/chat/completions?api-version=1", "/v1/chat/completions?api-version=1"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/proxyless/chat", "/v1/proxyless/chat"),  # whole parts only
        ("/proxy", "/v1/proxy"),
        ("/proxy/openai", ""),
        ("*", "*"),
    ],
)
def test_the_longest_alias_that_fits_counts(target, real):
    assert ALL.real(target) == real


def test_a_path_that_no_alias_fits_stays_as_it_is():
    assert Aliases({"/proxy/*": "/"}).real("/chat/completions") == "/chat/completions"


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("/proxy/x/v1/organization/projects", PATH_NOT_ALLOWED),
        ("/proxy/x/v1/files/../organization", PATH_NOT_ALLOWED),
        ("/proxy/x/v1/%2e%2e/v1/organization", PATH_NOT_ALLOWED),
        ("/proxy/x//v1/chat/completions", PATH_NOT_FOUND),
        ("/proxy/x/admin/keys", PATH_NOT_FOUND),
        ("/proxy/x", PATH_NOT_FOUND),
    ],
)
def test_no_alias_is_a_way_around_what_is_refused(target, answer):
    assert resolve("GET", Aliases({"/proxy/*": "/"}).real(target)) is answer
