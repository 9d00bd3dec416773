"""Metrics and logs that do nothing, in every process that finds this folder on its PYTHONPATH.

Python imports `sitecustomize` when it starts. From then on each module named below has its functions
replaced as soon as it is loaded, before anybody takes them from it: not only the meters, but those who
count for them, so that what observing costs is off as a whole. What a batch counts in its own statement
(`tallies`) is part of the truth, and stays.
"""

import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _say_nothing(*_: object, **__: object) -> None:
    """Stand for `config.logging.configure`: nothing below `critical` is made, let alone written."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.captureWarnings(True)  # as where they are told
    logging.disable(logging.CRITICAL)


REPLACED = {
    "config.logging": {"configure": _say_nothing},
    "config.meters": dict.fromkeys(
        ("Counter.inc", "Gauge.set", "Histogram.observe", "Histogram.observe_many"), _nothing
    ),
    "producer.metering": dict.fromkeys(
        (
            "count_answers",
            "count_excuse",
            "count_full",
            "count_verdicts",
            "count_windows",
            "Watch.lap",
        ),
        _nothing,
    ),
    "producer.http.metering": dict.fromkeys(("count_call", "settle"), _nothing),
    "producer.http.access": {"AccessLog.note": _nothing},
    "workers.runtime.exporter": dict.fromkeys(
        tuple(f"Exporter.read_{what}" for what in ("tables", "drift", "valkey", "queues")), _nothing
    ),
    "workers.runtime.metering": dict.fromkeys(("count_batches", "meter_tasks"), _nothing),
    "workers.runtime.telemetry": {"tell_batch": _nothing},
    "workers.runtime.telling": {"Telling.tell": _nothing},
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules named above where they always are, and replaces once they are loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in REPLACED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            raise ImportError(f"{name} is to be silenced, and not there")
        load = spec.loader.exec_module

        def load_and_replace(module: ModuleType) -> None:
            load(module)
            for place, function in REPLACED[name].items():
                *owners, last = place.split(".")
                owner = getattr(module, owners[0]) if owners else module
                if not hasattr(owner, last):
                    raise AttributeError(f"{name} has no {place} to be silenced")
                setattr(owner, last, function)

        spec.loader.exec_module = load_and_replace  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
