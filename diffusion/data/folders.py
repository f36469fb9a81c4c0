"""Which files below a folder are images of its owner.

Not everything with the suffix of a picture is one: macOS, Windows and network drives keep hidden files, copies of two
kilobytes and waste baskets beside the images, and the scripts of this project write grids and reports. All that is
passed over, and what was is told in one line.
"""

import logging
import os
import re
import shlex
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from diffusion.data.decoding import IMAGE_SUFFIXES
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
OF_SYSTEMS = {  # in lower case
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "lost+found", "__pycache__"),
}
# What tells a folder of train.py, sample.py, evaluate.py or one of their sweeps; each set is enough.
OF_RUNS = (
    *({name} for name in (".hydra", "multirun.yaml")),
    *({"last.pt", "config.yaml"}, {"train.log", "config.yaml"}, {"evaluate.log", "report.md"}),
    *({"metrics.json", other} for other in ("config.yaml", "report.md")),
    *({"grid.png", "samples.npz"}, {"sweep.json", "leaderboard.csv"}),
)
# Its pictures, by their names, where images and a run share one folder.
OF_ONE_RUN = re.compile(r"(grid|neighbours|classes|confusion|curves|denoising)(_\d+)?\.(png|gif)")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")
HIDDEN, SYSTEM, RUN = "hidden", "of the operating system", "of this program's runs"
UNREADABLE, BROKEN, TWICE = "unreadable", "linked to nothing", "linked to what is read already"
SHOWN = 3  # examples of what was passed over


@dataclass
class Contents:
    """What lies below a folder.

    Attributes:
        images: in the order of their paths.
        folders: all that were looked into below it.
        passed: why something was passed over → the names of what was.
        others: suffix → files of that kind, which are no images.
    """

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    passed: dict[str, list[str]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def passed_over(self) -> str:
        """In words; empty where nothing was."""
        parts = [f"{len(names):,} {why} ({some(names)})" for why, names in self.passed.items()]
        if self.others:
            kinds = sorted(self.others, key=lambda suffix: (-self.others[suffix], suffix))
            parts.append(f"{number_of(self.others.total(), 'file')} of other kinds ({some(kinds, 5)})")
        return ", ".join(parts)


def find_images(folder: Path, key: str = "") -> list[Path]:
    """All images under `folder`, in the order of their names; at least one.

    Args:
        folder: where to look; links are followed.
        key: the setting that names it, for messages.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    return contents(folder, key).images


def contents(folder: Path, key: str = "") -> Contents:
    """What lies below a folder with at least one image; arguments and errors as of `find_images`."""
    what = f"{key}={folder}" if key else f"The folder {folder}"
    refuse_file(folder, key)
    if not folder.is_dir():
        raise UserError(f"{what} does not exist: give a folder of images.")
    found = look(folder)
    said = found.passed_over()
    if not found.images:
        passed = f"; passed over: {said}" if said else ""
        raise UserError(f"{what} holds no images ({', '.join(IMAGE_SUFFIXES)}){passed}.")
    if said:
        log.info("%s: passed over %s.", what, said)
    return found


def look(folder: Path) -> Contents:
    """Look through a folder and all below it; of a split or class each once, first those that no link leads to."""
    found, root = Contents(), folder.resolve()
    above = {_identity(place) for place in (root, *root.parents)}  # a link to one of them would lead back here
    seen = set[tuple]()
    waiting, linked = deque([folder]), deque[Path]()

    def passed(why: str, path: Path) -> None:
        found.passed.setdefault(why, []).append(path.relative_to(folder).as_posix())

    while waiting or linked:
        place = (waiting or linked).popleft()
        try:
            identity, entries = _identity(place), sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            passed(UNREADABLE, place)
            continue
        visit = (*place.relative_to(folder).parts[:1], identity)
        if place != folder and (identity in above or visit in seen):
            passed(TWICE, place)
            continue
        seen.add(visit)
        names = {entry.name for entry in entries}
        of_run = _is_run(names)
        if of_run and place != folder:
            passed(RUN, place)
            continue
        found.folders.append(place)
        for entry in entries:
            path = place / entry.name
            leads_to_folder, image = _holds(entry.is_dir), path.suffix.lower() in IMAGE_SUFFIXES
            if entry.name.startswith("."):
                if leads_to_folder or image:  # not .DS_Store and its like, which everybody has
                    passed(HIDDEN, path)
            elif entry.name.lower() in OF_SYSTEMS:
                passed(SYSTEM, path)
            elif leads_to_folder:
                (linked if entry.is_symlink() else waiting).append(path)
            elif not _holds(entry.is_file):  # nor a device or a socket
                passed(BROKEN if entry.is_symlink() else UNREADABLE, path)
            elif not image:
                found.others[path.suffix.lower() or "without a suffix"] += 1
            elif of_run and OF_ONE_RUN.fullmatch(entry.name):  # of a run in this folder, that was asked for itself
                passed(RUN, path)
            else:
                found.images.append(path)
    found.images.sort()
    return found


def refuse_file(path: Path, key: str = "", arrays: bool = False) -> None:
    """Raise `UserError` with the way out where a folder of images was asked for and this is one file.

    Args:
        path: what was given.
        key: the setting, for messages.
        arrays: a file of arrays would do as well: refuse archives and single images alone.
    """
    if not path.is_file():
        return
    what, suffix = f"{key}={path}" if key else str(path), path.suffix.lower()
    if suffix in ARCHIVES:
        raise UserError(f"{what} is an archive: unpack it, and give the folder that comes out of it.")
    if suffix in IMAGE_SUFFIXES:
        parent = shlex.quote(f"{key}={path.parent}" if key else str(path.parent))
        if arrays and key.startswith("data."):
            parent = f"by data=image_folder {shlex.quote(f'data.root={path.parent}')}"
        raise UserError(f"{what} is a single image: give the folder that it lies in, {parent}.")
    if arrays:
        return
    if suffix in (".npz", ".npy"):
        raise UserError(f"{what} is a file of arrays: save its images as files, .png for example; give their folder.")
    raise UserError(f"{what} is a file: give a folder of images ({', '.join(IMAGE_SUFFIXES)}).")


def number_of(n: int, thing: str) -> str:
    """1 image, 2 images."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def some(names: Collection[str], most: int = SHOWN) -> str:
    """The first of some names, with … for the others."""
    return ", ".join([*list(names)[:most], *["…"] * (len(names) > most)])


def _is_run(names: Collection[str]) -> bool:
    return any(marks <= set(names) for marks in OF_RUNS)


def _holds(question: Callable[[], bool]) -> bool:
    """What an entry of a folder answers; a link that leads to itself is neither file nor folder."""
    try:
        return question()
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int]:
    """The same for two ways to one folder."""
    status = path.stat()
    return status.st_dev, status.st_ino
