"""Config → objects: the only wiring.

Each group of the config is a dictionary whose `_target_` names a class of this package and whose other keys are
arguments of its constructor. `build` checks the keys and their types against the constructor's signature, creates
the object, and puts the name of the setting in front of whatever the constructor objects to.
"""

import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffusion.config.settings import (
    Config,
    allowed_target,
    check_arguments,
    check_types,
    choose_length,
    in_context,
    without_target,
)
from diffusion.records import checkpoint
from diffusion.system import ranks
from diffusion.system.device import physical_memory
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")
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


# ------------------------------------------------------------------------------------------ one object


def build(node: Config | DictConfig, key: str, offer: Config | None = None, **live: Any) -> Any:
    """The object that a config node describes.

    Args:
        node: {"_target_": "diffusion.…", argument: value, …}.
        key: name of the node in the config, for messages.
        offer: further arguments, for the constructors that know them.
        live: further arguments, objects that no config can hold.

    Raises:
        UserError: unknown or missing setting, wrong type, value that the constructor refuses, forbidden target.
    """
    settings: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    if not isinstance(settings, dict) or "_target_" not in settings:
        raise UserError(f"{key} must choose one of the options of its config group, not {settings!r}.")
    target, settings = allowed_target(str(settings["_target_"]), key), without_target(settings)
    live |= {name: value for name, value in (offer or {}).items() if name in inspect.signature(target).parameters}
    check_arguments(target, settings, key, live.keys())
    try:
        return target(**settings, **live)
    except torch.OutOfMemoryError:  # of a device, which has a sentence of its own
        raise
    except (ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        raise UserError(in_context(key, settings, error)) from error


# ----------------------------------------------------------------------------------------- the whole model


def build_network(
    config: Config, image: Config, seed: int, weights: dict[str, torch.Tensor] | None = None
) -> nn.Module:
    """The untrained network of a run, on the CPU; its weights depend on the seed alone.

    Args:
        config: of the run.
        image: what the network sees.
        seed: of the weights.
        weights: that will be loaded into it.

    Raises:
        UserError: a setting or the weights do not fit, or the network does not fit in memory.
    """
    from diffusion.system.randomness import NETWORK, stream

    guidance = build(config["guidance"], "guidance")
    if guidance.conditional and not image["class_names"]:
        raise UserError("guidance=classifier_free needs labels, and the data has none: use guidance=none.")
    classes = len(image["class_names"]) if guidance.conditional else 0
    try:
        guidance.check(classes)
    except ValueError as error:
        raise UserError(in_context("guidance", config["guidance"], error)) from error
    size = image["size"] + 2 * image["padding"]
    heads = 2 if build_loss(config, image).learns_variance else 1
    shape = {"channels": image["channels"], "image_size": size, "num_classes": classes}

    def make() -> nn.Module:
        return build(config["model"], "model", **shape, out_channels=heads * image["channels"])

    with torch.device("meta"):  # shapes without memory: a config can ask for any size
        skeleton = make()
    shapes = {name: value.shape for name, value in skeleton.state_dict().items()}
    tables = sum(value.nbytes for value in skeleton.buffers())  # of positions, for example
    if weights is not None and shapes != {name: value.shape for name, value in weights.items()}:
        raise UserError("The checkpoint's weights do not belong to the model that its config describes.")
    count = sum(value.numel() for value in shapes.values())
    if 4 * count + tables > physical_memory() or tables > 2**30:
        raise UserError(
            f"model: {count / 1e9:,.1f} billion weights and {tables / 2**30:,.0f} GiB of tables are more than fit in "
            "memory: give a smaller model.width, fewer levels and blocks, or a larger patch."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, NETWORK).initial_seed())
        return make()


def build_loss(config: Config, image: Config) -> Any:
    """The loss of a run; one that needs the data's standard deviation about zero gets it from `image`."""
    return build(measured(config["loss"], image), "loss")


def measured(node: Config, image: Config) -> Config:
    """A node whose `sigma_data` is null, with the value that was measured on the training images."""
    return {**node, "sigma_data": image["sigma_data"]} if node.get("sigma_data", 0) is None else node


def build_denoiser(config: Config, network: nn.Module, image: Config) -> Any:
    """Network, schedule and objective of a run as one denoiser, checked against its loss and its samplers."""
    from diffusion.denoiser import Denoiser

    schedule, loss = build(config["schedule"], "schedule"), build_loss(config, image)
    objective = build(measured(config["objective"], image), "objective")
    guidance = build(config["guidance"], "guidance")
    try:
        denoiser = Denoiser(network, schedule, objective, loss.learns_variance)
        loss.check(denoiser)
        if "sampler" in config:  # refused now rather than after training
            build(config["sampler"], "sampler").check(guidance.guide(denoiser))
    except ValueError as error:
        raise UserError(f"{error}.") from error
    try:
        if "preview" in config:
            build(config["preview"], "preview").check(guidance.guide(denoiser))
    except ValueError as error:  # the preview is a sampler, too
        raise UserError(f"{error}.".replace("sampler", "preview")) from error
    return denoiser


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fill a network; `UserError` when the weights are those of another."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError("The checkpoint's weights do not belong to the model that its config describes.") from error


# ---------------------------------------------------------------------------------------------- a run


