"""A scraper like Prometheus: asks every process of a cluster for its metrics, now and then."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.onlooker import Onlooker

Labels = tuple[tuple[str, str], ...]  # names and values, by name
Samples = dict[tuple[str, Labels], float]

INTERVAL_S: Final = 5.0  # three times as often as deploy/monitoring asks
_TIMEOUT_S: Final = 5.0
_HEADERS: Final = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}


def scrape(url: str) -> str:
    """Return what one process shows. Raises OSError or HTTPException where it shows nothing."""
    return _text(*_asked(url))


def samples(text: str) -> Samples:
    """Read an exposition."""
    return {
        (sample.name, labels_of(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels_of(labels: Mapping[str, str]) -> Labels:
    """Put labels into the order in which samples have them."""
    return tuple(sorted(labels.items()))


def total(found: Samples, name: str) -> float:
    """Return the sum of a metric's series."""
    return sum(value for (series, _), value in found.items() if series == name)


class Scraper(Onlooker):
    """Scrapes until it is left; a context manager.

    `hear` is told the name of the process and the text that it shows, each time.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        hear: Callable[[str, str], None] | None = None,
        every_s: float = INTERVAL_S,
    ) -> None:
        super().__init__("scraper", every_s)
        self.done = 0
        self.failed = 0  # of them, those that found nobody
        self.took_s: list[float] = []  # each of the others
        self._urls = dict(urls)
        self._hear = hear

    def look(self) -> None:
        """Scrape every process."""
        for name, url in self._urls.items():
            self._scrape(name, url)

    def _scrape(self, name: str, url: str) -> None:
        self.done += 1
        began = time.monotonic()
        try:
            body, encoding = _asked(url)
        except (OSError, HTTPException):  # it was killed, and is not there again
            self.failed += 1
        else:
            self.took_s.append(time.monotonic() - began)
            if self._hear is not None:
                self._hear(name, _text(body, encoding))


class Rising:
    """Watches what a process shows, and counts how often a counter of ours had fallen.

    What is not shown is not known, as after a start of the process: that is no fall.
    """

    def __init__(self, process: str) -> None:
        self.falls = 0
        self._process = process
        self._last: dict[tuple[str, Labels], float] = {}

    def hear(self, process: str, text: str) -> None:
        """Compare with the last that was shown of each series."""
        if process == self._process:
            found = samples(text)
            now = {series: value for series, value in found.items() if _is_counter(series[0])}
            self.falls += sum(value < self._last.get(series, 0.0) for series, value in now.items())
            self._last |= now


def _is_counter(name: str) -> bool:
    return name.startswith(("tidegate_", "celery_")) and name.endswith("_total")


def _asked(url: str) -> tuple[bytes, str]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers=_HEADERS)
        response = connection.getresponse()
        body = response.read()
        if response.status != HTTPStatus.OK:
            raise HTTPException(f"{url} answers {response.status}")
        return body, response.headers.get("Content-Encoding", "")
    finally:
        connection.close()


def _text(body: bytes, encoding: str) -> str:
    return (gzip.decompress(body) if encoding == "gzip" else body).decode()
