"""Every task on images that are no squares, with padding that is not the same on all sides."""

import pytest
import torch
from conftest import FiniteDenoiser
from torch import nn

from diffusion.data.images import ImageData, Images, encode
from diffusion.drawing.image_model import ImageModel
from diffusion.guidance import ClassifierFree
from diffusion.sampler import DDIM
from diffusion.schedule import Cosine
from diffusion.system.device import Device
from diffusion.tasks import Generate, ImageToImage, Inpaint, Interpolate, Invert, Job

PADDING = [1, 0, 3, 2]


class Known(FiniteDenoiser):
    """One that knows the images, and takes labels."""

    num_classes = 2


@pytest.fixture
def job(generator):
    images = torch.randint(0, 256, (3, 3, 24, 16), generator=generator, dtype=torch.uint8)
    data = ImageData("points", Images(images), Images(images), [], PADDING)
    whole = nn.functional.pad(images, [3, 2, 1, 0])
    image = {"size": [24, 16], "channels": 3, "padding": PADDING, "class_names": ["a", "b"]}
    device = Device("cpu", precision="fp32")
    model = ImageModel(Known(Cosine(), encode(whole)), ClassifierFree(scale=1.0), device, image)
    return Job(model, DDIM(12), lambda: data, 3, None, seed=3, batch_size=2)


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        (Inpaint("top", variations=2, repeats=2), 4),
        (ImageToImage([0.2, 0.3]), 3),
        (Invert([10, 20]), 4),
        (Interpolate(columns=3), 3),
        (Generate(), 2),
    ],
    ids=lambda value: type(value).__name__.lower(),
)
def test_each_task_comes_back_to_the_images_it_knows(task, rows, job):
    """Whatever half of an image is left, and whatever little noise there is on it, says which one it was."""
    known = job.data().test.images
    made = task.run(job)
    assert made.images.shape[1:] == (3, 24, 16)
    if not isinstance(task, Generate | Interpolate):
        repeats = 1 if isinstance(task, Invert) else 2
        assert torch.equal(made.images, known.repeat(repeats, 1, 1, 1))
    else:  # from noise one of them, whichever
        assert all((known == image).flatten(1).all(dim=1).any() for image in made.images)
    assert made.picture.height >= rows * 2 * 24 and made.picture.width >= 2 * 2 * 16
