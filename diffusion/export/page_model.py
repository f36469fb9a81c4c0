"""What the page that draws knows of a model besides its weights: images, classes, guidance, samplers, noise levels."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from diffusion import sampler as samplers
from diffusion.data.shapes import pair, sides
from diffusion.denoiser import Denoiser
from diffusion.drawing.image_model import ImageModel
from diffusion.guidance import Autoguidance, Automatic, ClassifierFree, Guidance, Unconditional
from diffusion.networks.unet import UNet
from diffusion.sampler import DDIM, Consistency, DPMSolver, Euler, Heun, Sampler, UniPC
from diffusion.schedule import levels_at
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40, 50, 75, 100, 150, 250)
MOST_STEPS = 250  # of a run's own sampler at the start, so that it draws within seconds
NOTES = {
    "DDIM": "Always the same image from the same noise; one evaluation a step.",
    "DDPM": "Fresh noise after each step; wants many of them.",
    "Euler": "Follows the slope at the start of a step, as DDIM does.",
    "Heun": "Takes the slope at both ends of a step: twice the evaluations.",
    "DPM-Solver++": "Also looks at the estimate before: good in few steps.",
    "UniPC": "Looks at the last estimates, and mends the last step: good in few steps.",
    "Consistency": "Each evaluation is a whole image: one to four steps.",
}


def network_of(denoiser: Denoiser) -> UNet:
    """The network of a model.

    Raises:
        UserError: it is none that the page can evaluate.
    """
    network = getattr(denoiser.network, "_orig_mod", denoiser.network)  # where it was compiled
    if type(network) is not UNet:
        raise UserError(
            f"to=page draws with networks of the class UNet alone (model=unet_light, unet_tiny, unet_small, "
            f"unet_base), and this one is a {type(network).__name__}: take to=onnx, or train one of those."
        )
    if network.first.out_channels < 4:
        raise UserError(
            f"to=page needs at least 4 channels, and this network has model.width={network.first.out_channels}."
        )
    return network


def guidance_of(model: ImageModel) -> ClassifierFree | Unconditional:
    """The guidance of a model as the page can do it.

    Raises:
        UserError: it is of the user's own.
    """
    guidance: Guidance = model.guidance
    if isinstance(guidance, Autoguidance):
        log.warning("The page leaves out the guidance by %s: it follows the labels as they are.", guidance.name)
        guidance = model.unguided().guidance
    if type(guidance) not in (ClassifierFree, Automatic, Unconditional):
        kind = f"{type(guidance).__module__}.{type(guidance).__qualname__}"
        raise UserError(
            f"to=page cannot draw with the guidance {kind}, which is not of this package: take to=onnx, which "
            "holds the network without guidance, or a run with guidance=classifier_free or none."
        )
    assert isinstance(guidance, ClassifierFree | Unconditional)
    return guidance


def own_sampler(settings: Mapping[str, Any]) -> Sampler:
    """The run's own sampler, by its node in the config, in at most `MOST_STEPS`; UniPC where it is none of ours."""
    name = str(settings.get("_target_", ""))
    place, _, kind = name.rpartition(".")
    if not f"{place}.".startswith("diffusion.sampler.") or kind not in samplers.__all__:
        if name:
            log.warning("The page does not know the run's sampler, %s: it starts with UniPC.", name)
        return UniPC()
    sampler = getattr(samplers, kind)(**{name: value for name, value in settings.items() if name != "_target_"})
    sampler.steps = min(sampler.steps, MOST_STEPS)
    return sampler


def sampler_name(sampler: Sampler) -> str:
    """As people call it."""
    if isinstance(sampler, DDIM):
        return "DDIM" if sampler.eta == 0 else "DDPM" if sampler.eta == 1 else f"DDIM, η = {sampler.eta:g}"
    return "DPM-Solver++" if isinstance(sampler, DPMSolver) else type(sampler).__name__


def offered(own: Sampler, denoiser: Denoiser, plus_plus: bool) -> list[dict[str, Any]]:
    """The samplers to choose from, the run's own first: their settings, a name and a note."""
    others: list[Sampler] = [DDIM(20), DDIM(100, eta=1.0), Heun(10), DPMSolver(12), UniPC(12)]
    if isinstance(own, Consistency):  # a model after consistency tuning knows no small steps
        others = []
    elif plus_plus:
        others = [DDIM(20), DDIM(100, eta=1.0), Euler(20)]
    rows = []
    for sampler in [own, *(other for other in others if sampler_name(other) != sampler_name(own))]:
        name = sampler_name(sampler)
        shown = {"name": name, "clip": sampler.bound(denoiser), "note": NOTES[name.partition(",")[0]]}
        rows.append({**vars(sampler), "kind": type(sampler).__name__, **shown})
    return rows


def levels(denoiser: Denoiser, times: list[float]) -> np.ndarray:
    """(t, α, σ, c_skip, c_out, c_in) at falling times, the last of them 0, as float64 (n, 6).

    The coefficients are those of the denoiser, in float32 as there; at t = 0, where none is needed, they are 0.
    """
    table = np.zeros((len(times), 6))
    table[:, :3] = levels_at(denoiser.schedule, times)
    t = torch.tensor(times[:-1], dtype=torch.float32)
    table[:-1, 3:] = torch.stack(denoiser.objective.coefficients(*denoiser.schedule(t)), dim=1).double().numpy()
    return table


def tables(denoiser: Denoiser, own: Sampler) -> dict[str, np.ndarray]:
    """ "levels.N" → the levels of a drawing in N steps, on the grid of the run's own sampler."""
    counts = sorted({*STEPS, own.steps})
    return {f"levels.{n}": levels(denoiser, type(own)(n, grid=own.grid).times(denoiser.schedule)) for n in counts}


def description(model: ImageModel, own: Sampler) -> dict[str, Any]:
    """What the page must know, as JSON can hold it.

    Args:
        model: draws the images.
        own: the run's own sampler.
    """
    denoiser, image, guidance = model.denoiser, model.image, guidance_of(model)
    network = network_of(denoiser)
    attention: Any = network.middle[0].attention
    labelled = guidance.conditional and network.num_classes > 0
    return {
        "image": {
            "channels": image["channels"],
            "size": list(pair(image["size"])),
            "padding": list(sides(image["padding"])),
            "classes": list(image["class_names"]) if labelled else [],
        },
        "network": {
            "patch": network.patch,
            "groups": attention.norm.num_groups,
            "head_width": attention.qkv.in_channels // attention.heads,
            "num_classes": network.num_classes,
        },
        "guidance": {
            "free": labelled and 0 < guidance.dropout < 1,  # else it never learnt to go without a label, or with one
            "scale": guidance.scale,
            "interval": getattr(guidance, "interval", None),
            "rescale": getattr(guidance, "rescale", 0.0),
            "plus_plus": guidance.plus_plus,
        },
        "samplers": offered(own, denoiser, guidance.plus_plus),
        "steps": sorted({*STEPS, own.steps}),
    }
