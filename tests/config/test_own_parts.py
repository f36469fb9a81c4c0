"""Parts of the user's own: a class that does what one of ours does makes the same run, bit for bit; and what is refused
is refused by one sentence."""

import importlib.util
import py_compile
import sys
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from config_helpers import compose, tiny_config, train_config
from conftest import ROOT, same
from omegaconf import OmegaConf

from diffusion.config import (
    build,
    changed_images,
    opening,
    own_formulas,
    padding,
    settings,
    starting,
    trained,
    training_run,
    trust,
)
from diffusion.data.datasets import fashion_mnist_mini
from diffusion.drawing.image_model import ImageModel
from diffusion.objective import Objective
from diffusion.records import checkpoint
from diffusion.schedule import Schedule
from diffusion.system.errors import UserError
from diffusion.tasks import Job
from diffusion.timesteps import Timesteps

SOURCE = """
import math
from dataclasses import dataclass

import torch

from diffusion.data.datasets import fashion_mnist_mini
from diffusion.data.images import ImageData
from diffusion.ema import EMA
from diffusion.evaluation.features.base import Features
from diffusion.guidance import ClassifierFree
from diffusion.loss import Weighted
from diffusion.networks.dit import DiT
from diffusion.objective import Objective
from diffusion.sampler import Sampler
from diffusion.schedule import Schedule
from diffusion.tasks import Generate, Task
from diffusion.timesteps import Timesteps


def garments(padding: int = 0) -> ImageData:
    return fashion_mnist_mini(padding)


class Net(DiT):
    pass


class Straight(Schedule):
    def __call__(self, t):
        return 1 - t, t

    def time_at(self, log_snr):
        return torch.sigmoid(-log_snr / 2)


class Image(Objective):  # without a name of its own
    def coefficients(self, alpha, sigma):
        return torch.zeros_like(alpha), torch.ones_like(alpha), torch.rsqrt(alpha**2 + sigma**2)

    def target(self, x_0, noise, alpha, sigma):
        return x_0


class Even(Weighted):
    def weight(self, alpha, sigma, c_out):
        return torch.ones_like(c_out)


class Backwards(Timesteps):
    def __call__(self, u):
        return 1 - u


class Dropping(ClassifierFree):
    pass


class Average(EMA):
    pass


@dataclass(eq=False)
class Deterministic(Sampler):
    steps: int = 10

    def step(self, denoise, x_t, t, s, noise, past):
        x_0 = denoise(x_t, t).x_0
        return s.alpha * x_0 + s.sigma * (x_t - t.alpha * x_0) / t.sigma


class Descent(torch.optim.SGD):
    def __init__(self, params, lr: float = 1e-3):
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        return super().step(closure)


class Brightness(Features):
    def __init__(self, data, device, cache: str = "data/cache", scale: float = 1.0):
        super().__init__(data, device, cache)
        self.scale = scale

    def extract(self, images):
        return self.scale * images.float().mean(dim=(2, 3)), None


class Dark(Task):
    def __init__(self, by: int):
        self.by = by

    def run(self, job):
        made = Generate().run(job)
        made.images = made.images // self.by
        return made
"""
OURS = {  # group → what the tiny run is made of, and what is the same in the module
    "data": ({"_target_": "diffusion.data.datasets.fashion_mnist_mini"}, "garments"),
    "model": ({"_target_": "diffusion.networks.dit.DiT", "width": 16, "depth": 1, "heads": 2}, "Net"),
    "schedule": ({"_target_": "diffusion.schedule.Flow"}, "Straight"),
    "objective": ({"_target_": "diffusion.objective.X0"}, "Image"),
    "loss": ({"_target_": "diffusion.loss.Target"}, "Even"),
    "timesteps": ({"_target_": "diffusion.timesteps.Uniform"}, "Backwards"),
    "guidance": ({"_target_": "diffusion.guidance.ClassifierFree", "scale": 1.5}, "Dropping"),
    "ema": ({"_target_": "diffusion.ema.EMA", "decay": 0.9}, "Average"),
    "sampler": ({"_target_": "diffusion.sampler.DDIM", "steps": 3}, "Deterministic"),
    "preview": ({"_target_": "diffusion.sampler.DDIM", "steps": 2}, "Deterministic"),
    "optimizer": ({"_target_": "torch.optim.SGD", "lr": 0.02}, "Descent"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The working directory, in which the module lies."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "own_parts_of_test.py").write_text(SOURCE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        yield folder
    sys.modules.pop("own_parts_of_test", None)


def own(name, **settings):
    return {"_target_": f"own_parts_of_test.{name}", **settings}


def trained_by(folder, **changes):
    """The last checkpoint of two steps of a tiny run, and three images that it draws."""
    base = tiny_config(**{"training.steps": 2})
    config = base | {group: dict(node) for group, (node, _) in OURS.items()} | changes
    trainer = training_run.build_trainer(config, folder)
    for first in (0, 8):
        trainer.train_step(trainer.parts.data.train.select(torch.arange(first, first + 8)))
    trainer.state.save()
    trainer.tracker.close()
    state = opening.opened(folder / "last.pt", groups=None)
    device = build.build(config["device"], "device")
    model = trained.load_image_model(state, device)
    drawn = model.draw(build.build(config["sampler"], "sampler"), 3, model.labels(3), seed=1, batch_size=3)
    return state, drawn


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return trained_by(tmp_path_factory.mktemp("ours"))


@pytest.mark.parametrize("group", OURS)
def test_a_part_of_ones_own_stands_where_ours_does(group, ours, here, tmp_path):
    node, name = OURS[group]
    with trust.given("own_parts_of_test"):
        settings = {k: v for k, v in node.items() if k != "_target_"}
        state, drawn = trained_by(tmp_path, **{group: own(name, **settings)})
    assert group != "objective" or sys.modules["own_parts_of_test"].Image.name == "image"
    assert same(state["network"], ours[0]["network"]) and same(state["ema"], ours[0]["ema"])
    difference = (drawn.int() - ours[1].int()).abs().max()
    assert difference <= (group == "sampler")  # whose formula is rounded otherwise
    assert state["own_parts"].keys() == {"own_parts_of_test"} and "own_parts" not in ours[0]


FORMULAS = {"schedule": Schedule, "objective": Objective, "timesteps": Timesteps}
OPTIONS = [(group, path.stem) for group in FORMULAS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_what_is_asked_of_the_formulas_of_a_part_is_true_of_all_of_ours(group, option):
    node = build.measured(train_config(f"{group}={option}")[group], {"sigma_data": 0.7})
    part = build.build(node, group, {"schedule": build.build(OURS["schedule"][0], "schedule")})
    assert isinstance(part, FORMULAS[group])
    own_formulas.check(part)


def test_features_of_ones_own_are_kept_apart_by_settings_and_source(here, tmp_path):
    data, place = fashion_mnist_mini(), torch.device("cpu")

    def features(**settings):
        with trust.given("own_parts_of_test"):
            return build.build(own("Brightness", cache=str(tmp_path), **settings), "features", data=data, device=place)

    found, twice = features(), features(scale=2.0)
    values, logits = found(data.test.images[:5])
    assert torch.equal(values, data.test.images[:5].float().mean(dim=(2, 3))) and logits is None
    assert found.name == "own_parts_of_test.Brightness"
    assert len({found.fingerprint, twice.fingerprint, features().fingerprint}) == 2
    file = here / "own_parts_of_test.py"
    file.write_text(SOURCE + "# another source\n", encoding="utf-8")
    assert features().fingerprint != found.fingerprint
    file.write_text(SOURCE, encoding="utf-8")
    assert features().fingerprint == found.fingerprint


def test_a_task_of_ones_own(ours, here):
    state, _ = ours
    device = build.build({"_target_": "diffusion.system.device.Device", "type": "cpu"}, "device")
    model: ImageModel = trained.load_image_model(state, device)
    sampler = build.build(state["config"]["sampler"], "sampler")
    with trust.given("own_parts_of_test"):
        task = build.build(own("Dark", by=4), "task")
    made = task.run(Job(model, sampler, lambda: None, n=3, classes=None, seed=1, batch_size=3))
    assert torch.equal(made.images, model.draw(sampler, 3, model.labels(3), seed=1, batch_size=3) // 4)


# ------------------------------------------------------------------------------------------------- what is refused

WRONG = """
from os import system
from pathlib import Path

import torch
from torch import nn

from diffusion.data.images import ImageData, Images
from diffusion.networks.unet import UNet
from diffusion.objective import V
from diffusion.sampler import Sampler
from diffusion.schedule import DiscreteSchedule, Flow, Schedule
from diffusion.timesteps import Timesteps


class OneWay(Schedule):
    def __call__(self, t):
        return 1 - t, t


class Alone:
    pass


class Typed(Flow):
    def __init__(self, speed: "Quickly" = 1):
        pass


class Stretched(Flow):
    def __init__(self, by: float = 1.0, often: int = 2):
        if by <= 0:
            raise ValueError(f"by={by} must be positive")
        {}[often]  # MISSING


class Stepless(DiscreteSchedule):
    pass


class Rising(Flow):
    def __call__(self, t):
        return t, 1 - t


class Lost(Flow):
    def time_at(self, log_snr):
        return torch.sigmoid(-log_snr)


class Single(Flow):
    def __call__(self, t):
        return 1 - t[0], t[0]


class Crashing(Flow):
    def time_at(self, log_snr):
        return self.nothing  # NOTHING


class Signs(V):
    def target(self, x_0, noise, alpha, sigma):
        return sigma * x_0 - alpha * noise


class Early(Timesteps):
    def __call__(self, u):
        return u


class Bare(Sampler):
    def __init__(self, steps: int = 3):
        pass

    def step(self, denoise, x_t, t, s, noise, past):
        return x_t


class Slow(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self):
        pass


class Grey(nn.Module):
    def __init__(self, channels, image_size):
        super().__init__()

    def forward(self, x, t, labels):
        return x


class Cut(nn.Module):
    def __init__(self, channels, image_size, num_classes, out_channels):
        super().__init__()

    def forward(self, x, t, labels):
        return x[..., 1:]


class Few(Cut):
    def __init__(self, channels, image_size, num_classes, out_channels):
        super().__init__(channels, image_size, num_classes, out_channels)
        self.table = nn.Embedding(num_classes, channels)

    def forward(self, x, t, labels):
        return x + self.table(labels)[:, :, None, None]  # TABLE


class Counted(Cut):
    def __init__(self, channels, image_size, num_classes, out_channels):
        super().__init__(channels, image_size, num_classes, out_channels)
        self.far = torch.arange(1, 4).tolist()  # which shapes without memory have not
        self.conv = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, t, labels):
        return self.conv(x)


class Unmade(nn.Module):
    def __init__(self, channels, image_size, num_classes, out_channels):
        self.layer = nn.Linear(1, 1)  # SUPER

    def forward(self, x, t, labels):
        return x


def images(dtype, labels=None, size=8):
    return Images(torch.zeros(4, 1, size, size, dtype=dtype), labels)


def floats() -> ImageData:
    return ImageData("floats", images(torch.float32), images(torch.float32), [])


def unlabelled() -> ImageData:
    return ImageData("unlabelled", images(torch.uint8), images(torch.uint8), ["a", "b"])


def two_sizes() -> ImageData:
    return ImageData("two_sizes", images(torch.uint8), images(torch.uint8, size=9), [])


def nothing() -> ImageData:
    return None


def unsaid():
    return floats()


def delete(where: str) -> None:
    Path(where).write_text("owned")
"""
OPTIMIZED = {"params": [torch.zeros(1, requires_grad=True)]}
SHAPE = {"channels": 1, "image_size": 8, "num_classes": 2, "out_channels": 1}
REFUSED = [  # group, name, settings, what the run gives, what is told
    ("schedule", "OneWay", {}, {}, "has no time_at of its own, which diffusion.schedule.Schedule leaves to it"),
    ("schedule", "Alone", {}, {}, "must be a class that derives from diffusion.schedule.Schedule"),
    ("guidance", "Alone", {}, {}, "from diffusion.guidance.ClassifierFree or diffusion.guidance.Unconditional"),
    ("schedule", "Typed", {}, {}, "its arguments cannot be read (NameError: name 'Quickly' is not defined)"),
    ("schedule", "Gone", {}, {}, "does not exist in "),
    ("schedule", "Gone", {}, {}, "it has OneWay, Alone, Typed, Stretched, Stepless, Rising"),
    ("schedule", "Stretched", {"by": -1}, {}, "schedule.by=-1 must be positive."),
    ("schedule", "Stretched", {"of": 1}, {}, "Unknown setting 'schedule.of': did you mean 'schedule.often' or"),
    ("schedule", "Stretched", {"by": "a"}, {}, "schedule.by='a' has the wrong type: it must be a finite number."),
    ("schedule", "Stretched", {}, {}, "cannot be made: KeyError: 2 (wrong_parts_of_test.py, line MISSING)."),
    ("schedule", "Stepless", {}, {}, "cannot be made: NotImplementedError in betas."),
    # σ/α = (1 − t)/t falls; sigmoid(−l) is not sigmoid(−l/2); −v in the place of v; u = 0 is no time.
    ("schedule", "Rising", {}, {}, "σ/α must grow with t, from nearly 0 at t = 0, and it is inf at t = 0.00 and 19"),
    ("schedule", "Lost", {}, {}, "time_at must lead from log(α²/σ²) back to t, and is off by up to 0."),
    ("schedule", "Single", {}, {}, "its α must be a number of 0 or more at every time t (B,)"),
    ("schedule", "Crashing", {}, {}, "'nothing' (wrong_parts_of_test.py, line NOTHING)."),
    ("objective", "Signs", {}, {}, "c_skip · x_t + c_out · target must be x_0, and is off by up to"),
    ("timesteps", "Early", {}, {}, "it must lead from u (B,) in [0, 1) to times (B,) in (0, 1]"),
    ("sampler", "Bare", {}, {}, "has no steps: call super().__init__(…) in its constructor"),
    ("optimizer", "Slow", {}, OPTIMIZED, "has no lr, which training raises and lowers"),
    (
        "model",
        "Grey",
        {},
        SHAPE,
        "must also take num_classes, out_channels: the run gives channels, image_size, num_cla",
    ),
    ("model", "Unmade", {}, SHAPE, "before Module.__init__() call (wrong_parts_of_test.py, line SUPER)."),
    ("data", "floats", {}, {}, "its images are float32 of 4 dimensions, and must be uint8 (N, C, H, W), from 0 to 255"),
    ("data", "unlabelled", {}, {}, "it names 2 classes, so every image needs a label"),
    ("data", "two_sizes", {}, {}, "its training images are (1, 8, 8) (C, H, W) and its test images (1, 9, 9)"),
    ("data", "nothing", {}, {}, "returns NoneType, and must return diffusion.data.images.ImageData"),
    ("data", "unsaid", {}, {}, "def unsaid(…) -> ImageData, with diffusion.data.images.ImageData"),
    ("data", "delete", {"where": "owned"}, {}, "must be a function that says that it returns ImageData"),
    ("training", "Alone", {}, {}, "training is none of them"),
    # From a trusted module into another one.
    ("data", "system", {"command": "touch owned"}, {}, "is not allowed: it is defined in posix, and not in"),
    ("model", "UNet", {"width": 8}, SHAPE, "is not allowed: it is defined in diffusion.networks.unet, and not in"),
    ("data", "torch.load", {"f": "x"}, {}, "There is no module wrong_parts_of_test.torch"),
    ("data", "Path.write_text", {}, {}, "There is no module wrong_parts_of_test.Path"),
    ("model", "Grey.forward", {}, SHAPE, "There is no module wrong_parts_of_test.Grey"),
    ("model", "nn.Linear", {}, SHAPE, "There is no module wrong_parts_of_test.nn"),
    ("data", "__loader__.exec_module", {}, {}, "There is no module wrong_parts_of_test.__loader__"),
    ("data", "__loader__", {}, {}, "is not allowed: it is defined in "),
    ("data", "__builtins__", {}, {}, "is not allowed: it is defined in None"),
]


@pytest.fixture
def wrong(here):
    (here / "wrong_parts_of_test.py").write_text(WRONG, encoding="utf-8")
    yield
    assert not (here / "owned").exists()


@pytest.mark.parametrize(("group", "name", "settings", "given", "told"), REFUSED)
def test_a_part_that_does_not_fit_is_told_in_one_sentence(group, name, settings, given, told, wrong):
    for number, line in enumerate(WRONG.splitlines(), start=1):
        told = told.replace(f"line {line.rpartition('# ')[2]}", f"line {number}") if "# " in line else told
    with trust.given(["wrong_parts_of_test"]), pytest.raises(UserError) as refused:
        build.build({"_target_": f"wrong_parts_of_test.{name}", **settings}, group, **given)
    sentence = str(refused.value)
    assert told in sentence and sentence[-1] in ".?" and "\n" not in sentence, sentence


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Cut", r"returns \(2, 1, 28, 27\) for x \(2, 1, 28, 28\).*must return floats of the shape \(2, 1, 28, 28\)"),
        (
            "Few",
            r"fails for .* labels \[0, 10\]: IndexError: index out of range in self \(wrong_parts_of_test.py, line",
        ),
    ],
)
def test_a_network_of_the_wrong_shape_is_told_before_training(name, told, wrong, tmp_path):
    with trust.given("wrong_parts_of_test"), pytest.raises(UserError, match=told):
        training_run.build_trainer(tiny_config() | {"model": {"_target_": f"wrong_parts_of_test.{name}"}}, tmp_path)


def test_a_network_may_need_numbers_to_be_made_and_is_told_how_many_classes_there_are(wrong):
    config = tiny_config() | {"model": {"_target_": "wrong_parts_of_test.Counted"}}
    with trust.given("wrong_parts_of_test"):
        recipe = build.Recipe(config, fashion_mnist_mini().describe())
        network, again = recipe.network(seed=3), recipe.network(seed=3)
    assert network.far == [1, 2, 3] and network.training
    assert recipe.denoiser(network).num_classes == 10
    assert same(network.state_dict(), again.state_dict())


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("class Net(:\n", "The module MODULE cannot be imported: SyntaxError: invalid syntax (MODULE.py, line 1)."),
        ("\nimport nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all' (MODULE.py, line 2)."),
        ("from torch import nothing_of_this\n", "ImportError: cannot import name 'nothing_of_this' from 'torch'"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "ZeroDivisionError: division by zero (MODULE.py, line 2)."),
        ("raise SystemExit\n", "The module MODULE cannot be imported: SystemExit (MODULE.py, line 1)."),
        ("", "model._target_=MODULE.Net does not exist in"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(source, told, here, request):
    module = f"broken_parts_{abs(hash(request.node.name))}"
    (here / f"{module}.py").write_text(source, encoding="utf-8")
    with trust.given(module), pytest.raises(UserError) as refused:
        build.build({"_target_": f"{module}.Net"}, "model")
    assert told.replace("MODULE", module) in str(refused.value)


@pytest.mark.parametrize(
    ("hint", "fitting", "wrong", "words"),
    [
        (Literal["a", "b"], ["a", "b"], ["c", 1, None], "one of a, b"),
        (Literal["a"] | None, ["a", None], ["b"], "one of a or null"),
        (Sequence[int], [[1, 2], []], [1, "ab", [1.5]], "a list, each a whole number"),
        (dict[str, int], [{"a": 1}], [[1], "a"], "dict"),
        (list[float] | float, [1.5, 2, [1, 2.5]], ["a", ["a"]], "a list, each a finite number or a finite number"),
    ],
)
def test_types_that_a_part_may_give_its_arguments(hint, fitting, wrong, words):
    assert settings.plain(hint)
    assert all(settings.fits(value, hint) for value in fitting)
    assert not any(settings.fits(value, hint) for value in wrong)
    assert words in settings.describe(hint)


# -------------------------------------------------------------------------------------------------- trust itself


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("os", "trust=os is no code of yours"),
        (["own_parts_of_test", "torch.nn"], "trust=torch.nn is no code of yours"),
        ("diffusion", "is no code of yours"),
        ("nowhere_at_all", "there is no such module, nowhere_at_all.py, in the working directory"),
        ("own_parts_of_test.py", "as in an import: my_parts for my_parts.py"),
        ("../own_parts_of_test", "give the name of a module of yours, as in an import"),
        ("", "give the name of a module of yours"),
        (3, "trust=3 must be the name of a module of yours, or a list of such names"),
        ([3], r"must be the name of a module"),
    ],
)
def test_what_cannot_be_trusted(given, told, here):
    with pytest.raises(UserError, match=told), trust.given(given):
        raise AssertionError("it was trusted")


def test_trust_ends_with_its_block_and_is_of_whole_names(here):
    with trust.given(None), trust.given("own_parts_of_test"):
        assert trust.covering("own_parts_of_test.Net") == "own_parts_of_test"
        assert trust.covering("own_parts_of_test.inner.Net") == "own_parts_of_test"
        for name in (
            "own_parts_of_test",
            "own_parts_of_test2.Net",
            "own_parts_of_test.Net()",
            "Net",
            "x.own_parts_of_test.A",
        ):
            assert trust.covering(name) is None
    assert trust.covering("own_parts_of_test.Net") is None and trust.modules() == ()


def test_the_hash_is_of_all_source_and_of_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package_of_test"
    (package / "inner").mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("inner/__init__.py", "raise OSError\n"), ("inner/a.py", "x = 1\n")):
        (package / name).write_text(text, encoding="utf-8")
    whole = trust.source_hash("package_of_test")
    assert trust.source_hash("package_of_test.inner.a") == whole  # since the package runs with it
    assert list(trust.sources("package_of_test.inner.a")) == ["a.py"]
    (package / "notes.txt").write_text("nothing", encoding="utf-8")
    (package / "inner" / "a.py").write_bytes(b"x = 1\r\n")  # as another system writes it
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"never read")
    assert trust.source_hash("package_of_test") == whole
    (package / "inner" / "__init__.py").write_text("", encoding="utf-8")
    changed = trust.source_hash("package_of_test.inner.a")
    assert changed != whole
    (package / "inner" / "a.pyc").write_bytes(b"read where there is no a.py")
    assert trust.source_hash("package_of_test") not in (whole, changed)
    assert "package_of_test" not in sys.modules  # nothing of it was run


