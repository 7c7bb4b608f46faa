"""Alerts are delivered: signed, retried, in digests, to the targets that want them, without secrets or delays."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from quotapool.alerts.delivery import AlertDelivery, Target, targets_of
from quotapool.alerts.message import compose
from quotapool.alerts.webhook import NotDelivered, Webhook
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.observe.redaction import Redactor
from quotapool.settings.alerts import AlertTarget

SECRET = "a-secret-of-the-webhook"
CANARY = "sk-proj-CANARYcanary0123456789CANARY"


class Receiver:
    """A receiver of webhooks. `answers` are the statuses that it gives, then 200; 0: no answer at all."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.got = asyncio.Event()
        self.leave = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        status = self.answers.pop(0) if self.answers else 200
        if status == 0:
            await self.leave.wait()
        if status == 200:
            self.got.set()
        return web.Response(status=status, headers={"Location": "/hook"} if 300 <= status < 400 else {})

    def body(self, n: int = -1) -> dict[str, Any]:
        return json.loads(self.requests[n][1])


@pytest.fixture
async def receive(aiohttp_server):
    """`receive(*answers)` -> (receiver, its URL)."""
    receivers = []

    async def start(*answers: int) -> tuple[Receiver, str]:
        receiver = Receiver(*answers)
        app = web.Application()
        app.router.add_post("/hook", receiver.handle)
        server = await aiohttp_server(app)
        receivers.append(receiver)
        return receiver, str(server.make_url("/hook"))

    yield start
    for receiver in receivers:
        receiver.leave.set()


