"""Masks from files: white is painted; black and transparent are not."""

import pytest
import torch
from PIL import Image

from diffusion.system.errors import UserError
from diffusion.tasks.inpaint import read_mask


def halves(mode, left, right):
    """8×8 pixels."""
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


KINDS = {
    "grey": halves("L", 255, 0),
    "bits": halves("1", 1, 0),
    "white on transparent white": halves("RGBA", (255,) * 4, (255, 255, 255, 0)),
    "white on transparent black": halves("RGBA", (255,) * 4, (0, 0, 0, 0)),
    "grey and alpha": halves("LA", (255, 255), (255, 0)),
    "faint": halves("RGBA", (255,) * 4, (255, 255, 255, 100)),
    "16 bits": halves("I;16", 65_535, 300),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transparent_is_not_painted(kind, tmp_path):
    KINDS[kind].save(tmp_path / "mask.png")
    unknown = read_mask(str(tmp_path / "mask.png"), 8)
    assert unknown.shape == (1, 1, 8, 8) and unknown.dtype == torch.float32
    assert bool(unknown[..., :4].all()) and not bool(unknown[..., 4:].any())


def test_a_transparent_palette_is_not_painted(tmp_path):
    image = halves("P", 0, 1)
    image.putpalette([255, 255, 255] * 2)
    image.save(tmp_path / "mask.gif", transparency=1)
    unknown = read_mask(str(tmp_path / "mask.gif"), 8)
    assert bool(unknown[..., :4].all()) and not bool(unknown[..., 4:].any())


@pytest.mark.parametrize(
    ("mask", "painted"),
    [
        ("top", (0, 3, 0, 4)),
        ("bottom", (3, 6, 0, 4)),
        ("left", (0, 6, 0, 2)),
        ("right", (0, 6, 2, 4)),
        ("centre", (1, 5, 1, 3)),
    ],
)
def test_masks_of_images_that_are_no_squares(mask, painted, tmp_path):
    top, bottom, left, right = painted  # of 6×4 pixels
    expected = torch.zeros(1, 1, 6, 4)
    expected[..., top:bottom, left:right] = 1
    assert torch.equal(read_mask(mask, (6, 4)), expected)
    Image.fromarray((255 * expected[0, 0]).byte().numpy()).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(str(tmp_path / "mask.png"), [6, 4]), expected)
    with pytest.raises(UserError, match=r"mask\.png has 6×4 pixels; it must have 4×6\."):
        read_mask(str(tmp_path / "mask.png"), (4, 6))


def test_damaged_masks_are_told(tmp_path):
    (tmp_path / "mask.png").write_text("no image")
    with pytest.raises(UserError, match=r"mask\.png cannot be read as an image \(it is no image, or a damaged one\)\."):
        read_mask(str(tmp_path / "mask.png"), 8)
