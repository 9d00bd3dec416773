"""A real Prometheus: started with a command, asked as Grafana asks it, ended with SIGTERM."""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Struct

_START_S: Final = 30.0
_STOP_S: Final = 20.0
_ANSWER_S: Final = 10.0
_POLL_S: Final = 0.1
_LISTEN: Final = "--web.listen-address="


class Series(Struct, frozen=True):
    """One line of an answer: its labels, and its values by Unix time. NaN is no value."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class Prometheus:
    """One that runs at an address, `host:port`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def status(self, path: str) -> int:
        """Return the HTTP status of a page."""
        return self._call(path)[0]

    def now(self, expr: str, at: float | None = None) -> list[Series]:
        """Return what an expression is now, or at a time; series without a value are left out."""
        given = {"query": expr} | ({} if at is None else {"time": str(at)})
        return list(_series((one["metric"], [one["value"]]) for one in self._vector(given)))

    def lines(self, expr: str, start: float, end: float, step_s: float) -> list[Series]:
        """Return what an expression was from one time to another."""
        given = {"query": expr, "start": str(start), "end": str(end), "step": str(step_s)}
        found = self._api("query_range", given)["result"]
        return list(_series((one["metric"], one["values"]) for one in found))

    def targets(self) -> list[dict[str, Any]]:
        """Return everything that is scraped, and how that goes."""
        return list(self._api("targets", {"state": "active"})["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule, and how its evaluation goes."""
        return [rule for group in self._api("rules", {})["groups"] for rule in group["rules"]]

    def firing(self) -> dict[str, dict[str, Any]]:
        """Return one alert of each name that fires, with its labels and annotations."""
        found = self._api("alerts", {})["alerts"]
        return {one["labels"]["alertname"]: one for one in found if one["state"] == "firing"}

    def _vector(self, given: Mapping[str, str]) -> list[dict[str, Any]]:
        told = self._api("query", given)
        if told["resultType"] == "scalar":
            return [{"metric": {}, "value": told["result"]}]
        return list(told["result"])

    def _api(self, what: str, given: Mapping[str, str]) -> Any:
        """Ask; raises ValueError with what Prometheus says of a wrong expression."""
        status, body = self._call(f"/api/v1/{what}?{urlencode(given)}")
        told = json.loads(body)
        if status != HTTPStatus.OK:
            msg = f"{given}: {told.get('error', body)}"
            raise ValueError(msg)
        return told["data"]

    def _call(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=_ANSWER_S)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[Prometheus]:
    """Run a command that starts Prometheus, in a folder; yield it when it is ready.

    Its last words are added to an error meanwhile. It ends by SIGTERM, and must end well: raises
    RuntimeError when it does not start or does not stop.
    """
    (address,) = [one.removeprefix(_LISTEN) for one in command if one.startswith(_LISTEN)]
    log = folder / f"prometheus-{address.replace(':', '-')}.log"
    with log.open("wb") as output:
        life = subprocess.Popen(list(command), cwd=folder, stdout=output, stderr=output)
    found = Prometheus(address)
    try:
        _wait_until_ready(found, life)
        yield found
    except Exception as error:
        error.add_note(log.read_text(errors="replace")[-2_000:])
        raise
    finally:
        code = _ended(life)
    if code != 0:
        msg = f"Prometheus ended with {code}: {log.read_text(errors='replace')[-2_000:]}"
        raise RuntimeError(msg)


def _wait_until_ready(found: Prometheus, life: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and life.poll() is None:
        try:
            if found.status("/-/ready") == HTTPStatus.OK:
                return
        except OSError:
            pass
        time.sleep(_POLL_S)
    raise RuntimeError("Prometheus does not start")


def _ended(life: subprocess.Popen[bytes]) -> int:
    life.terminate()
    try:
        return life.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        life.kill()
        return life.wait()


def _series(found: Iterator[tuple[Mapping[str, str], list[tuple[float, str]]]]) -> Iterator[Series]:
    for labels, values in found:
        points = [(float(at), float(value)) for at, value in values]
        if points := [(at, value) for at, value in points if math.isfinite(value)]:
            yield Series(labels, points)
