"""Tracing that is off costs nothing: not a module, not a thread, not a byte in the journal."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from workers.domain.intent import IntentBody, Line

# What serves, loaded as the processes load it. redis-py looks for OpenTelemetry's metrics by itself,
# so only what nobody else asks for tells of us.
EVERYTHING = """
import sys, threading
from config.settings import Settings
from config.tracing import open_tracer
import deploy.cli.processes, producer.http.server, producer.celery_intake, workers.runtime.worker
import workers.runtime.redispatcher, workers.runtime.governor, workers.runtime.relay
OURS = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf")
assert open_tracer(Settings().tracing, "api") is None
assert not [name for name in sys.modules if name.startswith(OURS)]
assert "tracer" not in [thread.name for thread in threading.enumerate()]
"""
ON = """
from config.tracing import Tracing
tracer = open_tracer(Tracing(endpoint="http://127.0.0.1:9"), "api")
assert "opentelemetry.sdk.trace" in sys.modules
assert "tracer" in [thread.name for thread in threading.enumerate()]
tracer.close(5)
"""
NOT_INSTALLED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("opentelemetry", "google"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(source: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_off_no_process_imports_opentelemetry() -> None:
    """Whatever is loaded to serve; set an endpoint, and it is."""
    run(EVERYTHING + ON)


def test_off_it_need_not_be_installed() -> None:
    """It is an extra."""
    run(NOT_INSTALLED + EVERYTHING)


def test_an_intent_that_is_not_followed_is_journalled_as_before() -> None:
    """An older version reads the body of one that is: it knows no such field, and passes over it."""
    body = IntentBody(lines=(Line("tea", 1),), traceparent=None)
    assert msgspec.json.encode(body) == b'{"lines":[{"sku":"tea","quantity":1}]}'


def test_a_body_with_a_field_of_a_later_version_can_be_read() -> None:
    """So versions may run beside each other while tracing is turned on."""
    read = msgspec.json.decode(b'{"ttl_ms":5,"of_tomorrow":"x"}', type=IntentBody)
    assert read == IntentBody(ttl_ms=5)
