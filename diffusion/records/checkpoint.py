"""Checkpoints: one file that holds all that a run needs to go on, sample or be scored, and no code.

A checkpoint is a dictionary of plain containers and tensors:

    format, config (resolved), image (`ImageData.describe`), step, total_steps,
    network, ema, optimizer, timesteps (what they learned), sums (of the running log interval), best (score so far,
    or None), kept (the best checkpoints, where asked for), ended (True after an end by patience), seconds (of
    training), own_parts (where it needs code of its owner: module → hash of its source), tuned (where guidance is
    chosen after training: which settings, and after which step they were)

It is written to a temporary file that then replaces the old one, so a kill at any moment leaves a whole checkpoint.
The one before is kept as previous.pt, for the case that a disk or a transfer damages last.pt later, and the one of the
lowest FID, or another score, as best.pt (the next ones as best_step1200.pt); where one is damaged, another is named.

A model can also be one safetensors file: the averaged weights, with config, image and step as JSON in its metadata.
"""

import json
import logging
import os
import re
import shlex
import shutil
import zlib
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diffusion.system.errors import NotWritten, UserError, brief
from diffusion.system.files import replacing
from diffusion.system.untrusted import Damaged, check_settings, check_sums, read_json, read_torch

log = logging.getLogger("diffusion")
FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
NEXT_BEST = re.compile(r"best_step\d{1,18}\.pt")
CONFIG_KEYS = {"data", "model", "schedule", "objective", "guidance", "sampler"}
IMAGE_KEYS = {"size", "channels", "padding", "class_names"}
MODEL_KEYS = ("config", "image", "step", "total_steps")
# What a config called a class before it moved → what it is called now; one that ends in a dot stands for all in it.
RENAMED = {
    "diffusion.datasets.": "diffusion.data.datasets.",
    "diffusion.device.": "diffusion.system.device.",
    "diffusion.training.Trainer": "diffusion.training.plan.Plan",
}
FORMER = {new: old for old, new in RENAMED.items()}
KEYS = {"format", "config", "image", "step", "total_steps", "network", "ema", "optimizer", "sums", "best"}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically; a failure (full disk, …) leaves the previous file and raises `NotWritten`."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError, and not in so many words
        free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.is_dir() else 0
        before = "the previous one is untouched" if path.exists() else "there is none before it"
        if path.name == LAST and path.exists():
            before += f": make room, and go on with {shlex.quote(f'resume={path.parent}')}"
        raise NotWritten(
            f"The checkpoint {path} could not be written, with {free:.0f} MiB free on that disk "
            f"({brief(error)}); {before}."
        ) from error


def keep_previous(folder: Path) -> None:
    """Before a new last.pt: keep the present one as previous.pt, unless it is damaged and previous.pt may be whole."""
    last = folder / LAST
    if not last.exists():
        return
    try:
        check_sums(last)
        give_name(last, folder / PREVIOUS)
    except (OSError, Damaged) as error:
        log.warning("%s is not kept as %s: %s.", last, PREVIOUS, brief(error))


