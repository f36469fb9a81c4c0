"""A trained network made into one for other images: what it knew it still says, bit by bit."""

import pytest
import torch
from plain import network, perturbed

from diffusion.networks.dit import DiT
from diffusion.networks.transfer import LABELS, carried, with_classes
from diffusion.networks.unet_simple import UNetSimple

HAD, NOW = ["bag", "coat", "shoe"], ["hat", "shoe", "bag", "sock"]


def unet(channels=1, image_size=16, classes=3, heads=1):
    return network(channels=channels, image_size=image_size, num_classes=classes, out_channels=heads * channels)


def dit(channels=1, image_size=16, classes=3, heads=1):
    return DiT(channels, image_size, classes, heads * channels, width=16, depth=2, heads=2)


def simple(channels=1, image_size=16, classes=3, heads=1):
    shape = {"width": 8, "levels": 2, "bottleneck": 2, "attention": [2], "time_width": 16}
    return UNetSimple(channels, image_size, classes, heads * channels, **shape)


KINDS = pytest.mark.parametrize("kind", [unet, dit, simple])


def made(kind, old, had, now, channels=(1, 1), **shape):
    """Another network of a kind, with the weights of the old one; both answer, and `had`, `now` are their classes."""
    new = kind(channels=channels[1], classes=len(now), **shape)
    shapes = {name: value.shape for name, value in new.state_dict().items()}
    new.load_state_dict(carried(old.state_dict(), shapes, (had, now), channels))
    return new.eval()


def answer(model, x, label=None):
    """What a network gives for images x, all of one label."""
    torch.manual_seed(0)
    t = torch.linspace(50, 900, len(x))
    with torch.no_grad():
        return model(x, t, None if label is None else torch.full((len(x),), label))


@pytest.fixture
def x(generator):
    return torch.randn(4, 1, 16, 16, generator=generator)


@KINDS
def test_a_class_keeps_its_row_and_a_new_one_starts_as_none(kind, x):
    old = perturbed(kind()).eval()
    new = made(kind, old, HAD, NOW)
    for name in ("shoe", "bag"):
        assert torch.equal(answer(new, x, NOW.index(name)), answer(old, x, HAD.index(name)))
    none = answer(old, x, len(HAD))
    for label in (NOW.index("hat"), NOW.index("sock"), len(NOW)):
        assert torch.equal(answer(new, x, label), none)
    assert not torch.equal(answer(old, x, 0), none)  # so that this says something


@KINDS
def test_labels_that_are_new_make_no_difference_at_first(kind, x):
    old = perturbed(kind(classes=0)).eval()
    new = made(kind, old, [], NOW)
    assert all(torch.equal(answer(new, x, label), answer(old, x)) for label in range(5))


@pytest.mark.parametrize("kind", [unet, dit])
def test_without_labels_it_draws_as_with_the_label_of_none(kind, x):
    old = perturbed(kind()).eval()
    new = made(kind, old, HAD, [])
    assert torch.allclose(answer(new, x), answer(old, x, 3), atol=1e-5)
    assert not torch.allclose(answer(new, x), answer(old, x, 0), atol=1e-3)


def test_a_network_that_adds_labels_to_the_bare_time_loses_what_it_knew_of_none(x):
    old = perturbed(simple()).eval()
    new = made(simple, old, HAD, [])
    old.conditioning.label.weight.data.zero_()
    assert torch.equal(answer(new, x), answer(old, x, 3))


@KINDS
@pytest.mark.parametrize("heads", [1, 2])
def test_in_colour_it_answers_grey_to_the_mean_of_the_channels(kind, heads, generator):
    old = perturbed(kind(heads=heads)).eval()
    new = made(kind, old, HAD, HAD, (1, 3), heads=heads)
    x = torch.randn(4, 3, 16, 16, generator=generator)
    expected = answer(old, x.mean(dim=1, keepdim=True), 1)  # (B, heads, H, W)
    assert torch.allclose(answer(new, x, 1), expected.repeat_interleave(3, dim=1), atol=1e-4)


@KINDS
def test_of_colour_it_sees_grey_as_three_equal_channels(kind, x):
    old = perturbed(kind(channels=3)).eval()
    new = made(kind, old, HAD, HAD, (3, 1))
    expected = answer(old, x.expand(-1, 3, -1, -1), 1).mean(dim=1, keepdim=True)
    assert torch.allclose(answer(new, x, 1), expected, atol=1e-4)


@KINDS
def test_another_size_keeps_every_weight(kind, generator):
    old = perturbed(kind()).eval()
    new = made(kind, old, HAD, HAD, image_size=24)
    before, after = old.state_dict(), new.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert answer(new, torch.randn(2, 1, 24, 24, generator=generator), 0).shape == (2, 1, 24, 24)


def test_a_larger_image_is_seen_by_the_convolutions_as_the_small_one_within_it(generator):
    old, large = perturbed(unet()), torch.randn(1, 4, 20, 20, generator=generator)
    new = made(unet, old, HAD, HAD, image_size=40)
    inner = slice(1, 7)  # away from the border of the 8×8 pixels that the small one sees
    small, whole = old.first(large[:, :, 6:14, 6:14]), new.first(large)[:, :, 6:14, 6:14]
    assert torch.allclose(small[:, :, inner, inner], whole[:, :, inner, inner], atol=1e-6)


def test_labels_that_are_kept_elsewhere_are_not_carried_by_number():
    weights = {"table.weight": torch.ones(4, 3)}
    assert with_classes(weights, "abc", "abc", {}).keys() == weights.keys()
    with pytest.raises(ValueError, match="keeps its labels elsewhere"):
        with_classes(weights, "abc", "cxy", {})


def test_networks_that_differ_otherwise_are_refused():
    weights = unet().state_dict()
    shapes = {name: value.shape for name, value in network(width=16, image_size=16, num_classes=3).state_dict().items()}
    with pytest.raises(ValueError, match="differ in conditioning"):
        carried(weights, shapes, (HAD, HAD), (1, 1))
    with pytest.raises(ValueError, match="4 rows for 2 classes"):
        carried(weights, shapes, (HAD[:2], HAD), (1, 1))
    foreign = {name: value for name, value in weights.items() if not name.startswith("first")}
    with pytest.raises(ValueError, match="no layers that could be made for 3 channels instead of 1"):
        carried(foreign, shapes, (HAD, HAD), (1, 3))
    assert LABELS in weights
