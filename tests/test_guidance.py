"""Label dropout and classifier-free guidance."""

import math

import pytest
import torch

from diffusion.denoiser import Denoiser
from diffusion.guidance import ClassifierFree, Guided, Unconditional
from diffusion.networks.unet import UNet
from diffusion.objective import V
from diffusion.schedule import Cosine


@pytest.fixture
def denoiser(generator):
    network = UNet(1, 8, num_classes=3, width=8, multipliers=[1, 2], blocks=1, head_width=8, groups=4)
    for parameter in network.parameters():  # the output layers start at zero
        parameter.data.normal_(std=0.2, generator=generator)
    return Denoiser(network.double(), Cosine(), V()).eval()


@pytest.fixture
def inputs(generator):
    x_t = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x_t, torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64), torch.tensor([0, 1, 2, 1])


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
    "settings", [{"dropout": -0.1}, {"dropout": 1.5}, {"scale": -1}, {"dropout": 0}, {"dropout": 1}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        ClassifierFree(**settings)
