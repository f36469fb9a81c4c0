"""What a run that goes on may change."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.config.settings import HOMES, Config, allowed_target, arguments_of, choose_length, unknown
from diffusion.data.shapes import in_words, pair
from diffusion.records.trackers import asked_here
from diffusion.system.errors import UserError

# What a resumed run may change: its length, what it logs, and where it computes.
RESUMABLE = (
    *(f"training.{name}" for name in "images epochs steps budget accumulate nonfinite workers profile".split()),
    *(f"training.{name}" for name in "keep keep_by patience".split()),
    *(f"training.{name}_every" for name in ("log", "checkpoint", "preview", "evaluate")),
    *("device", "score", "preview", "sampler", "features", "resume", "track"),
)
TRAINED_WITH = ("data", "model", "schedule", "objective", "loss", "timesteps", "guidance", "ema", "optimizer")
# What training that starts from a checkpoint takes over from it.
TAKEN_OVER = ("data", "model", "schedule", "objective", "guidance")
# Where images lie, by the kind of data: another place may be given, since the images are the same.
PLACES = {"arrays": ("train", "test", "train_labels", "test_labels"), "huggingface": ("name",)}
GUIDING = ("scale", "interval", "rescale", "plus_plus")  # settings of guidance that act in sampling alone


def plain(cfg: DictConfig) -> Config:
    """The resolved config as it goes into a checkpoint: plain containers, nothing of this machine or this start."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {str(k): v for k, v in config.items() if k not in ("output_dir", "resume", "trials", "trust")}


def places(node: Config) -> tuple[str, ...]:
    """The settings of data that say where their images lie."""
    return PLACES.get(str(node.get("_target_")).rpartition(".")[2], ("root",))


def trained_with(config: Config) -> Config:
    """The settings of a config that its weights depend on, those of before they could be set among them."""
    groups = {name: filled(config[name], name) for name in TRAINED_WITH}
    for name in places(groups["data"]):
        groups["data"].pop(name, None)
    if config.get("checkpoint"):
        groups = {name: node for name, node in groups.items() if name not in TAKEN_OVER}
    groups["training"] = {
        k: v for k, v in filled(config["training"], "training").items() if f"training.{k}" not in RESUMABLE
    }
    return groups


def filled(node: Config, group: str) -> Config:
    """A node of a config with the defaults of what it leaves out, as older ones do with newer settings."""
    try:
        target = allowed_target(str(node.get("_target_")), group)
    except UserError:  # which is told where it is built
        return dict(node)
    given = {name: each.default for name, each in arguments_of(target).items() if each.default is not each.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in {**given, **node}.items()}


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
            continue
        allowed = key in {f"data.{name}" for name in places(saved["data"])} or any(
            key == name or key.startswith(f"{name}.") for name in RESUMABLE
        )
        value = OmegaConf.select(OmegaConf.create(new), key)
        if allowed and key != "resume":
            OmegaConf.update(config, key, value, merge=False)
        elif not allowed and (old := was(config, key)) != value:
            had = old.get("_target_", old) if isinstance(old, DictConfig) else old
            raise UserError(
                f"resume: '{shown}' would change what this run is trained with ({key} is {had}); only the length, "
                "the logging and the device may change. Start a new run for it."
            )
    if "data" not in given:
        check_places(saved["data"], [name for name in places(saved["data"]) if f"data.{name}" not in given])
    name = OmegaConf.select(config, "features.network._target_")
    if name is not None and "features.network._target_" not in given:
        raise UserError(
            f"resume: this run is scored by code of its owner, features.network._target_={name}: if you trust it, "
            f"add features=module features.network._target_={name}, or else features=auto."
        )
    if "track" not in given:
        config["track"] = asked_here(saved["track"], new["track"], Path(cfg.get("output_dir", ".")))
    result: Any = OmegaConf.to_container(config)
    return {str(k): v for k, v in result.items() if k != "trust"}  # which is the command's alone


def was(config: DictConfig, key: str) -> Any:
    """The value of a setting in a run's config, or the default of one that is newer than the run."""
    group, _, name = key.partition(".")
    node, value = config.get(group), OmegaConf.select(config, key)
    if name and value is None and isinstance(node, DictConfig) and "_target_" in node and name not in node:
        return filled(OmegaConf.to_container(node), group).get(name)  # type: ignore[arg-type]
    return value


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
    check_places(saved, [name for name in places(saved) if name not in given])
    return {**saved, **given}


