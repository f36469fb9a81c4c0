"""A trained model in Python: the same images as the scripts draw, and a file of weights that goes round."""

import tomllib

import numpy as np
import pytest
import torch
from config_helpers import tiny_config
from conftest import ROOT, same

import diffusion
from diffusion.config import training_run
from diffusion.denoiser import per_image
from diffusion.export import page_model
from diffusion.records import checkpoint
from diffusion.sampler import DDIM, UniPC
from diffusion.system.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """name → folder of a run of two steps, for models of several kinds."""
    made = {}
    kinds = {
        "conditional": {},
        "unconditional": {"guidance": "none"},
        "power": {"ema": "power", "training.steps": 6},
        "hybrid": {"loss": "hybrid"},
        "edm": {"objective": "edm", "schedule": "edm"},
    }
    for name, settings in kinds.items():
        folder = made[name] = tmp_path_factory.mktemp(name)
        trainer = training_run.build_trainer(tiny_config(**{"training.steps": 2, **settings}), folder)
        trainer.fit()
        trainer.tracker.close()
    return made


def test_sampling(runs):
    model = diffusion.load(runs["conditional"], device="cpu")
    images = model.sample(5, labels=["sneaker", 8], steps=3, guidance=1.5, seed=4, batch_size=2)
    assert images.shape == (5, 1, 28, 28) and images.dtype == torch.uint8
    again = model.sample(5, labels=torch.tensor([7, 8]), sampler=UniPC(3, clip=False), guidance={"scale": 1.5}, seed=4)
    assert (images.int() - again.int()).abs().max() <= 1
    assert not torch.equal(images, model.sample(5, labels=["sneaker", 8], steps=3, seed=5))
    assert model.sample(2, sampler=UniPC(3), guidance=(2.0,) * 10).shape == (2, 1, 28, 28)
    assert diffusion.load(runs["unconditional"], device="cpu").sample(2, steps=2).shape == (2, 1, 28, 28)


def test_denoising_is_the_formula_of_the_objective(runs, generator):
    model = diffusion.load(runs["edm"], device="cpu", precision="fp32")
    sigma_data = model.state["image"]["sigma_data"]
    x_t, t = 3 * torch.randn(3, 1, 28, 28, generator=generator), torch.tensor([0.3, 0.6, 0.9])
    alpha, sigma = (per_image(value, x_t) for value in model.noise_level(t))
    square = alpha**2 * sigma_data**2 + sigma**2
    output = model.denoiser.network(x_t / square.sqrt(), 1000 * t, torch.tensor([0, 1, 2]))
    expected = (sigma_data**2 * alpha * x_t) / square + sigma * sigma_data / square.sqrt() * output
    assert torch.allclose(model.denoise(x_t, t, torch.tensor([0, 1, 2])), expected, atol=1e-5)
    assert torch.equal(model.denoise(x_t, 0.3), model.denoise(x_t, torch.full((3,), 0.3), torch.full((3,), 10)))


@pytest.mark.parametrize("kind", ["conditional", "unconditional", "hybrid", "edm"])
def test_a_safetensors_file_goes_round(runs, kind, tmp_path):
    model, path = diffusion.load(runs[kind], device="cpu"), tmp_path / "model.safetensors"
    model.save(path)
    state = checkpoint.load(path)
    original = checkpoint.load(runs[kind] / "last.pt")
    assert same(state["network"], original["ema"]["network"])
    assert all(state[name] == original[name] for name in ("config", "image", "step", "total_steps"))
    other = diffusion.load(path, device="cpu")
    assert torch.equal(model.sample(3, steps=3), other.sample(3, steps=3))


def test_a_file_of_weights_starts_a_run_but_is_no_run(runs, tmp_path):
    path = tmp_path / "model.safetensors"
    diffusion.load(runs["conditional"], device="cpu").save(path)
    state = checkpoint.load(path)
    with pytest.raises(UserError, match="resume: that file holds a model's weights alone"):
        training_run.build_trainer(tiny_config(), tmp_path / "a", state)
    trainer = training_run.build_trainer(tiny_config(), tmp_path / "b", start=state)
    trainer.tracker.close()
    assert same(dict(trainer.parts.denoiser.network.state_dict()), state["network"])
    assert same(dict(trainer.parts.ema.network.state_dict()), state["network"])


def test_the_width_of_the_average_is_chosen_afterwards(runs):
    weights = [
        diffusion.load(runs["power"], device="cpu", ema_width=width).denoiser.network.first.weight
        for width in (None, 0.1, 0.05, 0.07, 0.2)
    ]
    assert torch.equal(weights[0], weights[1])  # ema=power's own width is 0.1
    assert len({float(weight.flatten()[0]) for weight in weights}) == 4
    with pytest.raises(UserError, match=r"ema_width=0\.25"):
        diffusion.load(runs["power"], device="cpu", ema_width=0.25)
    with pytest.raises(UserError, match=r"ema_width=0\.1.*ema=power"):
        diffusion.load(runs["conditional"], device="cpu", ema_width=0.1)
    with pytest.raises(UserError, match=r"ema_width=0\.1 .*averaged=false"):
        diffusion.load(runs["power"], device="cpu", averaged=False, ema_width=0.1)


