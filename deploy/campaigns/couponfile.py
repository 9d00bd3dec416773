"""The file of coupons that `tidegate campaign issue` writes: complete, or to be completed.

    {"user_id": "u-0", "coupon_code": "ABCD…"}

No coupon may be lost between the database and the file. So the file is written first: a batch's
lines are on disk before its commit, and name the coupons by their codes, which carry their ids. If
the run dies, the file may hold coupons that were never committed, never the other way about; a run
with `--resume` first issues those very coupons, and then goes on with the next user. So at the end
of a run that succeeded, file and database agree, whatever happened before.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from msgspec import Struct

from deploy.actor import whoami
from deploy.campaigns.applying import BOUNDS
from deploy.campaigns.issuing import BATCH, Coupon, coupons_of, issue_batch, make_grants
from workers.contract.couponcode import CouponCodes
from workers.store.issuing import Grant, check_issuable
from workers.store.pool import OWNER, connect


class CouponFileError(Exception):
    """A file that coupons cannot be written to; the message says why and what to do."""


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    user_id: str
    coupon_code: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


def issue_to_file(
    dsn: str,
    campaign_id: str,
    users: Sequence[str],
    path: Path,
    *,
    codes: CouponCodes,
    resume: bool = False,
    actor: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Issue a coupon to each user and write them to `path`; return how many were issued now.

    `progress` hears how many more are done. Raises IssuingError or CouponFileError; then `path`
    holds all that was issued, and the same call with `resume` goes on.
    """
    issued, actor = 0, actor or whoami()
    with (
        CouponFile(path, resume=resume) as file,
        connect(dsn, OWNER, BOUNDS, name="issue") as connection,
    ):
        written = file.read(codes)
        if [user_id for _, user_id in written] != list(users[: len(written)]):
            msg = f"{path} was begun for other users; resume with the same arguments"
            raise CouponFileError(msg)
        for batch in _batches(written):  # all but the last of them are known to be committed
            issued += issue_batch(connection, campaign_id, batch, actor)
            progress(len(batch))
        rest = users[len(written) :]
        if rest:
            check_issuable(connection, campaign_id, len(rest))
        for named in _batches(rest):
            batch = make_grants(named)
            append = partial(file.append, coupons_of(batch, codes))
            issued += issue_batch(connection, campaign_id, batch, actor, before_commit=append)
            progress(len(batch))
    return issued


class CouponFile:
    """A file of coupons, readable by its owner only, locked while it is written."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Open it; raises CouponFileError where that would overwrite coupons."""
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._fd).st_size and not resume:
                msg = f"{path} is not empty; go on with it by --resume, or name another file"
                raise CouponFileError(msg)
        except BlockingIOError:
            os.close(self._fd)
            raise CouponFileError(f"{path} is being written by another run") from None
        except CouponFileError:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, codes: CouponCodes) -> list[Grant]:
        """Return what the file holds; a last line torn by a crash is cut off."""
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._fd, len(whole))
        return [self._grant(n, line, codes) for n, line in enumerate(whole.splitlines(), start=1)]

    def append(self, coupons: Sequence[Coupon]) -> None:
        """Write lines, and return when they are on disk."""
        lines = [_encode(_Line(user_id, code)) + b"\n" for user_id, code in coupons]
        left = memoryview(b"".join(lines))
        while left:
            left = left[os.write(self._fd, left) :]
        os.fsync(self._fd)

    def _grant(self, number: int, line: bytes, codes: CouponCodes) -> Grant:
        try:
            coupon = _decode(line)
        except msgspec.DecodeError as error:
            raise CouponFileError(f"{self._path}, line {number}: {error}") from None
        coupon_id = codes.coupon_id_of(coupon.coupon_code)
        if coupon_id is None:
            msg = f"{self._path}, line {number}: a code of another deployment, or forged"
            raise CouponFileError(msg)
        return coupon_id, coupon.user_id


T = TypeVar("T")


def _batches(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(whole), BATCH):
        yield whole[start : start + BATCH]
