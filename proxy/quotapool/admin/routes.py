"""The admin API as a table of routes and error codes: what is served and the OpenAPI document both come from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quotapool.domain.actor import Role
from quotapool.reports.explanation import Explanation
from quotapool.shapes import advice as advice_shapes
from quotapool.shapes import cache as cache_shapes
from quotapool.shapes import clients as client_shapes
from quotapool.shapes import general as shapes
from quotapool.shapes import logins as login_shapes
from quotapool.shapes import now as now_shapes
from quotapool.shapes import requests as request_shapes
from quotapool.shapes import work as work_shapes

PREFIX: Final = "/admin"
LARGEST_BODY: Final = 2**20  # bytes, unless its route says otherwise


ERROR_CODES: Final[dict[str, tuple[int, str]]] = {  # code -> status, meaning
    "bad_request": (400, "The body or the query is not as described; the message names the place."),
    "admin_token_wanted": (401, "No admin token and no login, or a wrong one."),
    "login_failed": (401, "A wrong token, or a link that is used up or too old."),
    "host_not_allowed": (403, "The Host is neither loopback, nor admin_listen's, nor in allowed_hosts."),
    "page_not_allowed": (403, "The request comes from a web page of another origin."),
    "role_not_enough": (403, "A viewer may look, and change nothing."),
    "no_role": (403, "Who is calling is known, and has no role here."),
    "csrf_wanted": (403, "A change from the page without the X-Quotapool-CSRF of its session."),
    "identity_unclear": (403, "The trusted header has several values, or none that names a person."),
    "login_refused": (403, "The identity provider let nobody in, or what it says is not accepted."),
    "not_found": (404, "No such path, key, account, client, team, request or job."),
    "method_not_allowed": (405, "This path has other methods."),
    "conflict": (409, "It contradicts what is there: an id or a secret is in use already, or the key is configured."),
    "vault_locked": (409, "The stored keys need another master key. Nothing was changed."),
    "no_master_key": (409, "A shared store needs a configured master key before it can hold keys."),
    "body_too_large": (413, "The body is larger than 1 MiB, or an import's than 8 MiB."),
    "too_many_jobs": (429, "As many jobs as may run at a time are running."),
    "too_many_streams": (429, "As many pages as may listen are listening."),
    "key_refused": (422, "OpenAI does not accept this secret, or did not answer."),
    "too_many_logins": (429, "Too many failed logins from this address; Retry-After tells when to try again."),
    "internal_error": (500, "A fault in the proxy; its log has the details."),
    "identity_provider_failed": (502, "The identity provider cannot be reached, or answers what none does."),
    "store_unavailable": (503, "The store does not answer."),
}


class ApiError(Exception):
    """A refusal: one of ERROR_CODES, and a message for people (never a secret). `retry_after_s`: 0 if it does not
    matter."""

    def __init__(self, code: str, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status, _ = ERROR_CODES[code]
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `name`: its operationId, and the name of its handler; `errors`: codes besides the general ones;
    `most_bytes`: of its body.

    `role`: the least that may call it; None: a viewer for GET, else an operator. `is_open`: nobody need be logged in.
    `recorded`: whether a call that changes something gets a record here (`recorder.py`); False: its handler sees to
    that, or it changes nothing.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: type
    body: type | None = None
    query: type | None = None
    status: int = 200
    errors: tuple[str, ...] = ()
    most_bytes: int = LARGEST_BODY
    role: Role | None = None
    is_open: bool = False
    recorded: bool = True

    @property
    def least_role(self) -> Role:
        return self.role or ("viewer" if self.method == "GET" else "operator")

    @property
    def is_recorded(self) -> bool:
        return self.recorded and self.method != "GET"

    def subject(self, name: str) -> str:
        """What a call about `name` is about, as records name it: `k/alpha`; "": nothing by name."""
        kind = _KINDS.get(self.path.split("/")[1], "")
        return f"{kind}{name}" if kind and name else ""


_KINDS: Final = {"keys": "k/", "clients": "c/", "teams": "t/", "accounts": "a/"}
_KEY: Final = "/keys/{id}"
_CLIENT: Final = "/clients/{id}"
_TEAM: Final = "/teams/{id}"
_JOB: Final = "/jobs/{id}"
_REQUEST: Final = "/requests/{id}"

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/keys", "list_keys", "Every key.", shapes.Keys, query=shapes.KeyQuery),
    Route("POST", "/keys", "add_key", "Add a key to the pool; all replicas use it within a second or so.",
          shapes.KeyAdded, body=shapes.NewKey, status=201,
          errors=("conflict", "vault_locked", "no_master_key", "key_refused")),
    Route("GET", _KEY, "show_key", "One key.", shapes.KeyRow, errors=("not_found",)),
    Route("DELETE", _KEY, "forget_key", "Delete a stored key, its secret and its state.", shapes.Deleted,
          errors=("not_found", "conflict")),
    Route("POST", f"{_KEY}/disable", "disable_key", "No requests until it is enabled.", shapes.KeyState,
          errors=("not_found",)),
    Route("POST", f"{_KEY}/enable", "enable_key", "Active again, whatever happened before.", shapes.KeyState,
          errors=("not_found",)),
    Route("POST", f"{_KEY}/drain", "drain_key", "No new requests; running ones are completed.", shapes.KeyState,
          errors=("not_found",)),
    Route("POST", f"{_KEY}/remove", "remove_key", "Out permanently, until it is enabled or its secret changes.",
          shapes.KeyState, body=shapes.RemoveKey, errors=("not_found", "conflict")),
    Route("POST", f"{_KEY}/probe", "probe_key", "Ask OpenAI about it now.", shapes.ProbeResult, errors=("not_found",)),
    Route("GET", "/pool", "show_pool", "A summary of the pool.", shapes.PoolRow),
    Route("GET", "/now", "show_now", "How the pool stands: what to look at, room, credit, queues.", now_shapes.Now),
    Route("GET", "/samples", "show_samples", "Room, use and queues of the last hour.", now_shapes.Samples,
          query=now_shapes.SampleQuery),
    Route("GET", "/savings", "show_savings", "What clients were spared this month.", now_shapes.Savings),
    Route("GET", "/advice", "show_advice", "What clients could do to need less of the pool.", advice_shapes.AdviceRows),
    Route("GET", "/cache", "show_cache", "What the cache keeps, did and saved.", cache_shapes.CacheState),
    Route("DELETE", "/cache", "clear_cache", "Delete kept answers, in all replicas at once.", cache_shapes.CacheCleared,
          query=cache_shapes.CacheQuery),
    Route("GET", "/events", "list_events", "Changes of state, newest first.", shapes.Events,
          query=shapes.EventQuery),
    Route("GET", "/usage", "show_usage", "Usage and spend, in time.", shapes.UsageRows, query=shapes.UsageQuery),
    Route("GET", "/requests", "list_requests", "The last requests, newest first.", request_shapes.RequestRows,
          query=request_shapes.RequestQuery),
    Route("GET", _REQUEST, "show_request", "One of the last requests.", request_shapes.RequestRow,
          errors=("not_found",)),
    Route("GET", f"{_REQUEST}/explanation", "explain_request", "Why it was refused or slow.", Explanation,
          errors=("not_found",)),
    Route("GET", "/clients", "list_clients", "All clients.", client_shapes.ClientRows),
    Route("POST", "/clients", "add_client", "Add a client; its key is shown once.", client_shapes.ClientAdded,
          body=client_shapes.NewClient, status=201, errors=("conflict",)),
    Route("GET", _CLIENT, "show_client", "One client.", client_shapes.ClientRow, errors=("not_found",)),
    Route("PATCH", _CLIENT, "set_client", "Change some options; all replicas obey within a second.",
          client_shapes.ClientRow, body=client_shapes.ClientChange, errors=("not_found", "conflict")),
    Route("POST", f"{_CLIENT}/rotate", "rotate_client", "A new key, shown once; the old one is served for a while.",
          client_shapes.ClientRotated, body=client_shapes.ClientRotation, errors=("not_found", "conflict")),
    Route("POST", f"{_CLIENT}/suspend", "suspend_client", "Refuse it until it is resumed.", client_shapes.ClientService,
          body=client_shapes.SuspendClient, errors=("not_found",)),
    Route("POST", f"{_CLIENT}/resume", "resume_client", "Serve it again.", client_shapes.ClientService),
    Route("DELETE", _CLIENT, "revoke_client", "Revoke a client's key.", shapes.Deleted,
          errors=("not_found", "conflict")),
    Route("GET", "/teams", "list_teams", "All teams.", client_shapes.TeamRows),
    Route("POST", "/teams", "add_team", "Add a team.", client_shapes.TeamRow, body=client_shapes.NewTeam, status=201,
          errors=("conflict",)),
    Route("GET", _TEAM, "show_team", "One team.", client_shapes.TeamRow, errors=("not_found",)),
    Route("PATCH", _TEAM, "set_team", "Change some options; all replicas obey within a second.", client_shapes.TeamRow,
          body=client_shapes.TeamChange, errors=("not_found", "conflict")),
    Route("GET", "/key-lines", "list_key_lines", "Every key in short, of thousands.", work_shapes.KeyLines),
    Route("GET", f"{_KEY}/users", "list_key_users", "Who used it, of the last requests.", work_shapes.KeyUsers,
          errors=("not_found",)),
    Route("POST", "/jobs/keys", "start_key_job", "The same for many keys, in the background.", work_shapes.Job,
          body=work_shapes.KeyWork, status=202, errors=("too_many_jobs",), recorded=False),
    Route("POST", "/jobs/import", "start_import", "Add many keys, in the background.", work_shapes.Job,
          body=work_shapes.KeyImport, status=202, errors=("too_many_jobs",), most_bytes=8 * 2**20,
          recorded=False),
    Route("GET", "/jobs", "list_jobs", "Those of the last hour, of this replica.", work_shapes.Jobs),
    Route("GET", _JOB, "show_job", "One job.", work_shapes.Job, errors=("not_found",)),
    Route("DELETE", _JOB, "stop_job", "Stop it; what was done stays done.", work_shapes.Job, errors=("not_found",),
          recorded=False),
    Route("GET", "/accounts", "list_accounts", "Every account that has keys.", work_shapes.AccountRows),
    Route("POST", "/accounts/{id}/topup", "top_up_account", "Record credit that was bought, and try it again at once.",
          work_shapes.AccountRow, body=work_shapes.TopUp, errors=("not_found",)),
    Route("GET", "/reconciliation", "show_reconciliation", "This month's spend beside OpenAI's own costs.",
          work_shapes.Reconciliation),
    Route("GET", "/configuration", "show_configuration", "Every option in force, and where it was set.",
          work_shapes.Configuration),
    Route("POST", "/dry-run", "try_request", "What would happen to a request now; nothing is sent or reserved.",
          work_shapes.DryRunAnswer, body=work_shapes.DryRun, role="viewer", recorded=False),
    Route("DELETE", _TEAM, "remove_team", "Remove a team that has no clients.", shapes.Deleted,
          errors=("not_found", "conflict")),
    Route("GET", "/login-methods", "login_methods", "How people may log in.", login_shapes.LoginMethods, is_open=True),
    Route("POST", "/login", "login", "Log in to the page, with the admin token or the code of a one-time link.",
          login_shapes.OperatorSession, body=login_shapes.Login, errors=("login_failed", "too_many_logins"),
          is_open=True, recorded=False),
    Route("POST", "/logout", "logout", "End this session of the page.", shapes.Deleted, role="viewer", recorded=False),
    Route("GET", "/session", "show_session", "Who is calling.", login_shapes.OperatorSession),
    Route("GET", "/logins", "list_logins", "The sessions of the page; a viewer sees its own.", login_shapes.LoginRows),
    Route("DELETE", "/logins/{id}", "end_login", "End a session of the page; a viewer may end its own.", shapes.Deleted,
          errors=("not_found",), role="viewer", recorded=False),
)  # fmt: skip

GENERAL_ERRORS: Final = (
    *("bad_request", "admin_token_wanted", "host_not_allowed", "page_not_allowed", "body_too_large"),
    *("role_not_enough", "no_role", "csrf_wanted", "identity_unclear", "internal_error", "store_unavailable"),
)
