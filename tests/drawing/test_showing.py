"""Images as one picture: pixels are repeated, never mixed."""

import numpy as np
import pytest
import torch

from diffusion.drawing.showing import show
from diffusion.system.errors import UserError


def test_every_pixel_is_repeated(generator):
    images = torch.randint(0, 256, (5, 1, 6, 4), generator=generator, dtype=torch.uint8)
    picture = np.asarray(show(images, columns=3, scale=2))
    assert picture.shape == ((2 * 7 + 1) * 2, (3 * 5 + 1) * 2)
    for number in range(5):
        top, left = number // 3 * 7 + 1, number % 3 * 5 + 1
        cell = picture[2 * top : 2 * (top + 6), 2 * left : 2 * (left + 4)]
        assert np.array_equal(cell, images[number, 0].numpy().repeat(2, 0).repeat(2, 1))
    assert (picture[:2] == 255).all()
    assert not callable(show(images)._repr_jpeg_) and show(images)._repr_png_()  # a notebook keeps one of them


def test_layouts_and_values(generator):
    colour = torch.randint(0, 256, (4, 3, 5, 5), generator=generator, dtype=torch.uint8)
    expected = np.asarray(show(colour))
    assert expected.shape == ((2 * 6 + 1) * 4, (2 * 6 + 1) * 4, 3)
    for same in (colour.permute(0, 2, 3, 1).numpy(), list(colour), colour.float() / 127.5 - 1):
        assert np.array_equal(np.asarray(show(same)), expected)
    assert show(colour[0]).size == show(colour[:1]).size == (28, 28)
    assert show(torch.zeros(6, 8, 8), columns=2).height == (3 * 9 + 1) * 4
    assert np.asarray(show(torch.tensor([[[[-9.0, 0.0, 9.0]]]]), scale=1))[1, 1:4].tolist() == [0, 128, 255]
    assert show(torch.zeros(4, 1, 100, 100, dtype=torch.uint8)).width == (2 * 101 + 1) * 3  # no wider than a page


def test_captions(generator):
    images = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    bare, above, beside = (
        show(images, 3),
        show(images, captions=["t = 1", 0.5, "x"]),
        show(images, rows=["DDIM", "Heun"]),
    )
    assert above.width == bare.width and above.height > bare.height
    assert beside.height == bare.height and beside.width > bare.width


RAGGED = [torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)]
TENSORS = [torch.zeros(2, 5, 8, 8), torch.zeros(3), torch.zeros(2, 1, 4, 4).long()]


@pytest.mark.parametrize("wrong", [*TENSORS, [], None, "a", {"a": 1}, ["a"], [None], RAGGED, [[[1, 2], [3]]]])
def test_what_is_no_image_is_told(wrong):
    with pytest.raises(UserError, match="These are no images"):
        show(wrong)
