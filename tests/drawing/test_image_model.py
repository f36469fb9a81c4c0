"""A model that draws: images of the data's own size, labels that go round, and how often the network is asked."""

import plain
import pytest
import torch

from diffusion.drawing.image_model import ImageModel
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.sampler import DDIM
from diffusion.system.device import Device
from diffusion.system.errors import UserError


def model(scale=1.0, padding=0):
    """One with labels; with scale None, one without."""
    guidance = Unconditional() if scale is None else ClassifierFree(scale=scale)
    classes = 0 if scale is None else 10
    denoiser = plain.denoiser(image_size=28 + 2 * padding, num_classes=classes)
    return ImageModel(denoiser, guidance, Device("cpu", precision="fp32"), {**plain.image(), "padding": padding})


@pytest.mark.parametrize("padding", [0, 2])
def test_the_padding_that_the_network_sees_is_not_drawn(padding, mini):
    drawing = model(padding=padding)
    assert drawing.shape == (1, 28 + 2 * padding, 28 + 2 * padding)
    images = drawing.draw(DDIM(2), 3, drawing.labels(3), seed=0, batch_size=2)
    assert images.shape == (3, 1, 28, 28) and images.dtype == torch.uint8
    real = mini.test.images[:3]
    assert drawing.from_images(real).shape == (3, *drawing.shape)
    assert torch.equal(drawing.to_images(drawing.from_images(real)), real)


def test_images_go_to_the_network_with_the_margin_of_its_loss_and_come_back(mini):
    drawing, real = model(), mini.test.images[:3]
    plain_values = drawing.from_images(real)
    drawing.denoiser.margin = 0.2
    values = drawing.from_images(real)
    assert torch.equal(values[real == 0], torch.full_like(values[real == 0], -1.2)) and (real == 0).any()
    between = (real > 0) & (real < 255)
    assert torch.equal(values[between], plain_values[between])
    assert torch.equal(drawing.to_images(values), real)


def test_images_of_any_shape_are_drawn_without_their_uneven_padding():
    """An untrained network ends in zeros; its images are grey, and those of the data come back as they were."""
    image = {**plain.image(), "size": [20, 17], "padding": [1, 3, 0, 3]}
    denoiser = plain.denoiser(image_size=(24, 20))
    drawing = ImageModel(denoiser, ClassifierFree(), Device("cpu", precision="fp32"), image)
    assert drawing.shape == (1, 24, 20)
    images = drawing.draw(DDIM(2), 3, drawing.labels(3), seed=0, batch_size=2)
    assert images.shape == (3, 1, 20, 17) and images.dtype == torch.uint8
    seen = drawing.from_images(images)
    assert seen.shape == (3, 1, 24, 20) and bool((seen[:, :, 0] == -1).all()) and bool((seen[..., 17:] == -1).all())
    assert torch.equal(drawing.to_images(seen), images)


def test_labels_go_round_the_classes():
    assert model().labels(12).tolist() == [*range(10), 0, 1]
    assert model().labels(3, [7, 2]).tolist() == [7, 2, 7]
    assert model(scale=None).labels(5) is None
    with pytest.raises(UserError, match="n=0 must be at least 1"):
        model().labels(0)


def test_an_image_depends_on_the_seed_and_its_number_alone():
    drawing = model()
    labels = drawing.labels(7)
    whole = drawing.draw(DDIM(3), 7, labels, seed=4, batch_size=7)
    parts = drawing.draw(DDIM(3), 7, labels, seed=4, batch_size=3)
    assert (whole.int() - parts.int()).abs().max() <= 1  # sums in another order
    assert not torch.equal(whole, drawing.draw(DDIM(3), 7, labels, seed=5, batch_size=7))


@pytest.mark.parametrize(("scale", "each"), [(None, 1), (1.0, 1), (2.0, 2)])
def test_evaluations_are_counted_and_without_guidance_there_is_one_for_each_step(scale, each):
    drawing = model(scale)
    for asked, expected in ((drawing, 4 * each), (drawing.unguided(), 4)):
        asked.draw(DDIM(4), 3, asked.labels(3), seed=0, batch_size=2)
        assert asked.evaluations == expected
