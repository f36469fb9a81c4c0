"""Images to score that are transparent or damaged: over the data's own background, and named all together."""

import pytest
import torch
from conftest import toy
from PIL import Image

from diffusion.data.images import ImageData
from diffusion.evaluation.samples import load_samples
from diffusion.system.errors import UserError


def write(folder, n=6):
    folder.mkdir()
    for i in range(n):
        Image.new("LA", (8, 8), (200, 0)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (7, 7, 7)])
def test_samples_take_the_background_of_the_data(background, tmp_path):
    own = toy()
    data = ImageData("toy", own.train, own.test, own.class_names, background=background)
    images, _ = load_samples(str(write(tmp_path / "samples")), data).select(torch.arange(6))
    assert images.unique().tolist() == [background[0]]


@pytest.mark.parametrize("key", ["samples", "task.images"])
def test_all_damaged_samples_are_named(key, tmp_path):
    folder = write(tmp_path / "samples")
    for i in range(5):
        (folder / f"{i}.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"0\.png cannot.*1\.png.*2\.png.*nor 2 more: mend or remove them\.$"):
        load_samples(str(folder), toy(), key)
