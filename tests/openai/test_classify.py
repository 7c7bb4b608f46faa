"""Every error OpenAI is known to send is understood: what to do, what it concerns, for how long.

Bodies are as quoted in public captures and OpenAI's error-code guide, with ids shortened.
"""

from __future__ import annotations

import json

import pytest
from quotapool.domain.verdict import OK, Kind, Scope
from quotapool.openai.classify import classify

from tests.fakes.heads import head

REQ = "invalid_request_error"
QUOTA = "insufficient_quota"


def body(message="", type_=REQ, code=None, param=None) -> bytes:
    return json.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}}).encode()


WRONG_KEY = (
    "Incorrect API key provided: sk-proj-****************MxYA. You can find your API key at "
    "https://platform.openai.com/account/api-keys."
)
DEACTIVATED = (
    "The OpenAI account associated with this API key has been deactivated. If you are the developer for this "
    "OpenAI app, please check your email for more information."
)
TERMINATED = (
    "Your access was terminated due to violation of our policies, please check your email for more information. "
    "If you believe this is in error and would like to appeal, please contact support@openai.com."
)
NO_CREDIT = (
    "You have no credits remaining. Add credits to continue using the API at "
    "https://platform.openai.com/settings/organization/billing/."
)
QUOTA_2024 = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
INACTIVE = "Your account is not active, please check your billing details on our website."
SCOPES = (
    "You have insufficient permissions for this operation. Missing scopes: {}. Check that you have the correct role "
    "in your organization (Reader, Writer, Owner) and project (Member, Owner), and if you're using a restricted API "
    "key, that it has the necessary scopes."
)
VERIFY = (
    "Your organization must be verified to {}. Please go to: https://platform.openai.com/settings/organization/general "
    "and click on Verify Organization. If you just verified, it can take up to 15 minutes for access to propagate."
)
FOREIGN_ITEM = (
    "The encrypted content gAAA... could not be verified. Reason: Encrypted content organization_id did not match "
    "the target organization."
)
BILLING_PAGE = (
    "Your request to GET /v1/dashboard/billing/subscription must be made with a session key (that is, it can only be "
    "made from the browser). You made it with the following key type: secret."
)

