"""Our U-Net and diffusers' are one network: an independent implementation of every layer."""

import pytest
import torch
from plain import perturbed
from torch.nn import functional as F

from diffusion.export import unet_2d
from diffusion.networks.unet import UNet

diffusers = pytest.importorskip("diffusers")

SHAPES = [
    {"multipliers": [1, 2], "blocks": 1, "attention": [], "patch": 2, "num_classes": 10},
    {"multipliers": [1, 2, 2], "blocks": 2, "attention": [1, 2], "patch": 1, "num_classes": 0, "out_channels": 6},
    {"multipliers": [1, 3], "blocks": 3, "attention": [0], "patch": 1, "num_classes": 2},
    {"multipliers": [1], "blocks": 1, "attention": [], "patch": 4, "num_classes": 0, "image_size": (8, 20)},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_both_answer_alike(shape, generator):
    settings = {"channels": 3, "image_size": 16, "out_channels": 3, "width": 16, "head_width": 8, "groups": 4}
    settings |= {"sinusoid_ratio": 1, **shape}
    ours = perturbed(UNet(**settings)).eval()
    config = unet_2d.config(settings)
    theirs = diffusers.UNet2DModel.from_config(config).eval()
    theirs.load_state_dict(unet_2d.weights(ours.state_dict(), settings))  # every weight, and no other
    height, width = settings["image_size"] if isinstance(settings["image_size"], tuple) else (16, 16)
    x = torch.randn(3, 3, height, width, generator=generator)
    t, patch = torch.tensor([1.0, 400.5, 1000.0]), settings["patch"]
    labels = torch.tensor([0, 1, settings["num_classes"]]) if settings["num_classes"] else None
    with torch.no_grad():
        found = F.pixel_shuffle(theirs(F.pixel_unshuffle(x, patch), t, labels).sample, patch)
        assert torch.allclose(found, ours(x, t, labels), atol=1e-5, rtol=1e-5)


def test_what_is_no_unet_of_theirs():
    settings = {"channels": 1, "image_size": 14, "multipliers": [1, 2, 2], "patch": 1, "groups": 4, "head_width": 8}
    small = {**settings, "width": 8, "sinusoid_ratio": 1}
    assert "with a remainder" in unet_2d.why_not(UNet(**small), small)
    assert unet_2d.why_not(UNet(**{**small, "image_size": 16}), {**small, "image_size": 16}) is None
    wider = {**small, "image_size": 16, "sinusoid_ratio": 4}
    assert "sinusoid_ratio=1" in unet_2d.why_not(UNet(**wider), wider)
    doubled = {**small, "image_size": 16, "multipliers": [2, 2]}
    assert "multipliers=[1" in unet_2d.why_not(UNet(**doubled), doubled)
    assert "Linear" in unet_2d.why_not(torch.nn.Linear(2, 2), small)