def test_what_runs_is_the_source_whatever_was_compiled_beside_it(tmp_path, monkeypatch):
    """Also of what a package imports later. Python itself would run a file that says it needs no comparison."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "compiled_of_test"
    package.mkdir()
    (tmp_path / "evil.py").write_text("WHO = 'another'\n", encoding="utf-8")
    for name in ("__init__.py", "later.py"):
        (package / name).write_text("WHO = 'source'\n", encoding="utf-8")
        target = importlib.util.cache_from_source(str(package / name))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(tmp_path / "evil.py"), cfile=target, invalidation_mode=mode)
    assert trust.load("compiled_of_test").WHO == "source"
    assert importlib.import_module("compiled_of_test.later").WHO == "source"


def test_a_module_that_is_gone_is_told_with_the_place_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone_of_test.py").write_text("", encoding="utf-8")
    with trust.given("gone_of_test"):
        (tmp_path / "gone_of_test.py").unlink()
        with pytest.raises(UserError, match=f"no such module, gone_of_test.py, in the working directory {tmp_path}"):
            build.build({"_target_": "gone_of_test.Net"}, "model")


def test_the_working_directory_comes_first_and_only_for_what_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for folder, text in ((tmp_path, "here = True\n"), (tmp_path / "elsewhere", "here = False\n")):
        (folder / "twice_of_test.py").write_text(text, encoding="utf-8")
    with trust.given("twice_of_test"):
        assert trust.load("twice_of_test").here
    assert sys.path[0] == str(tmp_path / "elsewhere") and sys.path[-1] == str(tmp_path)


# ------------------------------------------------------------------------------------------------- its checkpoint


@pytest.fixture
def saved(here, tmp_path):
    """The checkpoint of a run of an own network."""
    with trust.given("own_parts_of_test"):
        settings = {k: v for k, v in OURS["model"][0].items() if k != "_target_"}
        trained_by(tmp_path, model=own("Net", **settings))
    yield tmp_path / "last.pt"
    (here / "own_parts_of_test.py").write_text(SOURCE, encoding="utf-8")


def test_a_checkpoint_asks_for_trust_and_says_whether_the_source_has_changed(saved, here, caplog):
    file = here / "own_parts_of_test.py"
    for content, words in ((SOURCE, "its source is still the same"), ("x = 1\n", "its source has changed since")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=rf"{words}\): if you trust it, add trust=own_parts_of_test\."):
            opening.opened(saved)
    file.rename(here / "away")
    with pytest.raises(UserError, match="it is not found here"):
        opening.opened(saved)
    (here / "away").rename(file)
    with (
        trust.given("wrong_parts_of_test"),
        pytest.raises(UserError, match=r"trust=\[wrong_parts_of_test,own_parts"),
    ):
        opening.opened(saved)
    for content, warned in ((SOURCE, False), (SOURCE + "# more\n", True)):
        file.write_text(content, encoding="utf-8")
        caplog.clear()
        with trust.given("own_parts_of_test"):
            opening.opened(saved)
        assert ("own_parts_of_test has changed since" in caplog.text) == warned


def test_a_run_whose_source_has_changed_is_not_the_same_run(saved, here):
    with trust.given("own_parts_of_test"):
        state, file = opening.opened(saved, groups=None), here / "own_parts_of_test.py"
        opening.same_source(saved.parent, state, opening.recorded(state["config"]))
        file.write_text(SOURCE + "# more\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"another source of own_parts_of_test than .*resume="):
            opening.same_source(saved.parent, state, opening.recorded(state["config"]))
        file.unlink()
        with pytest.raises(UserError, match="another source"):
            opening.same_source(saved.parent, state, {"own_parts_of_test": trust.source_hash("own_parts_of_test")})


def test_what_a_command_replaces_needs_no_trust(here, tmp_path):
    with trust.given("own_parts_of_test"):
        trained_by(tmp_path, data=own("garments"), schedule=own("Straight"))
    given = ["checkpoint=run", "schedule=flow", "data=fashion_mnist_mini"]
    state = opening.opened(tmp_path / "last.pt", starting.needed(given))
    config = starting.starting_config(state, OmegaConf.create(compose("train", *given)), given)
    training_run.build_trainer({**tiny_config(), **config, "score": {"n": 0}}, tmp_path / "new", start=state)
    for words in (given[:1], given[:2], ["data.padding=2"], ["data=fashion_mnist_mini"]):
        with pytest.raises(UserError, match="if you trust it, add trust=own_parts_of_test"):
            opening.opened(tmp_path / "last.pt", starting.needed(words))


def test_the_ways_on_name_the_modules(here, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with trust.given("own_parts_of_test"):
        config = tiny_config() | {"data": own("garments"), "loss": own("Even")}
        trainer = training_run.build_trainer(config, here / "run")
        trainer.tracker.close()
        assert trainer.state.way_on() == "python train.py resume=run trust=own_parts_of_test"
        header = {**trainer.state.header, "image": {**trainer.state.header["image"], "images": 3}}
        with pytest.raises(UserError) as told:
            changed_images.check_same_images("garments", trainer.state.header["image"], header, config, here / "run")
    text = str(told.value)
    assert "train.py checkpoint=run trust=own_parts_of_test  – or" in text
    assert "train.py data._target_=own_parts_of_test.garments trust=own_parts_of_test  (add your own" in text
    assert changed_images.written("data.class_names", ["été", "Ärger"]) == 'data.class_names=["été", "Ärger"]'


def test_a_fitting_side_that_fails_is_told(here):
    source = "from diffusion.networks.dit import DiT\n\n\nclass Net(DiT):\n    @staticmethod\n"
    source += "    def fitting_side(side, **others):\n        return others['levels']\n"
    (here / "fitting_of_test.py").write_text(source, encoding="utf-8")
    with (
        trust.given("fitting_of_test"),
        pytest.raises(UserError, match=r"fitting_side fails for 30 pixels: KeyError: 'levels' \(fitting_of_test.py, l"),
    ):
        padding.least(30, {"_target_": "fitting_of_test.Net"})


def test_one_file_of_weights_keeps_the_record(saved, here, tmp_path):
    import diffusion

    model = diffusion.load(saved, device="cpu", trust=["own_parts_of_test"])
    images = model.sample(2, steps=2)  # long after the trust was given
    model.save(tmp_path / "model.safetensors")
    state = checkpoint.load(tmp_path / "model.safetensors")
    assert state["own_parts"] == {"own_parts_of_test": trust.source_hash("own_parts_of_test")}
    with pytest.raises(UserError, match="its source is still the same"):
        diffusion.load(tmp_path / "model.safetensors", device="cpu")
    again = diffusion.load(tmp_path / "model.safetensors", device="cpu", trust="own_parts_of_test")
    assert torch.equal(images, again.sample(2, steps=2))


def test_a_module_of_the_same_name_from_another_folder_is_not_taken_for_it(tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "same_name_of_test.py").write_text(f"NUMBER = {number}\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path / str(number))
        monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path / "1")])
        first, again = (trust.load("same_name_of_test") for _ in range(2))
        assert number == first.NUMBER and again is first
    sys.modules.pop("same_name_of_test")
