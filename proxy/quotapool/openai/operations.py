"""Every path of OpenAI's API that the proxy forwards, and what it must know about each, as one table.

Sources: OpenAI's specification 2.3.0 and the Python SDK 3.54 (`tests/data/operations.txt`: each of its operations must
be found here). A path that is not listed is forwarded too, as one request that is not read and never repeated.

    path     after /v1/; {…} is any one segment
    methods  what the API has there; others are forwarded too. GET is a WebSocket's handshake if `body` includes ws
    body     of POST: json, form (multipart), sdp, ws (WebSocket); several with +; - none
    billed   tokens, images, audio (seconds or tokens), characters, seconds (of video, of live sessions), storage,
             inner (by the runs it starts); - nothing
    cost     how a request's tokens are estimated before it is sent; - one request, no tokens
    usage    where the answer reports its usage: json, sse, ws (the socket's events); - nowhere
    sse      how its SSE reports usage and errors: chat, or typed (each event has a `type`); - none that matters
    answer   json, sse, sdp, binary; text (plain text if that is asked for)
    replay   may it be sent twice: yes; body (unless that asks for `background` or `conversation`); - never.
             GET and HEAD: always
    state    home: what it creates or lists belongs to one account; names: its body may name such objects;
             - neither. A path with an id in it always belongs to that id's account
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_TABLE: Final = """
# path                           methods         body      billed     cost        usage    sse   answer     replay state

chat/completions                 GET,POST        json      tokens     chat        json+sse chat  json+sse   yes   names
chat/completions/{id}            GET,POST,DELETE json      -          -           -        -     json       -     -
chat/completions/{id}/messages   GET             -         -          -           -        -     json       -     -
completions                      POST            json      tokens     completions json+sse chat  json+sse   yes   -
responses                        GET,POST        json+ws   tokens     responses   json+sse typed json+sse   body  names
responses/compact                POST            json      tokens     responses   json     -     json       -     names
responses/input_tokens           POST            json      -          -           -        -     json       -     names
responses/{id}                   GET,DELETE      -         -          -           -        -     json+sse   -     -
responses/{id}/cancel            POST            -         -          -           -        -     json       -     -
responses/{id}/input_items       GET             -         -          -           -        -     json       -     -
embeddings                       POST            json      tokens     embeddings  json     -     json       yes   -
moderations                      POST            json      -          -           -        -     json       yes   -
decisions                        POST            json      tokens     responses   json     -     json       -     names

images/generations               POST            json      images     -           json+sse typed json+sse   -     -
images/edits                     POST            json+form images     -           json+sse typed json+sse   -     names
images/variations                POST            form      images     -           -        -     json       -     -
audio/transcriptions             POST            form      audio      -           json+sse typed json+sse+text -  -
audio/translations               POST            form      audio      -           -        -     json+text  -     -
audio/speech                     POST            json      characters -           sse      typed binary+sse -     names
audio/voices                     POST            form      -          -           -        -     json       -     home
audio/voices/{id}                DELETE          -         -          -           -        -     json       -     -
audio/voice_consents             GET,POST        form      -          -           -        -     json       -     home
audio/voice_consents/{id}        GET,POST,DELETE json      -          -           -        -     json       -     -
videos                           GET,POST        json+form seconds    -           -        -     json       -     home
videos/characters                POST            form      -          -           -        -     json       -     home
videos/characters/{id}           GET             -         -          -           -        -     json       -     -
videos/edits                     POST            json+form seconds    -           -        -     json       -     names
videos/extensions                POST            json+form seconds    -           -        -     json       -     names
videos/{id}                      GET,DELETE      -         -          -           -        -     json       -     -
videos/{id}/content              GET             -         -          -           -        -     binary     -     -
videos/{id}/remix                POST            json+form seconds    -           -        -     json       -     -
content_provenance_checks        POST            form      -          -           -        -     json       -     -

