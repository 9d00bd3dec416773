"""A RabbitMQ node of a test module's own, to be hurt; skipped aloud where there is none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

from deploy.embedded import process
from deploy.embedded.ports import free_port
from deploy.embedded.rabbitmq import RabbitServer
from deploy.embedded.supervisor import Supervisor
from tests import programs

BACK_S = 60.0
_ORDER: Sequence[Sequence[str]] = (("rabbitmq",), ("epmd",))


class OwnRabbit:
    """One node under a supervisor, which starts it again when it was killed."""

    def __init__(self) -> None:
        for program in ("rabbitmq-server", "epmd"):
            programs.find("rabbitmq-server", program)
        self._folder = Path(tempfile.mkdtemp(prefix="rabbit-"))
        for name in ("logs", "node"):
            (self._folder / name).mkdir()
        ports = (free_port(), free_port(), free_port())
        self._node = RabbitServer(self._folder / "node", *ports, "of-the-test")
        self._supervisor = Supervisor(self._folder / "logs")
        self._supervisor.start([self._node.names_child(os.environ)])
        self._supervisor.start([self._node.child(os.environ)])
        self.url = self._node.url

    def kill(self) -> None:
        """Kill it as a power cut would; return when it is back."""
        pids = self._pids()
        self._signal(Signals.SIGKILL)
        assert process.until(lambda: self._pids() not in ([], pids), BACK_S)
        assert process.until(self._node.answers, BACK_S)

    def freeze(self) -> None:
        """Let it take connections and answer nobody."""
        self._signal(Signals.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(Signals.SIGCONT)

    def close(self) -> None:
        """Stop it, and remove what it wrote."""
        self._supervisor.stop_all(_ORDER)
        self._supervisor.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pids(self) -> list[int]:
        return self._supervisor.processes().get("rabbitmq", [])

    def _signal(self, number: Signals) -> None:
        for pid in self._pids():
            os.kill(pid, number)
