"""Telemetry: one wide log line per report. The one place where reports become words."""

from __future__ import annotations

import prometheus_client
import structlog

from workers.service.process_batch import BatchReport

_log = structlog.get_logger()


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Serve this process's metrics from a thread of its own; not at all on port 0."""
    if port:
        prometheus_client.start_http_server(port, addr=host)


def tell_batch(report: BatchReport) -> None:
    """Log what a call of `process_batch` did; nothing, if there was nothing to do."""
    if not report.claimed and not report.failures:
        return
    troubled = report.contentions or report.failures or report.quarantined or report.suspects
    (_log.warning if troubled else _log.debug)(
        "batch",
        claimed=report.claimed,
        batches=report.batches,
        outcomes=dict(report.outcomes),
        contentions=report.contentions,
        failures=report.failures,
        quarantined=report.quarantined,
        suspects=report.suspects,
        sojourn_ms_max=round(report.sojourn_ms_max, 1),
        stage_ms={stage: round(ms, 2) for stage, ms in report.stage_ms.items()},
    )
