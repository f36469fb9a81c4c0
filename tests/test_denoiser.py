"""The denoiser: loss and estimate against their formulas."""

import pytest
import torch

from diffusion.denoiser import Denoiser
from diffusion.objective import X0, Epsilon, V
from diffusion.schedule import Cosine, Linear


class Scripted(torch.nn.Module):
    """A network that returns a given tensor and remembers what it was asked."""

    num_classes = 4

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, labels):
        self.asked = (x, t, labels)
        return self.answer


@pytest.mark.parametrize("objective", [Epsilon(), X0(), V()])
def test_the_loss_is_the_squared_error_of_the_target(objective, generator):
    x_0, noise = torch.randn(2, 3, 1, 4, 4, generator=generator)
    t, labels = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 1, 4])
    schedule = Linear()
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in schedule(t))
    target = objective.target(x_0, noise, alpha, sigma)
    network = Scripted(target + 0.5)
    losses = Denoiser(network, schedule, objective).loss(x_0, t, noise, labels)
    assert torch.allclose(losses, torch.full((3,), 0.25), atol=1e-5)
    x, times, asked = network.asked
    assert torch.allclose(x, alpha * x_0 + sigma * noise) and torch.allclose(times, 1000 * t)
    assert torch.equal(asked, labels)


@pytest.mark.parametrize("objective", [Epsilon(), X0(), V()])
def test_the_right_answer_gives_the_clean_image(objective, generator):
    x_0, noise = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    schedule = Cosine()
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in schedule(t))
    denoiser = Denoiser(Scripted(objective.target(x_0, noise, alpha, sigma)), schedule, objective)
    assert torch.allclose(denoiser(alpha * x_0 + sigma * noise, t), x_0, atol=1e-9)


def test_no_labels_mean_the_null_class():
    network = Scripted(torch.zeros(2, 1, 4, 4))
    Denoiser(network, Cosine(), V())(torch.zeros(2, 1, 4, 4), torch.ones(2))
    assert network.asked[2].tolist() == [4, 4]


def test_epsilon_needs_signal_at_the_end():
    class Flow:
        def __call__(self, t):
            return 1 - t, t

    with pytest.raises(ValueError, match="objective=epsilon.*schedule=Flow.*objective=v"):
        Denoiser(Scripted(None), Flow(), Epsilon())
    Denoiser(Scripted(None), Flow(), V())
