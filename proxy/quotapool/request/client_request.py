"""A client's request as the request path knows it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from quotapool.domain.access import Use
from quotapool.domain.quantities import Cost
from quotapool.domain.retry import RetrySlots
from quotapool.objects.placement import Placement
from quotapool.openai.endpoints import Endpoint


class ClientRequest(msgspec.Struct, eq=False):
    """A request of a client who may come in. `body` None: it streams from the client and cannot be sent twice."""

    endpoint: Endpoint
    body: bytes | None
    stream: AsyncIterator[bytes] | None
    model: str
    group: str
    cost: Cost
    replayable: bool
    streamed: bool = False
    text: bytes = b""  # the client's body without its encoding, as far as it was read
    strip_usage: bool = False
    length: bytes | None = None
    sticky: int | None = None
    retrying: bool = False  # holds one place of the retry budget
    tier: str = ""  # the service tier asked for; "": whichever upstream gives
    prompt_tokens: int = 0  # what the prompt alone is taken for, should upstream not count it
    output: int = 0  # the most tokens that it allows for its answer; 0: it names no maximum
    choices: int = 1  # answers it asks for
    background: bool = False  # its answer is fetched later, and so is what it used
    characters: int = 0  # to be spoken: an answer of sound has no count of them
    store: bool | None = None  # as in the body
    features: tuple[str, ...] = ()  # of the model, to which an account may have no access
    prompt: str = ""  # the stored prompt it names; its `model` is the same where the prompt chooses the model
    models: tuple[str, ...] = ()  # that it names beside `model`; found only if its client may not use all
    known_use: Use | None = None  # see `use`
    placement: Placement | None = None  # what it has to do with stored objects; None: nothing
    boundary: bytes = b""  # of a form whose model has not come yet; b"": there is nothing to look for
    patience_s: float = 0.0  # how long such a form waits for its model's budget
    waited_s: float = 0.0  # for an answer to another request, which came to nothing

    def begin_retry(self, slots: RetrySlots) -> None:
        """From now on an attempt of it is one more retry under way."""
        self.retrying = True
        slots.retrying += 1

    def end_retry(self, slots: RetrySlots) -> None:
        """The retry budget is for attempts under way: a request that is being answered, or waits, holds none of it."""
        if self.retrying:
            self.retrying = False
            slots.retrying -= 1

    @property
    def leaves_the_model(self) -> bool:
        """The stored prompt or upstream chooses the model, and only the answer tells which."""
        return self.model == self.prompt and (self.prompt != "" or self.endpoint.estimate is not None)

    @property
    def use(self) -> Use:
        """What it uses that an account or a key may have no access to."""
        use = self.known_use
        if use is None:
            use = self.known_use = Use(self.prompt or self.model, self.endpoint.name, self.features)
        return use

    @property
    def to_send(self) -> bytes | AsyncIterator[bytes] | None:
        """The body for upstream."""
        return self.stream if self.body is None else (self.body or None)
