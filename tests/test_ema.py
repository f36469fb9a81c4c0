"""The averaged weights against the closed form of their recursion."""

import copy

import pytest
import torch

from diffusion.ema import EMA


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_starts_equal_to_the_network(network):
    ema = EMA(network, decay=0.9)
    for mine, theirs in zip(ema.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize("warmup", [False, True])
def test_closed_form_after_k_updates(network, warmup):
    ema, history = EMA(network, decay=0.8, warmup=warmup), [network[0].weight.detach().double().clone()]
    for _ in range(12):
        network[0].weight.data += torch.randn(4, 3)
        history.append(network[0].weight.detach().double().clone())
        ema.update(network)
    decays = [min(0.8, (1 + k) / (10 + k)) if warmup else 0.8 for k in range(1, 13)]
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for i, value in enumerate(history):  # each value weighs (1 − d_i) · d_{i+1} · … · d_12
        weight = 1.0 if i == 0 else 1 - decays[i - 1]
        for decay in decays[i:]:
            weight *= decay
        expected += weight * value
    assert torch.allclose(ema.network[0].weight.double(), expected, atol=1e-5)


def test_buffers_are_copied_and_integers_stay_integers(network):
    ema = EMA(network, decay=0.9)
    network(torch.randn(8, 3))
    ema.update(network)
    assert torch.equal(ema.network[1].running_mean, network[1].running_mean)
    assert ema.network[1].num_batches_tracked.dtype == torch.int64
    assert int(ema.network[1].num_batches_tracked) == 1


def test_off_follows_the_network_exactly(network):
    ema = EMA(network, decay=0.0)
    network[0].weight.data.normal_()
    ema.update(network)
    assert torch.equal(ema.network[0].weight, network[0].weight)


def test_state_goes_round(network):
    ema = EMA(network, decay=0.9)
    for _ in range(3):
        network[0].weight.data.normal_()
        ema.update(network)
    other = EMA(copy.deepcopy(network), decay=0.9)
    other.load_state_dict(ema.state_dict())
    network[0].weight.data.normal_()
    ema.update(network)
    other.update(network)
    assert torch.equal(other.network[0].weight, ema.network[0].weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_decay_out_of_range_is_refused(network, decay):
    with pytest.raises(ValueError, match="decay="):
        EMA(network, decay=decay)
