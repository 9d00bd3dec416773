"""Become another program that dies with its parent; run as a script, never imported.

    python -I -S launch.py PARENT SIGNAL IDENTITY FOLDER PROGRAM [ARGUMENT …]

- PARENT: pid of the process that must outlive this one. SIGNAL: what the kernel sends us when the
  parent's *thread* that started us ends (prctl(2), PR_SET_PDEATHSIG).
- IDENTITY: `-` to stay who we are, or `UID:GID:CAPABILITIES`, where CAPABILITIES is a comma-parted
  list of capability numbers, or empty.
- FOLDER: the working folder, entered after the identity has changed, so that one that cannot be
  reached fails here and not somewhere inside the program.

PostgreSQL refuses to run as root. As another user it may not reach its files, when one of their
parent folders is private. Rather than loosen folders that are not ours, that user keeps the one
capability of passing them: a capability made *ambient* survives exec of an ordinary program, and,
unlike a set-user-ID program, keeps the death signal. The order below matters: a change of identity
clears the death signal, and the parent may have died before it was set.

A script with only the standard library: it starts in about 15 ms, and forking a process with
threads is left to `subprocess`, which does it in C.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522

CANNOT_START = 126  # as a shell says of a program that is there but cannot be run

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Change identity, bind our life to the parent's, become the program."""
    parent, death_signal, identity, folder, *program = arguments
    if identity != "-":
        uid, gid, capabilities = identity.split(":")
        _become(int(uid), int(gid), [int(number) for number in capabilities.split(",") if number])
    _call(_libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        raise ProcessLookupError(f"the parent, pid {parent}, is gone")
    os.umask(0o077)
    os.chdir(folder)
    os.execv(program[0], program)  # noqa: S606 - that is what this script is for


def _become(uid: int, gid: int, capabilities: list[int]) -> None:
    if capabilities:
        # Keeps capabilities over setresuid, and makes access(2), with which PostgreSQL looks at its
        # own binary, honour them.
        _call(_libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0), "prctl(SECUREBITS)")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capabilities:
        _keep(capabilities)


def _keep(capabilities: list[int]) -> None:
    """Hold exactly these capabilities, here and after exec."""
    low = sum(1 << number for number in capabilities)  # every number we use is below 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)(low, low, low, 0, 0, 0)  # effective, permitted, inheritable
    _call(_libc.capset(header, held), "capset")
    for number in capabilities:
        raised = _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
        _call(raised, "prctl(PR_CAP_AMBIENT)")


def _call(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as refused:
        sys.stderr.write(f"cannot start: {refused}\n")
        sys.exit(CANNOT_START)
