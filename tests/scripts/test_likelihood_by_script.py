"""Bits per dimension through the command line."""

import json

import pytest
from config_helpers import compose, trained_run
from conftest import CACHE
from omegaconf import OmegaConf
from PIL import Image

from diffusion.config import whole_evaluation
from diffusion.system.device import Device
from diffusion.system.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{whether it takes labels: folder of a run}; the unconditional one sees padding and learns the variance."""
    folders = {}
    for conditional in (True, False):
        other = {} if conditional else {"guidance": "none", "data.padding": 2, "loss": "hybrid"}
        folders[conditional] = trained_run(tmp_path_factory.mktemp("run"), **{"training.steps": 2, **other})
    return folders


def test_the_command_line(runs, run, tmp_path):
    given = ("n=20", "sampler.steps=2", "likelihood=6", "likelihood_steps=20", "likelihood_evaluations=5")
    done = run(
        "evaluate.py", f"checkpoint={runs[False]}", *given, f"features.cache={CACHE}", "device=cpu", "hydra.run.dir=out"
    )
    assert "Bits per dimension of 6 test images" in done.stdout + done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = metrics["likelihood"]
    assert found["n"] == 6 and found["bits_per_dim"] > 1 and found["standard_error"] > 0
    assert metrics["fid"] > 0 and "likelihood" not in metrics["protocol"]  # what makes runs comparable is as before
    text, page = ((tmp_path / "out" / f"report.{kind}").read_text() for kind in ("md", "html"))
    row = f"| bits per dimension (bound) | {found['bits_per_dim']:.3f} ± {found['standard_error']:.3f} |"
    assert row in text and "bits per dimension (bound)" in page
    assert "no dequantisation noise" in text and "(likelihood.png)" in text
    with Image.open(tmp_path / "out" / "likelihood.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize("given", ["likelihood=-3", "likelihood_steps=0", "likelihood_evaluations=0"])
def test_the_script_refuses_before_it_draws(given, runs):
    cfg = OmegaConf.create(compose("evaluate", f"checkpoint='{runs[True]}'", given))
    with pytest.raises(UserError, match=given):
        next(whole_evaluation.from_model(cfg, Device("cpu"), {}, None))


def test_samples_have_no_likelihood():
    cfg = OmegaConf.create(compose("evaluate", "samples=mine.npz", "likelihood=5"))
    with pytest.raises(UserError, match="likelihood=5 needs a model, and samples= are"):
        next(whole_evaluation.from_samples(cfg, Device("cpu"), ["samples=mine.npz", "likelihood=5"]))