class Pauses:
    """The delivery's pauses: each ends at once and is recorded."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.now = 0.0

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def alert(n: int = 0, kind: AlertKind = AlertKind.KEY_REMOVED, text: str = "") -> Alert:
    return Alert(kind, f"key {n}", text or f"key {n} was removed", 1_700_000_000.0 + n, Severity.CRITICAL)


def delivery_to(
    url: str, counts: Counter, pauses: Pauses, *, secret: str = SECRET, kinds: tuple[AlertKind, ...] = (), **more: Any
) -> AlertDelivery:
    target = Target("ops", Webhook(url, secret, **more), lambda alert: not kinds or alert.kind in kinds)
    clean = Redactor([SECRET]).clean
    return AlertDelivery(
        "default",
        [target],
        clean=clean,
        count=lambda name, result: counts.update([(name, result)]),
        pause=pauses,
        clock=lambda: pauses.now,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_the_signature_is_the_documented_one(receive):
    receiver, url = await receive()
    message = compose("default", [alert()])
    await Webhook(url, SECRET, clock=lambda: 1_700_000_123.9).deliver(message)
    headers, body = receiver.requests[0]
    # docs/alerts.md: hex HMAC-SHA256 of "<t>.<body>".
    expected = hmac.new(SECRET.encode(), b"1700000123." + body, hashlib.sha256).hexdigest()
    assert headers["x-quotapool-signature"] == f"t=1700000123,v1={expected}"
    assert headers["x-quotapool-delivery"] == message.id == json.loads(body)["id"]
    assert headers["Content-Type"] == "application/json"
    assert SECRET.encode() not in body


async def test_without_a_secret_nothing_is_signed(receive):
    receiver, url = await receive()
    await Webhook(url).deliver(compose("default", [alert()]))
    assert "x-quotapool-signature" not in receiver.requests[0][0]


async def test_the_body_has_kind_time_and_subject(receive):
    receiver, url = await receive()
    await Webhook(url).deliver(compose("default", [alert(7)]))
    body = receiver.body()
    assert (body["pool"], body["severity"], body["total"]) == ("default", "critical", 1)
    assert body["title"] == "[quotapool default] key removed: key 7"
    assert body["alerts"] == [
        {
            "kind": "key_removed",
            "subject": "key 7",
            "severity": "critical",
            "text": "key 7 was removed",
            "at": "2023-11-14T22:13:27Z",
            "details": {},
        }
    ]


async def test_a_receiver_that_fails_at_first_gets_the_same_delivery_later_once(receive):
    receiver, url = await receive(500, 503, 429)
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses)
    delivery.start()
    delivery.put(alert())
    await until(lambda: counts["ops", "sent"] == 1)
    await delivery.stop()
    assert len(receiver.requests) == 4
    assert len({headers["x-quotapool-delivery"] for headers, _ in receiver.requests}) == 1
    assert pauses.taken == [3.0, 2.0, 4.0, 8.0]  # for the digest, then ever longer


async def test_a_receiver_that_never_answers_times_out_and_is_tried_again(receive):
    receiver, url = await receive(0)
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses, timeout=aiohttp.ClientTimeout(total=0.05))
    delivery.start()
    delivery.put(alert())
    await until(lambda: counts["ops", "sent"] == 1)
    await delivery.stop()
    assert len(receiver.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 410, 302, 307])
async def test_a_final_refusal_is_not_retried(receive, status):
    receiver, url = await receive(status)
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses)
    delivery.start()
    delivery.put(alert())
    await until(lambda: counts["ops", "failed"] == 1)
    await delivery.stop()
    assert len(receiver.requests) == 1


async def test_a_receiver_that_stays_away_is_given_up_after_a_quarter_of_an_hour(receive):
    _, url = await receive(*[500] * 1000)
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses)
    delivery.start()
    delivery.put(alert())
    await until(lambda: counts["ops", "failed"] == 1)
    await delivery.stop()
    assert 900 < pauses.now <= 900 + 60 + 3
    assert max(pauses.taken) == 60


async def test_fifty_alerts_within_seconds_are_one_message(receive):
    receiver, url = await receive()
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses)
    delivery.start()
    for n in range(48):
        delivery.put(alert(n))
    delivery.put(alert(48, AlertKind.KEY_BACK))
    delivery.put(alert(49, AlertKind.KEY_BACK))
    await until(lambda: counts["ops", "sent"] == 1)
    await delivery.stop()
    assert len(receiver.requests) == 1
    body = receiver.body()
    assert body["title"] == "[quotapool default] 50 alerts: 48 key removed, 2 key back"
    assert (body["total"], len(body["alerts"])) == (50, 50)
    assert body["text"].splitlines()[-1] == "… and 40 more: quotapool check"


async def test_put_never_waits_and_a_full_queue_loses_its_oldest_alerts(receive):
    _, url = await receive(0)
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses)  # not started: nothing is delivered
    for n in range(1_500):
        delivery.put(alert(n))
    assert counts["ops", "dropped"] == 500


async def test_a_target_gets_only_the_kinds_it_wants(receive):
    receiver, url = await receive()
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses, kinds=(AlertKind.BRAKE,))
    delivery.start()
    delivery.put(alert(1))
    delivery.put(alert(2, AlertKind.BRAKE))
    await until(lambda: counts["ops", "sent"] == 1)
    await delivery.stop()
    assert [row["kind"] for row in receiver.body()["alerts"]] == ["brake"]


async def test_secrets_are_removed_from_a_text_before_it_is_sent(receive):
    receiver, url = await receive()
    counts, pauses = Counter(), Pauses()
    delivery = delivery_to(url, counts, pauses)
    delivery.start()
    delivery.put(alert(1, text=f"key 1 was removed. OpenAI said: Incorrect API key provided: {CANARY} {SECRET}"))
    await until(lambda: counts["ops", "sent"] == 1)
    await delivery.stop()
    assert b"CANARY" not in receiver.requests[0][1]
    assert SECRET.encode() not in receiver.requests[0][1]
    assert b"key 1 was removed" in receiver.requests[0][1]


async def test_a_problem_is_reported_without_the_url():
    webhook = Webhook("http://127.0.0.1:9/a-token-in-the-path")
    with pytest.raises(NotDelivered) as raised:
        await webhook.deliver(compose("default", [alert()]))
    assert "token" not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)


def test_a_message_fits_into_a_chat():
    assert len(compose("default", [alert(n, text="x" * 900) for n in range(3)]).text) <= 1_800


# ---- the library for chats and e-mail


def target(url: str, **more: Any) -> AlertTarget:
    return AlertTarget.model_validate({"url": url, **more})


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "slack-1"),
        ("https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord-1"),
        ("https://open.feishu.cn/open-apis/bot/v2/hook/abcdef01-1234-1234-1234-abcdef012345", "feishu-1"),
        ("https://open.larksuite.com/open-apis/bot/v2/hook/abcdef01-1234-1234-1234-abcdef012345", "lark-1"),
        ("https://oapi.dingtalk.com/robot/send?access_token=" + "a" * 64, "dingtalk-1"),
        ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=693a91f6-7a0c-4bc4-97a0-0ec2aaaaaaaa", "wecom-1"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "slack-1"),
        ("mailtos://user:password@smtp.example.com?to=ops@example.com&from=pool@example.com", "mailtos-1"),
    ],
)
def test_the_services_own_urls_are_accepted(url, name):
    found, problems = targets_of([target(url)])
    assert ([one.name for one in found], problems) == ([name], [])


def test_dingtalks_secret_signs_and_feishus_token_is_found():
    from quotapool.alerts.services import native

    token = "a" * 64
    assert (
        native(f"https://oapi.dingtalk.com/robot/send?access_token={token}", "SEC/1") == f"dingtalk://SEC%2F1@{token}/"
    )
    assert native("https://open.feishu.cn/open-apis/bot/v2/hook/abcdef-01", "") == "feishu://abcdef-01/"


def test_an_unusable_url_is_reported_and_the_others_are_used():
    found, problems = targets_of(
        [target("nonsense://token-of-mine"), target("https://ops.example.com/hook", name="ops")]
    )
    assert [one.name for one in found] == ["ops"]
    assert problems == [
        "alerts.targets[0] (nonsense-1): nonsense:// is not understood as it is written; see docs/alerts.md"
    ]


def test_two_targets_of_one_name_are_two_targets():
    found, _ = targets_of([target("https://a.example.com", name="ops"), target("https://b.example.com", name="ops")])
    assert len({one.name for one in found}) == 2


async def test_a_message_goes_through_the_library_and_its_refusal_is_reported_with_the_status(receive):
    receiver, url = await receive(200, 403)
    local = url.replace("http://", "json://")
    (found,), _ = targets_of([target(local)])
    await found.channel.deliver(compose("default", [alert(5)]))
    assert receiver.body()["title"] == "[quotapool default] key removed: key 5"
    assert receiver.body()["message"] == "key 5 was removed"
    assert receiver.body()["type"] == "failure"
    with pytest.raises(NotDelivered, match="the service answered 403"):
        await found.channel.deliver(compose("default", [alert(6)]))