def give_name(path: Path, name: Path) -> None:
    """Give a checkpoint one more name, in the place of whatever has it; what replaces either leaves the other."""
    with replacing(name) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)  # no copy: a new checkpoint is a file of its own
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def best_of(step: int) -> str:
    """The name of a checkpoint that is among the best, but not the best of all."""
    return f"best_step{step}.pt"


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it.

    Raises:
        UserError: it is none, or damaged; names a whole one beside it, where there is one.
    """
    try:
        return read(path)
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}{beside(path)}.") from error


def read(path: Path) -> dict[str, Any]:
    """As `load`, without looking at what else there is."""
    try:
        state = read_model(path) if path.suffix == ".safetensors" else read_torch(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}: give a run folder, a checkpoint file, or 'latest'.") from error
    except Damaged as error:
        raise UserError(f"{path} is no checkpoint of this project, or it is cut short or damaged: {error}.") from error
    except Exception as error:  # torch raises many kinds for files that are something else
        raise UserError(f"{path} is no checkpoint of this project ({brief(error)}).") from error
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise UserError(f"{path} is a PyTorch file, but no checkpoint of this project: give one that train.py wrote.")
    nested = ((state["config"], CONFIG_KEYS), (state["image"], IMAGE_KEYS))
    if not all(isinstance(part, dict) and part.keys() >= keys for part, keys in nested):
        raise UserError(f"{path} is a checkpoint whose config is incomplete: give one that train.py wrote.")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {state['format']}; this version reads format {FORMAT}.")
    state["config"] = with_names(state["config"])
    state["config"].setdefault("loss", {"_target_": "diffusion.loss.Target"})  # of runs before there was a choice
    try:
        check_settings(state["config"])
        check_image(state["image"])
        check_parts(state)
    except ValueError as error:
        raise UserError(f"{path} is refused: {error}.") from error
    return state


def with_names(config: dict[str, Any], names: dict[str, str] = RENAMED) -> dict[str, Any]:
    """A config whose groups name their classes as they are called today, or with `FORMER` as they were at first."""

    def renamed(node: Any) -> Any:
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            return node
        name = node["_target_"]
        found = next((each for each in names if name == each or (each[-1] == "." and name.startswith(each))), "")
        return {**node, "_target_": names.get(found, "") + name[len(found) :]}

    return {key: renamed(node) for key, node in config.items()}


def check_image(image: dict[str, Any]) -> None:
    """Raise `ValueError` unless this describes images that one could have trained on."""
    names, deviation = image["class_names"], image.get("sigma_data", 0.5)
    for name, least, most, sides in (("size", 4, 1024, 2), ("channels", 1, 16, 1), ("padding", 0, 64, 4)):
        value = image[name]
        several = isinstance(value, list) and len(value) == sides and len(set(map(repr, value))) > 1
        numbers = value if several else [value]
        if not all(type(number) is int and least <= number <= most for number in numbers):
            raise ValueError(f"its images have the {name} {str(value)[:60]}, which is not from {least} to {most}")
    if not isinstance(names, list) or len(names) > 100_000 or not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are no list of at most 100,000 texts")
    for name in names:  # of which folders are made (`names.folder_names`): no path that leads elsewhere
        if len(name) > 255 or "\0" in name or {"", ".", ".."}.intersection(name.split("/")):
            raise ValueError(f"it has a class of the name {name[:50]!r}, which is empty, a path, or too long")
    for name in ("labels", "test"):
        if not isinstance(image.get(name, ""), str) or not re.fullmatch(r"[0-9a-f]{0,16}", image.get(name, "")):
            raise ValueError(f"its images have {str(image[name])[:50]!r} for a hash of their {name}, which is none")
    if not isinstance(image.get("images", 0), int):
        raise ValueError(f"it was trained with {str(image['images'])[:50]!r} images, which is no number")
    if not isinstance(deviation, float) or not 0 <= deviation <= 1:
        raise ValueError(f"its images have the root mean square {deviation}, which is not from 0 to 1")


def check_parts(state: dict[str, Any]) -> None:
    """Raise `ValueError` unless the parts of a checkpoint that drawing needs are of the kind that they should be."""
    average = state["ema"].get("network") if isinstance(state["ema"], dict) else None
    for name, weights in (("network", state["network"]), ("ema.network", average)):
        if not isinstance(weights, dict) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
        ):
            raise ValueError(f"its {name} holds no weights")
    for name in ("step", "total_steps"):
        if not isinstance(state[name], int) or not 0 <= state[name] < 2**62:
            raise ValueError(f"its {name} is no number of steps")
    for name in CONFIG_KEYS | {"loss"}:
        node = state["config"][name]
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise ValueError(f"its config chooses no {name}")
    own = state.get("own_parts", {})
    if not isinstance(own, dict) or not all(
        isinstance(each, str) and len(each) <= 200 for each in chain.from_iterable(own.items())
    ):
        raise ValueError("its own_parts are no names of modules with hashes")


def beside(path: Path) -> str:
    """The way out of a damaged or missing checkpoint: the newest whole one in its folder, in words."""
    if path.name not in (LAST, PREVIOUS, BEST) and not NEXT_BEST.fullmatch(path.name):
        return ""
    more = sorted(other.name for other in path.parent.glob("best_step*.pt") if NEXT_BEST.fullmatch(other.name))
    found, damaged = [], []
    for name in (LAST, PREVIOUS, BEST, *more):
        other = path.with_name(name)
        if name == path.name or not other.exists():
            continue
        try:
            found.append((read(other)["step"], other))
        except UserError:
            damaged.append(str(other))
    if found:
        step, other = max(found, key=lambda each: each[0])
        return f"; another one of this run is whole, of step {step}: give {shlex.quote(str(other))} instead"
    return f" ({' and '.join(damaged)} {'is' if len(damaged) == 1 else 'are'} damaged, too)" if damaged else ""


def save_model(path: Path, state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Write weights as safetensors, with what else of a checkpoint is needed to sample from them in the metadata."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path} cannot hold the model: give a name that ends in .safetensors.")
    kept = {name: state[name] for name in (*MODEL_KEYS, "own_parts", "ended") if name in state}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    text = json.dumps({"format": FORMAT, **kept})
    metadata = {"format": "pt", "simple_diffusion": text, "crc32": str(check_sum(text, tensors))}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:  # ValueError: \0 in its name
        raise NotWritten(f"The model {path} could not be written ({brief(error)}).") from error


def check_sum(text: str, weights: dict[str, torch.Tensor]) -> int:
    """CRC-32 of a text and of weights, in the order of their names; safetensors has no checksum of its own."""
    found = zlib.crc32(text.encode())
    for name, tensor in sorted(weights.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data, found)
    return found


def read_model(path: Path) -> dict[str, Any]:
    """What `save_model` wrote, as a checkpoint that can be sampled but not resumed."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        state = read_json(metadata["simple_diffusion"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "crc32" in metadata and metadata["crc32"] != str(check_sum(metadata["simple_diffusion"], weights)):
        raise Damaged("it does not match its checksum")
    return {**dict.fromkeys(KEYS), **state, "network": weights, "ema": {"network": weights}}


def find(where: str, outputs: str = "outputs", setting: str = "checkpoint") -> Path:
    """The checkpoint file meant by `where`: a file, a run folder (its last.pt), or "latest" under `outputs`."""
    way_out = "give a run folder, a checkpoint file, or 'latest'"
    if where == "latest":
        found = sorted(Path(outputs).rglob(LAST), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"{setting}=latest: there is no run under {outputs}/ yet; train one with train.py.")
        return found[-1]
    path, where = Path(where), where if len(where) < 200 else f"{where[:200]}…"
    if os.path.isdir(path):  # unlike the method of `Path`, this has no error for names that are too long
        if not (path / LAST).exists():
            raise UserError(f"{setting}={where}: that folder holds no {LAST}{beside(path / LAST) or f'; {way_out}'}.")
        return path / LAST
    if not os.path.exists(path):
        raise UserError(f"{setting}={where}: there is no such file or folder; {way_out}.")
    return path
