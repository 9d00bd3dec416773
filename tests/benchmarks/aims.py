"""All that is wanted, in the order in which it is told."""

from __future__ import annotations

from tests.benchmarks.aims_observing import OBSERVING
from tests.benchmarks.aims_overload import OVERLOAD
from tests.benchmarks.aims_speed import SPEED

AIMS = (*SPEED, *OVERLOAD, *OBSERVING)
