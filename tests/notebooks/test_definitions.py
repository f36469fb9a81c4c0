"""What the notebooks define by themselves says the same as the package."""

import ast

import pytest
import torch
from conftest import ROOT, FiniteDenoiser

from diffusion.denoiser import Denoiser, Estimate, per_image
from diffusion.guidance import Guided
from diffusion.loss import Target
from diffusion.objective import V
from diffusion.sampler import DDIM
from diffusion.schedule import Cosine, levels_at

DEFINITIONS = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
STEPS = 8


def definitions(name, **sizes):
    """The functions and classes of a notebook, without what it does with them."""
    tree = ast.parse((ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, DEFINITIONS)]
    names = {**sizes, "__name__": name}
    exec(compile(tree, f"{name}.py", "exec"), names)
    return names


@pytest.fixture(scope="module")
def scratch():
    return definitions("0_from_scratch", DRAW_STEPS=STEPS)


class Wave(torch.nn.Module):
    """Some function of a picture, its time in 0..1000 and its kind, for the package."""

    num_classes = 10

    def forward(self, x, t, labels):
        return torch.sin(3 * x + per_image(t / 300 + labels, x)).roll(1, dims=-1)


def wave(x, t, kind):
    """The same for the notebook, whose times lie in 0..1."""
    return Wave()(x, 1000 * t, kind)


@pytest.fixture
def batch(generator):
    x_0, noise = torch.randn(2, 6, 1, 28, 28, generator=generator, dtype=torch.float64)
    return x_0, noise, torch.tensor([0.001, 0.2, 0.5, 0.8, 0.999, 1.0], dtype=torch.float64), torch.arange(5, 11)


def test_from_scratch_imports_nothing_of_the_package():
    tree = ast.parse((ROOT / "notebooks" / "0_from_scratch.py").read_text(encoding="utf-8"))
    named = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules = {name.split(".")[0] for name in named}
    assert modules == set("copy importlib itertools math os pathlib matplotlib numpy PIL torch".split())


def test_its_schedule_is_the_package_s(scratch):
    t = torch.arange(1001, dtype=torch.float64) / 1000
    for found, expected in zip(scratch["schedule"](t), Cosine()(t), strict=True):
        assert float((found - expected).abs().max()) < 1e-6
    assert [float(each) for each in scratch["schedule"](torch.tensor(0.0))] == [1, 0]


def test_its_loss_is_the_package_s(scratch, batch):
    x_0, noise, t, kind = batch
    expected = Target()(Denoiser(Wave(), Cosine(), V()), x_0, t, noise, kind).mean()
    assert abs(float(scratch["loss_of"](wave, x_0, kind, t, noise) - expected)) < 1e-6


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.95), (0.5, 0.3), (0.05, 0.0)])
def test_its_step_is_the_package_s(scratch, batch, t, s):
    x_t, x_0 = batch[:2]
    before, after = levels_at(Cosine(), [t, s])
    expected = DDIM(STEPS).advance(Estimate(x_0), x_t, before, after, lambda: None)
    times = torch.tensor([t, s], dtype=torch.float64)
    assert float((scratch["ddim_step"](x_t, x_0, *times) - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_it_draws_what_the_package_draws(scratch, batch, scale):
    _, noise, _, _ = batch
    kind = torch.arange(6)
    found, way = scratch["draw"](wave, kind, noise, scratch["guided"](scale))
    seen = []
    expected = DDIM(STEPS).sample(
        Guided(Denoiser(Wave(), Cosine(), V()), scale), lambda: noise, kind, lambda x_t, x_0: seen.append(x_t)
    )
    assert len(way) == len(seen) == STEPS and float(found.abs().max()) <= 1
    # The notebook's times are float32, and its steps so much less exact.
    assert float((found - expected).abs().max()) < 1e-4


def test_every_weight_of_its_network_takes_part(scratch, generator):
    network = scratch["UNet"](16)
    for parameter in network.parameters():  # some are zero at first and stop the gradient
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    x, t, kind = torch.randn(11, 1, 28, 28, generator=generator), torch.linspace(0.1, 1, 11), torch.arange(11)
    answer = network(x, t, kind)
    assert answer.shape == x.shape
    answer.square().sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters())
    assert all(bool(row.abs().sum() > 0) for row in network.kind.weight.grad)


def test_the_exact_denoiser_is_the_posterior_mean(generator):
    points, labels = torch.randn(7, 2, 1, 1, generator=generator), torch.tensor([0, 1, 0, 1, 2, 2, 0])
    exact = definitions("1_flat_land")["Exact"](Cosine(), points, labels)
    x_t = torch.randn(5, 2, 1, 1, generator=generator)
    for t in (0.1, 0.5, 1.0):
        whole = FiniteDenoiser(Cosine(), points)
        none = torch.full((5,), exact.num_classes)
        assert torch.allclose(exact(x_t, t), whole(x_t, t), atol=1e-5)
        assert torch.equal(exact(x_t, t, none), exact(x_t, t))
        for label in range(3):
            part = FiniteDenoiser(Cosine(), points[labels == label])
            assert torch.allclose(exact(x_t, t, torch.full((5,), label)), part(x_t, t), atol=1e-5)


def test_points_lie_where_pixels_do_and_rings_have_their_radius():
    names = definitions("1_flat_land")
    for world, classes in (("moons", 2), ("rings", 3)):
        points, labels = names[world](600)
        assert points.shape == (600, 2, 1, 1) and labels.bincount().tolist() == [600 // classes] * classes
        assert float(points.abs().max()) < 1.2
    radius = points.flatten(1).norm(dim=1)
    for ring in range(3):  # 0.03 of noise in each of 200 points
        assert abs(float(radius[labels == ring].mean()) - (0.2 + 0.35 * ring)) < 4 * 0.03 / 200**0.5