realtime                         GET             ws        tokens     -           ws       -     json       -     -
realtime/translations            GET             ws        tokens     -           ws       -     json       -     -
realtime/calls                   POST            form+sdp  tokens     -           -        -     sdp        -     home
realtime/calls/{id}/accept       POST            json      tokens     -           -        -     json       -     -
realtime/calls/{id}/hangup       POST            -         -          -           -        -     json       -     -
realtime/calls/{id}/refer        POST            json      -          -           -        -     json       -     -
realtime/calls/{id}/reject       POST            json      -          -           -        -     json       -     -
realtime/client_secrets          POST            json      inner      -           -        -     json       -     home
realtime/translations/client_secrets POST        json      inner      -           -        -     json       -     home
realtime/sessions                POST            json      inner      -           -        -     json       -     home
realtime/transcription_sessions  POST            json      inner      -           -        -     json       -     home
live/sessions                    GET,POST        json+ws   seconds    -           ws       -     json       -     home
live/sessions/{id}/attach        GET             ws        seconds    -           ws       -     json       -     -
live/sessions/{id}/fork          GET,POST        json+ws   seconds    -           ws       -     json       -     -
live/sessions/{id}/content       GET             -         -          -           -        -     binary     -     -
live/sessions/{id}/accept        POST            json      seconds    -           -        -     json       -     -
live/sessions/{id}/hangup        POST            -         -          -           -        -     json       -     -
live/sessions/{id}/refer         POST            json      -          -           -        -     json       -     -
live/sessions/{id}/reject        POST            json      -          -           -        -     json       -     -

models                           GET             -         -          -           -        -     json       -     -
models/{id}                      GET,DELETE      -         -          -           -        -     json       -     names
files                            GET,POST        form      storage    -           -        -     json       -     home
files/{id}                       GET,DELETE      -         -          -           -        -     json       -     -
files/{id}/content               GET             -         -          -           -        -     binary     -     -
uploads                          POST            json      -          -           -        -     json       -     home
uploads/{id}/cancel              POST            -         -          -           -        -     json       -     -
uploads/{id}/complete            POST            json      storage    -           -        -     json       -     -
uploads/{id}/parts               POST            form      -          -           -        -     json       -     -
batches                          GET,POST        json      inner      -           -        -     json       -     home
batches/{id}                     GET             -         -          -           -        -     json       -     -
batches/{id}/cancel              POST            -         -          -           -        -     json       -     -
vector_stores                    GET,POST        json      storage    -           -        -     json       -     home
vector_stores/{id}               GET,POST,DELETE json      -          -           -        -     json       -     -
vector_stores/{id}/search        POST            json      -          -           -        -     json       -     -
vector_stores/{id}/files         GET,POST        json      storage    -           -        -     json       -     -
vector_stores/{id}/files/{id}    GET,POST,DELETE json      -          -           -        -     json       -     -
vector_stores/{id}/files/{id}/content GET        -         -          -           -        -     json       -     -
vector_stores/{id}/file_batches  POST            json      storage    -           -        -     json       -     -
vector_stores/{id}/file_batches/{id} GET         -         -          -           -        -     json       -     -
vector_stores/{id}/file_batches/{id}/cancel POST -         -          -           -        -     json       -     -
vector_stores/{id}/file_batches/{id}/files GET   -         -          -           -        -     json       -     -
conversations                    POST            json      -          -           -        -     json       -     home
conversations/{id}               GET,POST,DELETE json      -          -           -        -     json       -     -
conversations/{id}/items         GET,POST        json      -          -           -        -     json       -     -
conversations/{id}/items/{id}    GET,DELETE      -         -          -           -        -     json       -     -
containers                       GET,POST        json      storage    -           -        -     json       -     home
containers/{id}                  GET,DELETE      -         -          -           -        -     json       -     -
containers/{id}/files            GET,POST        json+form -          -           -        -     json       -     -
containers/{id}/files/{id}       GET,DELETE      -         -          -           -        -     json       -     -
containers/{id}/files/{id}/content GET           -         -          -           -        -     binary     -     -

