"""Ctrl-C and SIGTERM: finish the step, save, and say how to go on."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from diffusion.system import ranks

log = logging.getLogger("diffusion")


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after saving. Derived from KeyboardInterrupt so that it ends a sweep."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it."""
        return [str(self)]


class StopSignals:
    """Remembers the first SIGINT or SIGTERM instead of dying; a second one acts as usual, or, in one of several
    processes, ends it at once, whatever it is waiting for (`diffusion.system.lookout`).

    Attributes:
        number: of the signal that came, or None.
        count: of the signals that came.
        requeue: what answered SIGUSR2 before, or None; to be called once the state is saved.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.requeue: Any = None
        self.count = 0
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
            # With this one Slurm announces the end of a job's time, and submitit's answer queues the job again.
            requeue = getattr(signal, "SIGUSR2", None)
            if requeue is not None and callable(signal.getsignal(requeue)):
                self._before[requeue] = self.requeue = signal.signal(requeue, self._receive)
            ranks.saving(True)
        except ValueError:  # only the main thread may set handlers; elsewhere signals act as usual
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()
        ranks.saving(False)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that changes nothing of the training, such as drawing a grid: a signal ends it immediately."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            if self.number is None:
                raise
        finally:
            self._at_once = False

    def agreed(self, total: int) -> tuple[int | None, int]:
        """The signal that any process got, and the first one's total of steps: all stop after the same step."""
        if ranks.size() == 1:
            return self.number, total
        number, total = ranks.largest(self.number or 0, total if ranks.first() else 0)
        return number or None, total

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number, self.count = number, self.count + 1
        if ranks.size() > 1:
            if (
                ranks.first() and self.count == 1 and not ranks.ending()
            ):  # one stop can come twice, from the terminal and from torchrun
                after = "the scores and pictures that are being made" if self._at_once else "this step"
                log.warning("Saving and stopping after %s; press Ctrl-C again to leave at once.", after)
            return
        self._restore()
        log.warning("Saving and stopping; press Ctrl-C again to leave at once.")
        if self._at_once:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def trusting(own_parts: Iterable[str]) -> str:
    """What a command about a run says of its own modules: " trust=my_parts", or nothing where it has none."""
    names = list(own_parts)
    return f" trust={names[0]}" if len(names) == 1 else f" 'trust=[{','.join(names)}]'" if names else ""


def resume_command(folder: Path, own_parts: Iterable[str] = ()) -> str:
    """What a person types to go on with a run, in the folder where they are."""
    script = os.path.relpath(sys.argv[0]) if sys.argv[0].endswith("train.py") else "train.py"
    program = "python"
    if ranks.size() > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size()))
        machines = ranks.size() // here
        program = f"torchrun --nproc_per_node={here}" + (f" --nnodes={machines} …" if machines > 1 else "")
    return f"{program} {shlex.quote(script)} resume={shlex.quote(os.path.relpath(folder))}{trusting(own_parts)}"
