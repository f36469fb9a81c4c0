"""Networks on images that are no squares: every size, the same function turned over, and the sizes they fit."""

import pytest
import torch
from test_networks import small_simple, small_unet

from diffusion.networks.dit import DiT, patchify, position_embedding, unpatchify
from diffusion.networks.unet import UNet
from diffusion.networks.unet_simple import UNetSimple


def small_dit(**settings):
    return DiT(**{"channels": 1, "width": 16, "depth": 2, "heads": 2, "patch": 2, **settings})


def perturbed(network):
    noise = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise)
    return network.double().eval()


@pytest.mark.parametrize("make", [small_simple, small_unet, small_dit])
@pytest.mark.parametrize(("size", "channels"), [((24, 16), 3), ((16, 24), 1), ((30, 22), 3), ([16, 48], 1)])
def test_any_height_and_width(make, size, channels):
    network = make(image_size=size, channels=channels, num_classes=3)
    x = torch.randn(2, channels, *size)
    out = network(x, torch.tensor([1.0, 1000.0]), torch.tensor([0, 3]))
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("make", [small_simple, small_unet])
def test_a_u_net_whose_kernels_are_turned_over_draws_images_that_are(make):
    """Height and width are treated alike: f(xᵀ) with transposed kernels is f(x)ᵀ."""
    network, turned = (perturbed(make(image_size=size)) for size in ((28, 20), (20, 28)))
    turned.load_state_dict(network.state_dict())
    for parameter in turned.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.transpose(2, 3).contiguous()
    x, t = torch.randn(2, 1, 28, 20).double(), torch.tensor([20.0, 700.0]).double()
    out = network(x, t)
    assert out.std() > 0.01 and torch.allclose(turned(x.mT, t), out.mT, atol=1e-9)


def test_a_transformer_whose_patches_are_turned_over_draws_images_that_are():
    """Turning over turns over each patch and their order, and swaps the halves of a position."""
    network, turned = (perturbed(small_dit(image_size=size)) for size in ((12, 8), (8, 12)))
    turned.load_state_dict(network.state_dict())
    half = network.position.shape[1] // 2
    fresh = position_embedding(4, 6, 2 * half)  # of 4 rows and 6 columns
    turned.position = network.position.unflatten(0, (6, 4)).transpose(0, 1).flatten(0, 1)
    assert torch.allclose(turned.position.float(), torch.cat([fresh[:, half:], fresh[:, :half]], dim=1), atol=1e-6)
    order = torch.tensor([0, 2, 1, 3])  # of the pixels of a patch
    turned.first.weight.data = network.first.weight.data[:, order]
    turned.last.weight.data, turned.last.bias.data = network.last.weight.data[order], network.last.bias.data[order]
    x, t = torch.randn(2, 1, 12, 8).double(), torch.tensor([20.0, 700.0]).double()
    out = network(x, t)
    assert out.std() > 0.01 and torch.allclose(turned(x.mT, t), out.mT, atol=1e-9)


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 12, 4), (6, 2, 2), (3, 5, 1)])
def test_patches_of_any_image_are_row_by_row_and_go_back(height, width, patch):
    x = torch.arange(2 * 3 * height * width).reshape(2, 3, height, width)
    tokens = patchify(x, patch)
    corners = [(i, j) for i in range(0, height, patch) for j in range(0, width, patch)]
    for n, (i, j) in enumerate(corners):
        assert torch.equal(tokens[:, n].sort().values, x[:, :, i : i + patch, j : j + patch].flatten(1).sort().values)
    assert torch.equal(unpatchify(tokens, patch, height // patch), x)


def test_one_number_is_a_square():
    for make in (small_simple, small_unet, small_dit):
        torch.manual_seed(0)
        one = make(image_size=20, levels=2) if make is small_simple else make(image_size=20)
        torch.manual_seed(0)
        two = make(image_size=(20, 20), levels=2) if make is small_simple else make(image_size=(20, 20))
        x, t = torch.randn(2, 1, 20, 20), torch.tensor([20.0, 700.0])
        assert torch.equal(one(x, t), two(x, t))


@pytest.mark.parametrize(
    ("kind", "settings", "unit", "least"),
    [  # worked out by hand: halved twice with two pixels left, in patches of 2; …
        (UNet, {}, 4, 8),
        (UNet, {"multipliers": [1, 2], "patch": 2}, 4, 8),
        (UNet, {"multipliers": [1], "patch": 2}, 2, 4),
        (UNetSimple, {}, 8, 16),
        (UNetSimple, {"levels": 1, "attention": []}, 2, 4),
        (DiT, {}, 4, 4),
        (DiT, {"patch": 1}, 1, 1),
    ],
)
def test_the_sides_that_fit(kind, settings, unit, least):
    for side in range(1, 70):
        found = kind.fitting_side(side, **settings)
        expected = next(other for other in range(max(side, least), 200) if other % unit == 0)
        assert found == expected and kind.fitting_side(found, **settings) == found
    with torch.device("meta"):
        kind(channels=1, image_size=(kind.fitting_side(5, **settings), kind.fitting_side(30, **settings)), **settings)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (UNet, (28, 27), r"patch=2 does not divide the image size 28×27: .*data\.padding=auto"),
        (DiT, (26, 28), r"patch=4 does not divide the image size 26×28: .*data\.padding=auto"),
        (UNetSimple, (48, 12), r"images of 48×12 pixels cannot be halved 3 times: .*data\.padding=auto.* 16 pixels"),
    ],
)
def test_a_size_that_does_not_fit_is_told_with_the_way_out(kind, size, message):
    with pytest.raises(ValueError, match=message):
        kind(channels=1, image_size=size, **({"patch": 2} if kind is UNet else {}))
