"""The transformer: its attention and blocks against other arithmetic, patches, positions and how it starts."""

import math

import pytest
import torch
from torch import nn

from diffusion.networks.dit import Attention, Block, DiT, patchify, position_embedding, unpatchify


def small(**settings):
    return DiT(**{"channels": 1, "image_size": 12, "width": 16, "depth": 2, "heads": 2, "patch": 4, **settings})


def perturbed(module, scale=0.1):
    """The module with noise on every weight, so that nothing is zero any more."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return module


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "patch", "channels", "out"), [(28, 4, 1, None), (30, 2, 3, 6), (9, 3, 5, 1), (6, 1, 2, 3)]
)
def test_any_size_channels_and_patch(size, patch, channels, out):
    network = perturbed(small(image_size=size, patch=patch, channels=channels, out_channels=out, num_classes=3))
    got = network(torch.randn(2, channels, size, size), torch.tensor([1.0, 1000.0]), torch.tensor([0, 3]))
    assert got.shape == (2, out or channels, size, size) and got.isfinite().all() and got.std() > 0
    assert network.num_classes == 3


def test_the_size_is_what_the_description_says():
    # Counted by hand: every linear layer a → b has ab + b weights; the norms and the positions have none.
    def linear(a, b):
        return a * b + b

    w, depth, ratio, patch, classes, channels, out = 24, 3, 2, 2, 10, 3, 6
    block = linear(w, 6 * w) + linear(w, 3 * w) + linear(w, w) + linear(w, ratio * w) + linear(ratio * w, w)
    ends = linear(channels * patch**2, w) + linear(w, 2 * w) + linear(w, out * patch**2)
    expected = ends + depth * block + 2 * linear(w, w) + (classes + 1) * w
    network = small(
        width=w, depth=depth, mlp_ratio=ratio, patch=patch, num_classes=classes, channels=channels, out_channels=out
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


# ------------------------------------------------------------------------------------------ patches, positions


@pytest.mark.parametrize(("patch", "channels", "size"), [(1, 1, 5), (2, 3, 8), (4, 1, 28), (3, 5, 9), (6, 2, 6)])
def test_patches_are_the_squares_of_the_image_row_by_row_and_go_back(patch, channels, size):
    x = draw(2, channels, size, size)
    tokens = patchify(x, patch)
    corners = [(i, j) for i in range(0, size, patch) for j in range(0, size, patch)]
    assert tokens.shape == (2, len(corners), channels * patch**2)
    for n, (i, j) in enumerate(corners):
        assert torch.equal(tokens[:, n].sort().values, x[:, :, i : i + patch, j : j + patch].flatten(1).sort().values)
    assert torch.equal(unpatchify(tokens, patch, size // patch), x)


def test_positions_are_the_sines_and_cosines_of_row_and_column():
    side, width = 3, 16
    quarter = width // 4
    frequencies = [10_000 ** (-k / (quarter - 1)) for k in range(quarter)]
    for n, vector in enumerate(position_embedding(side, side, width).tolist()):
        row, column = divmod(n, side)
        expected = [wave(place * f) for place in (row, column) for wave in (math.sin, math.cos) for f in frequencies]
        assert vector == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("side", "width"), [(7, 4), (14, 144), (32, 8), (1, 4)])
def test_positions_are_all_distinct_and_of_one_length(side, width):
    positions = position_embedding(side, side, width).double()
    assert positions.shape == (side**2, width)
    distance = torch.cdist(positions, positions) + 9 * torch.eye(side**2)
    assert float(distance.min()) > 0.01
    # sin² + cos² = 1 for each of the width/2 pairs
    assert torch.allclose(positions.square().sum(dim=1), torch.tensor(width / 2).double(), atol=1e-5)


def test_without_positions_the_order_of_the_patches_is_lost_and_with_them_it_is_not():
    network = perturbed(small(num_classes=3)).double()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    x, t, labels = draw(2, 1, 12, 12), torch.tensor([500.0, 20.0]).double(), torch.tensor([0, 1])
    shuffled = unpatchify(patchify(x, 4)[:, order], 4, 3)

    @torch.no_grad()
    def gap():
        """How far shuffling before the network is from shuffling after it."""
        after = patchify(network(x, t, labels), 4)[:, order]
        return float((patchify(network(shuffled, t, labels), 4) - after).abs().max())

    assert gap() > 0.01
    network.position.zero_()
    assert gap() < 1e-12


def test_every_patch_sees_every_other():
    network = perturbed(small())
    x = torch.randn(1, 1, 12, 12, requires_grad=True)
    patchify(network(x, torch.ones(1)), 4)[0, 0].sum().backward()
    assert (patchify(x.grad, 4).abs().amax(dim=2) > 0).all()


# --------------------------------------------------------------------------------------------- other arithmetic


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_attention_is_the_one_of_torch(heads):
    ours = perturbed(Attention(16, heads)).double()
    other = nn.MultiheadAttention(16, heads, batch_first=True).double()
    with torch.no_grad():
        other.in_proj_weight.copy_(ours.qkv.weight)
        other.in_proj_bias.copy_(ours.qkv.bias)
        other.out_proj.load_state_dict(ours.projection.state_dict())
    x = draw(3, 9, 16)
    assert torch.allclose(ours(x), other(x, x, x)[0], rtol=0, atol=1e-10)


def test_a_block_is_its_formula_written_out_for_one_image():
    width, heads, d = 8, 2, 4
    block = perturbed(Block(width, heads, mlp_ratio=3), scale=0.5).double()
    x, c = draw(1, 5, width)[0], draw(2, width)[1]

    def affine(layer, value):
        return value @ layer.weight.T + layer.bias

    def norm(value):
        centred = value - value.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()

    def attention(value):
        q, k, v = affine(block.attention.qkv, value).split(width, dim=1)
        columns = []
        for head in range(heads):
            here = slice(head * d, (head + 1) * d)
            weights = (q[:, here] @ k[:, here].T / math.sqrt(d)).exp()
            columns.append(weights / weights.sum(dim=1, keepdim=True) @ v[:, here])
        return affine(block.attention.projection, torch.cat(columns, dim=1))

    def perceptron(value):
        hidden = affine(block.perceptron[0], value)
        return affine(block.perceptron[2], hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))

    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = affine(block.modulation, c).split(width)
    middle = x + gate_1 * attention((1 + scale_1) * norm(x) + shift_1)
    expected = middle + gate_2 * perceptron((1 + scale_2) * norm(middle) + shift_2)
    assert torch.allclose(block(x[None], c[None])[0], expected, rtol=0, atol=1e-10)
    assert (expected - x).abs().max() > 0.1


def test_without_its_blocks_the_network_is_linear_norm_linear_on_each_patch():
    network = perturbed(small(num_classes=3, out_channels=2)).double()
    network.blocks = nn.ModuleList()
    x, t, labels = draw(1, 1, 12, 12), torch.tensor([300.0]).double(), torch.tensor([2])
    out = network(x, t, labels)[0]
    c = network.conditioning(t, labels)[0]
    shift, scale = network.modulation(c / (1 + (-c).exp())).split(16)  # silu(c) = c/(1 + e⁻ᶜ)
    for n in range(9):
        i, j = 4 * (n // 3), 4 * (n % 3)
        token = network.first(x[0, 0, i : i + 4, j : j + 4].flatten()) + network.position[n]
        norm = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()
        expected = network.last((1 + scale) * norm + shift).reshape(2, 4, 4)
        assert torch.allclose(out[:, i : i + 4, j : j + 4], expected, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------ start and gradients


def test_it_starts_at_zero_and_every_block_as_the_identity():
    network = small(num_classes=3)
    assert not network(torch.randn(2, 1, 12, 12), torch.tensor([1.0, 900.0]), torch.tensor([0, 3])).any()
    tokens, vector = torch.randn(2, 9, 16), torch.randn(2, 16)
    for block in network.blocks:
        assert torch.equal(block(tokens, vector), tokens)


def test_the_first_step_of_training_can_leave_zero():
    network = small()
    network(torch.randn(2, 1, 12, 12), torch.tensor([1.0, 900.0])).sub(1).square().mean().backward()
    assert network.last.weight.grad.any()


def test_gradients_reach_every_weight_once_nothing_is_zero():
    network = perturbed(small(num_classes=3))
    labels = torch.arange(4)  # with the row of "no label"
    network(torch.randn(4, 1, 12, 12), torch.tensor([1.0, 10.0, 500.0, 1000.0]), labels).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert network.conditioning.label.weight.grad.any(dim=1).all()


def test_positions_follow_the_network_but_are_no_weights():
    network = small()
    assert not any("position" in name for name in network.state_dict())
    assert network.double().position.dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 5}, "patch=5"),
        ({"patch": 0}, "patch=0"),
        ({"patch": 24}, "patch=24"),
        ({"heads": 3}, "heads=3"),
        ({"heads": 0}, "heads=0"),
        ({"width": 18}, "width=18"),
        ({"width": 0}, "width=0"),
        ({"depth": 0}, "depth=0"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"channels": 0}, "channels=0"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=f"^{message} "):
        small(**settings)