fine_tuning/jobs                 GET,POST        json      inner      -           -        -     json       -     home
fine_tuning/jobs/{id}            GET             -         -          -           -        -     json       -     -
fine_tuning/jobs/{id}/cancel     POST            -         -          -           -        -     json       -     -
fine_tuning/jobs/{id}/pause      POST            -         -          -           -        -     json       -     -
fine_tuning/jobs/{id}/resume     POST            -         -          -           -        -     json       -     -
fine_tuning/jobs/{id}/events     GET             -         -          -           -        -     json       -     -
fine_tuning/jobs/{id}/checkpoints GET            -         -          -           -        -     json       -     -
fine_tuning/checkpoints/{id}/permissions GET,POST json     -          -           -        -     json       -     -
fine_tuning/checkpoints/{id}/permissions/{id} DELETE -     -          -           -        -     json       -     -
fine_tuning/alpha/graders/run    POST            json      inner      -           -        -     json       -     names
fine_tuning/alpha/graders/validate POST          json      -          -           -        -     json       -     names
fine_tuning/model_limits         GET             -         -          -           -        -     json       -     home
evals                            GET,POST        json      -          -           -        -     json       -     home
evals/{id}                       GET,POST,DELETE json      -          -           -        -     json       -     -
evals/{id}/runs                  GET,POST        json      inner      -           -        -     json       -     -
evals/{id}/runs/{id}             GET,DELETE      -         -          -           -        -     json       -     -
evals/{id}/runs/{id}/cancel      POST            -         -          -           -        -     json       -     -
evals/{id}/runs/{id}/output_items GET            -         -          -           -        -     json       -     -
evals/{id}/runs/{id}/output_items/{id} GET       -         -          -           -        -     json       -     -
skills                           GET,POST        form      -          -           -        -     json       -     home
skills/{id}                      GET,POST,DELETE json      -          -           -        -     json       -     -
skills/{id}/content              GET             -         -          -           -        -     binary     -     -
skills/{id}/versions             GET,POST        form      -          -           -        -     json       -     -
skills/{id}/versions/{id}        GET,DELETE      -         -          -           -        -     json       -     -
skills/{id}/versions/{id}/content GET            -         -          -           -        -     binary     -     -
chatkit/sessions                 POST            json      -          -           -        -     json       -     home
chatkit/sessions/{id}/cancel     POST            -         -          -           -        -     json       -     -
chatkit/threads                  GET             -         -          -           -        -     json       -     home
chatkit/threads/{id}             GET,DELETE      -         -          -           -        -     json       -     -
chatkit/threads/{id}/items       GET             -         -          -           -        -     json       -     -
webhook_endpoints                GET,POST        json      -          -           -        -     json       -     home
webhook_endpoints/{id}           GET,POST,DELETE json      -          -           -        -     json       -     -
webhook_endpoints/{id}/rotate_secret POST        json      -          -           -        -     json       -     -
webhook_endpoints/{id}/test      POST            json      -          -           -        -     json       -     -
webhook_event_types              GET             -         -          -           -        -     json       -     -
safety/alerts/{id}               GET             -         -          -           -        -     json       -     -
safety/cases/{id}                GET             -         -          -           -        -     json       -     -

