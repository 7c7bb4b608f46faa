"""The table of operations holds all of OpenAI's API as its SDK knows it, and describes each as OpenAI does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.operations import NEVER_FORWARDED, OPERATIONS
from quotapool.openai.replies import PATH_NOT_ALLOWED

from tests.data import make_operations

LISTED = Path(__file__).parents[1] / "data" / "operations.txt"
SDK = [
    (method, path)
    for method, path in (line.split() for line in LISTED.read_text().splitlines() if not line.startswith("#"))
]
PLACEHOLDER = re.compile(r"\{[^}]*\}")
TABLE = {operation.path: operation for operation in OPERATIONS}


def spelled(path: str) -> str:
    """The path as a client would ask for it: ids instead of placeholders."""
    return "/v1" + PLACEHOLDER.sub("id_1", path)


def is_forbidden(path: str) -> bool:
    return path.split("/")[1] in NEVER_FORWARDED


def of(method: str, path: str) -> Endpoint:
    found = resolve(method, path)
    assert isinstance(found, Endpoint), found
    return found


def test_the_list_of_operations_is_the_installed_sdks():
    assert LISTED.read_text().splitlines() == make_operations.listing()


def test_every_operation_of_the_sdk_is_in_the_table_with_its_method():
    missing = [
        (method, path)
        for method, path in SDK
        if not is_forbidden(path)
        and method not in getattr(TABLE.get(PLACEHOLDER.sub("{id}", path).strip("/")), "methods", ())
    ]
    assert missing == []
    assert len(SDK) > 300


def test_the_table_invents_nothing_but_what_only_the_documentation_knows():
    known = {(method, PLACEHOLDER.sub("{id}", path).strip("/")) for method, path in SDK}
    invented = {(m, o.path) for o in OPERATIONS for m in o.methods} - known
    # The rate limit guide names it; the SDK has no method for it.
    assert invented == {("GET", "fine_tuning/model_limits")}


@pytest.mark.parametrize(("method", "path"), SDK)
def test_every_operation_is_recognised_or_refused(method, path):
    found = resolve(method, spelled(path))
    if is_forbidden(path):
        assert found is PATH_NOT_ALLOWED
    else:
        assert isinstance(found, Endpoint)
        assert found.path == PLACEHOLDER.sub("{id}", path).strip("/")


@pytest.mark.parametrize("path", ["me", "usage", "usage?date=2026-01-01", "dashboard/billing/usage", "ME", "%6de",
                                  "organization/costs", "projects/proj_1/roles"])  # fmt: skip
def test_what_a_key_reveals_of_its_owner_is_never_requested_with_the_pools(path):
    assert resolve("GET", f"/v1/{path}") is PATH_NOT_ALLOWED


def test_a_literal_segment_wins_over_an_id():
    assert of("GET", "/v1/videos/characters/char_1").path == "videos/characters/{id}"
    assert of("POST", "/v1/threads/runs").path == "threads/runs"
    assert of("POST", "/v1/threads/thread_1/runs").path == "threads/{id}/runs"
    assert of("GET", "/v1/agents/sessions").path == "agents/sessions"
    assert of("GET", "/v1/agents/agent_1").path == "agents/{id}"


@pytest.mark.parametrize(
    "path",
    ["images/generations", "images/edits", "audio/transcriptions", "responses/compact", "decisions", "threads/runs",
     "threads/thread_1/runs", "chat/completions", "responses", "embeddings", "completions"],
)  # fmt: skip
def test_usage_in_json_is_read(path):
    assert of("POST", f"/v1/{path}").reports_usage
    assert of("POST", f"/v1/{path}").readable


@pytest.mark.parametrize("path", ["images/generations", "images/edits", "audio/transcriptions", "audio/speech",
                                  "threads/runs", "threads/thread_1/runs/run_1/submit_tool_outputs"])  # fmt: skip
def test_usage_in_events_is_watched(path):
    assert of("POST", f"/v1/{path}").dialect == "responses"


@pytest.mark.parametrize("path", ["files/file-1/content", "containers/cntr_1/files/cfile_1/content",
                                  "videos/video_1/content", "skills/skill_1/content", "new_thing"])  # fmt: skip
def test_downloads_and_unknown_paths_are_not_read(path):
    assert not of("GET", f"/v1/{path}").readable
    assert of("GET", f"/v1/{path}").replayable


def test_an_unknown_path_of_a_known_family_passes_unread_and_is_never_repeated():
    found = of("POST", "/v1/responses/resp_1/something_new")
    assert (found.name, found.path, found.estimate, found.replayable) == ("responses", "", None, False)
    assert of("PATCH", "/v1/files/file-1").replayable is False
