"""Short ways to write a Prometheus metric family whose samples are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from loramux.observability.distribution import Distribution
from loramux.server.printable import printable

PREFIX = "loramux:"
"""Before every name; what follows is vLLM's name where vLLM has the same figure."""

Label = TypeVar("Label", bound=str)

Samples = Iterable[tuple[Sequence[str], float]]
"""Values of a family's labels, and the sample's value."""


def counter(name: str, text: str, value: float) -> Metric:
    """A number that only grows."""
    return CounterMetricFamily(PREFIX + name, text, value=value)


def gauge(name: str, text: str, value: float) -> Metric:
    """A number of this moment."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def counters(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """Numbers that only grow, told apart by labels."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric([printable(value) for value in values], value)
    return family


def gauges(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """Numbers of this moment, told apart by labels."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric([printable(value) for value in values], value)
    return family


def histograms(
    name: str, text: str, label: str, distributions: Iterable[tuple[str, Distribution]]
) -> Metric:
    """Distributions told apart by one label."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=[label])
    for value, distribution in distributions:
        family.add_metric([printable(value)], distribution.buckets(), distribution.total)
    return family


def histogram(name: str, text: str, distribution: Distribution) -> Metric:
    """One distribution."""
    buckets, total = distribution.buckets(), distribution.total
    return HistogramMetricFamily(PREFIX + name, text, buckets=buckets, sum_value=total)


def by_label(values: Mapping[Label, float]) -> Samples:
    """Samples of a family with one label."""
    return [((label,), value) for label, value in values.items()]
