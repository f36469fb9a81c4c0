"""The other projects: they train and draw as their recipes say, and nanoflow is the network that it publishes."""

import importlib.util
import math
import sys

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import peers
from peers.nanoflow import Embedding, NanoFlow, UNet, euler
from peers.unlabelled import Diffusers, SmallDiffusion, warming_decay

CPU = torch.device("cpu")
NEEDS = {"nanoflow": (), "torchcfm": ("torchcfm", "torchdiffeq"), "smalldiffusion_dit": ("smalldiffusion",)}
NEEDS["diffusers_decay"] = ("diffusers",)
NEEDS["smalldiffusion_32"] = ("smalldiffusion",)
NEEDS["denoising_diffusion_pytorch"] = NEEDS["denoising_diffusion_pytorch_cfg"] = ("denoising_diffusion_pytorch",)


def needs(*packages):
    missing = any(importlib.util.find_spec(package) is None for package in packages)
    return pytest.mark.skipif(missing, reason='needs pip install -e ".[bench]"')


def each(*names):
    return pytest.mark.parametrize("name", [pytest.param(name, marks=needs(*NEEDS[name])) for name in names or NEEDS])


@pytest.fixture
def batch(mini):
    return mini.train.images[:4], mini.train.labels[:4]


@pytest.fixture(scope="module")
def made():
    """Each peer once: importing and building them takes longer than all else."""
    return {}


def peer(made, name):
    if name not in made:
        torch.manual_seed(0)
        made[name] = peers.make(name, CPU)
    return made[name]


def loss_of_the_same(peer, batch):
    """The loss before one more step, with noise and times that are always the same."""
    torch.manual_seed(1)
    return float(peer.step(*batch))


@each()
def test_a_peer_learns(made, name, batch):
    found = peer(made, name)
    found.progress = 0.01  # after the warm-up
    losses = [loss_of_the_same(found, batch) for _ in range(5)]
    assert losses[-1] < losses[0]


@each()
def test_the_network_of_a_peer_takes_its_inputs(made, name):
    found = peer(made, name)
    with torch.no_grad():
        output = found.network(*found.inputs(2))
    image = next(each for each in found.inputs(2) if each.shape[1:2] == (1,) and each.shape[2:] != (1, 1))
    assert getattr(output, "sample", output).shape == image.shape


@each()
def test_a_peer_draws_in_20_evaluations(made, name, monkeypatch):
    """The labelled ones give the classes in turn; two evaluations a step are for guidance."""
    found, seen = peer(made, name), []
    forward = found.network.forward
    monkeypatch.setattr(found.network, "forward", lambda *a, **k: (seen.append(1), forward(*a, **k))[1])
    images, labels = found.sample(2)
    assert images.shape == (2, 1, 28, 28) and images.dtype == torch.uint8
    assert len(seen) == found.evaluations == peers.EVALUATIONS
    assert (labels is None) == (name in peers.UNLABELLED) and (labels is None or labels.tolist() == [0, 1])


@each("diffusers_decay", "denoising_diffusion_pytorch", "smalldiffusion_32", "smalldiffusion_dit")
def test_a_peer_draws_with_its_average(made, name, batch):
    """`finish` changes the weights, a little."""
    found = peer(made, name)
    found.progress = 0.01
    for _ in range(2):
        loss_of_the_same(found, batch)
    before = torch.nn.utils.parameters_to_vector(found.network.parameters()).detach()
    found.finish()
    after = torch.nn.utils.parameters_to_vector(found.network.parameters()).detach()
    assert 0 < (after - before).norm() < 0.1 * before.norm()


@each("torchcfm")
def test_an_adaptive_solver_counts_its_evaluations(made, name):
    """dopri5 needs six a step, and two to choose its first one."""
    found = peer(made, name)
    found.own = True
    found.sample(3)
    found.own = False
    assert found.evaluations == len(found.calls) and len(found.calls) % 6 == 2 and set(found.calls) == {3}


