"""A trained model in a few lines, for people."""

from typing import Any

from diffusion.data.shapes import in_words
from diffusion.drawing.image_model import ImageModel
from diffusion.sampler import Sampler

SHOWN = 10  # names of classes


def described(state: dict[str, Any], model: ImageModel, sampler: Sampler, weights: str) -> dict[str, str]:
    """What a model is, from its checkpoint, line by line.

    Args:
        state: the checkpoint.
        model: with its weights.
        sampler: the run's own.
        weights: which ones, in words.
    """
    config, image, names = state["config"], state["image"], [str(name) for name in model.class_names]
    few = ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)
    classes = f", {len(names)} classes: {few}" if names else ", no classes"
    colours = {1: "grey", 3: "colour"}.get(image["channels"], f"{image['channels']} channels")
    size = sum(parameter.numel() for parameter in model.denoiser.network.parameters())
    kinds = {
        key: str(config[key].get("_target_")).rpartition(".")[2] for key in ("data", "model", "schedule", "objective")
    }
    loss = str(config.get("loss", {}).get("_target_", "")).rpartition(".")[2]
    seen = f"{image['images']:,} images of " if isinstance(image.get("images"), int) else ""
    return {
        "draws": f"{in_words(image['size'])} pixels, {colours}{classes}",
        "learned from": f"{seen}{kinds['data']}, {state['step']:,} of {state['total_steps']:,} steps",
        "network": f"{kinds['model']}, {size / 1e6:.2f} million parameters, {weights}",
        "recipe": f"schedule {kinds['schedule']}, objective {kinds['objective']}" + f", loss {loss}" * bool(loss),
        "sampler": sampler.describe(),
        "guidance": model.guidance.describe(),
        "runs on": model.device.describe(),
    }
