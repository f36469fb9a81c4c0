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
if "WITHOUT_HYDRA" in os.environ:  # as test_rooms.py starts the tests of a room

    class Without:
        """Refuses to import Hydra and OmegaConf."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split(".")[0] in ("hydra", "omegaconf"):
                raise ImportError(f"{name} may not be imported in the tests of this room")

    sys.meta_path.insert(0, Without)

import pytest
import torch
from tensorboard.summary.writer import event_file_writer

from diffusion.denoiser import Estimate, Estimator

ROOT = Path(__file__).parent.parent
FULL_DATA = Path("/usr/share/datasets/fashion-mnist")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
CACHE = tempfile.mkdtemp(prefix="simple-diffusion-")  # of real images' features, computed once for all tests
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# TensorBoard reads files in the order of their names: second, process, number. In one process .10 would come before .9.
event_file_writer._global_uid = event_file_writer.AtomicCounter(100_000)


def pytest_collection_modifyitems(items):
    """Tests that need the full Fashion-MNIST or a browser skip where it is missing; in CI they run and fail there."""
    missing = {}
    if not FULL_DATA.is_dir():
        missing["full_data"] = "the full Fashion-MNIST is not installed (dataset-fashion-mnist)"
    if shutil.which(CHROMIUM) is None:
        missing["browser"] = "no Chromium is installed"
    for marker, reason in () if os.environ.get("CI") else missing.items():
        for item in items:
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def run(tmp_path):
    """run("train.py", "seed=1", …) in an empty folder; the finished process with its text."""

    def call(script, *arguments, check=True, env=None, timeout=240):
        command = [sys.executable, str(ROOT / script), *arguments]
        return ended(command, tmp_path, check, timeout, {"OMP_NUM_THREADS": "2", **(env or {})})

    return call


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mini():
    from diffusion.data.datasets import fashion_mnist_mini

    return fashion_mnist_mini()


@pytest.fixture(scope="session")
def features(mini):
    """Of the classifier that comes with the package."""
    from diffusion.evaluation.features.classifier import ClassifierFeatures

    return ClassifierFeatures(mini, torch.device("cpu"), CACHE)


@pytest.fixture(scope="session")
def scorer(features):
    """A scorer of the embedded images. KID over 100 subsets takes most of the time; nothing depends on their number."""
    from diffusion.evaluation import scoring

    number, scoring.SUBSETS = scoring.SUBSETS, 3
    yield scoring.Scorer(features)
    scoring.SUBSETS = number


@pytest.fixture
def loot(tmp_path, monkeypatch):
    """The working folder, in which nothing may appear."""
    folder = tmp_path / "loot"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def postscript(loot, tmp_path, monkeypatch):
    """A program under the name of a picture, which Pillow would give to Ghostscript; here that would leave a file."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {loot}/owned\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    return tmp_path / "a.png"


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


def ended(command, cwd, check=True, timeout=240, env=None):
    """A command that was run to its end, with its output as text."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def toy(n=60, size=8, shift=0):
    """Two classes that anyone can tell apart: dark and light noise."""
    from diffusion.data.images import ImageData, Images

    generator = torch.Generator().manual_seed(shift)
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 100, (n, 1, size, size), generator=generator) + 120 * labels.view(-1, 1, 1, 1)
    images = Images(pixels.to(torch.uint8), labels)
    return ImageData("toy", images, images.subset(torch.arange(20)), ["dark", "light"])


def write_pictures(folder, data):
    """The first 30 training images, as PNGs."""
    from PIL import Image

    folder.mkdir()
    for number in range(30):
        Image.fromarray(data.train.images[number, 0].numpy()).save(folder / f"{number}.png")


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
