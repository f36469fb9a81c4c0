"""Ctrl-C and SIGTERM: finish the step, save, and say how to go on."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

log = logging.getLogger("diffusion")


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after saving. Derived from KeyboardInterrupt so that it ends a sweep."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignals:
    """Remembers the first SIGINT or SIGTERM instead of dying; a second one acts as usual.

    Attributes:
        number: of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        except ValueError:  # only the main thread may set handlers; elsewhere signals act as usual
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

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

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        log.warning("Saving and stopping; press Ctrl-C again to leave at once.")
        if self._at_once:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def resume_command(folder: Path) -> str:
    """What a person types to go on with a run, in the folder where they are."""
    script = os.path.relpath(sys.argv[0]) if sys.argv[0].endswith("train.py") else "train.py"
    return f"python {shlex.quote(script)} resume={shlex.quote(os.path.relpath(folder))}"
