"""The averaged weights against the closed form of their recursion, and blends of averages against the best blend."""

import copy
import math

import numpy as np
import pytest
import torch

from diffusion.ema import EMA, PowerEMA, gamma, post_hoc


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


# ------------------------------------------------------------------------------------------ power-function averages

WIDTHS = [0.025, 0.05, 0.1, 0.2]


def averages(history, widths):
    """{width: average} of weights (T, N) tracked through T updates, and the state, all in float64."""
    network = torch.nn.Linear(history.shape[1], 1, bias=False).double()
    ema = PowerEMA(network, widths=widths, width=widths[0])
    for value in history:
        network.weight.data.copy_(value)
        ema.update(network)
    state = ema.state_dict()
    return {width: average["weight"][0] for width, average in state["averages"].items()}, state


@pytest.mark.parametrize(("width", "published"), [(0.05, 16.97), (0.10, 6.94)])  # Karras et al. 2023, section 3
def test_gamma_is_the_published_one(width, published):
    assert abs(gamma(width) - published) < 0.005


@pytest.mark.parametrize("width", [0.001, 0.02, 0.1, math.sqrt(2) / 6, 0.288])
def test_the_profile_has_the_width_it_is_named_after(width):
    mean, square = ((gamma(width) + 1) / (gamma(width) + 1 + n) for n in (1, 2))  # ∫ (γ+1) u^γ uⁿ du from 0 to 1
    assert math.sqrt(square - mean**2) == pytest.approx(width, rel=1e-6)


def test_the_mean_of_a_linear_profile():
    assert gamma(math.sqrt(2) / 6) == pytest.approx(1)  # p(u) = 2u: mean 2/3, variance 1/2 − 4/9 = 1/18


def test_each_update_counts_with_its_piece_of_the_profile():
    t, widths = 200, [0.03, 0.1, 0.25]
    profiles, _ = averages(
        torch.eye(t, dtype=torch.float64), widths
    )  # weights e_k at update k: the average is the profile
    for width in widths:
        power = gamma(width) + 1
        decays = [(1 - 1 / k) ** power for k in range(1, t + 1)]
        by_hand = torch.tensor([(1 - decays[i]) * math.prod(decays[i + 1 :]) for i in range(t)], dtype=torch.float64)
        assert torch.allclose(profiles[width], by_hand, rtol=1e-9, atol=1e-15)
        k = torch.arange(t + 1, dtype=torch.float64)
        assert torch.allclose(profiles[width], ((k / t) ** power).diff(), rtol=1e-9, atol=1e-15)  # ∫ p from k−1 to k
        time = (k[1:] - 0.5) / t
        mean = (profiles[width] * time).sum()
        spread = (profiles[width] * (time - mean) ** 2).sum().sqrt()
        assert abs(spread - width) <= 0.5 / t  # no time is moved by more than half a step


def test_the_first_update_replaces_the_first_weights(network):
    ema = PowerEMA(network)
    network[0].weight.data.normal_()
    ema.update(network)
    for average in ema.averages.values():
        assert torch.equal(average[0].weight, network[0].weight)


def test_the_run_own_average_stays_the_same_module(network):
    ema = PowerEMA(network, widths=[0.05], width=0.13)
    mine = ema.network
    for _ in range(5):
        network[0].weight.data.normal_()
        ema.update(network)
    ema.load_state_dict(copy.deepcopy(ema.state_dict()))
    assert ema.network is mine is ema.averages[0.13] and not mine.training
    assert not any(parameter.requires_grad for parameter in mine.parameters())
    alone = PowerEMA(network, widths=[], width=0.13)
    assert list(alone.averages) == [0.13]