def check_shape(data: Any, image: Config) -> None:
    """Raise `UserError` unless data have the size and channels that a checkpoint's model draws."""
    mine, drawn = (data.channels, data.image_size), (image["channels"], pair(image["size"]))
    if mine != drawn:
        raise UserError(
            f"data={data.name} has images of {in_words(mine[1])} pixels with {mine[0]} channels, and this model draws "
            f"{in_words(drawn[1])} with {drawn[0]}: choose data of the same shape."
        )


def same_data(saved: Config, new: Config) -> bool:
    """Whether two nodes ask for the same images, wherever they lie; what a node leaves out is its default."""
    mine, asked = ({**filled(node, "data"), **dict.fromkeys(places(node))} for node in (saved, new))
    return mine == asked


def same_run(folder: Path, saved: Config, new: Config) -> None:
    """Raise `UserError` unless the run in `folder`, of the config `saved`, is the one that `new` asks for."""
    new = {**new, "checkpoint": new.get("checkpoint") or saved.get("checkpoint")}
    mine, asked = ({"seed": c["seed"], "checkpoint": c.get("checkpoint"), **trained_with(c)} for c in (saved, new))
    for name, value in asked.items():
        if mine.get(name) != value:
            raise another_run(folder, f"another {name} than this command asks for")


def another_run(folder: Path, what: str) -> UserError:
    """That `folder` holds a run that differs from the one asked for in `what`."""
    return UserError(
        f"{folder} holds a run already, with {what}: choose another folder, or go on with that run by "
        f"{shlex.quote(f'resume={folder}')}."
    )


def difference(image: Config, earlier: Config) -> str | None:
    """In what images differ from those that a checkpoint describes, in words; None where they are the same."""
    said: list[str] = []
    always: list[str] = []  # what other images always differ in
    for name in [name for name, value in earlier.items() if image.get(name) != value]:
        now, had = image.get(name), earlier[name]
        if name == "images":
            said.insert(0, f"there are {now:,} to train with instead of {had:,}")
        elif name == "class_names":
            new, gone = ([each for each in a if each not in b] for a, b in ((now or [], had), (had, now or [])))
            words = [("new", new), ("missing", gone)]
            text = "; ".join(f"{word} are {', '.join(map(str, each[:5]))}" for word, each in words if each)
            said.append(f"their classes differ ({text or 'in their order'})")
        elif name == "sigma_data":
            always.append(f"their pixels differ (root mean square {now:.6g} instead of {had:.6g})")
        elif name in ("labels", "test"):
            always.append("their labels differ" if name == "labels" else "those to test with differ")
        else:
            what = "number of channels" if name == "channels" else name
            said.append(f"their {what} is {now} instead of {had}")
    return ", and ".join(said or always) or None


def check_places(node: Config, names: Sequence[str]) -> None:
    """Raise `UserError` where the data of a checkpoint's config are not where it says.

    Args:
        node: the data.
        names: of the settings that the command line does not give anew.
    """
    for name in names:
        if name == "root":
            check_root(node)
        elif name == "name":
            check_hub(node)
        elif isinstance(node.get(name), str) and not os.path.isfile(node[name]):
            raise UserError(
                f"data.{name}={node[name][:200]}, which the checkpoint names, is no file here: put it there, or give "
                f"its new place by data.{name}=… (with sample.py, give images by task.images=…)."
            )


def check_hub(node: Config) -> None:
    """Raise `UserError` where a checkpoint's config would fetch from the Hub what its owner never asked for here."""
    from diffusion.data.datasets.hub import ON_THE_HUB, fetched

    name = str(node.get("name"))[:200]
    if not os.path.exists(name) and not ON_THE_HUB.fullmatch(name):
        raise UserError(
            f"data.name={name}, which the checkpoint names, is no folder here, and data sets of the Hub are called "
            "OWNER/NAME: put it there, or give its new place by data.name=… (with sample.py, give images by "
            "task.images=…)."
        )
    if not os.path.exists(name) and not fetched(name):
        raise UserError(
            f"data.name={name}, which the checkpoint names, was not fetched from the Hub before: if you trust it, add "
            f"data.name={name}."
        )


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
