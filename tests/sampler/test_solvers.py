"""Euler, Heun, DPM-Solver++ and UniPC: closed forms, orders of convergence, and agreement with diffusers."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import Exact, FiniteDenoiser, GaussianDenoiser

from diffusion.denoiser import Denoiser
from diffusion.guidance import Guided
from diffusion.objective import Epsilon, V
from diffusion.sampler import DDIM, Consistency, DPMSolver, Euler, Heun, UniPC
from diffusion.sampler.base import draw_images
from diffusion.sampler.grid import GRIDS
from diffusion.sampler.unipc import weights
from diffusion.schedule import EDM, Cosine, Flow, Linear, Quadratic, Sigmoid, levels_at

CPU = torch.device("cpu")
SCHEDULES = [Linear(), Quadratic(), Sigmoid(), Cosine(), Flow(), EDM(), Linear(zero_terminal_snr=True)]
names = [f"{type(schedule).__name__}{'-rescaled' * (schedule is SCHEDULES[-1])}" for schedule in SCHEDULES]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=names)
SAMPLERS = {
    "ddim": lambda steps, **rest: DDIM(steps, **rest),
    "ddpm": lambda steps, **rest: DDIM(steps, eta=1.0, **rest),
    "euler": lambda steps, **rest: Euler(steps, churn=10, **rest),
    "heun": lambda steps, **rest: Heun(steps, **rest),
    "heun churn": lambda steps, **rest: Heun(steps, churn=10, **rest),
    "edm": lambda steps, **rest: Heun(steps, variable="sigma", **{"grid": "karras", **rest}),
    "dpm_solver": lambda steps, **rest: DPMSolver(steps, **rest),
    "unipc 2": lambda steps, **rest: UniPC(steps, order=2, **rest),
    "unipc 3": lambda steps, **rest: UniPC(steps, order=3, **rest),
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


@every_schedule
@every_sampler
def test_the_exact_denoiser_of_a_gaussian_gives_back_the_gaussian(schedule, make):
    mean, std = 0.3, 0.5
    sampler = make(250, clip=False)
    x = draw_images(sampler, GaussianDenoiser(schedule, mean, std), (1, 8, 8), None, 128, 0, 128, CPU)
    # 8192 values: standard error of the mean 0.0055, of the standard deviation 0.0039; 250 steps add a little, and
    # so does a schedule that does not end in pure noise (linear: α = 0.006).
    assert abs(float(x.mean()) - mean) < 0.025
    assert abs(float(x.std()) - std) < 0.025


@every_schedule
@every_sampler
@pytest.mark.parametrize("grid", GRIDS)
def test_the_exact_denoiser_of_a_finite_set_lands_on_its_points(schedule, make, grid, generator):
    """And on each as often as it is in the data."""
    points, p = torch.rand(4, 1, 4, 4, generator=generator) * 2 - 1, torch.tensor([0.1, 0.2, 0.3, 0.4])
    denoiser = FiniteDenoiser(schedule, points, p.tolist())
    x = draw_images(make(40, grid=grid), denoiser, (1, 4, 4), None, 400, 0, 400, CPU)
    distance = (x[:, None] - points[None]).flatten(2).norm(dim=2)
    assert float(distance.min(dim=1).values.max()) < 1e-2
    share = torch.bincount(distance.argmin(dim=1), minlength=4) / 400
    assert ((share - p).abs() < 4 * (p * (1 - p) / 400).sqrt() + 0.03).all(), share


def deviation(sampler, schedule):
    """Distance from the exact path before the last step, for Gaussian data: there x keeps its place in the marginal,
    (x_s − α_s μ)/√(α_s² s² + σ_s²) is constant (the probability-flow ODE with the exact score)."""
    mean, std, seen = 0.2, 0.6, []
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1, 1, 1)
    levels = levels_at(schedule, sampler.times(schedule))
    place = None
    sampler.sample(GaussianDenoiser(schedule, mean, std), lambda: noise, observe=lambda x_t, x_0: seen.append(x_t))
    for x, at in ((seen[0], levels[0]), (seen[-1], levels[-2])):
        moved = (x - at.alpha * mean) / math.sqrt((at.alpha * std) ** 2 + at.sigma**2)
        place = moved if place is None else place
    return float((moved - place).abs().max())


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda steps, **rest: DDIM(steps, **rest), 1),
        (lambda steps, **rest: Euler(steps, **rest), 1),
        (lambda steps, **rest: Heun(steps, **rest), 2),
        (lambda steps, **rest: Heun(steps, variable="sigma", **rest), 2),
        (lambda steps, **rest: DPMSolver(steps, **rest), 2),
        (lambda steps, **rest: UniPC(steps, order=1, **rest), 2),
        (lambda steps, **rest: UniPC(steps, order=2, **rest), 3),
        (lambda steps, **rest: UniPC(steps, order=3, **rest), 4),
    ],
    ids=["ddim", "euler", "heun", "heun in sigma", "dpm_solver", "unipc 1", "unipc 2", "unipc 3"],
)
@pytest.mark.parametrize(
    ("schedule", "grid"), [(EDM(sigma_max=20), "uniform"), (EDM(sigma_max=20), "log_snr"), (Flow(), "karras")]
)
def test_the_error_falls_with_the_order_of_the_method(make, order, schedule, grid):
    """Twice the steps, 2^order times less error. The predictor of UniPC with order p and its corrector reach p + 1."""
    coarse, fine, finest = (deviation(make(steps, clip=False, grid=grid), schedule) for steps in (80, 160, 320))
    assert finest < fine < coarse
    assert math.log2(fine / finest) == pytest.approx(order, abs=0.2), (coarse, fine, finest)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_where_nothing_of_the_image_is_left_multistep_methods_are_of_second_order(order):
    """Even steps in t from pure noise: the first is infinitely long in λ."""
    for schedule in (Cosine(), Flow()):
        errors = {}
        for make in (lambda steps: UniPC(steps, order, clip=False), lambda steps: DPMSolver(steps, clip=False)):
            coarse, fine = (deviation(make(steps), schedule) for steps in (80, 320))
            assert 1.6 < math.log2(coarse / fine) / 2 < 2.2, (schedule, coarse, fine)
            errors[type(make(1))] = fine
        assert order == 1 or errors[UniPC] < errors[DPMSolver] / 2


def test_grids_fall_from_noise_to_the_image():
    for schedule in SCHEDULES:
        for name, grid in GRIDS.items():
            for steps in (1, 2, 7, 40):
                times = grid(schedule, steps)
                assert len(times) == steps + 1 and times[-1] == 0 and 0.7 < times[0] <= 1, name
                assert all(later < earlier for earlier, later in pairwise(times)), (name, times)


def test_karras_grid_is_that_of_the_paper():
    """Eq. 5 with σ_min = 0.002, σ_max = 80, ρ = 7; on the schedule α = 1, σ = σ_max t^ρ."""
    levels = levels_at(EDM(), GRIDS["karras"](EDM(), 18))
    i = torch.arange(18, dtype=torch.float64)
    paper = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert torch.allclose(torch.tensor([level.sigma for level in levels[:-1]], dtype=torch.float64), paper, rtol=1e-6)


def test_euler_is_ddim_without_churn(generator):
    x = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    for schedule in SCHEDULES:
        denoiser = GaussianDenoiser(schedule, 0.1, 0.5)
        a, b = (sampler.sample(denoiser, lambda: x) for sampler in (DDIM(7), Euler(7)))
        assert torch.allclose(a, b, atol=1e-9)


def test_churn_keeps_the_noise_level(generator):
    """After stirring, x has the variance of the level it is said to be at: α² s² + σ² for data N(0, s²)."""
    schedule, std = Cosine(), 0.5
    (t,) = levels_at(schedule, [0.5])
    sampler = Euler(10, churn=3)
    spread = math.sqrt((t.alpha * std) ** 2 + t.sigma**2)
    x = spread * torch.randn(100_000, 1, 1, 1, generator=generator, dtype=torch.float64)
    fresh = lambda: torch.randn(x.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    denoise = type("Denoise", (), {"schedule": schedule})()
    stirred, higher = sampler.stir(denoise, x, t, fresh)
    assert higher.ratio == pytest.approx(1.3 * t.ratio, rel=1e-6)
    assert float(stirred.std()) == pytest.approx(math.sqrt((higher.alpha * std) ** 2 + higher.sigma**2), rel=0.01)


def test_weights_integrate_polynomials_exactly():
    """∫ e^{λ − λ_s} u^k dλ over one step, by quadrature, against the weights at three nodes."""
    h, ratios = 0.7, [-1.3, -0.6, 1.0]
    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    found = weights(h, ratios)
    for k in (1, 2, 3):
        integral = float(torch.trapezoid(torch.exp(h * (u - 1)) * u**k, u)) * h
        assert sum(w / r * r**k for w, r in zip(found, ratios, strict=True)) * (1 - math.exp(-h)) == pytest.approx(
            integral, rel=1e-8
        )


def test_heun_counts_both_evaluations():
    seen = []
    sampler = Heun(6)
    noise = torch.zeros(1, 1, 2, 2)
    sampler.sample(GaussianDenoiser(Cosine(), 0, 1), lambda: noise, observe=lambda x_t, x_0: seen.append(1))
    assert len(seen) == sampler.evaluations == 11


def test_consistency_sampling_forgets_the_noise_it_came_from(generator):
    """x_s = α_s x̂_0 + σ_s z: with a denoiser that gives a constant, x_s has exactly its mean and the noise's spread."""

    class Constant(Exact):
        def answer(self, x_t, alpha, sigma):
            return torch.full_like(x_t, 0.25)

    seen = []
    fresh = lambda: torch.randn(50_000, 1, 1, 1, generator=generator)  # noqa: E731
    x = Consistency(3).sample(Constant(Cosine()), fresh, observe=lambda x_t, x_0: seen.append(x_t))
    assert torch.equal(x, torch.full_like(x, 0.25)) and len(seen) == 3
    for x_t, level in zip(seen, levels_at(Cosine(), Consistency(3).times(Cosine())), strict=False):
        assert float(x_t.mean()) == pytest.approx(0.25 * level.alpha, abs=0.02)
        assert float(x_t.std()) == pytest.approx(level.sigma, rel=0.02)


