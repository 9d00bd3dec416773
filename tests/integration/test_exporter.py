"""The exporter while PostgreSQL answers, hangs, and answers again."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from config.settings import Postgres, Settings, Valkey
from workers.runtime import exporter
from workers.runtime.exporter import Exporter

SOON_S = 30.0


def postgres_up(of: Exporter) -> float:
    (family,) = [one for one in of.collect() if one.name == "tidegate_postgres_up"]
    return family.samples[0].value


@pytest.mark.parametrize(("read", "table"), [("read_tables", "tallies"), ("read_drift", "ledger")])
def test_a_database_that_hangs_is_shown_as_away_before_its_time_out(
    dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch, read: str, table: str
) -> None:
    """Nothing has failed yet, and nobody is answered."""
    monkeypatch.setattr(exporter, "HANGS_S", 0.1)
    monkeypatch.setattr(exporter, "HANGS_SHARE", 0)
    patient = Postgres(dsn=dsn, lock_timeout_ms=60_000, statement_timeout_ms=60_000)
    one = Exporter(Settings(postgres=patient, valkey=Valkey(url=valkey_url)))
    one.read_tables()
    assert postgres_up(one) == 1
    reading = threading.Thread(target=getattr(one, read))
    try:
        with psycopg.connect(dsn) as holder:
            holder.execute(f"LOCK TABLE tidegate.{table} IN ACCESS EXCLUSIVE MODE")
            reading.start()
            deadline = time.monotonic() + SOON_S
            while postgres_up(one) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert postgres_up(one) == 0
            assert reading.is_alive()
    finally:
        reading.join(SOON_S)
    assert postgres_up(one) == 1


def test_a_database_that_was_slow_is_given_as_long_again(
    dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow is not away: somebody would be paged for orders that flow."""
    monkeypatch.setattr(exporter, "HANGS_S", 0.0)
    one = Exporter(Settings(postgres=Postgres(dsn=dsn), valkey=Valkey(url=valkey_url)))
    one.read_tables()
    with one._asking(took_s=100.0):
        assert postgres_up(one) == 1
    with one._asking(took_s=0.0):
        time.sleep(0.001)
        assert postgres_up(one) == 0
