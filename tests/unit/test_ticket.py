"""Tickets: only we can give one, and only its holder can show it."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.signing import derive_key
from workers.contract.ticket import TICKET_CHARS, Tickets
from workers.domain.appointment import WIDTH_MS_MAX, Window

MASTER = "a master secret of a deployment"
TICKETS = Tickets(MASTER)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
WINDOW = Window(1_770_343_200_000, 1_770_343_205_000)
HOLDER = ("chat", "u-184467", "qwen-spring-2026")

names = st.text(max_size=12)
windows = st.builds(
    lambda starts_ms, width_ms: Window(starts_ms, starts_ms + width_ms),
    st.integers(0, 2**48 - 1),
    st.integers(1, WIDTH_MS_MAX),
)


@given(names, names, names, windows)
def test_a_ticket_proves_its_window_to_its_holder(
    gateway_id: str, user_id: str, campaign_id: str, window: Window
) -> None:
    """What was told is recognized, without being stored."""
    ticket = TICKETS.sign(gateway_id, user_id, campaign_id, window)
    assert len(ticket) == TICKET_CHARS
    assert set(ticket) <= set(ALPHABET)
    assert TICKETS.read(ticket, gateway_id, user_id, campaign_id) == window


@given(st.tuples(names, names, names), st.tuples(names, names, names), windows)
def test_a_ticket_proves_nothing_to_anybody_else(
    holder: tuple[str, str, str], other: tuple[str, str, str], window: Window
) -> None:
    """It is bound to gateway, user and campaign, all three."""
    read = TICKETS.read(TICKETS.sign(*holder, window), *other)
    assert read == (window if other == holder else None)


@given(names, names, names, st.integers(0, 2), st.integers(0, 2))
def test_names_cannot_be_shifted_into_one_another(
    one: str, two: str, three: str, source: int, target: int
) -> None:
    """Moving a character from one name to its neighbour makes another holder."""
    holder = [one, two, three]
    moved = list(holder)
    moved[source], letter = moved[source][:-1], moved[source][-1:]
    moved[target] += letter
    ticket = TICKETS.sign(holder[0], holder[1], holder[2], WINDOW)
    read = TICKETS.read(ticket, moved[0], moved[1], moved[2])
    assert (read is not None) is (moved == holder)


def test_a_ticket_is_the_same_however_often_it_is_told() -> None:
    """The form is a promise to those who hold one over a release."""
    assert TICKETS.sign(*HOLDER, WINDOW) == Tickets(MASTER).sign(*HOLDER, WINDOW)
    assert TICKETS.sign(*HOLDER, WINDOW) == "HQGcMK11AAATiPJjPdd4FIrrPF5ZL0Yq"


def test_no_changed_character_is_accepted() -> None:
    """Each ticket has one spelling: every other character in any place makes it a forgery."""
    ticket = TICKETS.sign(*HOLDER, WINDOW)
    for place in range(TICKET_CHARS):
        for character in ALPHABET.replace(ticket[place], "") + "+/=. \n\0é":
            forged = ticket[:place] + character + ticket[place + 1 :]
            assert TICKETS.read(forged, *HOLDER) is None


@pytest.mark.parametrize(
    "ticket",
    [
        *("", "A", "A" * 31, "A" * 32, "A" * 33, "A" * 10**6, "=" * 32, "é" * 32, "１" * 32),
        *("\ud800" * 32, "\0" * 32, "A" * 31 + "\n", "A" * 32 + "\n", " " + "A" * 32),
    ],
)
def test_what_is_no_ticket_is_refused_without_a_fault(ticket: str) -> None:
    """A header holds whatever a caller likes: the answer is a plain no."""
    assert TICKETS.read(ticket, *HOLDER) is None


def test_a_genuine_ticket_with_anything_added_is_none() -> None:
    """One spelling, no white space, no padding."""
    ticket = TICKETS.sign(*HOLDER, WINDOW)
    for spelling in (ticket + "\n", " " + ticket, ticket + "=", ticket + "A", ticket[:-1]):
        assert TICKETS.read(spelling, *HOLDER) is None


@given(st.text(max_size=40) | st.text(ALPHABET, min_size=32, max_size=32))
def test_no_text_is_a_ticket_by_chance(text: str) -> None:
    """Any text is answered, and none of it is proven."""
    assert TICKETS.read(text, *HOLDER) is None


def test_names_that_no_encoding_knows_are_no_fault() -> None:
    """A lone surrogate in a user's name is bound as any other character."""
    ticket = TICKETS.sign("chat", "u\ud800", "c", WINDOW)
    assert TICKETS.read(ticket, "chat", "u\ud800", "c") == WINDOW
    assert TICKETS.read(ticket, "chat", "u\ud801", "c") is None


@given(windows)
def test_a_ticket_of_another_master_is_a_forgery(window: Window) -> None:
    """Two deployments do not accept each other's tickets."""
    foreign = Tickets("the master secret of another one")
    assert TICKETS.read(foreign.sign(*HOLDER, window), *HOLDER) is None


def test_tickets_survive_the_rotation_of_the_master() -> None:
    """Whoever was told a time keeps it while its master is listed, in any order."""
    masters = tuple(f"master secret number {number}" for number in range(300))
    rotated = Tickets(MASTER, masters)
    reordered = Tickets(MASTER, masters[::-1])
    dropped = Tickets(MASTER, masters[150:])
    for number, master in enumerate(masters):
        ticket = Tickets(master).sign(*HOLDER, WINDOW)
        assert rotated.read(ticket, *HOLDER) == WINDOW
        assert reordered.read(ticket, *HOLDER) == WINDOW
        assert dropped.read(ticket, *HOLDER) == (WINDOW if number >= 150 else None)
    assert rotated.sign(*HOLDER, WINDOW) == TICKETS.sign(*HOLDER, WINDOW)


@given(windows)
def test_the_proof_is_the_standard_one(window: Window) -> None:
    """RFC 2104, as the standard library computes it: only computed without letting go of the lock."""
    raw = urlsafe_b64decode(TICKETS.sign("chat", "u-1", "spring", window))
    signed = raw[:10] + b"4:chat6:springu-1"
    key = derive_key(MASTER, "appointment-ticket")
    assert raw[10:] == hmac.digest(key, signed, "sha256")[:14]


def test_the_proof_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forger learns nothing from how long a no takes."""
    compared = []

    def _compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", _compare)
    ticket = TICKETS.sign(*HOLDER, WINDOW)
    assert TICKETS.read(ticket[:-1] + ("A" if ticket[-1] != "A" else "B"), *HOLDER) is None
    assert TICKETS.read(ticket, "chat", "somebody else", "qwen-spring-2026") is None
    assert [len(one) for one, _ in compared] == [14, 14]


@pytest.mark.parametrize(
    "window",
    [
        *(Window(-1, 5), Window(2**48, 2**48 + 5), Window(5, 5), Window(5, 4)),
        Window(5, 6 + WIDTH_MS_MAX),
    ],
)
def test_a_window_that_no_calendar_gives_is_not_signed(window: Window) -> None:
    """A bug is found here, not by whoever holds the ticket."""
    with pytest.raises(ValueError, match="expected a window"):
        TICKETS.sign(*HOLDER, window)


def test_a_master_that_somebody_typed_is_refused() -> None:
    """A ticket passes the queue: a short secret is no secret."""
    with pytest.raises(ValueError, match="at least 16"):
        Tickets("changeme")
    with pytest.raises(ValueError, match="at least 16"):
        Tickets(MASTER, ("old",))
