"""The chart, rendered or refused, where helm is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.helm import LEAST, Helm, Refused, Rendered, over


@pytest.fixture(scope="session")
def render(helm: Helm) -> Callable[..., Rendered]:
    """`render({...})`: the chart with these values over those that every installation needs."""
    return lambda values=None: helm.template(over(LEAST, values or {}))


@pytest.fixture(scope="session")
def refusal(helm: Helm) -> Callable[[dict[str, Any]], str]:
    """`refusal({...})`: what helm says, instead of rendering these values over those that every installation needs."""

    def refused(values: dict[str, Any]) -> str:
        with pytest.raises(Refused) as caught:
            helm.template(over(LEAST, values))
        return str(caught.value)

    return refused
