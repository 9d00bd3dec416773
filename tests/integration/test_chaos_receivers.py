"""The receivers of a chaos run: each as bad as its name, and everything written down."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from deploy.chaos.receivers import Receivers
from deploy.embedded import process

EVENT = {
    "id": "evt_1_committed",
    "type": "tidegate.intent.committed",
    "subject": "i-1",
    "data": {"idempotency_key": "chaos-1-7"},
}
PATIENCE_S = 0.5


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    with Receivers() as listening:
        yield listening


def post(receivers: Receivers, name: str) -> int:
    """Return the status. Raises where no whole answer comes."""
    talk = HTTPConnection("127.0.0.1", receivers.port, timeout=PATIENCE_S)
    try:
        talk.request("POST", f"/{name}", json.dumps(EVENT))
        answer = talk.getresponse()
        answer.read()
        return answer.status
    finally:
        talk.close()


def dial(receivers: Receivers, name: str, said: str = json.dumps(EVENT)) -> HTTPConnection:
    """Post, and wait for no answer."""
    talk = HTTPConnection("127.0.0.1", receivers.port, timeout=5)
    talk.request("POST", f"/{name}", said)
    return talk


def test_the_sound_one_takes_what_comes_and_it_is_written_down(
    receivers: Receivers, tmp_path: Path
) -> None:
    assert post(receivers, "sound") == 204
    (heard,) = receivers.heard_of("chaos-1")
    assert (heard.receiver, heard.event, heard.intent_id) == ("sound", "committed", "i-1")
    assert receivers.heard_of("chaos-10") == []
    receivers.write(tmp_path / "webhooks.jsonl", "chaos-1")
    assert json.loads((tmp_path / "webhooks.jsonl").read_text())["event_id"] == EVENT["id"]


def test_while_it_is_away_nothing_is_taken_and_afterwards_all_is(receivers: Receivers) -> None:
    with receivers.without_the_sound_one():
        with pytest.raises((HTTPException, OSError)):
            post(receivers, "sound")
        assert receivers.heard == []
    assert post(receivers, "sound") == 204


@pytest.mark.parametrize("name", ["slow", "silent", "dying"])
def test_a_bad_one_gives_no_whole_answer_in_time(receivers: Receivers, name: str) -> None:
    """What it was sent it has: who sends it again sends the same."""
    with pytest.raises((HTTPException, OSError)):
        post(receivers, name)
    assert [heard.receiver for heard in receivers.heard] == [name]


def test_a_failing_one_says_so(receivers: Receivers) -> None:
    assert post(receivers, "failing") == 500


def test_an_endless_one_answers_and_never_comes_to_an_end(receivers: Receivers) -> None:
    with closing(dial(receivers, "endless")) as talk:
        answer = talk.getresponse()
        assert answer.read(3) == b"xxx"
        assert not answer.isclosed()


def test_those_who_still_wait_in_the_end_are_cut_and_nobody_complains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each receiver keeps its connection as long as it can."""
    names = ["sound", "slow", "silent", "failing", "endless"]
    with ExitStack() as waiting:
        with Receivers() as receivers:
            talks = [waiting.enter_context(closing(dial(receivers, name))) for name in names]
            assert process.until(lambda: len(receivers.heard) == len(names), 5)
        silent = talks[names.index("silent")]
        with pytest.raises((HTTPException, OSError)):
            silent.getresponse()
    assert caplog.text == ""


def test_what_goes_wrong_in_a_receiver_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with Receivers() as receivers:
        with (
            closing(dial(receivers, "sound", "no event")) as talk,
            pytest.raises((HTTPException, OSError)),
        ):
            talk.getresponse()
    gc.collect()
    assert "DecodeError" in caplog.text