def plain(cfg: DictConfig) -> Config:
    """The resolved config as it goes into a checkpoint: plain containers, nothing of this machine or this start."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
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
    result = OmegaConf.to_container(config)
    assert isinstance(result, dict)
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


def check_root(node: Config) -> None:
    """Raise `UserError` where the data of a checkpoint's config would make a folder outside the one we are in."""
    root = node.get("root")
    if isinstance(root, str) and not os.path.isdir(root) and (Path(root).anchor or ".." in Path(root).parts):
        raise UserError(
            f"data.root={root[:200]}, which the checkpoint names, is no folder here: put its data there, or, where "
            "that is possible, give data= (evaluate.py) or data.root= (train.py resume=…)."
        )


def data_of(saved: Config) -> Any:
    """The images of a checkpoint's config."""
    check_root(saved["data"])
    return build_data(saved["data"])


def build_data(node: Config | DictConfig) -> Any:
    """The images of a config; several processes download them once."""
    return ranks.by_first(lambda: build(node, "data"))


def build_scorer(features: Config | DictConfig, data: Any, device: Any) -> Any:
    """What scores images against `data`, by the extractor of the config group `features`."""
    from diffusion.evaluation.scoring import Scorer

    # The first process caches for the others what is computed once.
    return ranks.by_first(lambda: Scorer(build(features, "features", data=data, device=device.torch_device)))


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


def same_heads(config: Config, saved: Config, image: Config) -> None:
    """Raise `UserError` when only one of a run and the run it starts from learns the variance."""
    had, has = (build_loss(each, image).learns_variance for each in (saved, config))
    if had != has:
        raise UserError(
            f"checkpoint={config.get('checkpoint')} was trained {'with' if had else 'without'} loss=hybrid, whose "
            f"network has a second head for the variance: {'add' if had else 'leave out'} loss=hybrid."
        )


def build_trainer(config: Config, folder: Path, resume: Config | None = None, start: Config | None = None) -> Any:
    """The trainer of a run with everything it needs; the caller closes `trainer.tracker`.

    Args:
        config: plain and resolved.
        folder: of the run.
        resume: the checkpoint to go on from.
        start: the checkpoint whose averaged weights a new run starts from.
    """
    from diffusion.drawing.image_model import ImageModel
    from diffusion.records.tracking import Tracker

    if resume is not None and resume["optimizer"] is None:
        raise UserError(
            "resume: that file holds a model's weights alone: give a run, or train on from it by checkpoint=."
        )
    if config["seed"] < 0:
        raise UserError(f"seed={config['seed']} must be 0 or more.")
    check_types(config)
    device, data = build(config["device"], "device"), build_data(config["data"])
    log.info("Data: %s, %d + %d images. Device: %s.", data.name, len(data.train), len(data.test), device.describe())
    image = data.describe()
    earlier = resume or start
    if earlier is not None and any(image[name] != value for name, value in earlier["image"].items()):
        key = "resume" if resume is not None else "checkpoint"
        raise UserError(f"{key}: the images of data={data.name} are no longer what this run was started with.")
    weights = resume["network"] if resume is not None else start["ema"]["network"] if start is not None else None
    if start is not None:
        same_heads(config, start["config"], image)
    try:
        checkpoint.check_image(image)
    except ValueError as error:
        raise UserError(f"data={data.name}: {error}.") from error
    network = build_network(config, image, config["seed"], weights)
    if start is not None:
        load_weights(network, start["ema"]["network"])
    network = device.place(network)
    size = sum(parameter.numel() for parameter in network.parameters())
    log.info("Network: %s, %.2f million parameters.", type(network).__name__, size / 1e6)
    guidance, ema = build(config["guidance"], "guidance"), build(config["ema"], "ema", network=network)
    denoiser, loss = build_denoiser(config, network, image), build_loss(config, image)
    timesteps = build(config["timesteps"], "timesteps", {"schedule": denoiser.schedule})
    tracker = Tracker(folder, first_step=resume["step"] + 1 if resume else 0)
    monitor = build(
        {"_target_": "diffusion.training.monitor.Monitor", **config["score"]},
        "score",
        model=ImageModel(build_denoiser(config, ema.network, image), guidance, device, image),
        sampler=build(config["preview"], "preview"),
        data=data,
        timesteps=timesteps,
        loss=loss,
        scorer=None,
        tracker=tracker,
        folder=folder,
    )
    trainer = build(
        config["training"],
        "training",
        denoiser=denoiser,
        ema=ema,
        data=data,
        guidance=guidance,
        timesteps=timesteps,
        loss=loss,
        optimizer=lambda parameters: build(config["optimizer"], "optimizer", params=parameters),
        device=device,
        tracker=tracker,
        monitor=monitor,
        folder=folder,
        seed=config["seed"],
        header={"config": config, "image": image},
    )
    if resume is not None:
        try:
            trainer.load_state_dict(resume)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"resume: the state of that checkpoint is not whole ({brief(error)}).") from error
        about = "about " if trainer.budget is not None else ""
        log.info("Resuming at step %d of %s%d.", trainer.step, about, trainer.total_steps)
        if any(resume["config"][name] != config[name] for name in ("score", "preview", "features")):
            trainer.best = None  # scores of another protocol do not compare
    few = min(len(data.train), len(data.test))
    if config["score"]["n"] and few < 2:
        log.warning("Scores are left out: they need at least 2 test images, and data=%s has %d.", data.name, few)
    elif config["score"]["n"]:  # last, because for new data it trains a classifier first
        monitor.scorer = build_scorer(config["features"], data, device)
    return trainer
