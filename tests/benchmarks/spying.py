"""Sampling Python processes with py-spy, from outside and without stopping them.

py-spy stops a process for each sample by default. On a busy machine its threads then wake to wait
for a core, and look busy at the next sample though they were asleep; the program gets slower, too.
With `--nonblocking` a sample may be torn, which py-spy notices and leaves out.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks import kernel
from tests.benchmarks.attribution import Sample, samples
from tests.benchmarks.kernel import Cpu

RATE_HZ = 250
STARTS_WITHIN_S = 0.6

_FORBIDDEN = (
    "py-spy may not read other processes here (run as root, or set "
    "/proc/sys/kernel/yama/ptrace_scope to 0), so the stages of the Python processes are not known"
)


class Spies:
    """One py-spy for each process, all at once, for whole seconds."""

    def __init__(self, pids: Mapping[str, Sequence[int]], seconds: float, folder: Path) -> None:
        """Start them; `pids` are by any names."""
        self._seconds = max(1, round(seconds))
        self._pids = pids
        self._began = time.monotonic()
        self._cpu_before = self._cpu()
        self._running = {
            (name, folder / f"{pid}.raw"): self._start(pid, folder / f"{pid}.raw")
            for name, ones in pids.items()
            for pid in ones
        }
        self.complaint = ""
        self.seen: dict[str, float] = {}

    def taken(self) -> dict[str, list[Sample]]:
        """Wait for their end, and return the samples by name.

        Afterwards `complaint` says why there are none, and `seen` how much time the samples stand
        for, by the CPU of that time. A thread that waits for a core is sampled as if it ran: so on
        a machine with more to do than cores it is above 1, and much the same for every process.
        """
        found: dict[str, list[Sample]] = {name: [] for name in self._pids}
        for (name, raw), spy in self._running.items():
            _, said = spy.communicate()
            if raw.exists():
                found[name] += samples(raw.read_text())
            elif b"ermission" in said:
                self.complaint = _FORBIDDEN
        lasted_s, cpu = time.monotonic() - self._began, self._cpu()
        for name, ones in found.items():
            sampled = sum(one.times for one in ones) / RATE_HZ / self._seconds
            counted = (cpu[name] - self._cpu_before[name]).total_s / lasted_s
            self.seen[name] = round(sampled / counted, 2) if counted else 0.0
        return found

    def _start(self, pid: int, raw: Path) -> subprocess.Popen[bytes]:
        program = str(Path(sys.executable).with_name("py-spy"))
        command = [program, "record", "--nonblocking", "--threads", "--nolineno"]
        command += ["--format", "raw", "--output", str(raw), "--rate", str(RATE_HZ)]
        command += ["--duration", str(self._seconds), "--pid", str(pid)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _cpu(self) -> dict[str, Cpu]:
        return {
            name: sum([kernel.of_process(pid) or Cpu() for pid in pids], Cpu())
            for name, pids in self._pids.items()
        }
