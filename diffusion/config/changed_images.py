"""A run that was stopped, and whose images are no longer the same: what differs, and the two commands that go on."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from diffusion.config.arguments import in_quotes
from diffusion.config.opening import recorded
from diffusion.config.resuming import difference
from diffusion.config.settings import HOMES, Config, allowed_target, arguments_of
from diffusion.system.errors import UserError
from diffusion.training.interruption import resume_command, trusting


def check_same_images(name: str, image: Config, resume: Config, config: Config, folder: Path) -> None:
    """Raise `UserError` unless images are those that a run was started with.

    Args:
        name: of the data.
        image: what a network sees of them, from `ImageData.describe`.
        resume: the checkpoint of the run.
        config: the run's, in which the images may have another place.
        folder: of the run.
    """
    changed = difference(image, resume["image"])
    if changed is None:
        return
    program = resume_command(folder).partition(" resume=")[0]
    node, had, trust = config["data"], resume["config"]["data"], trusting(recorded(config))
    moved = [written(f"data.{key}", value) for key, value in node.items() if had.get(key) != value]
    further = shlex.join([written("checkpoint", os.path.relpath(folder)), *moved])
    raise UserError(
        f"resume: the images of data={name} are no longer what this run was started with: {changed}. A run goes on "
        "with its own images alone: put them back, or start a new run, from its weights by:  "
        f"{program} {further}{trust}  – or from nothing by:  {program} {shlex.join(words(node))}{trust}  "
        "(add your own settings of the model and the training)."
    )


def words(node: Config) -> list[str]:
    """The arguments of a command line that choose these data."""
    target = str(node["_target_"])
    own = target.startswith(f"{HOMES['data']}.")
    found = [f"data={target.rpartition('.')[2]}" if own else f"data._target_={target}"]
    for key, argument in arguments_of(allowed_target(target, "data")).items():
        if key in node and node[key] != argument.default:
            found.append(written(f"data.{key}", node[key]))
    return found


def written(name: str, value: Any) -> str:
    """A setting as the command line gives it, before the shell's own quotes."""
    if name in ("data.root", "checkpoint"):  # paths are taken as they stand
        return f"{name}={value}"
    return f"{name}={in_quotes(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
