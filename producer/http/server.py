"""The API's process: uvicorn around the application, one process or several on one socket.

Several processes are forked before anything is built and share the listening socket, so that a
connection that waits to be accepted survives any one of them. The parent only watches.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn

from config import failpoints, logging, meters, scrapes
from config.exposition import Exposition
from config.listening import listen
from config.settings import Settings
from producer.http.app import App
from producer.http.bootstrap import open_api
from producer.http.connections import KEEP_ALIVE_S, Connection, sweep
from producer.http.family import Family
from producer.http.metering import keep_gauges

_log = structlog.get_logger()

BACKLOG = 4_096
# A lane whose commit was heard needs Python's lock to go on; 5 ms of waiting for it, several times
# a batch, would be most of a batch's time.
_SWITCH_INTERVAL_S = 0.000_5
# Calls under way are thousands of objects that come and go by themselves; looking for circles after
# every 700th, as by default, costs a tenth of the hot route. A circle that is old before it is let go
# waits for a look at everything, the hundredth: so calls must leave none.
_GC_THRESHOLDS = (50_000, 10, 10)
_CLOSING_S = 10  # what a process takes beyond its drain, before it is killed


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit status."""
    logging.configure(
        "api", settings.log.level, settings.log.format, pepper=settings.secrets.master
    )
    failpoints.configure(settings.failpoints, settings.failpoints_enabled)
    api = settings.api
    listening = _listen(api.host, api.port, BACKLOG)
    scraped = _listen(api.metrics_host, api.metrics_port) if api.metrics_port else None
    if listening is None or (api.metrics_port and scraped is None):
        return 1
    _log.info("listening", host=api.host, port=listening.getsockname()[1])
    meters.introduce("api")
    if api.processes == 1:
        return serve(settings, listening, scraped)
    meters.share(api.processes)

    def serve_in(place: int) -> int:
        meters.take(place)
        return serve(settings, listening, scraped)

    family = Family(serve_in, settings.api.processes)
    return family.run(stop_timeout_s=settings.api.drain_timeout_s + _CLOSING_S)


def _listen(host: str, port: int, backlog: int = scrapes.BACKLOG) -> socket.socket | None:
    """Listen; None, with a line that says why, where that cannot be."""
    try:
        return listen(host, port, backlog)
    except OSError as error:
        _log.error("cannot listen", host=host, port=port, error=error)
        return None


def serve(
    settings: Settings, listening: socket.socket, scraped: socket.socket | None = None
) -> int:
    """Serve on a socket that listens, in this process; its metrics on `scraped`, too."""
    server = make_server(settings)
    logging.write_behind()
    if scraped is not None:
        scrapes.serve(scraped, Exposition("api"))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.freeze()  # what is loaded now stays: no collection needs to look at it again
    gc.set_threshold(*_GC_THRESHOLDS)
    server.run(sockets=[listening])
    return 0


def make_server(settings: Settings) -> uvicorn.Server:
    """Make the server, to be run on a socket that listens."""
    app = App(lambda: open_api(settings))
    return _Server(
        app,
        uvicorn.Config(
            app,
            loop="uvloop",
            http=functools.partial(Connection, app.hot),  # type: ignore[arg-type]  # makes one
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(KEEP_ALIVE_S),
            timeout_graceful_shutdown=settings.api.drain_timeout_s,
        ),
    )


class _Server(uvicorn.Server):
    """uvicorn that tells the application of its end before it waits for the last answers."""

    def __init__(self, app: App, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def main_loop(self) -> None:
        connections = self.server_state.connections
        beside = [
            asyncio.create_task(sweep(connections)),
            asyncio.create_task(keep_gauges(self._app.api, lambda: connections)),
        ]
        try:
            await super().main_loop()
        finally:
            for task in beside:
                task.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal. Not remembered: uvicorn would raise it again at the end."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
