"""The denoiser: loss and estimate against their formulas."""

import pytest
import torch

from diffusion.denoiser import Denoiser
from diffusion.loss import Target
from diffusion.objective import X0, Epsilon, V
from diffusion.schedule import Cosine, Flow, Linear


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
    losses = Target()(Denoiser(network, schedule, objective), x_0, t, noise, labels)
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


def test_one_time_for_all_images():
    network = Scripted(torch.zeros(3, 1, 4, 4))
    denoiser, x_t = Denoiser(network, Cosine(), V()), torch.ones(3, 1, 4, 4)
    assert torch.equal(denoiser(x_t, 0.25), denoiser(x_t, torch.full((3,), 0.25)))
    assert denoiser.evaluated == 6


@pytest.mark.parametrize(
    ("schedule", "named"),
    [(Flow(), "schedule=flow"), (Linear(zero_terminal_snr=True), "schedule.zero_terminal_snr=true")],
)
def test_epsilon_needs_signal_at_the_end(schedule, named):
    with pytest.raises(ValueError, match=f"objective=epsilon cannot be used with {named}.*objective=v"):
        Denoiser(Scripted(None), schedule, Epsilon())
    Denoiser(Scripted(None), schedule, V())


def test_a_second_head_gives_the_share_of_the_variance():
    network = Scripted(torch.cat([torch.full((2, 1, 4, 4), 0.3), torch.full((2, 1, 4, 4), -1.0)], dim=1))
    found = Denoiser(network, Cosine(), X0(), learns_variance=True).estimate(torch.zeros(2, 1, 4, 4), 0.5)
    assert float((found.x_0 - 0.3).abs().max()) < 1e-6 and torch.equal(found.share, torch.zeros(2, 1, 4, 4))
