"""Mirrored and shifted images: which ones, how far, what comes in, and that all follows from seed and step."""

import math
from itertools import product

import pytest
import torch
from torch.nn.functional import pad

from diffusion.data.augmentation import Augmentation
from diffusion.data.datasets import fashion_mnist_mini

N, H, W = 2000, 5, 7


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (N, 3, H, W), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def moved(images, down, right):
    """By padding with repeated edges and cutting: another way than that of the code."""
    n = max(abs(down), abs(right), 1)
    wide = pad(images.float(), [n] * 4, mode="replicate").to(torch.uint8)
    return wide[..., n - down : n - down + H, n - right : n - right + W]


def test_off_it_does_nothing_at_all(images):
    assert Augmentation()(images, 0, 0, N) is images


def test_each_image_is_mirrored_or_left_half_of_them_each(images):
    flipped = Augmentation(flip=True)(images, seed=1, step=5, batch_size=N)
    assert flipped.dtype == torch.uint8 and flipped.shape == images.shape and flipped.is_contiguous()
    mirrored, same = ((flipped == other).flatten(1).all(1) for other in (images.flip(-1), images))
    assert (mirrored ^ same).all()
    assert abs(int(mirrored.sum()) - N / 2) < 4 * math.sqrt(N / 4)  # standard deviations of a fair coin


def test_each_image_is_mirrored_in_half_of_the_steps(images):
    few = images[:8]
    flips = sum(
        (Augmentation(flip=True)(few, 0, step, 8) == few.flip(-1)).flatten(1).all(1).long() for step in range(400)
    )
    assert (flips - 200).abs().max() < 4 * math.sqrt(400 / 4)


def test_images_that_are_their_own_mirror_stay(images):
    symmetric = torch.cat([images, images.flip(-1)], dim=-1)
    assert torch.equal(Augmentation(flip=True)(symmetric, 0, 0, N), symmetric)


def test_shifts_are_uniform_and_repeat_the_edge(images):
    shifted, counts = Augmentation(shift=2)(images, seed=0, step=3, batch_size=N), []
    found = torch.zeros(N, dtype=torch.long)
    for down, right in product(range(-2, 3), repeat=2):
        hit = (shifted == moved(images, down, right)).flatten(1).all(1)
        counts.append(int(hit.sum()))
        found += hit
    assert (found == 1).all()
    expected = N / 25
    statistic = sum((count - expected) ** 2 / expected for count in counts)  # χ² of 24 degrees of freedom
    assert statistic < 24 + 4 * math.sqrt(48)


def test_it_is_mirrored_first_and_shifted_then(images):
    both = Augmentation(flip=True, shift=1)(images, 0, 0, N)
    ways = [moved(source, *by) for source in (images, images.flip(-1)) for by in product(range(-1, 2), repeat=2)]
    assert torch.stack([(both == way).flatten(1).all(1) for way in ways]).any(0).all()


def test_it_follows_from_seed_and_step_and_parts_see_the_same(images):
    vary = Augmentation(flip=True, shift=2)
    whole = vary(images[:64], 7, 9, 64)
    assert torch.equal(whole, vary(images[:64], 7, 9, 64))
    parts = [vary(images[part], 7, 9, 64, part) for part in (slice(0, 16), slice(16, 48), slice(48, 64))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, vary(images[:64], 7, 10, 64)) and not torch.equal(whole, vary(images[:64], 8, 9, 64))


def test_a_shift_out_of_sight_is_refused():
    assert fashion_mnist_mini(shift=27).augmentation.shift == 27
    for shift in (-1, 28):
        with pytest.raises(ValueError, match=f"^shift={shift} must be"):
            fashion_mnist_mini(shift=shift)


def test_what_is_measured_knows_nothing_of_it():
    plain, varied = fashion_mnist_mini(), fashion_mnist_mini(flip=True, shift=3)
    assert plain.describe() == varied.describe()
    for split in ("train", "test"):  # the key of all references
        assert plain.fingerprint(split) == varied.fingerprint(split)
