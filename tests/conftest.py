"""Shared by all tests: tiny models, the command line in a process of its own, and the full data where it is."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several processes on the same cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tensorboard.summary.writer import event_file_writer

from diffusion.denoiser import Estimate, Estimator

ROOT = Path(__file__).parent.parent
FULL_DATA = Path("/usr/share/datasets/fashion-mnist")
CACHE = tempfile.mkdtemp(prefix="simple-diffusion-")  # of real images' features, computed once for all tests
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# TensorBoard reads files in the order of their names: second, process, number. In one process .10 would come before .9.
event_file_writer._global_uid = event_file_writer.AtomicCounter(100_000)


def pytest_collection_modifyitems(items):
    """Tests that need the full Fashion-MNIST skip where it is missing; in CI they run and fail there."""
    if FULL_DATA.is_dir() or os.environ.get("CI"):
        return
    for item in items:
        if "full_data" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="the full Fashion-MNIST is not installed (dataset-fashion-mnist)"))


@pytest.fixture
def run(tmp_path):
    """run("train.py", "seed=1", …) in an empty folder; the finished process with its text."""

    def call(script, *arguments, check=True, env=None, timeout=240):
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "2", **(env or {})},
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return call


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mini():
    from diffusion.data.datasets import fashion_mnist_mini

    return fashion_mnist_mini()


@pytest.fixture(scope="session")
def scorer(mini):
    """A scorer of the embedded images. KID over 100 subsets takes most of the time; nothing depends on their number."""
    from diffusion.evaluation import scoring
    from diffusion.evaluation.features.classifier import ClassifierFeatures

    number, scoring.SUBSETS = scoring.SUBSETS, 3
    yield scoring.Scorer(ClassifierFeatures(mini, torch.device("cpu"), CACHE))
    scoring.SUBSETS = number


class Exact(Estimator):
    """A denoiser whose answer is known, `answer(x_t, alpha, sigma)` in float64."""

    num_classes = 0

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def estimate(self, x_t, t, labels=None):
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in self.schedule(torch.as_tensor(t).double().flatten()))
        return Estimate(self.answer(x_t.double(), alpha, sigma).to(x_t.dtype))


class GaussianDenoiser(Exact):
    """The exact E[x_0 | x_t] for data N(mean, std²), independent in every pixel."""

    def __init__(self, schedule, mean, std):
        super().__init__(schedule)
        self.mean, self.std = mean, std

    def answer(self, x_t, alpha, sigma):
        variance = alpha**2 * self.std**2 + sigma**2
        return self.mean + alpha * self.std**2 / variance * (x_t - alpha * self.mean)


class CorrelatedDenoiser(Exact):
    """The exact E[x_0 | x_t] for data N(0, covariance), covariance of all C·H·W values."""

    def __init__(self, schedule, covariance):
        super().__init__(schedule)
        self.covariance = covariance.double()

    def answer(self, x_t, alpha, sigma):
        alpha, variance = alpha.flatten()[0], sigma.flatten()[0] ** 2
        noisy = alpha**2 * self.covariance + variance * torch.eye(len(self.covariance), dtype=torch.float64)
        return (alpha * torch.linalg.solve(noisy, x_t.flatten(1).T).T @ self.covariance).view_as(x_t)


class FiniteDenoiser(Exact):
    """The exact E[x_0 | x_t] for data that are a finite set of points (n, C, H, W) with probabilities (n,)."""

    def __init__(self, schedule, points, probabilities=None):
        super().__init__(schedule)
        self.points = points.double()
        self.log_p = torch.zeros(len(points)) if probabilities is None else torch.tensor(probabilities).double().log()

    def answer(self, x_t, alpha, sigma):
        flat, points = x_t.flatten(1), self.points.flatten(1)
        distance = (flat[:, None] - alpha.view(-1, 1, 1) * points[None]).square().sum(dim=2)  # (B, n)
        weight = torch.softmax(self.log_p - distance / (2 * sigma.view(-1, 1) ** 2), dim=1)
        return (weight @ points).view_as(x_t)


def compose(name, *overrides):
    """A composed config, resolved, as a plain dictionary."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(name, [*overrides, "output_dir=here"])
    return OmegaConf.to_container(cfg, resolve=True)


def train_config(*overrides):
    """What train.py makes of a command line, without what an experiment set for another option."""
    from omegaconf import OmegaConf

    from diffusion.config.settings import leave_out_foreign

    cfg = OmegaConf.create(compose("train", *overrides))
    leave_out_foreign(cfg, overrides)
    return OmegaConf.to_container(cfg)


def write_pictures(folder, data):
    """The first 30 training images, as PNGs."""
    from PIL import Image

    folder.mkdir()
    for number in range(30):
        Image.fromarray(data.train.images[number, 0].numpy()).save(folder / f"{number}.png")


def saved_run(folder):
    """A run folder of a tiny network, before its first step."""
    from diffusion.config import build

    trainer = build.build_trainer(tiny_config(), folder)
    trainer.save()
    trainer.tracker.close()
    return folder


def tiny_config(**settings):
    """The quickstart with a network of a few thousand weights and nothing that takes time."""
    small = {
        "model.width": 8,
        "model.groups": 4,
        "model.head_width": 8,
        "training.batch_size": 8,
        "training.steps": 4,
        "training.log_every": 3,
        "training.checkpoint_every": 4,
        "training.preview_every": 0,
        "score.held_out": 32,
        "preview.steps": 2,
        "score.n": 0,
        "features.cache": CACHE,
        "device": "cpu",
        "device.precision": "fp32",
    }
    config = train_config(*(f"{key}={value}" for key, value in {**small, **settings}.items()))
    return {key: value for key, value in config.items() if key not in ("output_dir", "resume")}


def curve(folder, tag="train/loss"):
    """A TensorBoard curve as a person sees it: {step: value}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    values = [(event.step, event.value) for event in events.Scalars(tag)]
    assert len(dict(values)) == len(values), "a step was logged twice"
    return dict(values)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
