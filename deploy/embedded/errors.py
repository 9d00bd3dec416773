"""What the embedded cluster cannot do, said so that the operator can mend it."""

from __future__ import annotations


class EmbeddedError(Exception):
    """The embedded cluster cannot start or go on; the message says why and what mends it."""
