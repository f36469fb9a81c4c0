"""The forms in which a model leaves this package."""

import os
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from diffusion.export.trained import Trained
from diffusion.system.errors import UserError


class Format(NamedTuple):
    """One of them.

    Args:
        module: of this room, which has a function `export_…` of that name: (model, path, weights) → None.
        name: of the file or folder, where none is given; its ending is that of every such file.
        weights: in which it can hold them, the usual one first.
    """

    module: str
    name: str
    weights: tuple[str, ...]


FORMATS = {
    "onnx": Format("onnx_file", "model.onnx", ("fp32", "fp16", "int8")),
    "diffusers": Format("diffusers_folder", "diffusers", ("fp32",)),
    "safetensors": Format("safetensors_file", "model.safetensors", ("fp32",)),
    "page": Format("page", "model.html", ("int8", "fp16", "fp32")),
}


def chosen(to: str | None, weights: str | None, path: Path | None = None) -> tuple[Format, str]:
    """The format of a name, and how it holds the weights.

    Args:
        path: where it is to be written; None is not known yet.

    Raises:
        UserError: there is no such format, it cannot hold them so, or the path is not one for it.
    """
    if to not in FORMATS:
        raise UserError(f"to={'null' if to is None else to} must be one of {', '.join(FORMATS)}.")
    found = FORMATS[to]
    if weights is not None and weights not in found.weights:
        if weights not in FORMATS["onnx"].weights:
            raise UserError(f"weights={weights} must be one of {', '.join(found.weights)}.")
        others = " or ".join(f"to={name}" for name, other in FORMATS.items() if weights in other.weights)
        raise UserError(f"weights={weights} cannot be used with to={to}: leave it out, or choose {others}.")
    suffix = Path(found.name).suffix
    if path is not None and suffix and path.suffix != suffix:
        example = path.with_suffix(suffix) if path.name else found.name
        raise UserError(f"path={path} must end in {suffix} for to={to}, for example {example}.")
    if path is not None and suffix and os.path.isdir(path):  # which has no error for names that are too long
        raise UserError(f"path={path} is a folder: give the name of a file.")
    return found, weights or found.weights[0]


def export(model: Trained, path: Path, to: str, weights: str | None = None) -> Path:
    """Write a model in another form; arguments and errors as in `diffusion.model.Model.export`."""
    found, weights = chosen(to, weights, path)
    write = getattr(import_module(f"diffusion.export.{found.module}"), f"export_{to}")
    write(model, path, weights)
    return path


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
