"""A process that a measurement starts beside the cluster, and ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile

_STOP_S = 15.0


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[int]:
    """Run a Python module and yield its pid; its last words are added to an error meanwhile."""
    with TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=dict(environ), stdout=output, stderr=output
        )
        try:
            yield process.pid
        except Exception as error:
            output.seek(0)
            error.add_note(output.read().decode(errors="replace")[-2_000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
