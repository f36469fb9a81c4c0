"""Networks: shapes, sizes, conditioning and the published parameter count."""

import pytest
import torch

from diffusion.networks.dit import DiT
from diffusion.networks.layers import sinusoidal_embedding
from diffusion.networks.unet import UNet
from diffusion.networks.unet_simple import UNetSimple


def small_simple(**settings):
    return UNetSimple(**{"channels": 1, "image_size": 28, "width": 8, "time_width": 16, **settings})


def small_unet(**settings):
    return UNet(**{"channels": 1, "image_size": 28, "width": 8, "groups": 4, "head_width": 8, "blocks": 1, **settings})


def small_dit(**settings):
    patch = 1 if settings.get("image_size", 28) % 2 else 2
    return DiT(**{"channels": 1, "image_size": 28, "width": 16, "depth": 2, "heads": 2, "patch": patch, **settings})


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_educational_network_has_the_published_size():
    # Counted by hand from the description: 3×3 convolutions without bias, GroupNorm(1), attention, time layers.
    def double(a, b, m=None):
        m = m or b
        return 9 * a * m + 2 * m + 9 * m * b + 2 * b

    def timed(a, b, m):
        return double(a, a) + double(a, b, m) + 256 * b + b

    def attention(c):
        return 2 * c + (3 * c * c + 3 * c) + (c * c + c) + 2 * c + 2 * (c * c + c)

    down = timed(64, 128, 128) + timed(128, 256, 256) + timed(256, 256, 256)
    up = timed(512, 128, 256) + timed(256, 64, 128) + timed(128, 64, 64)
    attended = sum(attention(c) for c in (128, 256, 256, 128, 64, 64))
    middle = double(256, 512) + double(512, 512) + double(512, 256)
    expected = double(1, 64) + down + up + attended + middle + 64 + 1
    assert count(UNetSimple(channels=1, image_size=32)) == expected
    assert abs(expected - 23.3e6) < 0.1e6


@pytest.mark.parametrize("make", [small_simple, small_unet, small_dit])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (17, 1), (30, 3)])
def test_any_size_and_channels(make, size, channels):
    network = make(image_size=size, channels=channels, num_classes=3)
    x = torch.randn(2, channels, size, size)
    out = network(x, torch.tensor([1.0, 1000.0]), torch.tensor([0, 3]))
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_levels_width_and_bottleneck_are_free(levels):
    network = small_simple(levels=levels, width=12, bottleneck=2, attention=[levels], image_size=32)
    assert network(torch.randn(1, 1, 32, 32), torch.ones(1)).shape == (1, 1, 32, 32)


def test_space_to_depth_quarters_the_pixels_and_needs_even_sizes():
    network = small_unet(patch=2)
    assert network(torch.randn(1, 1, 28, 28), torch.ones(1)).shape == (1, 1, 28, 28)
    with pytest.raises(ValueError, match="patch=2"):
        small_unet(patch=2, image_size=27)


@pytest.mark.parametrize("make", [small_simple, small_unet, small_dit])
def test_time_and_label_matter_and_images_do_not_mix(make):
    torch.manual_seed(0)
    network = make(num_classes=3).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([500.0, 20.0])
    out = network(x, t, torch.tensor([0, 1]))
    assert not torch.allclose(out, network(x, t, torch.tensor([0, 2]))[:, :], atol=1e-4)
    assert not torch.allclose(out, network(x, t + 100, torch.tensor([0, 1])), atol=1e-4)
    alone = network(x[:1], t[:1], torch.tensor([0]))
    assert torch.allclose(out[:1], alone, atol=1e-4)


def test_the_modern_network_starts_at_zero():
    assert not small_unet()(torch.randn(1, 1, 28, 28), torch.ones(1)).any()


@pytest.mark.parametrize("width", [31, 32, 256])
def test_time_embeddings_are_all_distinct(width):
    embedding = sinusoidal_embedding(torch.arange(1, 1001).double(), width)
    assert embedding.shape == (1000, width)
    distance = torch.cdist(embedding, embedding) + torch.eye(1000) * 9
    assert float(distance.min()) > 1e-3


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (small_simple, {"image_size": 12}, "cannot be halved 3 times"),
        (small_simple, {"width": 10}, "width=10"),
        (small_simple, {"width": 0}, "width=0"),
        (small_simple, {"bottleneck": 1}, "bottleneck=1"),
        (small_simple, {"attention": [4]}, "attention="),
        (small_unet, {"width": 30}, "width=30"),
        (small_unet, {"blocks": 0}, "blocks=0"),
        (small_unet, {"head_width": 5}, "head_width=5"),
        (small_unet, {"attention": [3]}, "attention="),
        (small_unet, {"multipliers": [1, 2, 2, 2, 2, 2]}, "cannot be halved 5 times"),
    ],
)
def test_impossible_shapes_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