def test_what_is_wrong_is_one_sentence(runs, tmp_path):
    model = diffusion.load(runs["conditional"], device="cpu")
    for call, message in (
        (lambda: model.sample(2, labels="hat"), "labels=hat: there is no such class"),
        (lambda: model.sample(2, labels=np.array([0, 99])), "labels=99: the labels go from 0 to 9"),
        (lambda: model.sample(2.5), "n=2.5 must be a whole number"),
        (
            lambda: model.sample(2, sampler="unipc"),
            r"sampler='unipc' must be a sampler itself, for example .*UniPC\(10\)",
        ),
        (
            lambda: model.denoise(torch.zeros(2, 28, 28), 0.5),
            r"x_t has the shape \(2, 28, 28\).* takes \(B, 1, 28, 28\)",
        ),
        (lambda: model.denoise(torch.zeros(2, 1, 28, 28), 1.5), r"t must be one time in \(0, 1\], or 2 of them"),
        (
            lambda: model.denoise(torch.zeros(2, 1, 28, 28), 0.5, torch.tensor([0, 99])),
            "labels must be 2 numbers from 0",
        ),
        (lambda: diffusion.load(runs["conditional"], devise="cpu"), "Unknown setting 'device.devise'"),
        (lambda: model.sample(0), "n=0 must be at least 1"),
        (lambda: model.sample(2, steps=0), r"sampler\.steps=0"),
        (lambda: model.sample(2, guidance=-1), r"guidance\.scale=-1"),
        (lambda: model.sample(2, guidance={"scal": 1}), r"Unknown setting 'guidance\.scal': did you mean"),
        (lambda: model.sample(2, steps=3, sampler=DDIM(3)), "steps=3 belongs to the run's own sampler"),
        (lambda: model.sample(2, sampler=DDIM(3, eta=1, variance="learned")), "sampler.variance=learned needs"),
        (lambda: model.save(tmp_path / "model.pt"), "must end in|ends in .safetensors"),
        (lambda: diffusion.load(tmp_path / "none"), "there is no such file or folder"),
        (lambda: diffusion.load(runs["conditional"], device="tpu"), r"device\.type=tpu must be one of"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(UserError, match="is no checkpoint of this project"):
        diffusion.load(other)


def test_denoise_takes_times_of_any_form(runs, generator):
    model = diffusion.load(runs["conditional"], device="cpu")
    x_t, labels = torch.randn(2, 1, 28, 28, generator=generator), torch.tensor([3, 10])
    expected = model.denoise(x_t, 0.5, labels)
    for t in (torch.tensor(0.5), torch.tensor([0.5]), torch.full((2,), 0.5, dtype=torch.float64)):
        assert torch.equal(model.denoise(x_t, t, labels), expected)
    assert torch.equal(model.denoise(x_t.double(), 0.5, labels), expected)
    assert torch.equal(model.denoise(x_t, 0.5)[1], expected[1])  # label 10 is "none"


@pytest.fixture
def elsewhere():
    """A caller who computes in float64, on another device."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def test_the_defaults_of_the_caller_change_no_image(runs, request):
    def made():
        model = diffusion.load(runs["conditional"], device="cpu")
        x_t = torch.zeros(2, 1, 28, 28, device="cpu", dtype=torch.float32)
        return model.sample(3, steps=2), model.denoise(x_t, 0.5)

    usual = made()
    request.getfixturevalue("elsewhere")
    assert all(map(torch.equal, usual, made()))
    assert torch.get_default_dtype() == torch.float64 and torch.empty(0).device.type == "meta"


def test_numbers_of_numpy_are_numbers(runs):
    model = diffusion.load(runs["conditional"], device="cpu")
    usual = model.sample(3, labels=[1, 2], steps=2, guidance=1.5, seed=4, batch_size=2)
    numbers = {"steps": np.int64(2), "guidance": np.float32(1.5), "seed": np.uint8(4), "batch_size": np.int32(2)}
    assert torch.equal(usual, model.sample(np.int64(3), labels=np.array([1, 2]), **numbers))
    with pytest.raises(UserError, match=r"n=3\.5 must be a whole number"):
        model.sample(np.float64(3.5))


def test_the_version_is_that_of_the_project():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert diffusion.__version__ == stated


def test_the_guidance_of_one_drawing_is_not_that_of_the_next(runs):
    model = diffusion.load(runs["conditional"], device="cpu")
    before, usual = model.describe(), model.sample(2, steps=2, seed=1)
    page = page_model.description(model.image_model, UniPC())["guidance"]
    model.sample(2, steps=2, guidance=7.0)
    assert 2 <= model.image_model.evaluations <= 4  # two steps, with and without the label within the interval
    assert model.describe() == before and "7" not in before["guidance"]
    assert page_model.description(model.image_model, UniPC())["guidance"] == page and page["scale"] != 7
    assert torch.equal(model.sample(2, steps=2, seed=1), usual)
