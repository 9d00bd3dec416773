"""Telemetry: one wide log line per report. The one place where reports become words."""

from __future__ import annotations

from typing import Final

import structlog

from config import scrapes
from config.catalogue import Source
from config.exposition import Exposition
from config.listening import listen
from config.sampling import Sample
from workers.service.process_batch import BatchReport

_log = structlog.get_logger()

IDS_MAX: Final = 10  # of intents named for one batch


def serve_metrics(host: str, port: int, *sources: Source) -> None:
    """Serve this process's metrics from a thread of its own; not at all on port 0.

    Raises OSError where it cannot listen.
    """
    if port:
        scrapes.serve(listen(host, port, scrapes.BACKLOG), Exposition(*sources))


def tell_batch(report: BatchReport, sample: Sample) -> None:
    """Log what a call of `process_batch` did; nothing, if there was nothing to do.

    Of the intents those of the sample are named, the ones that the API names too.
    """
    if not report.claimed and not report.failures:
        return
    troubled = report.contentions or report.failures or report.quarantined or report.suspects
    sampled = [one for one in report.intent_ids if sample.holds(one.int)]
    (_log.warning if troubled else _log.info)(
        "batch",
        wide=True,
        intent_ids=sampled[:IDS_MAX],
        claimed=report.claimed,
        batches=len(report.sizes),
        outcomes=dict(report.outcomes),
        contentions=report.contentions,
        failures=report.failures,
        quarantined=report.quarantined,
        suspects=report.suspects,
        sojourn_ms_max=round(max(report.sojourn_ms, default=0.0), 1),
        stage_ms={stage: round(sum(ms), 2) for stage, ms in report.stage_ms.items()},
    )
