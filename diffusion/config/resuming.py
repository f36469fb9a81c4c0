"""What a run that goes on may change, and what a new run takes over from the one it starts from."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.config.settings import HOMES, Config, allowed_target, arguments_of, choose_length, unknown
from diffusion.system.errors import UserError

# What a resumed run may change: its length, what it logs, and where it computes.
RESUMABLE = (
    *(f"training.{name}" for name in "images epochs steps budget accumulate nonfinite workers profile".split()),
    *(f"training.{name}" for name in "keep keep_by patience".split()),
    *(f"training.{name}_every" for name in ("log", "checkpoint", "preview", "evaluate")),
    *("device", "score", "preview", "sampler", "features", "data.root", "resume", "track"),
)
# Settings that runs did not have at first → what they did then.
NEWER = {"training": {"keep": 1, "keep_by": "score/fid", "patience": 0}}
TRAINED_WITH = ("data", "model", "schedule", "objective", "loss", "timesteps", "guidance", "ema", "optimizer")
# What training that starts from a checkpoint takes over from it.
TAKEN_OVER = ("data", "model", "schedule", "objective", "guidance")
MOVED = ("data", "root")  # which may be another one: the images are the same
GUIDING = ("scale", "interval", "rescale", "plus_plus")  # settings of guidance that act in sampling alone


def plain(cfg: DictConfig) -> Config:
    """The resolved config as it goes into a checkpoint: plain containers, nothing of this machine or this start."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {str(k): v for k, v in config.items() if k not in ("output_dir", "resume", "trials")}


