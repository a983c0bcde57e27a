"""Metrics of the model server, for Prometheus."""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 10_000)
NEWEST: Final = "mostrecent"
WHO = ("model", "version", "colour")

REQUESTS = Counter("ml_platform_requests", "Requests that were answered with predictions", WHO)
ROWS = Counter("ml_platform_rows", "Rows that were answered", WHO)
LATENCY = Histogram("ml_platform_request_seconds", "From a request's last byte to its answer", WHO, buckets=LATENCY_S)
BATCH = Histogram("ml_platform_batch_rows", "Rows that were computed in one go", WHO, buckets=BATCH_ROWS)
REFUSED = Counter("ml_platform_refused", "Requests that were not answered with predictions", ("model", "status"))
DROPPED = Counter("ml_platform_log_dropped_rows", "Answered rows that the full prediction log has no place for")
WAITING = Gauge(
    "ml_platform_log_waiting_bytes", "Prediction log on disk, not in the database yet", multiprocess_mode=NEWEST
)
SHIPPED = Gauge("ml_platform_log_shipped_rows", "Rows brought to the database", multiprocess_mode=NEWEST)
SET_ASIDE = Gauge("ml_platform_log_refused_rows", "Rows that the database refused", multiprocess_mode=NEWEST)
SERVED = Gauge("ml_platform_model_info", "1 for the version that is live", WHO, multiprocess_mode=NEWEST)


@dataclass(frozen=True)
class LaneMetrics:
    """The metrics of one release in one colour, looked up once."""

    requests: Counter
    rows: Counter
    latency: Histogram
    batch: Histogram

    @classmethod
    def of(cls, model: str, version: str, colour: str) -> "LaneMetrics":
        """The metrics with these labels."""
        who = (model, version, colour)
        return cls(REQUESTS.labels(*who), ROWS.labels(*who), LATENCY.labels(*who), BATCH.labels(*who))


def exposition(*, several_processes: bool) -> bytes:
    """All metrics in Prometheus' text format; of all workers, when there are several."""
    if not several_processes:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
