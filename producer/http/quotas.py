"""A limit as header fields tell it: `RateLimit` and `RateLimit-Policy`.

As in draft-ietf-httpapi-ratelimit-headers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from workers.contract.admission import RateLimit

_QUOTAS_MAX: Final = 1_024


def rate_limit_headers(
    limit: str, quota: RateLimit | None, wait_ms: int
) -> tuple[tuple[bytes, bytes], ...]:
    """Return `RateLimit` and, where the quota is known, `RateLimit-Policy`.

    Told with refusals only. A receipt's would be out of date when it is read (the quota is shared by
    all of a batch and all processes), and cost each of ten thousand receipts a second more than its
    body does.
    """
    left = (b"ratelimit", b'"%b";r=0;t=%d' % (limit.encode(), -(-wait_ms // 1_000)))
    return (left,) if quota is None else (_policy(limit, quota), left)


@lru_cache(_QUOTAS_MAX)
def _policy(limit: str, quota: RateLimit) -> tuple[bytes, bytes]:
    """State a limit as so many (`q`) in so many seconds (`w`, whole): what its rate brings.

    The window is how long the burst takes to come back.
    """
    window_s = max(1, -(-quota.burst // quota.rate))
    fits = max(1, int(quota.rate * window_s + 1e-9))
    return (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (limit.encode(), fits, window_s))
