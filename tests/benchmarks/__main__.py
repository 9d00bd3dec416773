"""Tidegate beside plain Celery, on this machine, in one run.

    python -m tests.benchmarks [--seconds S]

Both get the same orders over HTTP from the same sender, in a closed loop, and write the same rows to
the same PostgreSQL. Every figure is printed with both sides of its ratio; nothing is asserted.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from deploy.campaigns import issue
from deploy.embedded.cluster import Cluster
from deploy.embedded.ports import free_port
from deploy.load.plan import Coupon
from deploy.load.wire import target
from tests.benchmarks.rig import CAMPAIGN, Row, measure
from workers.contract.couponcode import CouponCodes

RESULTS = Path(__file__).with_name("RESULTS.md")
CONNECTIONS = (8, 32, 128, 1_000)
BASELINE_CONNECTIONS = 128
COUPONS_PER_SECOND = 9_000


def main() -> int:
    """Measure, print, and write RESULTS.md."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of sending, each row")
    parser.add_argument("--quick", action="store_true", help="128 connections only")
    given = parser.parse_args()
    rows = list(_tidegate(given.seconds, (128,) if given.quick else CONNECTIONS))
    rows.append(_plain(given.seconds))
    RESULTS.write_text(_document(rows))
    print(f"\nwritten to {RESULTS}")
    return 0


def _tidegate(seconds: float, connections: Sequence[int]) -> Iterator[Row]:
    with Cluster(workers=1, campaign=CAMPAIGN) as cluster:
        for seed, count in enumerate(connections):
            coupons = _coupons(cluster, int(COUPONS_PER_SECOND * seconds), seed)
            yield _told(
                measure(
                    "Tidegate",
                    target(cluster.api_url, cluster.api_key),
                    cluster.dsn,
                    connections=count,
                    seconds=seconds,
                    seed=seed,
                    coupons=coupons,
                )
            )


def _coupons(cluster: Cluster, count: int, seed: int) -> list[Coupon]:
    codes = CouponCodes(cluster.settings.secrets.master)
    return list(issue(cluster.dsn, "bench", count, first_user=1 + seed * 10_000_000, codes=codes))


def _plain(seconds: float) -> Row:
    with Cluster(workers=0, campaign=CAMPAIGN) as cluster:
        port = free_port()
        environ = {
            **os.environ,
            "PLAIN_BROKER": cluster.valkey_url,
            "PLAIN_DSN": cluster.dsn,
            "PLAIN_MASTER": cluster.settings.secrets.master,
        }
        coupons = _coupons(cluster, int(2_000 * seconds), 0)
        module = "tests.benchmarks.plain_celery"
        worker = (
            "celery",
            "-A",
            f"{module}:app",
            "worker",
            "-c",
            "2",
            "-Q",
            "plain",
            "-l",
            "ERROR",
        )
        web = ("uvicorn", f"{module}:intake", "--port", str(port), "--no-access-log")
        with _running(worker, environ), _running(web, environ):
            _wait_for(port)
            return _told(
                measure(
                    "plain Celery",
                    target(f"http://127.0.0.1:{port}", "none"),
                    cluster.dsn,
                    connections=BASELINE_CONNECTIONS,
                    seconds=seconds,
                    seed=99,
                    coupons=coupons,
                )
            )


@contextmanager
def _running(command: Sequence[str], environ: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
        except OSError as error:
            if "refused" not in str(error):
                break
            time.sleep(0.1)
    time.sleep(5)  # the worker has no port to ask


def _told(row: Row) -> Row:
    print(
        f"{row.name:13} {row.connections:5} connections: {row.accepted_per_s:8,.0f} accepted/s "
        f"{row.committed_per_s:8,.0f} committed/s  ratio {row.ratio:.2f}  drained in "
        f"{row.drain_s:.1f} s  p50 {row.p50_ms:.1f} ms  p99 {row.p99_ms:.1f} ms  "
        f"sender {row.sender_cpu:.0%} of a core",
        flush=True,
    )
    return row


def _document(rows: Sequence[Row]) -> str:
    plain = rows[-1]
    best = max(row.committed_per_s for row in rows[:-1])
    same = next(row.committed_per_s for row in rows if row.connections == plain.connections)
    table = "\n".join(_line(row) for row in rows)
    return f"""# Results

Written by `make bench` on {datetime.datetime.now(datetime.UTC).date()}: Python \
{platform.python_version()}, {os.cpu_count()} cores, everything (sender, servers, all processes) \
on one machine; PostgreSQL with fsync.

Two-line orders on one hot pair of SKUs, each redeeming a coupon, one intent per POST, closed loop. \
Committed is counted in the tables, while the load lasts.

| system | connections | accepted/s | committed/s | committed / accepted | drain s | p50 ms | p99 ms \
| sender, of a core |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}

At {plain.connections} connections Tidegate committed {same:,.0f} a second where plain Celery \
(one task and one transaction per order, the same rows, prefork 2) committed \
{plain.committed_per_s:,.0f}: **{same / plain.committed_per_s:.1f} ×**; at its best \
{best / plain.committed_per_s:.1f} ×.
"""


def _line(row: Row) -> str:
    figures = (
        row.name,
        f"{row.connections:,}",
        f"{row.accepted_per_s:,.0f}",
        f"{row.committed_per_s:,.0f}",
        f"{row.ratio:.2f}",
        f"{row.drain_s:.1f}",
        f"{row.p50_ms:.1f}",
        f"{row.p99_ms:.1f}",
        f"{row.sender_cpu:.0%}",
    )
    return f"| {' | '.join(figures)} |"


if __name__ == "__main__":
    sys.exit(main())
