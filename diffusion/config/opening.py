"""Checkpoints that need code of their owner: they record its modules and a hash of their source, and are opened only
where those are trusted.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diffusion.config.resuming import another_run
from diffusion.config.trust import covering, foreign, modules, source_hash, sources
from diffusion.records import checkpoint
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
DRAWING = ("model", "schedule", "objective", "loss", "guidance", "sampler", "preview")  # what drawing is made of


def needed(config: dict[str, Any], groups: Collection[str] | None = None) -> dict[str, str]:
    """What a config names of code that is somebody's own: name of the group → dotted name."""
    nodes = {key: node for key, node in config.items() if groups is None or key in groups}
    names = {key: node.get("_target_") for key, node in nodes.items() if isinstance(node, dict)}
    return {key: name for key, name in names.items() if isinstance(name, str) and foreign(name)}


def recorded(config: dict[str, Any]) -> dict[str, str]:
    """The trusted modules that a config needs, with the hashes of their source, for its checkpoint."""
    found = {covering(name) for name in needed(config).values()} - {None}
    return {str(module): source_hash(str(module)) for module in sorted(map(str, found))}


def opened(path: Path, groups: Collection[str] | None = DRAWING) -> dict[str, Any]:
    """A checkpoint, as `checkpoint.load` reads it, of which `groups` (None: all) name only code that is trusted here.

    Raises:
        UserError: it is no checkpoint, or names other code; with what to add to the command.
    """
    state = checkpoint.load(path)
    names, had = needed(state["config"], groups), state.get("own_parts", {})
    missing = {key: name for key, name in names.items() if covering(name) is None}
    if missing:
        key, name = next(iter(missing.items()))
        homes = sorted({home(name, had) for name in missing.values()})
        asked = ",".join([*modules(), *homes])
        asked = f"[{asked}]" if "," in asked else asked
        states = "; ".join(f"{module}: {state_of(module, had)}" for module in homes)
        raise UserError(
            f"{path} was made with code of its owner, {key}._target_={name} ({states}): if you trust it, add "
            f"trust={asked}."
        )
    for module, was in had.items():
        used = [key for key, name in names.items() if name.startswith(f"{module}.")]
        if used and was != source_hash(module):
            text = "%s has changed since %s was written: its %s may not be the same now."
            log.warning(text, module, path, " and ".join(used))
    return state


def same_source(folder: Path, state: dict[str, Any], own: dict[str, str]) -> None:
    """Raise `UserError` where the checkpoint of the run in `folder` was made with another source of a module than that
    of `own`, from `recorded`."""
    for module, was in state.get("own_parts", {}).items():
        if own.get(module, was) != was:
            raise another_run(folder, f"another source of {module} than it has now")


def home(name: str, had: Collection[str]) -> str:
    """The module that must be trusted for a dotted name: the one that a checkpoint records, or else its own."""
    return next((module for module in had if name.startswith(f"{module}.")), name.rpartition(".")[0])


def state_of(module: str, had: dict[str, str]) -> str:
    """In words, whether the source of a module that a checkpoint needs is here and still what it was."""
    if not sources(module):
        return "it is not found here"
    if module not in had:
        return "its source was not recorded"
    return "its source is still the same" if had[module] == source_hash(module) else "its source has changed since"
