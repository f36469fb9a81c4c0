"""Label dropout and classifier-free guidance."""

import math

import pytest
import torch

from diffusion.denoiser import Denoiser
from diffusion.guidance import Autoguidance, ClassifierFree, Guided, Unconditional
from diffusion.networks.unet import UNet
from diffusion.objective import V
from diffusion.sampler import DDIM
from diffusion.schedule import Cosine, levels_at


@pytest.fixture
def denoiser(generator):
    network = UNet(1, 8, num_classes=3, width=8, multipliers=[1, 2], blocks=1, head_width=8, groups=4)
    for parameter in network.parameters():  # the output layers start at zero
        parameter.data.normal_(std=0.2, generator=generator)
    return Denoiser(network.double(), Cosine(), V()).eval()


@pytest.fixture
def inputs(generator):
    x_t = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x_t, 0.4, torch.tensor([0, 1, 2, 1])


@torch.no_grad()
def test_scale_one_is_conditional_and_scale_zero_unconditional(denoiser, inputs):
    x_t, t, labels = inputs
    conditional, unconditional = denoiser(x_t, t, labels), denoiser(x_t, t)
    assert not torch.allclose(conditional, unconditional)
    assert torch.equal(Guided(denoiser, 1.0)(x_t, t, labels), conditional)
    assert torch.allclose(Guided(denoiser, 0.0)(x_t, t, labels), unconditional, atol=1e-12)


@torch.no_grad()
def test_one_batched_call_equals_two_calls(denoiser, inputs):
    x_t, t, labels = inputs
    unconditional = denoiser(x_t, t, torch.full((4,), 3))
    expected = unconditional + 2.5 * (denoiser(x_t, t, labels) - unconditional)
    calls = []
    denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    assert torch.allclose(Guided(denoiser, 2.5)(x_t, t, labels), expected, atol=1e-12)
    assert len(calls) == 1


@torch.no_grad()
def test_a_scale_for_each_class(denoiser, inputs):
    x_t, t, labels = inputs
    guided = Guided(denoiser, [0.5, 2.0, 3.0])(x_t, t, labels)
    for i, scale in enumerate([0.5, 2.0, 3.0, 2.0]):
        alone = Guided(denoiser, scale)(x_t[i : i + 1], t, labels[i : i + 1])
        assert torch.allclose(guided[i : i + 1], alone, atol=1e-12)


@torch.no_grad()
def test_an_interval_guides_inside_and_costs_one_evaluation_outside(denoiser, inputs):
    x_t, _, labels = inputs
    times = [0.1, 0.4, 0.7, 1.0]
    levels = levels_at(denoiser.schedule, times)
    part, whole = Guided(denoiser, 2.0, [levels[0].ratio, levels[2].ratio]), Guided(denoiser, 2.0)
    for time, inside in zip(times, [False, True, True, False], strict=True):  # (low, high]
        before = denoiser.evaluated
        found = part(x_t, time, labels)
        assert denoiser.evaluated - before == (8 if inside else 4)
        other = whole if inside else denoiser
        assert torch.allclose(found, other(x_t, time, labels), atol=1e-12)


@torch.no_grad()
def test_rescaling_gives_back_the_contrast(denoiser, inputs):
    x_t, t, labels = inputs
    conditional, guided = denoiser(x_t, t, labels), Guided(denoiser, 4.0)(x_t, t, labels)
    whole = Guided(denoiser, 4.0, rescale=1.0)(x_t, t, labels)
    assert torch.allclose(whole.flatten(1).std(dim=1), conditional.flatten(1).std(dim=1), rtol=1e-9)
    half = Guided(denoiser, 4.0, rescale=0.5)(x_t, t, labels)
    assert torch.allclose(half, (whole + guided) / 2, atol=1e-12)


@torch.no_grad()
def test_cfg_plus_plus_carries_on_the_noise_of_the_unlabelled_estimate(denoiser, inputs):
    """Chung et al. 2024, algorithm 2: x_s = α_s x̂_0(λ) + σ_s ε̂(∅)."""
    x_t, _, labels = inputs
    guided = Guided(denoiser, 0.6, plus_plus=True)
    t, s = levels_at(denoiser.schedule, [0.7, 0.5])
    conditional, poor = denoiser(x_t, 0.7, labels), denoiser(x_t, 0.7)
    expected = s.alpha * (poor + 0.6 * (conditional - poor)) + s.sigma * (x_t - t.alpha * poor) / t.sigma
    found = DDIM(10).step(lambda x, at: guided.estimate(x, at.t, labels), x_t, t, s, None, [])
    assert torch.allclose(found, expected, atol=1e-9)


@torch.no_grad()
def test_autoguidance_moves_away_from_the_weaker_model(denoiser, inputs, generator):
    import copy

    x_t, t, labels = inputs
    weaker = copy.deepcopy(denoiser)
    for parameter in weaker.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    guide = Autoguidance(weaker, conditional=True, name="weaker", scale=1.8)
    good, poor = denoiser(x_t, t, labels), weaker(x_t, t, labels)
    assert torch.allclose(guide.guide(denoiser)(x_t, t, labels), poor + 1.8 * (good - poor), atol=1e-12)
    unlabelled = denoiser(x_t, t), weaker(x_t, t)
    expected = unlabelled[1] + 1.8 * (unlabelled[0] - unlabelled[1])
    assert torch.allclose(guide.guide(denoiser)(x_t, t), expected, atol=1e-12)


def test_dropout_acts_on_each_image_for_itself(generator):
    n, p = 100_000, 0.15
    labels = torch.randint(0, 10, (n,), generator=generator)
    dropped = ClassifierFree(dropout=p).drop(labels, torch.rand(n, generator=generator), 10)
    gone = dropped == 10
    assert abs(float(gone.double().mean()) - p) < 3 * math.sqrt(p * (1 - p) / n)
    assert torch.equal(dropped[~gone], labels[~gone])
    per_batch = gone.view(-1, 100).double().mean(dim=1)  # with a dropout per batch these would be 0 or 1
    assert ((per_batch > 0) & (per_batch < 1)).all()


def test_dropout_of_nothing_and_of_everything(generator):
    labels, u = torch.arange(10), torch.rand(10, generator=generator)
    assert torch.equal(ClassifierFree(dropout=0, scale=1).drop(labels, u, 10), labels)
    assert (ClassifierFree(dropout=1, scale=0).drop(labels, u, 10) == 10).all()
    assert Unconditional().drop(labels, u, 10) is None


def test_the_null_class_has_a_row_of_its_own(denoiser):
    assert denoiser.network.conditioning.label.weight.shape[0] == 4


@pytest.mark.parametrize(
    "settings",
    [
        *({"dropout": value} for value in (-0.1, 1.5, 0, 1)),
        *({"scale": value} for value in (-1, [], [1.0, -2.0])),
        *({"interval": value} for value in ([3.0, 1.0], [1.0], [-1.0, 2.0])),
        {"rescale": 1.5},
        {"scale": 1.5, "plus_plus": True},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        ClassifierFree(**settings)


def test_scales_must_fit_the_classes():
    ClassifierFree(scale=[1.0, 2.0, 3.0]).check(3)
    with pytest.raises(ValueError, match=r"scale=\[1.0, 2.0\] must be one number, or one for each of the 3 classes"):
        ClassifierFree(scale=[1.0, 2.0]).check(3)