agents                           GET,POST        json      -          -           -        -     json       -     home
agents/{id}                      GET,POST,DELETE json      -          -           -        -     json       -     -
agents/automations               GET,POST        json      -          -           -        -     json       -     home
agents/automations/{id}          GET,POST,DELETE json      -          -           -        -     json       -     -
agents/automations/{id}/invocations GET,POST     json      inner      -           -        -     json       -     -
agents/automations/{id}/invocations/{id} GET     -         -          -           -        -     json       -     -
agents/automations/{id}/pause    POST            -         -          -           -        -     json       -     -
agents/automations/{id}/resume   POST            -         -          -           -        -     json       -     -
agents/environments              GET,POST        json      -          -           -        -     json       -     home
agents/environments/{id}         GET             -         -          -           -        -     json       -     -
agents/environments/{id}/files   GET,POST        json      -          -           -        -     json       -     -
agents/environments/templates    GET,POST        json      -          -           -        -     json       -     home
agents/environments/templates/{id} GET,POST,DELETE json    -          -           -        -     json       -     -
agents/sessions                  GET,POST        json      inner      -           -        -     json       -     home
agents/sessions/{id}             GET,POST,DELETE json      -          -           -        -     json       -     -
agents/sessions/{id}/artifacts   GET             -         -          -           -        -     json       -     -
agents/sessions/{id}/artifacts/{id} GET,DELETE   -         -          -           -        -     json       -     -
agents/sessions/{id}/artifacts/{id}/content GET  -         -          -           -        -     binary     -     -
agents/sessions/{id}/events      GET,POST        json      inner      -           -        -     json+sse   -     -
agents/sessions/{id}/items       GET             -         -          -           -        -     json       -     -
agents/sessions/{id}/subagents   GET             -         -          -           -        -     json       -     -
agents/sessions/{id}/subagents/{id} GET          -         -          -           -        -     json       -     -
agents/sessions/{id}/subagents/{id}/items GET    -         -          -           -        -     json       -     -
agents/sessions/{id}/subagents/{id}/turns GET    -         -          -           -        -     json       -     -
agents/sessions/{id}/subagents/{id}/turns/{id} GET -       -          -           -        -     json       -     -
agents/sessions/{id}/subagents/{id}/turns/{id}/items GET - -          -           -        -     json       -     -
agents/sessions/{id}/traces      GET             -         -          -           -        -     json       -     -
agents/sessions/{id}/turns       GET             -         -          -           -        -     json       -     -
agents/sessions/{id}/turns/{id}  GET             -         -          -           -        -     json       -     -
agents/sessions/{id}/turns/{id}/items GET        -         -          -           -        -     json       -     -
vaults                           GET,POST        json      -          -           -        -     json       -     home
vaults/{id}                      GET,POST,DELETE json      -          -           -        -     json       -     -
vaults/{id}/credentials          GET,POST        json      -          -           -        -     json       -     -
vaults/{id}/credentials/{id}     GET,POST,DELETE json      -          -           -        -     json       -     -

# deprecated, still served
assistants                       GET,POST        json      -          -           -        -     json       -     home
assistants/{id}                  GET,POST,DELETE json      -          -           -        -     json       -     -
threads                          POST            json      -          -           -        -     json       -     home
threads/runs                     POST            json      tokens     -           json+sse typed json+sse   -     home
threads/{id}                     GET,POST,DELETE json      -          -           -        -     json       -     -
threads/{id}/messages            GET,POST        json      -          -           -        -     json       -     -
threads/{id}/messages/{id}       GET,POST,DELETE json      -          -           -        -     json       -     -
threads/{id}/runs                GET,POST        json      tokens     -           json+sse typed json+sse   -     -
threads/{id}/runs/{id}           GET,POST        json      -          -           -        -     json       -     -
threads/{id}/runs/{id}/cancel    POST            -         -          -           -        -     json       -     -
threads/{id}/runs/{id}/steps     GET             -         -          -           -        -     json       -     -
threads/{id}/runs/{id}/steps/{id} GET            -         -          -           -        -     json       -     -
threads/{id}/runs/{id}/submit_tool_outputs POST  json      tokens     -           json+sse typed json+sse   -     -
"""

# About an organisation, the members of its projects, and the person behind a key: the answers depend on the key's
# owner, so these are never requested with the pool's keys.
NEVER_FORWARDED: Final = frozenset({"organization", "organizations", "dashboard", "projects", "me", "usage"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the table; its columns are explained above. Sets are empty if the table has `-`."""

    path: str
    methods: frozenset[str]
    body: frozenset[str]
    billed: str
    cost: str
    usage: frozenset[str]
    sse: str
    answer: frozenset[str]
    replay: str
    state: str


def _read(line: str) -> Operation:
    path, methods, *cells = line.split()
    body, billed, cost, usage, sse, answer, replay, state = ("" if cell == "-" else cell for cell in cells)
    return Operation(
        path,
        frozenset(methods.split(",")),
        frozenset(filter(None, body.split("+"))),
        billed,
        cost,
        frozenset(filter(None, usage.split("+"))),
        sse,
        frozenset(answer.split("+")),
        replay,
        state or "-",
    )


OPERATIONS: Final[tuple[Operation, ...]] = tuple(
    _read(line) for line in _TABLE.splitlines() if line and not line.startswith("#")
)
