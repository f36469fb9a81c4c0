"""Models to be exported: of any options of the config, with random weights, without any training."""

import torch
from config_helpers import train_config
from plain import image, perturbed

from diffusion.config.build import Recipe
from diffusion.model import Model
from diffusion.system.device import Device

SMALL = ("model.width=8", "model.groups=4", "model.head_width=8")


def untrained(*settings, scale=0.1, **of_images):
    """A model as a run with these settings begins, with noise on every weight so that it answers something.

    Args:
        settings: of the command line.
        scale: of the noise.
        of_images: of what the network sees, in the place of Fashion-MNIST's size, channels, padding and class_names.
    """
    config = train_config(*settings)
    seen = {**image(), **of_images}
    network = perturbed(Recipe(config, seen).network(0), scale)
    weights = dict(network.state_dict())
    state = {"config": config, "image": seen, "step": 3, "total_steps": 3, "network": weights}
    return Model({**state, "ema": {"network": weights}}, Device("cpu", precision="fp32"))


def noisy(model, n, seed=0):
    """n images of pure noise as large as the schedule makes it, n times, and labels of which the last is "none"."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(n, generator=generator) * 0.98 + 0.02
    _, sigma = model.noise_level(t)
    x_t = torch.randn(n, *model.image_model.shape, generator=generator) * sigma.view(-1, 1, 1, 1)
    labels = torch.arange(n) % max(model.denoiser.num_classes, 1)
    labels[-1] = model.denoiser.num_classes
    return x_t, t, labels
