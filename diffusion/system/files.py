"""Writing files so that a reader, or a kill at any moment, never meets half of one; and one run per folder."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import IO

from diffusion.system.errors import InUse

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("diffusion")
LOCK = ".lock"
BY_SCRIPT = " by hydra.run.dir=…"  # in messages: how a script is told its folder
RECORDS = "*.pt", "metrics.json", "events.out.tfevents.*"  # what a run leaves in its folder
_held: dict[Path, tuple[Path, IO[str]]] = {}  # folders of this process's run: the name it was given, its lock
_partial: set[Path] = set()  # that are being written


class LogFile(WatchedFileHandler):
    """A log file that is begun anew when it was deleted, and left out where it cannot be written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if that is possible."""
        with suppress(OSError):  # opening the file is what `logging` itself does not guard
            super().emit(record)


def no_text(name: str) -> str | None:
    """Why the name of a file cannot be written as text, with the way out; None where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that Python could not read
        try:
            os.fsencode(name).decode()
        except UnicodeError:
            return "is not UTF-8: rename it"
        locale = sys.getfilesystemencoding()
        return f"is UTF-8, and the locale of this terminal ({locale}) is not: set the variable PYTHONUTF8=1"
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and is removed when it fails.

    Raises:
        InUse: the folder was deleted, and another run has begun there.
    """
    keep_hold()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    _partial.add(temporary)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _partial.discard(temporary)


def discard_partial() -> None:
    """Remove what is half written, before the process ends in the midst of it."""
    for path in list(_partial):
        with suppress(OSError):
            path.unlink(missing_ok=True)


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
    place = Path(os.path.abspath(folder))
    file = locked(folder)
    if file is None:
        raise InUse(f"{folder} is in use by another run: wait for it, stop it, or choose another folder{BY_SCRIPT}.")
    _held[place] = folder, file
    try:
        for left in folder.glob(".*.partial*"):  # by a run that was killed while it wrote
            if re.fullmatch(r"\..+\.\d+\.partial(\.\w+)?", left.name):
                left.unlink(missing_ok=True)
        yield
    finally:
        _held.pop(place)[1].close()


def locked(folder: Path) -> IO[str] | None:
    """The lock of a folder, opened and held by this process; None where another process holds it."""
    # A lock of this process: data-loading processes that outlive it for some seconds do not hold it.
    file = open(folder / LOCK, "a", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError:  # a file system without locks
        pass
    return file


def keep_hold() -> None:
    """Hold this run's folder still, where it was deleted meanwhile: it is made again, unless another run is in it.

    Raises:
        InUse: another run has begun in a new folder of that name.
    """
    for place, (folder, file) in list(_held.items()):
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(place / LOCK), os.fstat(file.fileno())):
                continue
        other = (place / LOCK).exists() and any(any(place.glob(name)) for name in RECORDS)
        place.mkdir(parents=True, exist_ok=True)
        new = None if other else locked(place)
        if new is None:
            raise InUse(
                f"{folder} was deleted while this run was at work in it, and another run has begun there since: this "
                f"one ends, so as not to overwrite what the other writes; choose another folder{BY_SCRIPT}."
            )
        _held[place] = folder, new
        file.close()
        log.warning("%s was deleted: this run goes on in it anew, and writes its next checkpoint there.", folder)
