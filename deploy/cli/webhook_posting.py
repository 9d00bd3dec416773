"""What `tidegate webhook` does on the network itself: it checks a URL, and posts a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings import Settings
    from workers.domain.delivery import Answer
    from workers.service.letters import Writer
    from workers.store.webhooks import Endpoint

_BODY_SHOWN_MAX = 200


async def check(settings: Settings, url: str) -> None:
    """Check that we may post to a URL; raises workers.domain.destination.Refused."""
    from workers.contract.posting import Poster

    poster = Poster(allow_private=settings.webhooks.allow_private)
    try:
        await poster.check(url)
    finally:
        poster.close()


async def post_test(settings: Settings, writer: Writer, endpoint: Endpoint) -> tuple[str, Answer]:
    """Post an event that says only that events arrive; return its id and the answer."""
    from workers.contract.posting import Poster
    from workers.service.letters import post_letter

    poster = Poster(allow_private=settings.webhooks.allow_private)
    letter = writer.write_test(endpoint)
    try:
        return letter.message_id, await post_letter(poster, writer, endpoint, letter)
    finally:
        poster.close()


def answer_told(message_id: str, answer: Answer) -> dict[str, Any]:
    """Tell an answer to a script."""
    return {
        "webhook_id": message_id,
        "delivered": answer.delivered,
        "status": answer.status,
        "error": answer.error or None,
        "took_ms": round(answer.took_ms, 1),
        "body": _beginning(answer),
    }


def answer_text(url: str, message_id: str, answer: Answer) -> str:
    """Tell an answer to a person."""
    what = f"answered {answer.status}" if answer.status else answer.error
    beginning = _beginning(answer)
    lines = [f"{url} {what} after {answer.took_ms:.0f} ms", f"  webhook-id {message_id}"]
    if beginning:
        lines.append(f"  {beginning}")
    return "\n".join(lines)


def _beginning(answer: Answer) -> str:
    text = answer.body[:_BODY_SHOWN_MAX].decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
