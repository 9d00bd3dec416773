"""Trace context: the gateway's trace is kept where it is one, and made where it is not."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.trace import context_of, trace_of, trace_of_task, trace_text

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "raw",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-00",  # not sampled by the gateway: its trace all the same
        f" 00-{TRACE}-{PARENT}-01\t",
        f"cc-{TRACE}-{PARENT}-01-what-a-later-version-adds",
    ],
)
def test_a_valid_traceparent_names_the_trace(raw: str) -> None:
    """As W3C Trace Context has it, later versions included."""
    assert trace_text(trace_of(raw.encode())) == TRACE


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"junk",
        f"ff-{TRACE}-{PARENT}-01".encode(),
        f"00-{'0' * 32}-{PARENT}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE}-{PARENT}-01-more".encode(),
        f"00-{TRACE.upper()}-{PARENT}-01".encode(),
        f"00-{TRACE}-{PARENT}-01\n{{}}".encode(),
    ],
)
def test_anything_else_begins_a_trace_of_its_own(raw: bytes | None) -> None:
    """Nothing of what was sent is kept: two calls with it have two traces."""
    made = {trace_text(trace_of(raw)) for _ in range(2)}
    assert len(made) == 2
    assert made.isdisjoint({TRACE, "0" * 32})


def test_a_task_is_traced_by_its_traceparent_or_by_its_id() -> None:
    """Both come from the broker, so neither is believed to be what it should be."""
    task_id = "0190b5a2-7b7c-7c3e-8f3a-0123456789ab"
    assert trace_text(trace_of_task(f"00-{TRACE}-{PARENT}-01", task_id)) == TRACE
    assert trace_of_task(["x"], task_id) == UUID(task_id).int
    assert trace_of_task("ü", "a task") not in (0, trace_of_task("ü", "a task"))


@given(st.binary(max_size=80))
def test_whatever_is_sent_a_trace_is_32_digits(raw: bytes) -> None:
    """Headers are anybody's."""
    told = trace_text(trace_of(raw))
    assert len(told) == 32
    assert int(told, 16)


def state_of(tracestate: object) -> str | None:
    context = context_of(f"00-{TRACE}-{PARENT}-01", tracestate)
    return None if context is None else context.state


@pytest.mark.parametrize(
    "state",
    [
        "congo=t61rcWkgMzE",
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        "0tenant@vendor=a b",
        ", ot=th:8 ,",
        ",".join(f"k{number}=v" for number in range(32)),
    ],
)
def test_a_tracestate_is_kept_as_it_came(state: str) -> None:
    """With the empty members that W3C Trace Context allows."""
    assert state_of(state) == state.strip()


@pytest.mark.parametrize(
    "state",
    [
        "Congo=x",
        "congo",
        "congo=",
        "congo=a=b",
        "congo=x\n",
        "congo=ü",
        "congo=\x00",
        f"congo={'x' * 512}",
        ",".join(f"k{number}=v" for number in range(33)),
        7,
    ],
)
def test_what_is_no_tracestate_is_dropped_and_its_traceparent_kept(state: object) -> None:
    """It is journalled, and told to whoever takes spans: rubbish and floods are not."""
    assert state_of(state) == ""


@pytest.mark.timeout(60)  # each takes microseconds; read in every possible way, it takes years
@pytest.mark.parametrize(
    "member",
    [" ", "  ", " " * 15, "\t", " \t ", "", "a=b ", "a=b c d ", f"a={'b ' * 60}", "a@b=c  \t"],
)
def test_a_tracestate_is_read_in_one_way(member: str) -> None:
    """Whoever may call could stop the whole process otherwise: of the size that has to be taken."""
    for end in ("\x7f", " x", " " * 20 + "=", ",="):
        count = min((512 - len(end)) // (len(member) + 1), 31)
        state = (f"{member}," * count + end).ljust(512, " ")[:512]
        assert state_of(state[:-1] + "\x7f") == ""
        assert state_of("x" + state[1:]) == ""


def test_a_tracestate_alone_says_nothing() -> None:
    """It belongs to the trace that was named beside it."""
    assert context_of(None, "congo=x") is None
