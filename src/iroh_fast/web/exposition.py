"""Metrics of a server in the OpenMetrics format, by prometheus-client."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from .message import Request, Response

if TYPE_CHECKING:
    from prometheus_client.core import CollectorRegistry, Metric

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "Value", "exposition", "metrics_handler"]

CONTENT_TYPE: Final = "text/plain; charset=utf-8"


class Histogram:
    """How often a value was at most each of some bounds.

    Parameters
    ----------
    bounds : tuple of float
        Ascending; what is more than the last is counted, too.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Bound and the number of values up to it."""
        found: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts):
            total += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return found


Value = int | float | Histogram


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Parameters
    ----------
    name : str
        As exported; counters get ``_total``.
    text : str
        For people.
    key : str
        Of its value.
    kind : str
    """

    name: str
    text: str
    key: str
    kind: Literal["counter", "gauge", "histogram"] = "counter"


def exposition(
    families: Sequence[Family], snapshot: Callable[[], Mapping[str, Value]]
) -> Callable[[], bytes]:
    """Make a function that gives the text of all metrics.

    Parameters
    ----------
    snapshot : callable
        Gives values by key; what it leaves out is 0.
    """
    registry = None

    def text() -> bytes:
        nonlocal registry
        if registry is None:  # the library loads when somebody asks for the first time
            registry = _registry(families, snapshot)
        from prometheus_client.openmetrics.exposition import generate_latest

        return generate_latest(registry)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]

    return text


def metrics_handler(text: Callable[[], bytes]) -> Callable[[Request, object], Response]:
    """A handler that answers every request with the text."""
    headers = (("content-type", CONTENT_TYPE),)
    return lambda _request, _protocol: Response(200, text(), headers)


def _registry(
    families: Sequence[Family], snapshot: Callable[[], Mapping[str, Value]]
) -> CollectorRegistry:
    from prometheus_client.core import CollectorRegistry

    class Collector:
        def collect(self) -> Iterator[Metric]:
            values = snapshot()
            for family in families:
                yield _metric(family, values.get(family.key, 0))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return registry


def _metric(family: Family, value: Value) -> Metric:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    if isinstance(value, Histogram):
        return HistogramMetricFamily(
            family.name, family.text, buckets=value.buckets(), sum_value=value.sum
        )
    if family.kind == "gauge":
        return GaugeMetricFamily(family.name, family.text, value=value)
    return CounterMetricFamily(family.name, family.text, value=value)
