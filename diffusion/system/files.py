"""Writing files so that a reader, or a kill at any moment, never meets half of one; and one run per folder."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path

from diffusion.system.errors import InUse

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]


class LogFile(WatchedFileHandler):
    """A log file that is begun anew when it was deleted, and left out where it cannot be written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if that is possible."""
        with suppress(OSError):  # opening the file is what `logging` itself does not guard
            super().emit(record)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and is removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system lets go of it when this process ends, however it ends.

    Raises:
        InUse: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    # A lock of this process: data-loading processes that outlive it for some seconds do not hold it.
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise InUse(
                f"{folder} is in use by another run: wait for it, stop it, or choose another folder by hydra.run.dir=…."
            ) from error
        except OSError:  # a file system without locks
            pass
        for left in folder.glob(".*.partial*"):  # by a run that was killed while it wrote
            if re.fullmatch(r"\..+\.\d+\.partial(\.\w+)?", left.name):
                left.unlink(missing_ok=True)
        yield
