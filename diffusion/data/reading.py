"""The images of a folder, looked through once before they are used, and kept for the next start.

Thousands of photographs take half a minute to decode, so there is a bar, and what came out is kept as an array in
data/cache under a hash of the files (names, sizes, times, the beginnings of some) and of how they are decoded, so that
a folder that moved finds it. Files that are damaged are named all together, or left out.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.data.decoding import VERSION, Colour, decode_file, has_more_frames, reason
from diffusion.data.images import ImageFiles, Images
from diffusion.system.errors import UserError, brief
from diffusion.system.files import replacing
from diffusion.system.progress import progress_bar
from diffusion.system.untrusted import open_image, read_arrays

log = logging.getLogger("diffusion")
CACHE = Path("data/cache")
MANY = 500  # images that take long enough for a bar and a cache
GLIMPSES = 16  # files that are looked into, to tell apart folders with the same names
SHOWN = 3  # names of files in a message
SKIP = "data.skip_damaged=true"
Damaged = dict[int, str]  # which files cannot be read, and why


class FolderReader:
    """Reads the images of a folder.

    Args:
        folder: that holds all of them.
        size, channels, background: as in `read_image`.
        memory_limit: GiB of decoded images above which they stay in their files.
        skip_damaged: leave out files that cannot be read, rather than stop.
    """

    def __init__(
        self, folder: Path, size: int, channels: int, background: Colour, memory_limit: float, skip_damaged: bool
    ) -> None:
        self.folder, self.size, self.channels, self.background = folder, size, channels, background
        self.memory_limit, self.skip_damaged = memory_limit, skip_damaged
        self.images: np.ndarray | None = None  # uint8 (N, C, H, W), where they are in memory
        self.rows: dict[Path, int] = {}

    def readable(self, paths: Sequence[Path]) -> dict[Path, int]:
        """Those of some files that can be read, each with its number.

        Raises:
            UserError: some are damaged, and are not to be left out; or all of them are.
        """
        each = self.channels * self.size**2
        in_memory = len(paths) * each <= self.memory_limit * 2**30
        whole = in_memory or self.skip_damaged  # of the others, the heads alone are looked at
        shape = (len(paths), self.channels, self.size, self.size) if in_memory else (0,)
        many = len(paths) > MANY
        kept = self._place(paths, f"{shape}, {whole}") if many else CACHE
        found = self._from_cache(kept, paths, shape) if many else None
        if found is None:
            started = time.monotonic()
            images, damaged, moving = self._read(paths, shape, whole)
            if damaged and not self.skip_damaged:
                raise UserError(f"{unreadable(paths, damaged)}, or set {SKIP} to go on without, in a new run.")
            if many:
                self._keep(kept, images, damaged, moving, len(paths), time.monotonic() - started)
        else:
            images, damaged, moving = found
        if len(damaged) == len(paths):
            raise UserError(f"data.root={self.folder}: none of its {len(paths):,} images can be read.")
        if damaged:
            named = unreadable(paths, damaged).rpartition(": ")[0]
            log.warning("%s: left out (%d of %d), by %s.", named, len(damaged), len(paths), SKIP)
        if len(moving):
            text = "data.root=%s: of files with several frames, the first is taken (%d: %s%s)."
            names, more = ", ".join(paths[i].name for i in moving[:SHOWN]), ", …" * (len(moving) > SHOWN)
            log.info(text, self.folder, len(moving), names, more)
        self.images = images if in_memory else None
        self.rows = {path: row for row, path in enumerate(paths) if row not in damaged}
        return self.rows

    def split(self, paths: Sequence[Path], labels: Tensor | None) -> Images | ImageFiles:
        """Some of the readable images as a split, with labels (N,) or None."""
        if self.images is None:
            way_out = f"mend it, or start a new run with {SKIP}"
            return ImageFiles(paths, labels, self.size, self.channels, self.background, way_out)
        rows = np.array([self.rows[path] for path in paths], np.int64)
        return Images(torch.from_numpy(self.images[rows]), labels)

    def _read(self, paths: Sequence[Path], shape: tuple, whole: bool) -> tuple[np.ndarray, Damaged, list[int]]:
        """Images, damaged files, and which have several frames.

        Args:
            paths: of N files.
            shape: (N, C, H, W), or (0,) to look at the files without keeping their pixels.
            whole: decode the files; else only look at their heads.
        """
        images, damaged, moving = np.zeros(shape, np.uint8), Damaged(), []
        with progress_bar(len(paths), "reading images", "images", disable=len(paths) <= MANY) as bar:
            for row, path in enumerate(paths):
                try:
                    if whole:
                        pixels, several = decode_file(path, self.size, self.channels, self.background)
                        if len(images):
                            images[row] = pixels.transpose(2, 0, 1)
                    else:
                        with open_image(path) as file:
                            several = has_more_frames(file)
                    if several:
                        moving.append(row)
                except Exception as error:  # Pillow raises many kinds for a damaged file
                    damaged[row] = reason(error)
                bar.update()
        return images, damaged, moving

    def _key(self, *files: str) -> str:
        """A hash of the folder and of how it is decoded, or of how, and of its files, wherever they lie."""
        way = (self.size, self.channels, self.background)
        about = (VERSION, *way, files) if files else (str(self.folder.resolve()), *way)
        return hashlib.sha256(repr(about).encode("utf-8", "replace")).hexdigest()[:12]

    def _place(self, paths: Sequence[Path], shape: str) -> Path:
        """Where the decoded images are kept; what a folder of these files had elsewhere is brought there."""
        glimpses = [self._glimpse(path) for path in paths[:: -(-len(paths) // GLIMPSES)]]
        files = self._key(shape, *map(self._state, paths), *glimpses)
        kept = CACHE / f"images_{self._key()}_{files}.npz"
        for other in [] if kept.exists() else CACHE.glob(f"images_*_{files}.npz"):
            with suppress(OSError):
                other.replace(kept)
        return kept

    def _glimpse(self, path: Path) -> str:
        """A hash of the beginning of a file: archives give all of their files one time, and bitmaps have one size."""
        try:
            with path.open("rb") as file:
                return hashlib.sha256(file.read(2**16)).hexdigest()
        except OSError:
            return "none"

    def _state(self, path: Path) -> str:
        try:
            status = path.stat()
        except OSError:  # which will be told as a file that cannot be read
            return f"{path.relative_to(self.folder)}: none"
        return f"{path.relative_to(self.folder)}: {status.st_size}, {status.st_mtime_ns}"

    def _from_cache(
        self, kept: Path, paths: Sequence[Path], shape: tuple
    ) -> tuple[np.ndarray, Damaged, list[int]] | None:
        """What was read before; None where that is not known, or no longer true."""
        try:
            arrays = read_arrays(kept, limit=int((self.memory_limit + 1) * 2**30))
            images, rows, moving = arrays["images"], arrays["damaged"].tolist(), arrays["moving"].tolist()
            if images.dtype != np.uint8 or images.shape != shape or not set(rows + moving) <= set(range(len(paths))):
                raise ValueError("it holds other images")
        except FileNotFoundError:
            return None
        except Exception as error:  # NumPy raises many kinds for a damaged archive
            log.warning("The cached images %s cannot be used (%s) and are read anew.", kept, brief(error))
            return None
        if rows and not self.skip_damaged:
            return None
        _, damaged, _ = self._read([paths[row] for row in rows], (0,), whole=True)
        if len(damaged) < len(rows):  # mended without a trace: permissions, or a disk that is there again
            return None
        return images, {row: damaged[place] for place, row in enumerate(rows)}, moving

    def _keep(
        self, kept: Path, images: np.ndarray, damaged: Damaged, moving: list[int], count: int, seconds: float
    ) -> None:
        """Write the cache in the place of older ones of this folder, if there is room for it."""
        numbers = {"damaged": np.array(list(damaged), np.int64), "moving": np.array(moving, np.int64)}
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(kept.parent).free < 2 * images.nbytes:  # checkpoints need some, too
                raise OSError(None, "the disk is nearly full")
            with replacing(kept) as temporary:
                np.savez(temporary, images=images, **numbers)  # type: ignore[arg-type]
            for old in kept.parent.glob(f"images_{self._key()}_*.npz"):
                if old != kept:
                    old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("Read %s images; they are not kept for the next start: %s.", f"{count:,}", reason(error))
            return
        text = "Read %s images in %.1f s; kept as %s (%.1f MiB), so that the next start is quick."
        log.info(text, f"{count:,}", seconds, kept, images.nbytes / 2**20)


def unreadable(paths: Sequence[Path], damaged: Damaged) -> str:
    """A sentence, without its full stop, that names the first of some damaged files."""
    first, *others = (f"{paths[row]} cannot be read ({why})" for row, why in list(damaged.items())[:SHOWN])
    more = len(damaged) - 1 - len(others)
    parts = [f"The image {first}", *(f"nor can {other}".replace(" cannot be read (", " (") for other in others)]
    advice = "mend or remove it" if len(damaged) == 1 else "mend or remove them"
    return ", ".join(parts) + (f", nor {more:,} more" if more else "") + f": {advice}"
