"""What the SDK itself says in the chat: the API's own sentences, where the API said none.

Only a wait of its own, which no answer of the API is about, has words of its own.
"""

from __future__ import annotations

from math import ceil
from typing import Final, Literal

from producer.client.model import Kind
from producer.http.messages import Language, Messages
from workers.domain.overload import Level

_API: Final = Messages()
_WAITS: Final[dict[Language, dict[str, str]]] = {
    "en": {
        "turned_away": "We are very busy. We keep trying for you, again in about {when}.",
        "appointment": "We are very busy, but your place is kept: in about {when} it is your turn. "
        "You need not do anything.",
        "seconds": "{n} s",
        "minutes": "{n} min",
    },
    "zh-CN": {
        "turned_away": "当前人数较多，我们会在约{when}后继续为您尝试。",
        "appointment": "当前人数较多，已为您留好位置：约{when}后轮到您，无需任何操作。",
        "seconds": "{n}秒",
        "minutes": "{n}分钟",
    },
    "el": {
        "turned_away": "Έχουμε πολύ κόσμο. Συνεχίζουμε για εσάς, ξανά σε περίπου {when}.",
        "appointment": "Έχουμε πολύ κόσμο, αλλά η θέση σας κρατιέται: σε περίπου {when} είναι η "
        "σειρά σας. Δεν χρειάζεται να κάνετε τίποτα.",
        "seconds": "{n} δευτ.",
        "minutes": "{n} λεπτά",
    },
}
_MINUTES_FROM_S: Final = 120


def accepted(kind: Kind, locale: str | None) -> str:
    """Say that a wish was accepted."""
    state = "accepted" if kind == "order" else "accepted_issuance"
    return _API.status(_API.language_for(locale), state)


def problem(code: str, locale: str | None, wait_s: float) -> str:
    """Say what the API says of a problem, and when to come back."""
    return _API.problem(_API.language_for(locale), code, _whole(wait_s))


def closed(locale: str | None) -> str:
    """Say that nothing is taken, where nobody knows for how long."""
    return _API.level(_API.language_for(locale), Level.CLOSED)


def waiting(
    reason: Literal["turned_away", "appointment"], locale: str | None, wait_s: float
) -> str:
    """Say that the SDK comes back by itself, and when."""
    texts = _WAITS[_API.language_for(locale)]
    seconds = _whole(wait_s)
    unit, n = ("seconds", seconds) if seconds < _MINUTES_FROM_S else ("minutes", ceil(seconds / 60))
    return texts[reason].format(when=texts[unit].format(n=n))


def _whole(wait_s: float) -> int:
    return max(1, ceil(wait_s))
