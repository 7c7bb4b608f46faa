"""Each request is recognised, and no spelling gets an organization path to the pool's keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.endpoints import NAMES, OTHER, Endpoint, resolve
from quotapool.openai.replies import METHOD_NOT_ALLOWED, PATH_NOT_ALLOWED, PATH_NOT_FOUND, ProxyError


def endpoint(method: str, path: str) -> Endpoint:
    found = resolve(method, path)
    assert isinstance(found, Endpoint), found
    return found


@pytest.mark.parametrize(
    ("path", "name", "estimate", "dialect"),
    [
        ("/v1/chat/completions", "chat", "chat", "chat"),
        ("/v1/completions", "completions", "completions", "chat"),
        ("/v1/responses", "responses", "responses", "responses"),
        ("/v1/embeddings", "embeddings", "embeddings", None),
        ("/v1/moderations", "moderations", None, None),
    ],
)
@pytest.mark.parametrize("ending", ["", "?beta=true", "/", "//"])
def test_inference_is_estimated_and_replayable_however_its_path_ends(path, name, estimate, dialect, ending):
    found = endpoint("POST", path + ending)
    assert (found.name, found.estimate, found.dialect) == (name, estimate, dialect)
    assert found.replayable
    assert found.json_body


@pytest.mark.parametrize("path", ["/v1/chat/%63ompletions", "/v1/chat//completions", "/v1/Chat/Completions"])
def test_no_spelling_of_chat_escapes_its_estimate(path):
    assert endpoint("POST", path).estimate == "chat"


def test_only_for_responses_a_replay_depends_on_the_body():
    assert endpoint("POST", "/v1/responses").replay_depends_on_body
    assert not endpoint("POST", "/v1/chat/completions").replay_depends_on_body


@pytest.mark.parametrize("path", ["batches", "fine_tuning/jobs", "files", "uploads", "images/generations", "videos",
                                  "audio/speech", "vector_stores", "responses/compact", "threads/runs", "new_thing",
                                  "responses/resp_1/cancel", "chat/completions/chatcmpl-1"])  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_request_that_changes_something_is_never_replayed(method, path):
    assert not endpoint(method, f"/v1/{path}").replayable


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["models", "models/gpt-4o", "responses/resp_1?stream=true", "new_thing"])
def test_reading_is_always_replayable_and_costs_no_tokens(method, path):
    found = endpoint(method, f"/v1/{path}")
    assert found.replayable
    assert found.estimate is None
    assert not found.json_body


@pytest.mark.parametrize(
    ("path", "is_json"),
    [
        ("batches", True), ("fine_tuning/jobs", True), ("images/generations", True), ("audio/speech", True),
        ("vector_stores/vs_1/files", True), ("conversations", True), ("containers", True), ("uploads", True),
        ("images/edits", True), ("uploads/upload_1/complete", True), ("realtime/client_secrets", True),
        ("files", False), ("uploads/upload_1/parts", False), ("audio/transcriptions", False),
        ("audio/translations", False), ("images/variations", False), ("containers/cntr_1/files", True),
        ("something_new", False),
    ],
)  # fmt: skip
def test_only_json_bodies_are_buffered(path, is_json):
    assert endpoint("POST", f"/v1/{path}").json_body is is_json


@given(st.sampled_from(["GET", "POST", "DELETE"]), st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1))
def test_metric_labels_come_from_a_fixed_set(method, segment):
    found = resolve(method, f"/v1/{segment}/x")
    assert found is PATH_NOT_ALLOWED or (isinstance(found, Endpoint) and found.name in NAMES | {OTHER})


@pytest.mark.parametrize(
    "path",
    ["/chat/completions", "/", "", "*", "/v1", "/v1/", "/v2/chat/completions", "/v1/v1/chat/completions",
     "/v1//chat/completions", "//v1/chat/completions", "/V1/chat/completions", "http://evil.example/v1/models",
     "/v1beta/models", "/%761/models", "/openai/v1/chat/completions"],
)  # fmt: skip
def test_a_wrong_base_url_gets_a_404(path):
    assert resolve("POST", path) is PATH_NOT_FOUND


@pytest.mark.parametrize(
    "path",
    ["/v1/files/../models", "/v1/files/./x", "/v1/files/%2e%2e/models", "/v1/files/..%2fmodels", "/v1/files/a%2Fb",
     "/v1/files/a\\b", "/v1/files/a%5cb", "/v1/files/%00", "/v1/files/a%0d%0ab", "/v1/files/a\tb", "/v1/files/a b",
     "/v1/files/%252e%252e/models", "/v1/files/%zz", "/v1/files/%", "/v1/files/..;/models", "/v1/files/%u002e",
     "/v1/files/%c0%ae%c0%ae/models", "/v1/files/\uff0e\uff0e/models", "/v1/%66iles",
     "/v1/files/file-a;b", "/v1/files;x/file-a", "/v1/files/file-a%3Bb"],
)  # fmt: skip
def test_what_upstream_might_read_differently_is_refused(path):
    assert resolve("GET", path) is PATH_NOT_FOUND


@pytest.mark.parametrize("path", ["/v1/files/file-abc", "/v1/models/ft:gpt-4o:org::id", "/v1/models/ft%3Agpt-4o%3Aorg",
                                  "/v1/vector_stores/vs_1/files?limit=2&order=..%2f", "/v1/files/100%25"])  # fmt: skip
def test_ordinary_ids_and_any_query_pass(path):
    assert isinstance(resolve("GET", path), Endpoint)


@pytest.mark.parametrize(
    "name",
    ["gpt-4o", "meta-llama/Llama-3.1-8B", "meta-llama%2FLlama-3.1-8B", "meta-llama%2fLlama", "my%20model", "a/b/c%2Fd",
     "accounts/fireworks/models/x"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_models_name_may_contain_slashes_and_blanks_encoded_or_not(method, name):
    found = resolve(method, f"/v1/models/{name}")
    assert isinstance(found, Endpoint)
    assert (found.name, found.path) == ("models", "models/{id}")


@pytest.mark.parametrize(
    "name",
    ["../organization", "..%2Forganization", "%2e%2e%2Forganization", "x%2F..%2F..%2Forganization", "x%252Fy", "a%5Cb",
     "x%00", "x%0Ay", "..;%2Forganization", "x%2F.%2Fy"],
)  # fmt: skip
def test_no_spelling_of_a_models_name_leads_to_another_path(name):
    assert resolve("GET", f"/v1/models/{name}") in {PATH_NOT_FOUND, PATH_NOT_ALLOWED}


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "post", "PROPFIND"])
def test_methods_that_the_api_does_not_have_are_refused(method):
    assert resolve(method, "/v1/chat/completions") is METHOD_NOT_ALLOWED


@pytest.mark.parametrize(
    "path",
    ["/v1/organization/projects", "/v1/organization", "/v1/organization?x=1", "/v1/dashboard/billing/credit_grants",
     "/dashboard/billing/subscription", "/v1/Organization/costs", "/v1//organization/costs", "//v1/organization",
     "/v1/./organization", "/v1/files/../organization/costs", "/v1/files/%2e%2e/organization", "/v1/%6frganization",
     "/v1/%256frganization", "/v1%2forganization", "/v1/files/..%252forganization", "/v1\\organization",
     "/v1/v1/organization", "/v1/organization;x=1/costs", "/v1/x/..;/organization", "/v1/organi\tzation",
     "/v1/organization%00", "/v1/../v1/organization", "/../v1/organization", "/organization/costs"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "TRACE"])
def test_organization_and_dashboard_paths_are_never_forwarded(method, path):
    assert resolve(method, path) is PATH_NOT_ALLOWED


def spellings(word: str) -> st.SearchStrategy[str]:
    """`word` with each character plain, in the other case, or percent-encoded up to three times."""

    def spelled(character: str, how: int) -> str:
        if how == 1:
            return character.swapcase()
        encoded = character
        for _ in range(how - 1):
            encoded = f"%{ord(encoded[0]):02x}{encoded[1:]}"
        return encoded

    return st.lists(st.integers(0, 4), min_size=len(word), max_size=len(word)).map(
        lambda ways: "".join(spelled(c, how) for c, how in zip(word, ways, strict=True))
    )


SLASHES = st.sampled_from(
    ["/", "//", "/./", "%2f", "%2F", "%252f", "\\", "%5c", "/x/../", "/x/%2e%2e/", "/%2e/", ";a/"]
)
FORBIDDEN = st.sampled_from(["organization", "dashboard"]).flatmap(spellings)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    st.sampled_from(["/", "//", "/x/../", "/./"]),
    spellings("v1"),
    SLASHES,
    FORBIDDEN,
    st.sampled_from(["", "/", "/projects", "%2fcosts", ";x", "?a=b", "%00", "#x", "/../organization"]),
)
def test_no_disguise_gets_an_organization_path_through(method, start, v1, slash, forbidden, rest):
    assert isinstance(resolve(method, start + v1 + slash + forbidden + rest), ProxyError)


@given(st.text("/.%2efFcC5\\;vV1orgdx", max_size=30), st.sampled_from(["organization", "dashboard"]))
def test_junk_in_front_of_an_organization_path_gets_nothing_through_either(junk, forbidden):
    found = resolve("GET", f"/v1/{junk}/../{forbidden}")
    assert isinstance(found, ProxyError)


@given(st.text(max_size=60), st.text(max_size=8))
def test_no_path_or_method_raises(path, method):
    assert isinstance(resolve(method, path), Endpoint | ProxyError)
    assert isinstance(resolve("GET", "/v1/" + path), Endpoint | ProxyError)
