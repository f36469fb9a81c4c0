"""Loss weights, the variational bound and consistency, against closed forms."""

import math
from functools import partial

import pytest
import torch

from diffusion import variational
from diffusion.data.images import decode, encode
from diffusion.denoiser import Denoiser, beyond
from diffusion.loss import EDM, P2, Epsilon, MinSNR, Target
from diffusion.loss.consistency import Consistency
from diffusion.loss.hybrid import Hybrid
from diffusion.objective import EDM as EDMObjective
from diffusion.objective import X0, Flow, V
from diffusion.objective import Epsilon as EpsilonObjective
from diffusion.schedule import EDM as EDMSchedule
from diffusion.schedule import Cosine, Linear, Sigmoid
from diffusion.schedule import Flow as FlowSchedule

OBJECTIVES = [EpsilonObjective(), X0(), V(), Flow(), EDMObjective(0.7)]
T = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)


class Answering(torch.nn.Module):
    """A network whose output makes x̂_0 equal to a given image, whatever the objective."""

    num_classes = 0

    def __init__(self, x_hat, schedule, objective, t):
        super().__init__()
        c_skip, c_out, self.c_in = (c.view(-1, 1, 1, 1) for c in objective.coefficients(*schedule(t)))
        self.answer = lambda x_t: (x_hat - c_skip * x_t) / c_out

    def forward(self, x, t, labels):
        return self.answer(x / self.c_in)


def images(generator, n=4):
    return torch.randn(3, n, 1, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), FlowSchedule(), EDMSchedule()])
@pytest.mark.parametrize("loss", [Epsilon(), MinSNR(), P2(), EDM(0.7)])
def test_the_same_estimate_has_the_same_loss_under_every_objective(schedule, loss, generator):
    x_0, noise, x_hat = images(generator)
    t = T.clamp(min=0.3)
    found = []
    for objective in OBJECTIVES[isinstance(schedule, FlowSchedule) :]:  # ε needs some signal at the end
        denoiser = Denoiser(Answering(x_hat, schedule, objective, t), schedule, objective)
        found.append(loss(denoiser, x_0, t, noise))
    alpha, sigma = schedule(t)
    expected = loss.of_snr((alpha / sigma) ** 2) * (x_hat - x_0).square().flatten(1).mean(dim=1)
    for each in found:
        assert torch.allclose(each, expected, rtol=1e-6)


def test_weights_are_the_published_ones():
    snr = torch.tensor([0.01, 1.0, 5.0, 400.0], dtype=torch.float64)
    assert torch.equal(MinSNR(5.0).of_snr(snr), torch.tensor([0.01, 1.0, 5.0, 5.0], dtype=torch.float64))
    assert torch.allclose(P2(gamma=0.5, k=1).of_snr(snr), snr / (1 + snr).sqrt())
    assert torch.equal(P2(gamma=0).of_snr(snr), Epsilon().of_snr(snr))
    sigma = snr.rsqrt()  # with α = 1: λ(σ) = (σ² + σ_d²)/(σ σ_d)²
    assert torch.allclose(EDM(0.5).of_snr(snr), (sigma**2 + 0.25) / (sigma * 0.5) ** 2)


@pytest.mark.parametrize(
    ("objective", "loss"),
    [(EpsilonObjective(), Epsilon()), (EDMObjective(0.7), EDM(0.7)), (EpsilonObjective(), Target())],
)
def test_a_weight_that_suits_the_objective_is_one(objective, loss):
    alpha, sigma = Cosine()(T)
    c_out = objective.coefficients(alpha, sigma)[1]
    assert torch.allclose(loss.weight(alpha, sigma, c_out), torch.ones(4, dtype=torch.float64), rtol=1e-9)


def test_a_margin_moves_the_ends_of_the_range_alone_and_every_grey_level_is_read_back():
    levels = torch.arange(256, dtype=torch.uint8)
    moved = beyond(encode(levels), 0.1)
    assert moved[0] == pytest.approx(-1.1) and moved[255] == pytest.approx(1.1)
    assert torch.equal(moved[1:255], encode(levels)[1:255])
    assert torch.equal(decode(moved), levels)
    assert torch.equal(decode(moved[:1] + 0.09), levels[:1]) and not torch.equal(decode(moved[1:2] + 0.09), levels[1:2])


