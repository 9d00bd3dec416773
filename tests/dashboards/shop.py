"""A `tidegate dev` with people before it: a calm stream, a crowd, and a PostgreSQL that gets slow.

The cause of overload is a real one: each order takes PostgreSQL so many milliseconds longer to
insert. So a crowd that one machine can send beside everything else is several times of what is
served, and what is offered is bounded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import psycopg

from deploy.embedded import endpoints
from deploy.embedded.endpoints import Endpoints
from deploy.load.wire import Target, target
from tests.benchmarks.buyers import Buyers, MakePost, as_told
from tests.benchmarks.sender import arrivals

ROOT: Final = Path(__file__).parents[2]
CAMPAIGN: Final = "spring"
DATA: Final = ".tidegate"
_FILE: Final = Path(__file__).with_name("shop.toml")
_START_S: Final = 60.0
_STOP_S: Final = 60.0
_LONGEST_S: Final = 600.0  # of one stream
_CONNECTIONS: Final = 200
_ITEMS: Final = ("milk-tea-large", "jasmine-tea", "dumplings", "lantern-cake")
_POPULARITY: Final = (45, 28, 17, 10)
# Of a hundred buyers: who asks for a coupon, who orders without one; the others redeem theirs.
_ASK, _PLAIN = 8, 30

# One row says how long each order takes; the trigger is there from the beginning, so that a change
# waits for nobody's lock.
_BRAKE: Final = (
    "CREATE TABLE public.brake (ms double precision NOT NULL)",
    "INSERT INTO public.brake VALUES (0)",
    "GRANT SELECT ON public.brake TO PUBLIC",
    """
    CREATE FUNCTION public.take_long() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(ms / 1000) FROM public.brake WHERE ms > 0;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER take_long BEFORE INSERT ON tidegate.orders
    FOR EACH ROW EXECUTE FUNCTION public.take_long()
    """,
)


class Shop:
    """One that is open. `folder` is where its `tidegate dev` was started."""

    def __init__(self, folder: Path, where: Endpoints) -> None:
        self.folder = folder
        self.where = where
        self._issued = 0
        self._coupons: list[tuple[str, str]] = []
        with psycopg.connect(where.postgres, autocommit=True) as connection:
            for statement in _BRAKE:
                connection.execute(statement.encode())

    @property
    def to(self) -> Target:
        """Where its API is."""
        return target(self.where.api, self.where.api_key)

    def tidegate(self, *command: str) -> None:
        """Run a `tidegate` command in the shop's folder."""
        line = [sys.executable, "-m", "deploy.cli", *command]
        subprocess.run(line, cwd=self.folder, env=_environ(), check=True, capture_output=True)

    def issue(self, count: int) -> None:
        """Give coupons to so many users ahead; they are redeemed in this order."""
        out = self.folder / f"coupons-{self._issued}.ndjson"
        first = ("--first-user", str(self._issued))
        wish = ("--count", str(count), *first, "--out", str(out), "--data", DATA)
        self.tidegate("campaign", "issue", CAMPAIGN, *wish)
        self._issued += count
        for line in out.read_text().splitlines():
            told = json.loads(line)
            self._coupons.append((told["user_id"], told["coupon_code"]))

    def take(self, count: int) -> Sequence[tuple[str, str]]:
        """Return so many coupons that nobody has taken; fewer, when there are fewer."""
        taken, self._coupons = self._coupons[:count], self._coupons[count:]
        return taken

    @contextmanager
    def slow(self, ms: float) -> Iterator[None]:
        """Let each order take PostgreSQL so much longer meanwhile."""
        self._brake(ms)
        try:
            yield
        finally:
            self._brake(0)

    def _brake(self, ms: float) -> None:
        with psycopg.connect(self.where.postgres) as connection:
            connection.execute("UPDATE public.brake SET ms = %s", (ms,))

    @contextmanager
    def visited(
        self, per_s: float, run: str, coupons: int = 0, *, at_fault: bool = False
    ) -> Iterator[Buyers]:
        """Let so many buyers a second come meanwhile, who come back as they are told.

        With `at_fault` one in fifty uses a coupon that was used before.
        """
        post = _wishes(self.to, run, self.take(coupons), at_fault)
        due = arrivals(per_s, _LONGEST_S, seed=len(run))
        crowd = Buyers(
            self.to,
            post,
            due,
            seconds=_LONGEST_S,
            connections=_CONNECTIONS,
            come_back=as_told(Random(run), away=0.1),
        )
        thread = threading.Thread(target=crowd.run, name=run, daemon=True)
        thread.start()
        try:
            yield crowd
        finally:
            crowd.stop()
            thread.join(_STOP_S)


@contextmanager
def opened(folder: Path, **settings: str) -> Iterator[Shop]:
    """Start `tidegate dev` in a folder, as a newcomer does, and yield when it is up.

    Raises RuntimeError when it does not come up or does not end well.
    """
    line = [sys.executable, "-m", "deploy.cli", "dev", "--data", DATA, "--port", "0"]
    line += ["--workers", "1", "--campaign", str(_FILE)]
    log = folder / "dev.log"
    with log.open("wb") as output:
        life = subprocess.Popen(
            line, cwd=folder, env=_environ() | settings, stdout=output, stderr=output
        )
    try:
        yield Shop(folder, _up(folder / DATA, life))
    except Exception as error:
        error.add_note(log.read_text(errors="replace")[-2_000:])
        raise
    finally:
        life.send_signal(signal.SIGINT)
        try:
            code = life.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            life.send_signal(signal.SIGINT)  # the second one hurries
            code = life.wait(_STOP_S)
    if code != 0:
        msg = f"`tidegate dev` ended with {code}: {log.read_text(errors='replace')[-2_000:]}"
        raise RuntimeError(msg)


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _up(data: Path, life: subprocess.Popen[bytes]) -> Endpoints:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and life.poll() is None:
        try:
            return endpoints.read(data)
        except FileNotFoundError:
            time.sleep(0.05)
    raise RuntimeError("`tidegate dev` does not come up")


def _wishes(to: Target, run: str, coupons: Sequence[tuple[str, str]], at_fault: bool) -> MakePost:
    """Return what makes each buyer's post: a coupon asked for, or an order of one item."""

    def post(buyer: int, ticket: str) -> bytes:
        drawn = Random(f"{run}/{buyer}")
        share = drawn.randrange(100)
        if share < _ASK:
            return _post(to, "/v1/coupons", f"{run}-{buyer}", {"user_id": f"{run}-{buyer}"}, ticket)
        again = at_fault and buyer > 100 and buyer % 50 == 0
        user, code = f"{run}-{buyer}", ""
        if share >= _ASK + _PLAIN and (at := buyer - (99 if again else 0)) < len(coupons):
            user, code = coupons[at]
        (sku,) = drawn.choices(_ITEMS, _POPULARITY)
        wish = {"user_id": user, "lines": [{"sku": sku, "quantity": 1}]}
        if code:
            wish["coupon_code"] = code
        return _post(to, "/v1/intents", f"{run}-{buyer}", wish, ticket)

    return post


def _post(to: Target, path: str, key: str, wish: Mapping[str, object], ticket: str) -> bytes:
    body = json.dumps({**wish, "campaign_id": CAMPAIGN, "ttl_ms": 60_000}).encode()
    shown = f"Tidegate-Appointment: {ticket}\r\n" if ticket else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {to.authority}\r\nAuthorization: Bearer {to.api_key}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: {key}\r\n{shown}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
