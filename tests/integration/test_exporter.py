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


def test_a_database_that_hangs_is_shown_as_away_before_its_time_out(
    dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has failed yet, and nobody is answered."""
    monkeypatch.setattr(exporter, "HANGS_S", 0.1)
    settings = Settings(postgres=Postgres(dsn=dsn), valkey=Valkey(url=valkey_url))
    one = Exporter(settings)
    one.read_tables()
    assert postgres_up(one) == 1
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE tidegate.tallies IN ACCESS EXCLUSIVE MODE")
        reading = threading.Thread(target=one.read_tables)
        reading.start()
        deadline = time.monotonic() + SOON_S
        while postgres_up(one) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert postgres_up(one) == 0
        assert reading.is_alive()
    reading.join(SOON_S)
    assert postgres_up(one) == 1