@pytest.mark.parametrize("kind", [Target, Epsilon, MinSNR, P2, partial(EDM, 0.7)])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_with_a_margin_the_loss_is_that_of_images_whose_ends_lie_further_out(kind, objective, generator):
    x_0, noise, x_hat = images(generator)
    x_0 = x_0.clamp(-1, 1)  # some pixels lie at both ends
    assert (x_0 == -1).any() and (x_0 == 1).any()
    further = torch.where(x_0.abs() == 1, 1.25 * x_0, x_0)
    denoiser = Denoiser(Answering(x_hat, Cosine(), objective, T), Cosine(), objective)
    assert torch.allclose(kind(margin=0.25)(denoiser, x_0, T, noise), kind()(denoiser, further, T, noise), rtol=1e-9)


def test_consistency_with_a_margin_agrees_with_images_whose_ends_lie_further_out(generator):
    x_0, noise, x_hat = images(generator)
    further = torch.where((x_0 := x_0.clamp(-1, 1)).abs() == 1, 1.25 * x_0, x_0)
    denoiser = Denoiser(Answering(x_hat, Cosine(), V(), T), Cosine(), V())
    found, expected = (Consistency(margin=m)(denoiser, x, T, noise) for m, x in ((0.25, x_0), (0, further)))
    assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", [Target, Epsilon, MinSNR, P2, partial(EDM, 0.7), Consistency, Hybrid])
@pytest.mark.parametrize("margin", [-0.1, 1.5])
def test_a_margin_out_of_range_is_refused(kind, margin):
    with pytest.raises(ValueError, match=f"margin={margin} must lie between 0 and 1"):
        kind(margin=margin)


@pytest.mark.parametrize(("kind", "setting"), [(MinSNR, "gamma"), (P2, "k"), (EDM, "sigma_data"), (Hybrid, "weight")])
def test_settings_out_of_range_are_refused(kind, setting):
    with pytest.raises(ValueError, match=f"{setting}=0"):
        kind(**{setting: 0})


class TwoHeads(torch.nn.Module):
    num_classes = 0

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.full((1, 1, 1, 1), 0.2))
        self.share = torch.nn.Parameter(torch.full((1, 1, 1, 1), 0.5))

    def forward(self, x, t, labels):
        return torch.cat([self.mean.expand_as(x), self.share.expand_as(x)], dim=1)


def test_hybrid_is_the_sum_of_its_parts_and_the_bound_leaves_the_mean_alone(generator):
    x_0, noise, _ = images(generator)
    x_0 = x_0.clamp(-1, 1)
    network, schedule, objective = TwoHeads().double(), Cosine(), V()
    denoiser = Denoiser(network, schedule, objective, learns_variance=True)
    loss = Hybrid(weight=0.01)(denoiser, x_0, T, noise)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in schedule(T))
    x_t = alpha * x_0 + sigma * noise
    simple = (network.mean - objective.target(x_0, noise, alpha, sigma)).square().flatten(1).mean(dim=1)
    bits = variational.step_bits(schedule, x_0, x_t, T, T - 0.001, denoiser(x_t, T), (network.share + 1) / 2)
    assert torch.allclose(loss, simple + 0.01 * 1000 * bits, rtol=1e-9)
    (from_all,) = torch.autograd.grad(loss.sum(), network.mean, retain_graph=True)
    (from_simple,) = torch.autograd.grad(simple.sum(), network.mean)
    assert torch.allclose(from_all, from_simple)
    assert float(torch.autograd.grad(loss.sum(), network.share)[0].abs()) > 0