def test_starting_from_images(generator):
    """With the exact denoiser of two points, a weakly noised image comes back; a wholly noised one may be either."""
    points = torch.stack([torch.full((1, 4, 4), 0.8), torch.full((1, 4, 4), -0.8)])
    denoiser, start = FiniteDenoiser(Cosine(), points), points[:1].expand(64, 1, 4, 4)
    fresh = lambda: torch.randn(64, 1, 4, 4, generator=generator)  # noqa: E731
    for make in SAMPLERS.values():
        for steps in (10, 20):
            for strength in (0.1, 0.2, 0.3, 0.45):  # times of the grid, but for rounding
                near = make(steps).sample(denoiser, fresh, start=start, strength=strength)
                assert torch.allclose(near, start, atol=2e-2), (steps, strength)
        far = make(20).sample(denoiser, fresh, start=start, strength=1.0)
        assert 0.1 < float((far.mean(dim=(1, 2, 3)) > 0).float().mean()) < 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(10, grid="even"), "grid=even must be one of uniform, quadratic, karras, log_snr"),
        (lambda: Euler(10, churn=-1), "churn=-1"),
        (lambda: Euler(10, churn_low=2, churn_high=1), "churn_low=2"),
        (lambda: Heun(10, variable="time"), "variable=time"),
        (lambda: UniPC(10, order=4), "order=4"),
        (lambda: Euler(10, churn_noise=0), "churn_noise=0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Still(torch.nn.Module):
    """A network that answers 0.01 everywhere."""

    num_classes = 0

    def forward(self, x, t, labels=None):
        return torch.full_like(x, 0.01)


@pytest.mark.parametrize(("objective", "bounded"), [(Epsilon(), True), (V(), False)])
def test_an_estimate_is_clamped_of_itself_only_where_noise_is_predicted(objective, bounded):
    """x̂_0 = (x_t − σ ε̂)/α has no bound where α → 0; that of v-prediction has."""
    denoiser = Denoiser(Still(), Cosine(), objective)
    seen = []

    def draw(clip):
        seen.clear()
        arguments = (denoiser, (1, 8, 8), None, 16, 0, 16, CPU)
        return draw_images(UniPC(12, clip=clip), *arguments, observe=lambda x_t, x_0: seen.append(x_0.abs().max()))

    automatic = draw(None)
    highest = float(max(seen))
    assert torch.equal(automatic, draw(bounded))
    assert highest <= 1 if bounded else highest > 1
    draw(False)
    assert float(max(seen)) > 1000 if bounded else float(max(seen)) < 10


def test_with_a_margin_an_estimate_is_clamped_where_black_and_white_were_learned():
    """A guided step sees the clamped estimate through Wrapped, too."""
    denoiser = Denoiser(Still(), Cosine(), Epsilon(), margin=0.2)
    assert Guided(denoiser, 2.0).margin == 0.2
    drawn = draw_images(DDIM(12), denoiser, (1, 8, 8), None, 16, 0, 16, CPU)
    assert float(drawn.abs().max()) == pytest.approx(1.2)
    assert DDIM(12, clip=False).bound(denoiser) is UniPC(12).bound(Denoiser(Still(), Cosine(), V())) is None
