"""What a run that goes on may change, and what a new run takes over from the one it starts from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.config.settings import Config, choose_length
from diffusion.system.errors import UserError

# What a resumed run may change: its length, what it logs, and where it computes.
RESUMABLE = (
    *(f"training.{name}" for name in "images epochs steps budget accumulate nonfinite workers profile".split()),
    *(f"training.{name}_every" for name in ("log", "checkpoint", "preview", "evaluate")),
    *("device", "score", "preview", "sampler", "features", "data.root", "resume"),
)
TRAINED_WITH = ("data", "model", "schedule", "objective", "loss", "timesteps", "guidance", "ema", "optimizer")
# What training that starts from a checkpoint takes over from it.
TAKEN_OVER = ("data", "model", "schedule", "objective", "guidance")
GUIDING = ("scale", "interval", "rescale", "plus_plus")  # settings of guidance that act in sampling alone


def plain(cfg: DictConfig) -> Config:
    """The resolved config as it goes into a checkpoint: plain containers, nothing of this machine or this start."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {str(k): v for k, v in config.items() if k not in ("output_dir", "resume", "trials")}


def trained_with(config: Config) -> Config:
    """The settings of a config that its weights depend on."""
    groups = {name: dict(config[name]) for name in TRAINED_WITH}
    groups["data"].pop("root", None)
    if config.get("checkpoint"):
        groups = {name: node for name, node in groups.items() if name not in TAKEN_OVER}
    groups["training"] = {k: v for k, v in config["training"].items() if f"training.{k}" not in RESUMABLE}
    return groups


def resumed_config(saved: Config, cfg: DictConfig, overrides: Sequence[str]) -> Config:
    """The config of a run that goes on: its own, with what the command line may change.

    Args:
        saved: from the checkpoint.
        cfg: composed from the command line.
        overrides: of the command line.

    Raises:
        UserError: an override would change something that the run was trained with.
    """
    new = plain(cfg)
    missing = sorted(name for name in new if name != "checkpoint" and not isinstance(saved.get(name), type(new[name])))
    if missing:
        raise UserError(f"resume: the config of that checkpoint holds no {missing[0]}: give one that train.py wrote.")
    config = OmegaConf.create(saved)
    choose_length(config, overrides)
    given = {override.split("=", 1)[0].lstrip("+~") for override in overrides}
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~").split("@")[-1]
        if key == "experiment":  # the original command typed again: fine, if it is the same experiment
            old, now = trained_with(saved), trained_with({**new, "checkpoint": saved.get("checkpoint")})
            changed = [name for name in old if old[name] != now[name]]
            if changed:
                raise UserError(f"resume: '{override}' has another {changed[0]} than this run: leave it out.")
            continue
        allowed = any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)
        value = OmegaConf.select(OmegaConf.create(new), key)
        if allowed and key != "resume":
            OmegaConf.update(config, key, value, merge=False)
        elif not allowed and OmegaConf.select(config, key) != value:
            old = OmegaConf.select(config, key)
            shown = old.get("_target_", old) if isinstance(old, DictConfig) else old
            raise UserError(
                f"resume: '{override}' would change what this run is trained with ({key} is {shown}); only the length, "
                "the logging and the device may change. Start a new run for it."
            )
    if "data" not in given and "data.root" not in given:
        check_root(saved["data"])
    name = OmegaConf.select(config, "features.network._target_")
    if name is not None and "features.network._target_" not in given:
        raise UserError(
            f"resume: this run is scored by code of its owner, features.network._target_={name}: if you trust it, "
            f"add features=module features.network._target_={name}, or else features=auto."
        )
    result: Any = OmegaConf.to_container(config)
    return {str(k): v for k, v in result.items()}


def same_run(folder: Path, saved: Config, new: Config) -> None:
    """Raise `UserError` unless the run in `folder`, of the config `saved`, is the one that `new` asks for."""
    new = {**new, "checkpoint": new.get("checkpoint") or saved.get("checkpoint")}
    mine, asked = ({"seed": c["seed"], "checkpoint": c.get("checkpoint"), **trained_with(c)} for c in (saved, new))
    for name, value in asked.items():
        if mine.get(name) != value:
            raise UserError(
                f"{folder} holds a run already, with another {name} than this command asks for: choose another folder, "
                f"or go on with that run by resume={folder}."
            )


def starting_config(saved: Config, cfg: DictConfig, overrides: Sequence[str]) -> Config:
    """The config of a new run that starts from the weights of another, whose model and data it takes over.

    Args:
        saved: from the checkpoint.
        cfg: composed from the command line; it may set how to guide.
        overrides: of the command line.

    Raises:
        UserError: an override would change what belongs to the weights.
    """
    config = plain(cfg)
    for override in overrides:
        group, _, setting = override.split("=", 1)[0].lstrip("+~").partition(".")
        if group in TAKEN_OVER and not (group == "guidance" and setting in GUIDING):
            raise UserError(
                f"'{override}' cannot be given with checkpoint={config['checkpoint']}, which brings its own {group}: "
                "leave one of them out."
            )
    taken = {name: saved[name] for name in TAKEN_OVER}
    check_root(taken["data"])
    if taken["guidance"]["_target_"] == config["guidance"]["_target_"]:
        taken["guidance"] = {**taken["guidance"], **{k: v for k, v in config["guidance"].items() if k in GUIDING}}
    return {**config, **taken}


def check_root(node: Config) -> None:
    """Raise `UserError` where the data of a checkpoint's config would make a folder outside the one we are in."""
    root = node.get("root")
    if isinstance(root, str) and not os.path.isdir(root) and (Path(root).anchor or ".." in Path(root).parts):
        raise UserError(
            f"data.root={root[:200]}, which the checkpoint names, is no folder here: put its data there, or, where "
            "that is possible, give data= (evaluate.py) or data.root= (train.py resume=…)."
        )
