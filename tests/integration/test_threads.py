"""Every thread that the product starts has an owner who stops it."""

from __future__ import annotations

import threading
from concurrent.futures import thread as pools

from http_kit import add_gateway, serve, settings_for
from kit import World, comes_true


def test_an_api_that_has_ended_leaves_no_thread_behind(world: World) -> None:
    """Not its books, its lanes, its publisher or its ear: they would speak of servers long gone."""
    add_gateway(world.dsn)
    before = set(threading.enumerate())
    with serve(settings_for(world.dsn, world.valkey_url)) as served:
        served.committed()
        ours = {one.name for one in set(threading.enumerate()) - before}
        assert {"levels", "limits", "publisher", "hearing"} <= ours

    def left() -> list[str]:
        return [
            one.name for one in set(threading.enumerate()) - before - set(pools._threads_queues)
        ]

    assert comes_true(lambda: not left()), left()