@needs("smalldiffusion")
def test_parts_of_a_batch_have_its_gradient(batch):
    found, gradients = SmallDiffusion(CPU), []
    weight = next(found.network.parameters())
    found.loss = lambda x_0, labels: (x_0.mean(dim=(1, 2, 3)).exp() * (1 + labels) * weight.sum()).mean()
    found.update = lambda: gradients.append(weight.grad.clone())
    for found.at_once in (4, 3, 1):
        weight.grad = None
        loss = found.step(*batch)
        torch.testing.assert_close(loss, found.loss(batch[0] / 127.5 - 1, batch[1]).detach())
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@needs("diffusers")
def test_the_shipped_schedule_of_diffusers_warms_up_over_500_steps(batch):
    from diffusers import UNet2DModel

    found = Diffusers(CPU)
    assert isinstance(found.network, UNet2DModel) and found.batch_size == 16
    assert found.optimizer.param_groups[0]["lr"] == 0
    found.step(*batch)
    assert found.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 / 500)


def test_warming_decay():
    """2/11 at the first update and 0.999 late (pytorch_ema, `use_num_updates`)."""
    assert warming_decay(1) == pytest.approx(2 / 11)
    assert warming_decay(10**6) == 0.999
    assert warming_decay(10**6, 0.99) == 0.99


# ---------------------------------------------------------------------------------------------------- nanoflow


def test_nanoflow_has_the_parameters_that_it_publishes():
    """About 347 thousand (its README); the table of labels adds (10 + 1)·64."""
    plain, labelled = (sum(weight.numel() for weight in UNet(num_classes=n).parameters()) for n in (0, 10))
    assert round(plain, -3) == 347_000 and labelled - plain == 11 * 64


def test_the_time_of_nanoflow_turns_from_once_a_millisecond_to_ten_thousand_times_slower():
    found = Embedding(64, 0)
    found.layers = torch.nn.Identity()
    angles = [100 * 10_000 ** (-k / 31) for k in range(32)]  # t = 0.1
    expected = [*map(math.sin, angles), *map(math.cos, angles)]
    torch.testing.assert_close(found(torch.tensor([0.1]), None)[0], torch.tensor(expected), atol=2e-4, rtol=0)


def test_nanoflow_learns_the_way_from_noise_to_the_image(monkeypatch):
    """A network that knows ε = 0.5 and x_0 = −1 has no loss; it sees their line at t, a tenth without labels."""
    found, seen = NanoFlow(CPU), []
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.5))

    def knowing(x_t, t, labels):
        seen.append(labels)
        torch.testing.assert_close(x_t, (0.5 - 1.5 * t).view(-1, 1, 1, 1).expand_as(x_t))
        return torch.full_like(x_t, -1.5)

    monkeypatch.setattr(found.network, "forward", knowing)
    torch.manual_seed(0)
    n = 20_000
    assert found.loss(torch.full((n, 1, 2, 2), -1.0), torch.full((n,), 3)) == 0
    dropped = (seen[0] == 10).float().mean()
    assert set(seen[0].tolist()) == {3, 10} and abs(dropped - 0.1) < 4 * math.sqrt(0.1 * 0.9 / n)


def test_euler_follows_a_constant_velocity_exactly_and_others_by_their_sum():
    """Of v = 2t the left sum of four steps is 2·(0 + ¼ + ½ + ¾)/4 = ¾."""
    x = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(euler(lambda x, t: torch.full_like(x, -3), x, [0.0, 0.5, 1.0]), x - 3)
    torch.testing.assert_close(euler(lambda x, t: 2 * t[:, None], x, [0, 0.25, 0.5, 0.75]), x + 0.75)


@pytest.mark.parametrize(("own", "scale", "times"), [(False, 2, [k / 10 for k in range(10)]), (True, 3, None)])
def test_nanoflow_draws_guided(monkeypatch, own, scale, times):
    """With v = label everywhere, v of "none" = 10: x(1) = ε + 10 + scale·(label − 10)."""
    found, asked = NanoFlow(CPU, own), []

    def constant(x_t, t, labels):
        asked.append(float(t[0]))
        return labels.view(-1, 1, 1, 1).expand_as(x_t).float()

    monkeypatch.setattr(found.network, "forward", constant)
    monkeypatch.setattr(torch, "randn", lambda *shape, device: torch.ones(shape))
    labels = torch.tensor([9, 10, 7])
    expected = 1 + 10 + scale * (labels - 10.0)
    torch.testing.assert_close(found.draw(labels)[:, 0, 0, 0], expected, atol=1e-3, rtol=0)
    assert len(asked) == found.evaluations == (400 if own else 20)
    assert asked[::2] == pytest.approx(times or [k / 199 for k in range(200)])
