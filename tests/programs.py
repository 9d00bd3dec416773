"""Programs that are no Python packages: found, or the test is skipped aloud, or fails."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

_VARIABLE = "TIDEGATE_REQUIRE_ALL"

# Set by CI: what a machine lacks is a failure then, not a skip.
REQUIRE_ALL = os.environ.get(_VARIABLE) == "1"


def find(package: str, *names: str) -> str:
    """Return the path of the first of these names on the PATH; `package` is Debian's."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        lacking(f"needs {' or '.join(names)} on the PATH (Debian: apt-get install {package})")
    return path


def lacking(say: str) -> NoReturn:
    """Skip aloud for want of something that can be installed; fail where all must be there."""
    (pytest.fail if REQUIRE_ALL else pytest.skip)(say)


def forget_variable() -> None:
    """Keep the variable, which is no setting of ours, from the processes that tests start."""
    os.environ.pop(_VARIABLE, None)
