"""The types with which metrics are defined and sampled; the metrics are in database_metrics and process_metrics.

:mod:`projections.http.database_metrics` defines those that are read from the database, and
:mod:`projections.http.process_metrics` those of this process; docs/where-to-add.md says how to add one. A definition
without a sample is left out of the answer. docs/monitoring.md lists the definitions; ``make docs`` writes the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric


class MetricKind(StrEnum):
    """The type of a metric, in Prometheus's words."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """What a metric is: its name as it is scraped, its type, its meaning, and the names of its labels."""

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...]


class MetricCatalogue:
    """The definitions of one module, in their order."""

    def __init__(self) -> None:
        self.definitions: list[MetricDefinition] = []

    def gauge(self, name: str, meaning: str, *labels: str) -> MetricDefinition:
        """Define a gauge."""
        return self._define(name, MetricKind.GAUGE, meaning, labels)

    def counter(self, name: str, meaning: str, *labels: str) -> MetricDefinition:
        """Define a counter; its name ends in ``_total``."""
        return self._define(name, MetricKind.COUNTER, meaning, labels)

    def histogram(self, name: str, meaning: str, *labels: str) -> MetricDefinition:
        """Define a histogram."""
        return self._define(name, MetricKind.HISTOGRAM, meaning, labels)

    def _define(self, name: str, kind: MetricKind, meaning: str, labels: tuple[str, ...]) -> MetricDefinition:
        definition = MetricDefinition(name, kind, meaning, labels)
        self.definitions.append(definition)
        return definition


class Samples:
    """The samples of one scrape."""

    def __init__(self) -> None:
        self._values: dict[MetricDefinition, list[tuple[tuple[str, ...], float]]] = {}
        self._histograms: dict[MetricDefinition, list[tuple[tuple[str, ...], list[tuple[str, float]], float]]] = {}

    def add(self, definition: MetricDefinition, value: float, *labels: str) -> None:
        """Add one sample, with the values of its labels in their order."""
        self._values.setdefault(definition, []).append((labels, float(value)))

    def add_histogram(
        self, definition: MetricDefinition, bounds: Sequence[float], counts: Sequence[int], total: float, *labels: str
    ) -> None:
        """Add one histogram.

        Args:
            definition: the metric.
            bounds: the upper bounds of the buckets.
            counts: how many values are in each bucket; one number more than bounds, for all greater values.
            total: the sum of the values.
            labels: the values of the labels, in their order.

        """
        buckets: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip([*bounds, float("inf")], counts, strict=True):
            seen += count
            buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", float(seen)))
        self._histograms.setdefault(definition, []).append((labels, buckets, total))

    def families(self) -> Iterator[Metric]:
        """Yield the metrics with their samples, as prometheus-client takes them."""
        for definition, samples in self._values.items():
            family = _new_family(definition)
            for labels, value in samples:
                family.add_metric(labels, value)
            yield family
        for definition, histograms in self._histograms.items():
            histogram = HistogramMetricFamily(definition.name, definition.meaning, labels=definition.labels)
            for labels, buckets, total in histograms:
                histogram.add_metric(labels, buckets, sum_value=total)
            yield histogram


def _new_family(definition: MetricDefinition) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if definition.kind is MetricKind.COUNTER else GaugeMetricFamily
    return kind(definition.name, definition.meaning, labels=definition.labels)
