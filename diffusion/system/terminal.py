"""Standard output and error that may be closed, full or gone: what cannot be told ends no run."""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class Forgiving:
    """A text stream, in everything but that what it cannot write is lost without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, if that is possible; how long it is."""
        with suppress(OSError, ValueError):  # ValueError: the file was closed
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts, if that is possible."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person sees it come; not where that cannot be asked."""
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgiving(stream: TextIO | None) -> Any:
    """The stream as a `Forgiving` one; one that leads nowhere in the place of None, as Python calls a closed one."""
    if isinstance(stream, Forgiving):
        return stream
    return Forgiving(open(os.devnull, "w", encoding="utf-8") if stream is None else stream)


def forgive() -> None:
    """Make the standard streams of this process forgiving.

    A closed one is first made to lead nowhere: the next file to be opened, a checkpoint for example, would take its
    number, and what C libraries write to standard error would go into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout, sys.stderr = forgiving(sys.stdout), forgiving(sys.stderr)


def part() -> None:
    """At the very end: what still could not be written is given up, so that Python does not complain of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            getattr(stream, "_stream", stream).flush()
        except (OSError, ValueError, AttributeError):
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
