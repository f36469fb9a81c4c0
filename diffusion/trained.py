"""A trained model out of a checkpoint, with what the command line says about how to draw with it."""

import logging
import math
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion import checkpoint
from diffusion.build import build, build_denoiser, build_network
from diffusion.device import Device
from diffusion.errors import UserError
from diffusion.image_model import ImageModel
from diffusion.sampler import Observer, Sampler
from diffusion.settings import Config, check_top_level

log = logging.getLogger("diffusion")


def load_image_model(state: Config, device: Device, averaged: bool = True) -> ImageModel:
    """The trained model of a checkpoint, with its own schedule and objective.

    Args:
        state: from `checkpoint.load`.
        device: a `Device`.
        averaged: take the averaged (EMA) weights.
    """
    network = build_network(state["config"], state["image"], seed=0)
    weights = state["ema"]["network"] if averaged else state["network"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError("The checkpoint's weights do not belong to the model that its config describes.") from error
    network = device.place(network).eval().requires_grad_(False)
    denoiser = build_denoiser(state["config"], network)
    return ImageModel(denoiser, build(state["config"]["guidance"], "guidance"), device, state["image"])


def open_model(cfg: DictConfig, device: Device | None = None) -> tuple[ImageModel, Config]:
    """The model and the checkpoint that a script's `checkpoint`, `averaged`, `device` and `guidance.scale` ask for."""
    state = checkpoint.load(checkpoint.find(cfg.checkpoint))
    if state["step"] < state["total_steps"]:
        log.warning("This run has only got to step %d of %d so far.", state["step"], state["total_steps"])
    device = build(cfg.device, "device") if device is None else device
    model = load_image_model(state, device, cfg.averaged)
    check_top_level(cfg.guidance, {"scale": (int, float, type(None))}, "guidance.")
    set_guidance_scale(model, cfg.guidance.scale)
    return model, state


def draw(
    model: ImageModel,
    sampler: Sampler,
    n: int,
    labels: torch.Tensor | None,
    seed: int,
    batch_size: int,
    observe: Observer | None = None,
) -> torch.Tensor:
    """`ImageModel.draw` with a progress bar, and with a sentence for settings out of range."""
    if seed < 0:
        raise UserError(f"seed={seed} must be 0 or more.")
    try:
        return model.draw(sampler, n, labels, seed, batch_size, observe, progress=True)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def class_numbers(classes: Any, model: ImageModel) -> list[int] | None:
    """Classes by name or number, one or a list, as numbers; None means all."""
    if classes is None:
        return None
    if not model.guidance.conditional:
        raise UserError(f"classes={classes}: this model was trained with guidance=none and takes no labels.")
    names, numbers = model.class_names, []
    folded = [name.lower() for name in names]
    for item in [classes] if isinstance(classes, str | int) else list(classes):
        if isinstance(item, int) and not isinstance(item, bool):
            if not 0 <= item < len(names):
                raise UserError(f"classes={item}: the labels go from 0 to {len(names) - 1} ({', '.join(names)}).")
            numbers.append(item)
        elif str(item).lower() in folded:
            numbers.append(folded.index(str(item).lower()))
        else:
            raise UserError(f"classes={item}: there is no such class; choose from {', '.join(names)}.")
    if not numbers:
        raise UserError("classes=[] names no class: leave it out for an even mix.")
    return numbers


def choose_sampler(cfg: DictConfig, config: Config) -> Sampler:
    """The sampler of the command line, or the run's own with the settings that were given.

    Args:
        cfg: the script's node `sampler`; without `_target_` it only changes settings of the run's own.
        config: of the checkpoint.
    """
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    settings = {key: value for key, value in given.items() if value is not None}
    own = {} if "_target_" in settings else config["sampler"]
    return build({**own, **settings}, "sampler")


def set_guidance_scale(model: ImageModel, scale: float | None) -> None:
    """Replace the guidance scale of a trained model; `UserError` where it cannot be guided."""
    if scale is None:
        return
    if not math.isfinite(scale):
        raise UserError(f"guidance.scale={scale} must be a finite number.")
    if not model.guidance.conditional:
        if scale != 1:
            raise UserError(f"guidance.scale={scale:g}: this model was trained with guidance=none and takes no labels.")
        return
    if scale < 0:
        raise UserError(f"guidance.scale={scale:g} must be 0 (unconditional), 1 (conditional) or more (guided).")
    if scale != 1 and model.guidance.dropout == 0:
        raise UserError(
            f"guidance.scale={scale:g}: this model was trained with guidance.dropout=0 and never learned to go "
            "without a label; use guidance.scale=1."
        )
    model.guidance.scale = scale
