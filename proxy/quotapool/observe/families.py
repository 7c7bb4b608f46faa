"""Declares each metric once, and finds its series by a plain dict lookup on the request path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from quotapool.observe.exposition import escaped, head, series
from quotapool.observe.series import Counts, Observes, counting, observing

PREFIX = "quotapool_"

K = TypeVar("K")
S = TypeVar("S")

MetricType = Literal["counter", "gauge", "histogram"]
LiveMode = Literal["livesum", "livemax"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric as `docs/metrics.md` shows it. `name` is what Prometheus stores (histograms: without suffix)."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    unit: str
    help: str


class Family(dict[K, S]):
    """All series of one metric by their label values: `family[endpoint, model].observe(0.2)`.

    The key is the tuple of label values in declared order, or the bare value if there is one label. `of` makes a series
    from the library's object for it.
    """

    def __init__(self, metric: MetricWrapperBase, of: Callable[[Any], S]) -> None:
        super().__init__()
        self._metric = metric
        self._of = of

    def __missing__(self, key: K) -> S:
        values = key if isinstance(key, tuple) else (key,)
        series = self[key] = self._of(self._metric.labels(*values))
        return series


class GaugeRows(Generic[K]):
    """A gauge that the supervisor fills completely at each scrape: numbers by label values, in declared order (the bare
    value if there is one label). Not one of the library's: a large pool has hundreds of thousands of such series."""

    def __init__(self, declaration: Declaration) -> None:
        self.rows: Mapping[K, float] = {}
        self._declaration = declaration

    def show(self, rows: Mapping[K, float]) -> None:
        """Show exactly `rows`: a key that left the pool leaves the metrics too."""
        self.rows = rows

    def text(self) -> Iterator[str]:
        """Its part of the page. `rows` may be read in another thread: it is replaced, never changed."""
        name, labels = self._declaration.name, self._declaration.labels
        order = sorted(range(len(labels)), key=labels.__getitem__)
        yield head(name, "gauge", self._declaration.help)
        for key, value in self.rows.items():
            values: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
            yield series(name, ",".join([f'{labels[n]}="{escaped(values[n])}"' for n in order]), value)


class Declare:
    """Creates metrics in `registry` and remembers what was declared, in order.

    `labels` are separated by spaces; `plain_` ones have none and need no family.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.declared: list[Declaration] = []
        self.rows: list[GaugeRows[Any]] = []

    def counter(self, name: str, labels: str, unit: str, help_text: str) -> Family[Any, Counts]:
        return Family(self._counter(name, labels, unit, help_text), counting)

    def plain_counter(self, name: str, unit: str, help_text: str) -> Counts:
        return counting(self._counter(name, "", unit, help_text))

    def gauge(self, name: str, labels: str, unit: str, help_text: str) -> Family[Any, Counts]:
        """A worker's, to which 1 and -1 are added."""
        return Family(self._gauge(name, labels, unit, help_text, "livesum"), counting)

    def gauge_rows(self, name: str, labels: str, unit: str, help_text: str) -> GaugeRows[Any]:
        """The supervisor's. It is not in the registry: the page adds its text."""
        rows: GaugeRows[Any] = GaugeRows(self._declare(name, "gauge", labels, unit, help_text))
        self.rows.append(rows)
        return rows

    def plain_gauge(self, name: str, unit: str, help_text: str, mode: LiveMode = "livesum") -> Gauge:
        """`mode`: how the values of the running workers are combined, "livesum" or "livemax"."""
        return self._gauge(name, "", unit, help_text, mode)

    def plain_level(self, name: str, unit: str, help_text: str) -> Counts:
        """A gauge to which only 1 and -1 are added, as things begin and end."""
        return counting(self._gauge(name, "", unit, help_text, "livesum"))

    def histogram(self, name: str, labels: str, buckets: Sequence[float], help_text: str) -> Family[Any, Observes]:
        return Family(self._histogram(name, labels, buckets, help_text), observing)

    def plain_histogram(self, name: str, buckets: Sequence[float], help_text: str) -> Observes:
        return observing(self._histogram(name, "", buckets, help_text))

    def _counter(self, name: str, labels: str, unit: str, help_text: str) -> Counter:
        new = self._declare(name, "counter", labels, unit, help_text)
        return Counter(new.name, new.help, new.labels, registry=self._registry)

    def _gauge(self, name: str, labels: str, unit: str, help_text: str, mode: LiveMode) -> Gauge:
        new = self._declare(name, "gauge", labels, unit, help_text)
        return Gauge(new.name, new.help, new.labels, registry=self._registry, multiprocess_mode=mode)

    def _histogram(self, name: str, labels: str, buckets: Sequence[float], help_text: str) -> Histogram:
        new = self._declare(name, "histogram", labels, "seconds", help_text)
        return Histogram(new.name, new.help, new.labels, registry=self._registry, buckets=buckets)

    def _declare(self, name: str, kind: MetricType, labels: str, unit: str, help_text: str) -> Declaration:
        declaration = Declaration(PREFIX + name, kind, tuple(labels.split()), unit, help_text)
        self.declared.append(declaration)
        return declaration
