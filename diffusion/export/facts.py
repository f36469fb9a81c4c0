"""What a program must know of a model besides its weights, as plain containers: nothing of this machine."""

import copy
from typing import Any

import torch

from diffusion.config.build import build
from diffusion.data.shapes import pair, sides
from diffusion.denoiser import Denoiser
from diffusion.evaluation.score_table import NUMBERS
from diffusion.export.trained import Trained
from diffusion.schedule import levels_at


def on_cpu(denoiser: Denoiser) -> Denoiser:
    """A copy to be exported: on the CPU, in fp32, in the usual order of memory, not compiled, for inference."""
    copied = copy.deepcopy(denoiser).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    copied.schedule(torch.ones(1))  # its table is on the CPU before the graph is traced
    return copied.eval().requires_grad_(False)


def facts(model: Trained) -> dict[str, Any]:
    """How the run of a model draws.

    Returns:
        shape: [C, H, W] of x_t, with the padding; images: channels, size [height, width], padding [top, bottom, left,
        right] and class_names; no_label: the number of "no label", or None for a model without labels; levels:
        [t, α, σ] of the sampler's grid, the last being the clean image; clip: x̂_0 is clamped to ±clip, or not where
        it is None; sampler, guidance: in words, and guidance_scale, guidance_interval, …: in numbers; dropout: the
        share of labels left out in training: with 0 "no label" was never learnt, with 1 no label was; None for a model
        without; step;
        scores: see `scores`.
    """
    denoiser, image = model.denoiser, model.image_model.image
    sampler, guidance = (build(model.config[name], name) for name in ("sampler", "guidance"))
    return {
        "shape": list(model.image_model.shape),
        "images": {
            "channels": image["channels"],
            "size": list(pair(image["size"])),
            "padding": list(sides(image["padding"])),
            "class_names": image["class_names"],
        },
        "no_label": denoiser.num_classes or None,
        "dropout": guidance.dropout if denoiser.num_classes else None,
        "levels": [list(level) for level in levels_at(denoiser.schedule, sampler.times(denoiser.schedule))],
        "clip": sampler.bound(denoiser),
        "sampler": sampler.describe(),
        "guidance": guidance.describe(),
        "guidance_scale": guidance.scale,
        "guidance_interval": list(getattr(guidance, "interval", None) or []) or None,
        "guidance_rescale": getattr(guidance, "rescale", 0.0),
        "guidance_plus_plus": guidance.plus_plus,
        "step": model.state["step"],
        "scores": scores(model),
    }


def scores(model: Trained) -> dict[str, Any] | None:
    """The scores of the run that this model is the end of, those of real images beside them ("real"), and their
    "protocol"; None where the run left none."""
    found = model.scores
    if found is None or not isinstance(found.get("protocol"), dict):
        return None
    both = [{key: each.get(key) for key in NUMBERS} for each in (found, found["real"])]
    return {**both[0], "real": both[1], "protocol": found["protocol"]}