def as_at_first(config: Config) -> Config:
    """The config without newer settings that change nothing, so that a run from before them is known again."""
    groups = {
        name: {key: value for key, value in config[name].items() if key not in newer or value != newer[key]}
        for name, newer in NEWER.items()
    }
    return {**{name: value for name, value in config.items() if name != "track"}, **groups}


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
    new, saved = plain(cfg), {"track": "tensorboard", **saved}
    missing = sorted(
        name for name in new if name not in ("checkpoint", "track") and not isinstance(saved.get(name), type(new[name]))
    )
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
        shown = override.lstrip("+")
        if not (key.startswith("guidance.") and new["guidance"] == saved["guidance"]):  # without labels it has none
            check_known(config, key)
        if key == "data" and same_data(saved["data"], new["data"]):
            if new["data"].get("root", "???") != "???" and "data.root" in given:
                config.data.root = new["data"]["root"]
            continue
        allowed = any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)
        value = OmegaConf.select(OmegaConf.create(new), key)
        if allowed and key != "resume":
            OmegaConf.update(config, key, value, merge=False)
        elif not allowed and OmegaConf.select(config, key) != value:
            old = OmegaConf.select(config, key)
            had = old.get("_target_", old) if isinstance(old, DictConfig) else old
            raise UserError(
                f"resume: '{shown}' would change what this run is trained with ({key} is {had}); only the length, "
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


def check_known(config: DictConfig, key: str) -> None:
    """Raise `UserError` where a setting is none of the option that a run has of its group."""
    group, _, name = key.partition(".")
    node = config.get(group)
    if not name or group not in HOMES or not isinstance(node, DictConfig) or "_target_" not in node:
        return
    known = {*arguments_of(allowed_target(str(node["_target_"]), group)), *node}
    if name.partition(".")[0] not in known:
        raise UserError(unknown(key, [f"{group}.{other}" for other in sorted(map(str, known)) if other != "_target_"]))


def moved_data(saved: Config, node: DictConfig | None) -> Config:
    """The data of a checkpoint's config as a command line changes them: those in their place, or some settings."""
    given: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
    if "_target_" in given:
        return given
    for name in given:
        check_known(OmegaConf.create({"data": saved}), f"data.{name}")
    if "root" not in given:
        check_root(saved)
    return {**saved, **given}


def check_shape(data: Any, image: Config) -> None:
    """Raise `UserError` unless data have the size and channels that a checkpoint's model draws."""
    mine, drawn = (data.channels, data.image_size), (image["channels"], image["size"])
    if mine != drawn:
        (channels, size), (least, side) = mine, drawn
        raise UserError(
            f"data={data.name} has images of {size}×{size} pixels with {channels} channels, and this model draws "
            f"{side}×{side} with {least}: choose data of the same shape."
        )


def same_data(saved: Config, new: Config) -> bool:
    """Whether two nodes ask for the same images, wherever they lie; what a node leaves out is its default."""
    both = []
    for node in (saved, new):
        target = allowed_target(str(node.get("_target_")), "data")
        defaults = {name: each.default for name, each in arguments_of(target).items()}
        both.append({**defaults, **node, "root": None})
    return both[0] == both[1]


def same_run(folder: Path, saved: Config, new: Config) -> None:
    """Raise `UserError` unless the run in `folder`, of the config `saved`, is the one that `new` asks for."""
    new = {**new, "checkpoint": new.get("checkpoint") or saved.get("checkpoint")}
    mine, asked = ({"seed": c["seed"], "checkpoint": c.get("checkpoint"), **trained_with(c)} for c in (saved, new))
    for name, value in asked.items():
        if mine.get(name) != value:
            raise UserError(
                f"{folder} holds a run already, with another {name} than this command asks for: choose another folder, "
                f"or go on with that run by {shlex.quote(f'resume={folder}')}."
            )


def check_same_images(name: str, image: Config, earlier: Config, key: str) -> None:
    """Raise `UserError` unless the data called `name` are those that a checkpoint, given by `key`, describes."""
    changed = difference(image, earlier)
    if changed is not None:
        raise UserError(
            f"{key}: the images of data={name} are no longer what this run was started with: {changed}. Give it the "
            "same ones, or start a new run."
        )


def difference(image: Config, earlier: Config) -> str | None:
    """In what images differ from those that a checkpoint describes, in words; None where they are the same."""
    for name in [name for name, value in earlier.items() if image.get(name) != value]:
        now, had = image.get(name), earlier[name]
        if name == "class_names":
            new, gone = ([each for each in a if each not in b] for a, b in ((now or [], had), (had, now or [])))
            words = [("new", new), ("missing", gone)]
            said = "; ".join(f"{word} are {', '.join(map(str, each[:5]))}" for word, each in words if each)
            return f"their classes differ ({said or 'in their order'})"
        if name == "sigma_data":
            return f"their pixels differ (root mean square {now:.6g} instead of {had:.6g})"
        return f"their {name} is {now} instead of {had}"
    return None


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
        if group in TAKEN_OVER and not (group == "guidance" and setting in GUIDING) and (group, setting) != MOVED:
            raise UserError(
                f"'{override.lstrip('+')}' cannot be given with checkpoint={config['checkpoint']}, which brings "
                f"its own {group}: leave one of them out."
            )
    taken = {name: saved[name] for name in TAKEN_OVER}
    if any(override.lstrip("+").startswith("data.root=") for override in overrides):
        check_known(OmegaConf.create(taken), "data.root")
        taken["data"] = {**taken["data"], "root": config["data"]["root"]}
    check_root(taken["data"])
    if taken["guidance"]["_target_"] == config["guidance"]["_target_"]:
        taken["guidance"] = {**taken["guidance"], **{k: v for k, v in config["guidance"].items() if k in GUIDING}}
    return {**config, **taken}


def check_root(node: Config) -> None:
    """Raise `UserError` where the data of a checkpoint's config would make a folder outside the one we are in."""
    root = node.get("root")
    downloads = not str(node.get("_target_")).endswith(".image_folder") and isinstance(root, str)
    elsewhere = isinstance(root, str) and (Path(root).anchor or ".." in Path(root).parts)
    if isinstance(root, str) and not os.path.isdir(root) and (elsewhere or not downloads):
        raise UserError(
            f"data.root={root[:200]}, which the checkpoint names, is no folder here: put its data there, or give their "
            "new place by data.root=… (with sample.py, give images by task.images=…)."
        )