@pytest.mark.parametrize("schedule", [Linear(), Sigmoid(), Cosine(), Cosine(20), FlowSchedule(), EDMSchedule()])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_hybrid_is_finite_at_every_time(schedule, objective, generator):
    """In float32, with black pixels too, also where the process of the bound has no step any more."""
    if objective.needs_signal and isinstance(schedule, FlowSchedule):
        return
    times = torch.cat([10.0 ** torch.arange(-7, 0), torch.linspace(0.0005, 1, 500)])
    x_0, noise = torch.randn(2, len(times), 1, 2, 2, generator=generator)
    x_0 = x_0.clamp(-1, 1)
    network = TwoHeads()
    losses = Hybrid()(Denoiser(network, schedule, objective, learns_variance=True), x_0, times, noise)
    assert losses.isfinite().all()
    losses.sum().backward()
    assert network.mean.grad.isfinite().all() and network.share.grad.isfinite().all()


def test_the_bound_is_not_counted_below_its_process(generator):
    """σ/α = 0.005 is where it begins: at t = 0.005 on the straight line."""
    x_0, noise, _ = images(generator, n=3)
    t = torch.tensor([0.004, 0.0049, 0.006], dtype=torch.float64)
    denoiser = Denoiser(TwoHeads().double(), FlowSchedule(), V(), learns_variance=True)
    with_bound, plain = (Hybrid(weight=weight)(denoiser, x_0.clamp(-1, 1), t, noise) for weight in (1.0, 1e-30))
    assert torch.equal(with_bound[:2], plain[:2]) and with_bound[2] > plain[2] + 1


# --------------------------------------------------------------------------------------------- consistency


def test_consistency_compares_two_points_of_one_path(generator):
    """With x̂_0 = x_t/α (ε = 0), answers differ by ε (ς_t − ς_r): then the loss is |ε| but for c."""
    x_0, noise, _ = images(generator)

    class Zero(torch.nn.Module):
        num_classes = 0

        def forward(self, x, t, labels):
            return torch.zeros_like(x)

    denoiser = Denoiser(Zero(), Cosine(), EpsilonObjective())
    loss = Consistency(huber=1e-9)
    for progress in (0.0, 0.5, 1.0):
        r, _, lower = loss.earlier(denoiser, T, progress)
        alpha, sigma = Cosine()(r.clamp(min=1e-9))
        above = lower > 0
        assert (r < T).all() and torch.allclose((sigma / alpha)[above], lower[above], rtol=1e-5)
        found = loss(denoiser, x_0, T, noise, progress=progress)
        assert torch.allclose(found, noise.flatten(1).norm(dim=1), rtol=1e-5)
    ratio = (Cosine()(T)[1] / Cosine()(T)[0]).tolist()
    gaps = [float((1 - loss.earlier(denoiser, T, 0.0)[2] / loss.earlier(denoiser, T, 0.0)[1])[k]) for k in range(4)]
    assert gaps == pytest.approx([min(1, 0.5 * (1 + 8 / (1 + math.exp(one)))) for one in ratio])
    gaps = [float((1 - loss.earlier(denoiser, T, p)[2] / loss.earlier(denoiser, T, p)[1])[-1]) for p in (0.5, 1.0)]
    assert gaps[0] / gaps[1] == pytest.approx(2**3)  # six doublings over the run


def test_consistency_needs_an_objective_that_starts_at_the_image(generator):
    Consistency().check(Denoiser(TwoHeads(), Cosine(), V()))
    for objective in (X0(), EpsilonObjective()):
        with pytest.raises(ValueError, match=f"loss=consistency cannot.*with objective={objective.name}.*objective=v"):
            Consistency().check(Denoiser(TwoHeads(), Cosine(), objective))


def test_the_answers_of_a_perfect_model_already_agree():
    """A single data point: every x_t leads to it, so a denoiser that knows it has no consistency loss."""

    class Knows(torch.nn.Module):
        num_classes = 0

        def forward(self, x, t, labels):
            return torch.full_like(x, 0.3)

    denoiser = Denoiser(Knows(), Cosine(), X0())
    x_0 = torch.full((4, 1, 4, 4), 0.3, dtype=torch.float64)
    found = Consistency()(denoiser, x_0, T, torch.randn(4, 1, 4, 4, dtype=torch.float64))
    assert float(found.abs().max()) < 1e-12
