"""A trained model out of a checkpoint, with what the command line says about how to draw with it."""

import logging
from collections.abc import Collection
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion.config.build import Recipe, build
from diffusion.config.opening import DRAWING, opened
from diffusion.config.resuming import GUIDING
from diffusion.config.settings import Config, allowed_target, arguments_of, unknown
from diffusion.drawing.image_model import ImageModel
from diffusion.ema import post_hoc
from diffusion.records import checkpoint
from diffusion.sampler import DDIM, Euler, Heun, Sampler, UniPC
from diffusion.system.device import Device
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
SAMPLERS = (DDIM, Euler, Heun, UniPC)  # those with settings of their own


def trained_weights(state: Config, averaged: bool = True, ema_width: float | None = None) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint that are asked for; arguments as in `load_image_model`."""
    if ema_width is None:
        return state["ema"]["network"] if averaged else state["network"]
    if not averaged:
        raise UserError(f"ema_width={ema_width} asks for averaged weights, and averaged=false for the others: choose.")
    try:
        return post_hoc(state["ema"], ema_width)
    except ValueError as error:
        raise UserError(f"ema_{error}.") from error
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"ema_width={ema_width}: the averages of that checkpoint are not whole.") from error


def load_image_model(
    state: Config, device: Device, averaged: bool = True, ema_width: float | None = None
) -> ImageModel:
    """The trained model of a checkpoint, with its own schedule and objective.

    Args:
        state: from `checkpoint.load`.
        device: a `Device`.
        averaged: take the averaged (EMA) weights.
        ema_width: of the average, where the run tracked several (ema=power); None is the run's own.
    """
    weights = trained_weights(state, averaged, ema_width)
    recipe = Recipe(state["config"], state["image"])
    network = device.place(recipe.network(0, weights)).eval().requires_grad_(False)
    return ImageModel(recipe.denoiser(network), recipe.guidance, device, state["image"])


def open_model(
    cfg: DictConfig, device: Device | None = None, groups: Collection[str] = DRAWING
) -> tuple[ImageModel, Config]:
    """The model and the checkpoint that a script's `checkpoint`, `averaged`, `device` and `guidance.scale` ask for;
    `groups` are the parts of its config that the script makes."""
    state = opened(checkpoint.find(cfg.checkpoint), groups)
    tell_unfinished(state)
    device = build(cfg.device, "device") if device is None else device
    model = load_image_model(state, device, cfg.averaged, cfg.ema_width)
    given: Any = OmegaConf.to_container(cfg.guidance, resolve=True)
    set_guidance(model, state, given)
    return model, state


def weights_in_words(averaged: bool, ema_width: float | None) -> str:
    """Which weights a model draws with, as it is opened."""
    width = f" of width {ema_width:g}" if ema_width is not None else ""
    return f"averaged weights{width}" if averaged else "weights"


def tell_unfinished(state: Config) -> None:
    """A warning for a checkpoint of a run that has not come to its end."""
    if state["step"] < state["total_steps"] and state.get("ended") is not True:
        log.warning("This run has only got to step %d of %d so far.", state["step"], state["total_steps"])


def choose_sampler(cfg: DictConfig, config: Config) -> Sampler:
    """The sampler of the command line, or the run's own with the settings that were given.

    Args:
        cfg: the script's node `sampler`; without `_target_` it only changes settings of the run's own.
        config: of the checkpoint.
    """
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    settings = {key: value for key, value in given.items() if value is not None}
    own = {} if "_target_" in settings else config["sampler"]
    node = {**own, **settings}
    known = arguments_of(allowed_target(str(node["_target_"]), "sampler"))
    for name in settings.keys() - {"_target_", *known}:
        others = [option.__name__.lower() for option in SAMPLERS if name in arguments_of(option)]
        if others:
            chosen = str(node["_target_"]).rpartition(".")[2]
            raise UserError(
                f"sampler.{name}={settings[name]} is no setting of the sampler {chosen}: choose one that has it, by "
                f"{' or '.join(f'sampler={option}' for option in others)}."
            )
    sampler = build(node, "sampler")
    if "variance" in settings and "_target_" not in settings and node.get("eta", 1) == 0:
        raise UserError(
            f"sampler.variance={settings['variance']} has no effect without fresh noise: add sampler.eta=1."
        )
    return sampler


def set_guidance(model: ImageModel, state: Config, given: Config) -> None:
    """Guide a trained model otherwise than its run did.

    Args:
        model: of the checkpoint.
        state: the checkpoint.
        given: scale, interval, rescale, plus_plus, weaker (a run); those that are None stay as they are.

    Raises:
        UserError: the model cannot be guided so.
    """
    for name in given:
        if name not in (*GUIDING, "weaker"):
            raise UserError(unknown(f"guidance.{name}", [f"guidance.{other}" for other in (*GUIDING, "weaker")]))
    weaker = given.pop("weaker", None)
    given = {name: value for name, value in given.items() if value is not None}
    own = state["config"]["guidance"]
    model.guidance = build(own, "guidance")
    if weaker is not None:
        if given.pop("plus_plus", False):
            raise UserError("guidance.plus_plus=true (CFG++) cannot be used with guidance.weaker: leave one out.")
        settings = {name: value for name, value in {**own, **given}.items() if name in GUIDING and name != "plus_plus"}
        model.guidance = autoguidance(model, state, str(weaker), settings)
    elif model.guidance.conditional:
        model.guidance = build({**own, **given}, "guidance") if given else model.guidance
    elif given and given != {"scale": 1}:
        name, value = next(iter(given.items()))
        raise UserError(f"guidance.{name}={value}: this model was trained with guidance=none and takes no labels.")
    try:
        model.guidance.check(model.denoiser.num_classes)
    except ValueError as error:
        raise UserError(f"guidance.{error}.") from error


def autoguidance(model: ImageModel, state: Config, weaker: str, settings: Config) -> Any:
    """Guidance by the model of the run `weaker`, which must see the same images and noise levels."""
    path = checkpoint.find(weaker, setting="guidance.weaker")
    other = opened(path)
    for name in ("schedule", "image"):
        mine, theirs = ((s["config"][name] if name == "schedule" else s[name]) for s in (state, other))
        if any(theirs.get(key, value) != value for key, value in mine.items() if key != "test"):
            raise UserError(f"guidance.weaker={weaker}: that model was trained with another {name} than this one.")
    poor = load_image_model(other, model.device)
    if poor.denoiser.num_classes != model.denoiser.num_classes:
        raise UserError(f"guidance.weaker={weaker}: of the two models, only one takes labels; choose both alike.")
    live: Config = {"weaker": poor.denoiser, "conditional": model.guidance.conditional, "name": path.parent.name}
    return build({"_target_": "diffusion.guidance.Autoguidance", **settings}, "guidance", **live)
