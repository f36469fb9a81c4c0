"""What is computed once and kept in a file whose name is a hash of everything it depends on."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion.system.array_files import read_arrays
from diffusion.system.files import replacing

log = logging.getLogger("diffusion")
Arrays = dict[str, np.ndarray]


def cache_key(*parts: object) -> str:
    """A hash of what a cached file depends on: data, weights, preprocessing, settings."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def remembered(path: Path, what: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in `path`; where there are none (or the file is damaged) they are made, and kept if possible.

    Args:
        path: an .npz file; its name must hold a hash of all that the arrays depend on.
        what: in words, for the log.
    """
    try:
        return read_arrays(path)
    except FileNotFoundError:
        log.info("Computing the %s, once; kept as %s.", what, path)
    except Exception as error:  # NumPy raises many kinds for a damaged archive
        log.warning("The cached file %s cannot be read (%s) and is made anew.", path, type(error).__name__)
    arrays = make()
    try:
        save_arrays(path, arrays)
    except OSError as error:
        log.warning("The %s could not be kept: %s (%s).", what, error.strerror, path)
    return arrays


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz file."""
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
