"""Checkpoints: one file that holds all that a run needs to go on, sample or be scored, and no code.

A checkpoint is a dictionary of plain containers and tensors:

    format, config (resolved), image (size, channels, padding, class names), step, total_steps,
    network, ema, optimizer, timesteps (what they learned), sums (of the running log interval), best (score so far,
    or None), seconds (of training)

It is written to a temporary file that then replaces the old one, so a kill at any moment leaves a whole checkpoint.

A model can also be one safetensors file: the averaged weights, with config, image and step as JSON in its metadata.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffusion.errors import UserError, brief
from diffusion.files import replacing

FORMAT = 1
CONFIG_KEYS = {"data", "model", "schedule", "objective", "guidance", "sampler"}
IMAGE_KEYS = {"size", "channels", "padding", "class_names"}
MODEL_KEYS = ("config", "image", "step", "total_steps")
KEYS = {"format", "config", "image", "step", "total_steps", "network", "ema", "optimizer", "sums", "best"}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically; a failure (full disk, …) leaves the previous file and raises `UserError`."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError, and not in so many words
        free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.is_dir() else 0
        before = "the previous one is untouched" if path.exists() else "there is none before it"
        raise UserError(
            f"The checkpoint {path} could not be written, with {free:.0f} MiB free on that disk "
            f"({brief(error)}); {before}."
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it; `UserError` when it is none."""
    try:
        state = read_model(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}: give a run folder, a checkpoint file, or 'latest'.") from error
    except Exception as error:  # torch raises many kinds for files that are cut short or something else
        raise UserError(f"{path} is no checkpoint of this project, or it is cut short ({brief(error)}).") from error
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise UserError(f"{path} is a PyTorch file, but no checkpoint of this project: give one that train.py wrote.")
    nested = ((state["config"], CONFIG_KEYS), (state["image"], IMAGE_KEYS))
    if not all(isinstance(part, dict) and part.keys() >= keys for part, keys in nested):
        raise UserError(f"{path} is a checkpoint whose config is incomplete: give one that train.py wrote.")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {state['format']}; this version reads format {FORMAT}.")
    state["config"].setdefault("loss", {"_target_": "diffusion.loss.Target"})  # of runs before there was a choice
    return state


def save_model(path: Path, state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Write weights as safetensors, with what else of a checkpoint is needed to sample from them in the metadata.

    Args:
        path: of the new file, whose name must end in .safetensors.
        state: the checkpoint.
        weights: name → tensor.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} cannot hold the model: give a name that ends in .safetensors.")
    kept = {name: state[name] for name in MODEL_KEYS}
    metadata = {"format": "pt", "simple_diffusion": json.dumps({"format": FORMAT, **kept})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, RuntimeError) as error:
        raise UserError(f"The model {path} could not be written ({brief(error)}).") from error


def read_model(path: Path) -> dict[str, Any]:
    """What `save_model` wrote, as a checkpoint that can be sampled but not resumed."""
    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["simple_diffusion"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {**dict.fromkeys(KEYS), **state, "network": weights, "ema": {"network": weights}}


def find(where: str, outputs: str = "outputs", setting: str = "checkpoint") -> Path:
    """The checkpoint file meant by `where`: a file, a run folder (its last.pt), or "latest" under `outputs`."""
    way_out = "give a run folder, a checkpoint file, or 'latest'"
    if where == "latest":
        found = sorted(Path(outputs).rglob("last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"{setting}=latest: there is no run under {outputs}/ yet; train one with train.py.")
        return found[-1]
    path = Path(where)
    if path.is_dir():
        if not (path / "last.pt").exists():
            raise UserError(f"{setting}={where}: that folder holds no last.pt; {way_out}.")
        return path / "last.pt"
    if not path.exists():
        raise UserError(f"{setting}={where}: there is no such file or folder; {way_out}.")
    return path
