"""The console in a real browser: it updates live, its levers work, by keyboard and on a phone.

Beside the tests, TIDEGATE_CONSOLE_SHOTS=FOLDER keeps what they saw as PNG.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.embedded.cluster import Cluster
from producer.http.auth import WATCH
from tests.acceptance.chromium import Page, browsing, found, page
from workers.store import gateways
from workers.store.pool import OWNER, Bounds, connect

CAMPAIGN = Path(__file__).with_name("console.toml")
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;</script>"
LEVELS = "SELECT level, reason FROM tidegate.level_orders"
ACTS = "SELECT actor, action, reason FROM tidegate.operator_actions WHERE action LIKE 'level%'"
_keys = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found()  # before anything is started for nothing
    data: Path = tmp_path_factory.mktemp("console") / "data"
    with Cluster(data, workers=1, campaign=CAMPAIGN) as running:
        yield running


@pytest.fixture(scope="module")
def watcher(cluster: Cluster) -> str:
    """A key that sees and pulls nothing."""
    with connect(cluster.dsn, OWNER, Bounds(), name="test") as connection:
        made = gateways.create_gateway(connection, "watcher", [WATCH], actor="test")
    return made.key


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browsing(tmp_path_factory.mktemp("chromium")) as where:
        yield where


@contextmanager
def console(
    cluster: Cluster, devtools: str, key: str, width: int = 1280, height: int = 800, **media: str
) -> Iterator[Page]:
    """The console with this key typed in; afterwards the browser must have had no complaint."""
    with page(devtools, width, height, **media) as shown:
        sign_in(shown, cluster, key)
        yield shown
        photographed(shown, width, height, **media)
        assert shown.complaints() == []


def sign_in(shown: Page, cluster: Cluster, key: str) -> None:
    shown.open(cluster.api_url + "/console")
    shown.until("document.activeElement.id === 'key'")
    shown.write(key)
    shown.press("Enter")
    shown.until("document.querySelector('#level').innerText !== '' && !board.hidden")


def photographed(shown: Page, width: int, height: int, **media: str) -> None:
    folder = os.environ.get("TIDEGATE_CONSOLE_SHOTS")
    if folder:
        name = "-".join([f"{width}x{height}", *media.values()])
        shown.photograph(Path(folder) / f"{name}-{next(_keys)}.png", whole=width < 600)


def buy(cluster: Cluster, sku: str = "milk-tea-large", count: int = 1) -> None:
    """Buy so often, and hear each outcome."""
    for _ in range(count):
        number = next(_keys)
        reply = httpx.post(
            cluster.api_url + "/v1/intents",
            headers={
                "authorization": f"Bearer {cluster.api_key}",
                "idempotency-key": f"console-{number}",
                "prefer": "wait=10",
            },
            json={
                "user_id": f"u-{number}",
                "campaign_id": "qwen-spring-2026",
                "lines": [{"sku": sku, "quantity": 1}],
            },
            timeout=30,
        )
        assert reply.status_code in (200, 202), reply.text


def pull(cluster: Cluster, path: str, **body: Any) -> None:
    reply = httpx.post(
        f"{cluster.api_url}/v1/operator/{path}",
        headers={
            "authorization": f"Bearer {cluster.api_key}",
            "idempotency-key": f"pull-{next(_keys)}",
        },
        json={"dry_run": False, **body},
        timeout=60,
    )
    assert reply.status_code == 200, reply.text


def rows(cluster: Cluster, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(cluster.dsn) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture
def opened(cluster: Cluster) -> Iterator[None]:
    """Whatever a test orders ends with it."""
    yield
    pull(cluster, "level", action="open", reason="the test is over")


# Seeing --------------------------------------------------------------------------------------------


def test_it_updates_live(cluster: Cluster, devtools: str, watcher: str) -> None:
    """What is bought is seen, in figures and lines, by a page that nobody touches."""
    with console(cluster, devtools, watcher) as shown:
        shown.until("document.querySelector('.campaign h3')")
        before = shown.text(".stock .line")
        buy(cluster, count=5)
        shown.until(f"document.querySelector('.stock .line').innerText !== {json.dumps(before)}")
        shown.until(
            "parseFloat(document.querySelector('[data-rate=committed] .value').innerText) > 0"
        )
        shown.until(
            "document.querySelector('[data-rate=committed] path.line')?.getAttribute('d').length > 20"
        )
        assert shown.text("#link") == "live"
        assert shown.text("#level") == "normal"


def test_what_was_refused_is_named(cluster: Cluster, devtools: str, watcher: str) -> None:
    """In words, with where it was."""
    with console(cluster, devtools, watcher) as shown:
        scarce = "an-item-whose-name-is-as-long-as-the-name-of-an-item-may-ever-be"
        buy(cluster, scarce, count=8)
        shown.until("document.querySelectorAll('#refusals li').length > 0")
        shown.until(f"document.querySelector('.items').textContent.includes({json.dumps(scarce)})")


def test_the_browser_asks_this_host_only(cluster: Cluster, devtools: str, watcher: str) -> None:
    """And holds the policy to be kept: no complaint, no cookie, no script from outside."""
    with console(cluster, devtools, watcher) as shown:
        asked = shown.requests()
        assert len(asked) > 5
        assert all(url.startswith(cluster.api_url) for url in asked), asked
        assert shown.ask("document.cookie") == ""
        refused = (
            "(() => { const s = document.createElement('script');"
            " try { s.text = 'window.broken = 1'; document.body.append(s) } catch {}"
            " return window.broken ?? 0 })()"
        )
        assert shown.ask(refused) == 0
        shown.events.clear()  # the complaint about just that


def test_words_of_operators_are_shown_as_they_are(
    cluster: Cluster, devtools: str, watcher: str, opened: None
) -> None:
    """Markup in a reason is text on the page, wherever it is shown."""
    with console(cluster, devtools, watcher) as shown:
        pull(cluster, "level", action="force", level="throttled", reason=HOSTILE)
        pull(cluster, "merchants/tea-house", action="pause", reason=HOSTILE)
        try:
            for where in ("#level-ordered", "#acts", "#merchants"):
                told = f"document.querySelector('{where}').textContent"
                shown.until(f"{told}.includes({json.dumps(HOSTILE)})")
            assert shown.ask("document.querySelectorAll('main img, main script').length") == 0
        finally:
            pull(cluster, "merchants/tea-house", action="resume", reason="over")


def test_a_lost_connection_is_said_with_its_age_and_found_again(
    cluster: Cluster, devtools: str, watcher: str
) -> None:
    """What is shown is old, and the page says how old."""
    with page(devtools) as shown:
        sign_in(shown, cluster, watcher)
        offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        shown.call("Network.emulateNetworkConditions", offline=True, **offline)
        # A stream that was open already is no longer fed either: the tab sleeps through nothing.
        shown.ask("performance.getEntriesByType('resource').length")
        process = cluster.endpoints().processes["api"][0]
        os.kill(process, 19)  # SIGSTOP: the connection stays, and says nothing
        try:
            shown.until("!lost.hidden && /Last heard \\d+ s ago/.test(lost.innerText)")
            assert shown.text("#link") == "connection lost"
            assert shown.ask("document.querySelector('#lost-said').getAttribute('role')") == "alert"
            age = shown.text("#lost-age")
            shown.until(f"document.querySelector('#lost-age').innerText !== {json.dumps(age)}")
        finally:
            os.kill(process, 18)  # SIGCONT
        shown.call("Network.emulateNetworkConditions", offline=False, **offline)
        shown.until("lost.hidden && link.innerText === 'live'")


# Pulling -------------------------------------------------------------------------------------------


def test_who_only_watches_sees_no_lever(cluster: Cluster, devtools: str, watcher: str) -> None:
    """Not one button of them."""
    with console(cluster, devtools, watcher) as shown:
        shown.until("who.innerText.includes('read-only')")
        visible = (
            "[...document.querySelectorAll('main button')].filter((b) => b.offsetParent).length"
        )
        assert shown.ask(visible) == 0


def test_a_wrong_key_is_told_and_not_kept(cluster: Cluster, devtools: str) -> None:
    """Nothing is shown, and the tab remembers nothing."""
    with page(devtools) as shown:
        shown.open(cluster.api_url + "/console")
        shown.until("document.activeElement.id === 'key'")
        shown.write("tg_wrong")
        shown.press("Enter")
        shown.until("document.querySelector('#key-wrong').innerText.includes('not known')")
        assert shown.ask("sessionStorage.length") == 0
        assert shown.ask("board.hidden") is True


def test_the_key_stays_in_this_tab_until_signing_out(
    cluster: Cluster, devtools: str, watcher: str
) -> None:
    """A reload goes on; after signing out nothing of it is left, and no other tab ever had it."""
    with console(cluster, devtools, watcher) as shown:
        shown.ask("location.reload()")
        shown.until("window.board && !board.hidden && link.innerText === 'live'")
        with page(devtools) as other:
            other.open(cluster.api_url + "/console")
            other.until("document.activeElement.id === 'key'")
        shown.tab_to("leave")
        shown.press("Enter")
        shown.until("document.activeElement.id === 'key'")
        assert shown.ask("sessionStorage.length + localStorage.length") == 0
        assert shown.ask("board.hidden && document.querySelector('#key').value === ''") is True


def test_the_system_is_closed_and_opened_by_keyboard_alone(
    cluster: Cluster, devtools: str, opened: None
) -> None:
    """Reached by Tab; the dry run is shown and nothing done; then confirmed; then lifted."""
    acts = len(rows(cluster, ACTS))
    with console(cluster, devtools, cluster.api_key) as shown:
        shown.until("document.querySelector('#close').offsetParent")
        shown.tab_to("close")
        shown.press("Enter")
        shown.until("lever.open && document.activeElement.id === 'lever-reason'")
        shown.write("couriers are full")
        shown.press("Enter")
        shown.until("document.querySelector('#lever-told').innerText.includes('Dry run')")
        told = shown.text("#lever-told")
        assert "closed would be ordered until" in told
        assert "Touches" in told
        assert rows(cluster, LEVELS) == []  # nothing was done
        photographed(shown, 1280, 800, kind="dialog")
        shown.until("document.activeElement.id === 'lever-do'")
        shown.press("Enter")
        shown.until("!lever.open && document.activeElement.id === 'close'")  # where one was
        assert rows(cluster, LEVELS) == [("closed", "couriers are full")]
        shown.until("document.querySelector('#level').innerText === 'closed'")
        shown.until("document.title.startsWith('closed')")
        assert rows(cluster, ACTS)[acts:] == [("dev", "level closed", "couriers are full")]
        shown.tab_to("open")
        shown.press(" ")
        shown.until("document.activeElement.id === 'lever-reason'")
        shown.write("room again")
        shown.press("Enter")
        shown.until("document.activeElement.id === 'lever-do'")
        shown.press("Enter")
        shown.until("document.querySelector('#level').innerText === 'normal'")
        assert rows(cluster, LEVELS) == []


def test_escape_leaves_a_lever_alone(cluster: Cluster, devtools: str) -> None:
    """The dialog closes, nothing is done, and the focus is where it was."""
    with console(cluster, devtools, cluster.api_key) as shown:
        shown.tab_to("force")
        shown.press("Enter")
        shown.until("lever.open && document.activeElement.id === 'lever-level'")
        shown.press("Escape")
        shown.until("!lever.open && document.activeElement.id === 'force'")
        assert rows(cluster, LEVELS) == []


def test_another_form_needs_another_dry_run(cluster: Cluster, devtools: str) -> None:
    """What is confirmed is what was shown."""
    with console(cluster, devtools, cluster.api_key) as shown:
        shown.tab_to("close")
        shown.press("Enter")
        shown.until("document.activeElement.id === 'lever-reason'")
        shown.write("full")
        shown.press("Enter")
        shown.until("document.activeElement.id === 'lever-do'")
        shown.ask("document.querySelector('#lever-reason').focus()")
        shown.write(" again")
        hidden = (
            "document.querySelector('#lever-do').hidden && lever.innerText.includes('Show what')"
        )
        shown.until(hidden)
        assert shown.text("#lever-told") == ""
        shown.press("Escape")


def test_a_campaign_and_a_merchant_are_paused_and_resumed(cluster: Cluster, devtools: str) -> None:
    """Each by its own button, which then offers the way back; it stays where it is, focus and all."""
    with console(cluster, devtools, cluster.api_key) as shown:
        shown.until("document.querySelector('.campaign button')?.offsetParent")
        for where in (".campaign", "#merchants li:last-child"):
            button = f"document.querySelector({json.dumps(where + ' button')})"
            chip = f"document.querySelector({json.dumps(where + ' .chip')})"
            for verb, chips in (("Pause", "paused"), ("Resume", "")):
                shown.until(f"{button}.innerText.startsWith('{verb}')")
                shown.ask(f"{button}.focus()")
                shown.press("Enter")
                shown.until("document.activeElement.id === 'lever-reason'")
                shown.write("kitchen full")
                shown.press("Enter")
                shown.until("document.activeElement.id === 'lever-do'")
                shown.press("Enter")
                shown.until(
                    f"!lever.open && {chip}.className.trim() === ('chip ' + '{chips}').trim()"
                )
                assert shown.ask(f"document.activeElement === {button}") is True
        assert rows(cluster, "SELECT bool_or(paused) FROM tidegate.merchants") == [(False,)]


# By everybody ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 780), (768, 1024), (1280, 800)])
def test_it_fits_its_screen(
    cluster: Cluster, devtools: str, width: int, height: int, scheme: str, opened: None
) -> None:
    """No scrolling sideways, not with the longest names, nor in a lever; targets fit a finger."""
    pull(cluster, "level", action="force", level="normal", reason="a" * 200)
    media = {"prefers_color_scheme": scheme}
    with console(cluster, devtools, cluster.api_key, width, height, **media) as shown:
        shown.until("document.querySelector('#merchants button')?.offsetParent")
        shown.ask("document.querySelector('details').open = true")
        shown.until("!document.querySelector('#level-ordered').hidden")
        fits = "document.scrollingElement.scrollWidth <= innerWidth"
        assert shown.ask(fits), shown.ask(_WIDE)
        least = 44 if width < 700 else 32
        small = (
            "[...document.querySelectorAll('button')].filter((b) => b.offsetParent"
            f" && b.getBoundingClientRect().height < {least}).map((b) => b.innerText)"
        )
        assert shown.ask(small) == []
        shown.ask("document.querySelector('#force').click()")
        shown.until("lever.open")
        assert shown.ask(fits)
        assert shown.ask("lever.getBoundingClientRect().right <= innerWidth")
        shown.press("Escape")


_WIDE = (
    "[...document.querySelectorAll('body *')].filter((e) =>"
    " e.getBoundingClientRect().right > innerWidth).map((e) => e.className || e.id)"
)


def test_words_stand_out_from_their_ground_in_both_schemes(
    cluster: Cluster, devtools: str, watcher: str
) -> None:
    """By 4.5 to 1, as WCAG asks; and the two schemes differ."""
    grounds = set()
    for scheme in ("light", "dark"):
        with console(cluster, devtools, watcher, prefers_color_scheme=scheme) as shown:
            assert shown.ask(_PALE) == []
            grounds.add(shown.ask("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


_PALE = """(() => {
  const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const [r, g, b] = numbers(c).map((v) => v / 255).map((v) =>
      v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (numbers(c)[3] !== 0) return c;
    }
  };
  const told = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll('body *')].filter((e) => e.offsetParent && told(e))
    .map((e) => {
      const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
      return [((a + 0.05) / (b + 0.05)).toFixed(2), e.id || e.className, e.textContent.slice(0, 20)];
    }).filter(([ratio]) => ratio < 4.5);
})()"""


def test_whoever_asked_for_no_motion_gets_none(
    cluster: Cluster, devtools: str, watcher: str
) -> None:
    """Neither a pulse nor a slide."""
    moving = (
        "[...document.querySelectorAll('*')].filter((e) => ['', '::before'].some((p) => {"
        " const s = getComputedStyle(e, p || null); return s.animationName !== 'none'"
        " || !['0s', ''].includes(s.transitionDuration) })).length"
    )
    with console(cluster, devtools, watcher) as shown:
        assert shown.ask(moving) > 0
    with console(cluster, devtools, watcher, prefers_reduced_motion="reduce") as shown:
        assert shown.ask(moving) == 0


def test_a_screen_reader_finds_its_way(cluster: Cluster, devtools: str) -> None:
    """Landmarks, a heading for each part, a name for each control, and the level said on change."""
    with console(cluster, devtools, cluster.api_key) as shown:
        shown.until("document.querySelector('#merchants button')?.offsetParent")
        shown.call("Accessibility.enable")
        nodes = shown.call("Accessibility.getFullAXTree")["nodes"]
        seen = [node for node in nodes if not node.get("ignored")]
        roles = {node["role"]["value"] for node in seen}
        assert {"banner", "main", "heading", "region", "status"} <= roles
        for node in seen:
            if node["role"]["value"] in ("button", "textbox", "combobox", "region", "link"):
                assert node.get("name", {}).get("value"), node
        level = "document.querySelector('#level')"
        assert shown.ask(f"{level}.getAttribute('aria-live')") == "polite"
        shown.ask(
            "window.said = 0; new MutationObserver(() => window.said++).observe("
            f"{level}, {{childList: true, characterData: true, subtree: true}})"
        )
        at = shown.ask("document.querySelector('#level-since').innerText")
        # It is told in minutes once it is one.
        shown.until(f"document.querySelector('#level-since').innerText !== {json.dumps(at)}", 90)
        assert shown.ask("window.said") == 0  # a second that passes is no news


def test_the_focus_can_be_seen(cluster: Cluster, devtools: str) -> None:
    """Whoever uses the keyboard sees where they are; the first stop skips to the figures."""
    with console(cluster, devtools, cluster.api_key) as shown:
        shown.ask("document.activeElement.blur()")
        shown.tab_to("close")
        style = "getComputedStyle(document.activeElement)"
        assert shown.ask(f"{style}.outlineStyle") == "solid"
        assert shown.ask(f"parseFloat({style}.outlineWidth)") >= 2
