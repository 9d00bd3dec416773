"""What the SDK itself says in the chat. Everything else is said by the API, and passed on."""

from __future__ import annotations

from typing import Final

_TEXTS: Final = {
    "en": {
        "accepted": "We have your order and are working on it. You will hear from us in a moment.",
        "accepted_issuance": "We are getting your coupon ready. You will hear from us in a moment.",
        "waiting": "We are very busy. We keep trying for you, again in about {when}.",
        "appointment": "We are very busy, but your place is kept: in about {when} it is your turn. "
        "You need not do anything.",
        "checking": "We are checking whether this went through. Please do not order again.",
        "turned_away": "We are very busy right now, and nothing was ordered. "
        "Please try again in about {when}.",
        "later": "We cannot do this right now. Please try again later.",
    },
    "zh-CN": {
        "accepted": "已收到您的订单，正在处理，稍后告诉您结果。",
        "accepted_issuance": "正在为您准备优惠券，稍后告诉您结果。",
        "waiting": "当前人数较多，我们会在约{when}后继续为您尝试。",
        "appointment": "当前人数较多，已为您留好位置：约{when}后轮到您，无需任何操作。",
        "checking": "正在确认是否下单成功，请先不要重复下单。",
        "turned_away": "当前人数较多，本次未下单，请在约{when}后再试。",
        "later": "暂时无法处理，请稍后再试。",
    },
    "el": {
        "accepted": "Λάβαμε την παραγγελία σας και την επεξεργαζόμαστε. Θα έχετε νέα μας σε λίγο.",
        "accepted_issuance": "Ετοιμάζουμε το κουπόνι σας. Θα έχετε νέα μας σε λίγο.",
        "waiting": "Έχουμε πολύ κόσμο. Συνεχίζουμε για εσάς, ξανά σε περίπου {when}.",
        "appointment": "Έχουμε πολύ κόσμο, αλλά η θέση σας κρατιέται: σε περίπου {when} είναι η "
        "σειρά σας. Δεν χρειάζεται να κάνετε τίποτα.",
        "checking": "Ελέγχουμε αν ολοκληρώθηκε. Μην παραγγείλετε ξανά, παρακαλούμε.",
        "turned_away": "Έχουμε πολύ κόσμο τώρα και δεν έγινε καμία παραγγελία. "
        "Δοκιμάστε ξανά σε περίπου {when}.",
        "later": "Δεν μπορούμε να το κάνουμε τώρα. Δοκιμάστε ξανά αργότερα.",
    },
}
_TIMES: Final = {
    "en": ("{n} s", "{n} min"),
    "zh-CN": ("{n}秒", "{n}分钟"),
    "el": ("{n} δευτ.", "{n} λεπτά"),
}
_LANGUAGES: Final = {language.partition("-")[0]: language for language in _TEXTS}
_MINUTES_FROM_S = 120


def text(name: str, locale: str | None, wait_s: float = 0.0) -> str:
    """Say something in the locale's language, English where we have no other."""
    language = _LANGUAGES.get((locale or "").partition("-")[0].lower(), "en")
    seconds, minutes = _TIMES[language]
    whole = max(1, -int(-wait_s // 1))
    when = seconds.format(n=whole) if whole < _MINUTES_FROM_S else minutes.format(n=-(-whole // 60))
    return _TEXTS[language][name].format(when=when)