@pytest.mark.parametrize("width", [0.03, 0.035, 0.07, 0.085, 0.14, 0.18])
def test_no_blend_comes_nearer_to_an_untracked_width(width):
    t, n = 400, 3000
    steps = torch.randn(t, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    walk = 50 + steps.cumsum(0)  # far from 0: a blend that shrank it by 1 % would be off by half a step
    tracked, state = averages(walk, WIDTHS)
    aim = averages(walk, [width])[0][width]
    error = (post_hoc(state, width)["weight"][0] - aim).square().mean().sqrt()

    # The best blend whose shares sum to 1, found by least squares on the averages themselves: it knows the aim.
    last = tracked[WIDTHS[-1]]
    apart = torch.stack([tracked[each] - last for each in WIDTHS[:-1]], dim=1).numpy()
    shares = np.linalg.lstsq(apart, (aim - last).numpy(), rcond=None)[0]
    best = (torch.from_numpy(apart @ shares) + last - aim).square().mean().sqrt()
    nearest = min((average - aim).square().mean().sqrt() for average in tracked.values())
    assert best <= error < 1.005 * best  # fitting 3 shares to n walks gains 3/(2n) = 0.05 %, finite t as little
    assert error < nearest / 6


def test_a_tracked_width_comes_back_as_it_is(network):
    ema = PowerEMA(network, widths=WIDTHS, width=0.1)
    for _ in range(50):
        network[0].weight.data += torch.randn(4, 3)
        ema.update(network)
    for width, average in ema.averages.items():
        for name, value in average.named_parameters():
            assert torch.allclose(post_hoc(ema.state_dict(), width)[name], value, rtol=1e-6, atol=1e-6)


def test_weights_that_stand_still_are_blended_into_themselves(network):
    ema = PowerEMA(network)
    for _ in range(20):
        ema.update(network)
    for name, value in post_hoc(ema.state_dict(), 0.07).items():
        assert torch.allclose(value, network.state_dict()[name], rtol=1e-6)


def test_widths_that_are_nearly_the_same_do_no_harm():
    walk = torch.randn(300, 500, generator=torch.Generator().manual_seed(0)).cumsum(0).double()
    many = [0.02 + 0.01 * i for i in range(20)]
    for widths in (many, [0.1, 0.1 + 1e-9, 0.2]):
        tracked, state = averages(walk, widths)
        between = post_hoc(state, widths[1])["weight"][0]
        assert torch.allclose(between, tracked[widths[1]], atol=1e-4)


def test_a_blend_is_a_whole_state_with_the_buffers_of_the_run_own_average(network):
    ema = PowerEMA(network)
    for _ in range(3):
        network(torch.randn(8, 3))
        network[0].weight.data.normal_()
        ema.update(network)
    blend = post_hoc(ema.state_dict(), 0.07)
    network.load_state_dict(blend)
    assert torch.equal(blend["1.running_mean"], ema.network[1].running_mean)
    assert blend["1.num_batches_tracked"].dtype == torch.int64 and int(blend["1.num_batches_tracked"]) == 3


def test_power_state_goes_round_through_a_file(network, tmp_path):
    ema = PowerEMA(network, widths=[0.05, 0.2], width=0.1)
    for _ in range(3):
        network(torch.randn(8, 3))
        network[0].weight.data.normal_()
        ema.update(network)
    torch.save(ema.state_dict(), tmp_path / "state.pt")
    other = PowerEMA(copy.deepcopy(network), widths=[0.05, 0.2], width=0.1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    network[0].weight.data.normal_()
    ema.update(network)
    other.update(network)
    assert other.updates == 4
    for width, average in ema.averages.items():
        for name, value in average.state_dict().items():
            assert torch.equal(other.averages[width].state_dict()[name], value)


@pytest.mark.parametrize("width", [-0.1, 0.0, 1 / math.sqrt(12), 1.0, math.nan])
def test_widths_out_of_range_are_refused(network, width):
    with pytest.raises(ValueError, match="^width="):
        PowerEMA(network, width=width)
    with pytest.raises(ValueError, match="^widths="):
        PowerEMA(network, widths=[0.05, width])


@pytest.mark.parametrize("width", [0.0, 0.049, 0.21, math.nan])
def test_a_width_outside_the_tracked_ones_is_refused(network, width):
    state = PowerEMA(network, widths=[0.05, 0.2], width=0.1).state_dict()
    with pytest.raises(ValueError, match=r"^width=.* from 0\.05 to 0\.2$"):
        post_hoc(state, width)


def test_a_run_with_a_plain_average_has_no_other_widths(network):
    with pytest.raises(ValueError, match="^width=0.1: .*ema=power"):
        post_hoc(EMA(network).state_dict(), 0.1)
