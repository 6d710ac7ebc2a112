"""``/metrics``: the metrics of the database and of this process, in the formats that Prometheus reads.

Invariant. The registry is the scrape's own, and what it shows is counted elsewhere: nothing is registered for the whole
process, so servers in one process don't disturb each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from projections.http.database_metrics import add_database_samples
from projections.http.metric_catalogue import Samples
from projections.http.process_metrics import add_process_samples
from projections.http.web_context import WebContext


class _Scrape(Collector):
    """The metrics of one scrape."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        return self._samples.families()


def metrics_routes(context: WebContext) -> Sequence[BaseRoute]:
    """Return the route of ``/metrics``."""
    ours, process = installed_version(), ProcessCollector(registry=None)

    async def metrics(request: Request) -> Response:
        reading = await context.status.current()
        load = None if reading.status is None else await context.status.read_load()
        samples = Samples()
        add_process_samples(samples, context.parts, context.waits, ours)
        add_database_samples(samples, reading, load)
        registry = CollectorRegistry()
        registry.register(_Scrape(samples))
        registry.register(process)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return [Route("/metrics", metrics)]


def installed_version() -> str:
    """Return the version of this installation."""
    return version("projections-engine")