# status, message, type, code -> kind, scope, reason
ERRORS = [
    # dead
    (401, WRONG_KEY, REQ, "invalid_api_key", Kind.DEAD, Scope.KEY, "invalid_api_key"),
    (401, WRONG_KEY, REQ, None, Kind.DEAD, Scope.KEY, "invalid_api_key"),
    (401, DEACTIVATED, REQ, "account_deactivated", Kind.DEAD, Scope.ORGANIZATION, "account_deactivated"),
    (401, DEACTIVATED, REQ, None, Kind.DEAD, Scope.ORGANIZATION, "account_deactivated"),
    (401, "This key is associated with a deactivated account. If you feel this is an error, contact us", REQ,
     None, Kind.DEAD, Scope.ORGANIZATION, "account_deactivated"),
    (403, "Your OpenAI account has been deactivated, please check your email", REQ, None,
     Kind.DEAD, Scope.ORGANIZATION, "account_deactivated"),
    (401, TERMINATED, "access_terminated", None, Kind.DEAD, Scope.ORGANIZATION, "access_terminated"),
    (403, TERMINATED, "access_terminated", "access_terminated", Kind.DEAD, Scope.ORGANIZATION, "access_terminated"),
    (429, TERMINATED, "access_terminated", None, Kind.DEAD, Scope.ORGANIZATION, "access_terminated"),
    (429, TERMINATED, "requests", "rate_limit_exceeded", Kind.DEAD, Scope.ORGANIZATION, "access_terminated"),
    (403, TERMINATED, REQ, None, Kind.DEAD, Scope.ORGANIZATION, "access_terminated"),
    (401, "You must be a member of an organization to use the API. Please contact us.", REQ, None,
     Kind.DEAD, Scope.KEY, "not_a_member"),
    # money
    (429, NO_CREDIT, QUOTA, "credit_balance_exhausted", Kind.MONEY, Scope.ORGANIZATION, "credit_balance_exhausted"),
    (429, NO_CREDIT, "billing_error", None, Kind.MONEY, Scope.ORGANIZATION, "credit_balance_exhausted"),
    (429, "Monthly cap.", QUOTA, "organization_spend_limit_exceeded", Kind.MONEY, Scope.ORGANIZATION,
     "organization_spend_limit_exceeded"),
    (429, "Other projects can continue", QUOTA, "project_spend_limit_exceeded", Kind.MONEY, Scope.ACCOUNT,
     "project_spend_limit_exceeded"),
    (429, "Assigned limit.", "some_new_type", "organization_usage_limit_exceeded", Kind.MONEY, Scope.ORGANIZATION,
     "organization_usage_limit_exceeded"),
    (429, QUOTA_2024, QUOTA, "insufficient_quota", Kind.MONEY, Scope.ACCOUNT, "insufficient_quota"),
    (429, "You exceeded your current quota, please check your plan and billing details.", QUOTA, None,
     Kind.MONEY, Scope.ACCOUNT, "insufficient_quota"),
    (429, QUOTA_2024, "", None, Kind.MONEY, Scope.ACCOUNT, "insufficient_quota"),
    (429, QUOTA_2024, "requests", "rate_limit_exceeded", Kind.MONEY, Scope.ACCOUNT, "insufficient_quota"),
    (429, "A wording of next year.", QUOTA, "next_years_limit", Kind.MONEY, Scope.ACCOUNT, "next_years_limit"),
    (429, INACTIVE, "billing_not_active", "billing_not_active", Kind.MONEY, Scope.ORGANIZATION, "billing_not_active"),
    (429, INACTIVE, "requests", None, Kind.MONEY, Scope.ORGANIZATION, "billing_not_active"),
    (400, "Billing hard limit has been reached", REQ, "billing_hard_limit_reached", Kind.MONEY, Scope.ACCOUNT,
     "billing_hard_limit_reached"),
    (400, "Billing hard limit has been reached", REQ, None, Kind.MONEY, Scope.ACCOUNT, "billing_hard_limit_reached"),
    (402, "Pay.", REQ, None, Kind.MONEY, Scope.ACCOUNT, "payment_required"),
    # our own headers, our own network
    (401, "OpenAI-Organization header should match organization for API key", REQ, "mismatched_organization",
     Kind.HEADER, Scope.NONE, "mismatched_organization"),
    (401, "OpenAI-Project header should match project for API key", REQ, "mismatched_project",
     Kind.HEADER, Scope.NONE, "mismatched_project"),
    (401, "OpenAI-Project header should match project for API key", REQ, None,
     Kind.HEADER, Scope.NONE, "mismatched_project"),
    (400, "no such organization : null", REQ, None, Kind.HEADER, Scope.NONE, "no_such_organization"),
    (401, "No such organization: org-x.", REQ, "invalid_organization",
     Kind.HEADER, Scope.NONE, "no_such_organization"),
    (401, "Your IP is not authorized to make this request.", "ip_not_authorized", "ip_not_authorized",
     Kind.EGRESS, Scope.NONE, "ip_not_authorized"),
    (403, "Country, region, or territory not supported", "request_forbidden",
     "unsupported_country_region_territory", Kind.EGRESS, Scope.NONE, "unsupported_country_region_territory"),
    (403, "Country, region, or territory not supported", "request_forbidden", None,
     Kind.EGRESS, Scope.NONE, "request_forbidden"),
    # permissions
    (401, SCOPES.format("model.request"), REQ, "missing_scope", Kind.SUSPECT, Scope.NONE,
     "missing_scope_model_request"),
    (403, SCOPES.format("model.request"), REQ, None, Kind.SUSPECT, Scope.NONE, "missing_scope_model_request"),
    (403, SCOPES.format("api.responses.write"), REQ, "missing_scope", Kind.MODEL, Scope.NONE, "missing_scope"),
    (401, SCOPES.format("api.model.read"), REQ, None, Kind.MODEL, Scope.NONE, "missing_scope"),
    (403, SCOPES.format("api.usage.read"), "server_error", None, Kind.MODEL, Scope.NONE, "missing_scope"),
    (403, BILLING_PAGE, "server_error", None, Kind.REQUEST, Scope.NONE, "session_key_required"),
    (401, "Invalid Authentication", REQ, None, Kind.SUSPECT, Scope.NONE, "http_401"),
    (401, "Your API key has expired.", REQ, "some_expiry_code", Kind.SUSPECT, Scope.NONE, "some_expiry_code"),
    (403, "Forbidden for a reason nobody wrote down.", "", None, Kind.SUSPECT, Scope.NONE, "http_403"),
    # model and feature
    (403, "Project `proj_x` does not have access to model `gpt-4o-mini`", REQ, "model_not_found",
     Kind.MODEL, Scope.NONE, "model_not_found"),
    (403, "Project `proj_x` does not have access to model `gpt-4o-mini`", REQ, None,
     Kind.MODEL, Scope.NONE, "model_not_found"),
    (404, "The model `x` does not exist (or you do not have access to it)", REQ, "model_not_found",
     Kind.MODEL, Scope.NONE, "model_not_found"),
    (404, "The model `x` does not exist", REQ, None, Kind.MODEL, Scope.NONE, "model_not_found"),
    (404, "Prompt with id 'pmpt_6895a7ef261c' not found.", REQ, None, Kind.MODEL, Scope.NONE, "prompt_not_found"),
    (400, VERIFY.format("stream this model"), REQ, "unsupported_value",
     Kind.MODEL, Scope.NONE, "organization_not_verified"),
    (403, VERIFY.format("use the model `gpt-image-1`"), REQ, None,
     Kind.MODEL, Scope.NONE, "organization_not_verified"),
    (404, VERIFY.format("use the model `o3`"), REQ, "model_not_found",
     Kind.MODEL, Scope.NONE, "organization_not_verified"),
    (400, "Invalid service_tier argument: The requested service tier is not allowed for this project.", REQ, None,
     Kind.MODEL, Scope.NONE, "service_tier_not_allowed"),
    (400, "Previous response cannot be used for this organization due to Zero Data Retention.", REQ, None,
     Kind.MODEL, Scope.NONE, "zero_data_retention"),
    (404, "The API deployment for this resource does not exist.", "", "DeploymentNotFound",
     Kind.MODEL, Scope.NONE, "deployment_not_found"),
    (404, "model 'llama3' not found", "not_found_error", None, Kind.MODEL, Scope.NONE, "model_not_found"),
    (404, 'model "llama3" not found, try pulling it first', "api_error", None,
     Kind.MODEL, Scope.NONE, "model_not_found"),
    (401, "The project you are requesting has been archived.", REQ, "not_authorized_invalid_project",
     Kind.DEAD, Scope.ACCOUNT, "not_authorized_invalid_project"),
    (400, "Organization has been restricted. Please contact us.", REQ, None,
     Kind.DEAD, Scope.ORGANIZATION, "organization_restricted"),
    # OpenAI itself
    (429, "Traffic grew too fast.", "rate_limit_error", "slow_down", Kind.SLOW_DOWN, Scope.NONE, "slow_down"),
    (429, "429 Resource Unavailable", "", "resource_unavailable",
     Kind.SERVICE, Scope.NONE, "resource_unavailable"),
    (429, "429 Resource Unavailable", "requests", None, Kind.SERVICE, Scope.NONE, "resource_unavailable"),
    (503, "The requested model is temporarily overloaded", "service_unavailable_error", "server_is_overloaded",
     Kind.SERVICE, Scope.NONE, "server_is_overloaded"),
    (503, "Slow down.", "service_unavailable_error", "slow_down", Kind.SERVICE, Scope.NONE, "slow_down"),
    (503, "That model is currently overloaded with other requests. You can retry your request", "server_error",
     None, Kind.SERVICE, Scope.NONE, "server_error"),
    (429, "That model is currently overloaded with other requests.", "server_error", None,
     Kind.SERVICE, Scope.NONE, "server_error"),
    (500, "The server had an error while processing your request. Sorry about that!", "server_error", None,
     Kind.SERVICE, Scope.NONE, "server_error"),
    (520, "", "", None, Kind.SERVICE, Scope.NONE, "http_520"),
    (408, "Timed out.", "", None, Kind.SERVICE, Scope.NONE, "http_408"),
    # the object lives elsewhere
    (400, "Previous response with id 'resp_1' not found.", REQ, "previous_response_not_found",
     Kind.STATE, Scope.NONE, "previous_response_not_found"),
    (400, "Previous response with id 'resp_1' not found.", REQ, None,
     Kind.STATE, Scope.NONE, "previous_response_not_found"),
    (400, FOREIGN_ITEM, REQ, "invalid_encrypted_content", Kind.STATE, Scope.NONE, "invalid_encrypted_content"),
    (400, "Cannot find file file-1, or project proj_x does not have access to it.", REQ, None,
     Kind.STATE, Scope.NONE, "file_not_found"),
    # the caller
    (400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", REQ,
     "invalid_prompt", Kind.REQUEST, Scope.NONE, "invalid_prompt"),
    (400, "Refused.", REQ, "bio_policy", Kind.REQUEST, Scope.NONE, "bio_policy"),
    (403, "Refused.", REQ, "cyber_policy", Kind.REQUEST, Scope.NONE, "cyber_policy"),
    (400, "Refused.", REQ, "content_policy_violation", Kind.REQUEST, Scope.NONE, "content_policy_violation"),
    (400, "Your request was rejected by the safety system.", "image_generation_user_error", "moderation_blocked",
     Kind.REQUEST, Scope.NONE, "moderation_blocked"),
    (400, "Unsupported value: 'temperature'", REQ, "unsupported_value",
     Kind.REQUEST, Scope.NONE, "unsupported_value"),
    (404, "No such File object: file-1", REQ, None, Kind.REQUEST, Scope.NONE, "http_404"),
    (404, "Invalid URL (POST /v1/nothing)", REQ, None, Kind.REQUEST, Scope.NONE, "http_404"),
    (409, "Conflict.", "", None, Kind.REQUEST, Scope.NONE, "http_409"),
    (413, "Too large.", "", None, Kind.REQUEST, Scope.NONE, "http_413"),
    (422, "Unprocessable.", "", None, Kind.REQUEST, Scope.NONE, "http_422"),
    # wait
    (429, "Something about limits.", "", None, Kind.WAIT, Scope.NONE, "http_429"),
    (429, "Slower, please.", "requests", "rate_limit_exceeded", Kind.WAIT, Scope.NONE, "rate_limit_exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "type_", "code", "kind", "scope", "reason"), ERRORS)
def test_each_known_error_is_understood(status, message, type_, code, kind, scope, reason):
    verdict = classify(status, head(), body(message, type_, code))
    assert (verdict.kind, verdict.scope, verdict.reason) == (kind, scope, reason)


@pytest.mark.parametrize(("status", "message", "type_", "code", "kind", "scope", "reason"), ERRORS)
def test_parameters_missing_from_a_real_body_change_nothing(status, message, type_, code, kind, scope, reason):
    said = {"message": message} | ({"type": type_} if type_ else {}) | ({"code": code} if code else {})
    verdict = classify(status, head(), json.dumps({"error": said}).encode())
    assert (verdict.kind, verdict.scope) == (kind, scope)


# A code of a known meaning decides even where upstream's words and type are new. status, code -> kind, scope
CODES = [
    (401, "invalid_api_key", Kind.DEAD, Scope.KEY),
    (401, "account_deactivated", Kind.DEAD, Scope.ORGANIZATION),
    (429, "access_terminated", Kind.DEAD, Scope.ORGANIZATION),
    (429, "credit_balance_exhausted", Kind.MONEY, Scope.ORGANIZATION),
    (429, "organization_spend_limit_exceeded", Kind.MONEY, Scope.ORGANIZATION),
    (429, "project_spend_limit_exceeded", Kind.MONEY, Scope.ACCOUNT),
    (429, "organization_usage_limit_exceeded", Kind.MONEY, Scope.ORGANIZATION),
    (429, "insufficient_quota", Kind.MONEY, Scope.ACCOUNT),
    (429, "billing_not_active", Kind.MONEY, Scope.ORGANIZATION),
    (400, "billing_hard_limit_reached", Kind.MONEY, Scope.ACCOUNT),
    (401, "mismatched_organization", Kind.HEADER, Scope.NONE),
    (401, "mismatched_project", Kind.HEADER, Scope.NONE),
    (401, "ip_not_authorized", Kind.EGRESS, Scope.NONE),
    (403, "unsupported_country_region_territory", Kind.EGRESS, Scope.NONE),
    (403, "missing_scope", Kind.MODEL, Scope.NONE),
    (403, "model_not_found", Kind.MODEL, Scope.NONE),
    (404, "model_not_found", Kind.MODEL, Scope.NONE),
    (429, "rate_limit_exceeded", Kind.WAIT, Scope.NONE),
    (429, "slow_down", Kind.SLOW_DOWN, Scope.NONE),
    (429, "resource_unavailable", Kind.SERVICE, Scope.NONE),
    (429, "server_is_overloaded", Kind.SERVICE, Scope.NONE),
    (400, "previous_response_not_found", Kind.STATE, Scope.NONE),
    (400, "invalid_encrypted_content", Kind.STATE, Scope.NONE),
    (403, "invalid_prompt", Kind.REQUEST, Scope.NONE),
    (403, "moderation_blocked", Kind.REQUEST, Scope.NONE),
    (403, "content_filter", Kind.REQUEST, Scope.NONE),
    (400, "image_parse_error", Kind.REQUEST, Scope.NONE),
]


@pytest.mark.parametrize(("status", "code", "kind", "scope"), CODES)
def test_a_known_code_decides_alone_and_is_the_reason(status, code, kind, scope):
    verdict = classify(status, head(), body("New words.", "new_type", code))
    assert (verdict.kind, verdict.scope, verdict.reason) == (kind, scope, code)


TYPES = [
    (403, "access_terminated", Kind.DEAD, Scope.ORGANIZATION),
    (429, "insufficient_quota", Kind.MONEY, Scope.ACCOUNT),
    (429, "billing_not_active", Kind.MONEY, Scope.ORGANIZATION),
    (403, "request_forbidden", Kind.EGRESS, Scope.NONE),
    (401, "ip_not_authorized", Kind.EGRESS, Scope.NONE),
    (429, "server_error", Kind.SERVICE, Scope.NONE),
    (429, "service_unavailable_error", Kind.SERVICE, Scope.NONE),
]


@pytest.mark.parametrize(("status", "type_", "kind", "scope"), TYPES)
def test_a_known_type_decides_if_the_code_is_null(status, type_, kind, scope):
    verdict = classify(status, head(), body("New words.", type_, None))
    assert (verdict.kind, verdict.scope, verdict.reason) == (kind, scope, type_)


WORDS = [
        (429, QUOTA_2024, Kind.MONEY, "insufficient_quota"),
        (401, "OpenAI-Organization header should match organization for API key", Kind.HEADER,
         "mismatched_organization"),
        (401, "Your IP is not authorized to make this request.", Kind.EGRESS, "ip_not_authorized"),
        (403, "Country, region, or territory not supported", Kind.EGRESS, "unsupported_country_region_territory"),
        (403, "You are not allowed to sample from this model", Kind.MODEL, "model_not_allowed"),
        (404, "Item with id 'rs_1' not found.", Kind.STATE, "item_not_found"),
        (429, "Request too large for gpt-4.1.", Kind.TOO_LARGE, "request_too_large"),
        (429, "Rate limit reached for gpt-4o-mini.", Kind.WAIT, "rate_limit_exceeded"),
        (429, "Rate limit exceeded for images per minute.", Kind.WAIT, "rate_limit_exceeded"),
        (429, "You've exceeded the rate limit, please slow down.", Kind.WAIT, "rate_limit_exceeded"),
        (429, "That model is currently overloaded with other requests.", Kind.SERVICE, "server_is_overloaded"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "kind", "reason"), WORDS)
def test_known_words_decide_if_code_and_type_are_null(status, message, kind, reason):
    verdict = classify(status, head(), body(message, None, None))
    assert (verdict.kind, verdict.reason) == (kind, reason)


@pytest.mark.parametrize("status", [101, 200, 201, 204, 301, 304, 307])
def test_a_success_is_ok_without_reading_the_body(status):
    assert classify(status, head(), body(WRONG_KEY, REQ, "invalid_api_key")) is OK


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Kind.SUSPECT), (403, Kind.EGRESS), (404, Kind.REQUEST), (407, Kind.EGRESS), (413, Kind.REQUEST),
        (429, Kind.EGRESS), (451, Kind.EGRESS), (500, Kind.SERVICE), (502, Kind.SERVICE), (504, Kind.SERVICE),
        (522, Kind.SERVICE), (529, Kind.SERVICE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Just a moment...</title>", b"", b"\xff\xfe", b"[]", b'"no"'])
def test_a_page_that_is_not_the_api_blames_no_key(status, kind, page):
    if status == 401 and page.startswith(b"<"):
        kind = Kind.EGRESS  # no API answers in HTML: a gateway's login page, say
    verdict = classify(status, head({"content-type": "text/html"}), page)
    assert (verdict.kind, verdict.scope, verdict.reason) == (kind, Scope.NONE, f"http_{status}")


def test_a_page_that_quotes_openais_words_removes_no_key():
    for status in (401, 403, 429, 502):
        assert classify(status, head(), TERMINATED.encode()).kind not in {Kind.DEAD, Kind.MONEY}


@pytest.mark.parametrize("echoed", [TERMINATED, DEACTIVATED, QUOTA_2024, WRONG_KEY, NO_CREDIT, INACTIVE])
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "Invalid value: '{}'. Supported values are: 'low', 'high'.", "invalid_value"),
        (400, "Unknown parameter: '{}'.", "unknown_parameter"),
        (404, "The model `{}` does not exist or you do not have access to it.", "model_not_found"),
        (404, "The model `{}` does not exist", None),
        (403, "Project `proj_x` does not have access to model `{}`", "model_not_found"),
        (429, "Rate limit reached for {} on requests per min (RPM): Limit 3, Used 3, Requested 1.",
         "rate_limit_exceeded"),
    ],
)  # fmt: skip
def test_a_caller_whose_words_are_echoed_cannot_take_a_key_out(status, message, code, echoed):
    assert classify(status, head(), body(message.format(echoed), REQ, code)).kind not in {
        Kind.DEAD, Kind.MONEY, Kind.SUSPECT,
    }  # fmt: skip


def test_the_message_is_for_people_so_it_is_short_and_without_secrets():
    verdict = classify(401, head(), body(WRONG_KEY + " x" * 500, REQ, "invalid_api_key"))
    assert verdict.message.startswith("Incorrect API key provided: ")
    assert "MxYA" not in verdict.message
    assert len(verdict.message) == 300


def test_a_secret_at_the_cut_is_masked_before_it_is_cut():
    key = "sk-proj-" + "aB3" * 40
    verdict = classify(400, head(), body("x" * 290 + " " + key))
    assert "sk-" not in verdict.message


@pytest.mark.parametrize("code", ["Has Spaces", "sk-proj-abcdefghijklmnop", "x" * 65, "é"])
def test_a_strange_code_never_becomes_a_metric_label(code):
    assert classify(400, head(), body("m", "", code)).reason == "http_400"
