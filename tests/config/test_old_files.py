"""Files that were written before the modules moved into rooms still load, draw, score and go on.

`tests/files/before_rooms` holds a run of six steps (finished.pt), the same one killed after four (stopped.pt), one with
ema=power, and the first one's averaged weights as safetensors. Their configs name classes such as
diffusion.datasets.fashion_mnist_mini, diffusion.device.Device and diffusion.training.Trainer.
"""

import pytest
import torch
from conftest import CACHE, ROOT

import diffusion
from diffusion.config import build, resuming, training_run
from diffusion.records import checkpoint
from diffusion.records.results import read_metrics

FILES = ROOT / "tests" / "files" / "before_rooms"
NAMES = ("finished.pt", "stopped.pt", "power.pt", "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_by_the_names_of_today_and_draws(name):
    state = checkpoint.load(FILES / name)
    for key, node in state["config"].items():
        if isinstance(node, dict) and "_target_" in node and key != "features":
            assert build.allowed_target(node["_target_"], key)
    images = diffusion.load(FILES / name, device="cpu").sample(2, steps=2)
    assert images.shape == (2, 1, 28, 28) and images.dtype == torch.uint8


def test_the_weights_alone_are_those_of_the_run():
    run, alone = (checkpoint.load(FILES / name)["ema"]["network"] for name in ("finished.pt", "model.safetensors"))
    assert run.keys() == alone.keys() and all(torch.equal(run[key], alone[key]) for key in run)


def test_a_width_of_the_average_is_still_chosen_afterwards():
    models = (diffusion.load(FILES / "power.pt", device="cpu", ema_width=width) for width in (0.06, 0.15))
    assert not torch.equal(*(model.sample(2, steps=2) for model in models))


def test_a_stopped_run_goes_on_and_ends_as_it_would_have_then(tmp_path):
    state, then = checkpoint.load(FILES / "stopped.pt"), checkpoint.load(FILES / "finished.pt")
    trainer = training_run.build_trainer(state["config"], tmp_path, resume=state)
    assert (trainer.progress.step, trainer.progress.total_steps) == (4, 6)
    trainer.fit()
    trainer.tracker.close()
    now = checkpoint.load(tmp_path / "last.pt")
    assert now["step"] == 6 and now["ema"]["updates"] == then["ema"]["updates"]
    for key in ("network", "ema"):
        mine, theirs = (state[key].get("network", state[key]) for state in (now, then))
        for name, value in theirs.items():  # not bit by bit: another machine rounds otherwise
            assert torch.allclose(mine[name], value, rtol=1e-3, atol=1e-4), name
    resuming.same_run(tmp_path, then["config"], now["config"])


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_it_is_scored(run, name):
    words = [f"checkpoint={FILES / name}", "n=4", "device=cpu", f"features.cache={CACHE}", "sampler.steps=1"]
    assert "FID" in run("evaluate.py", *words).stderr


def test_train_py_goes_on_with_it_in_its_own_folder(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes((FILES / "stopped.pt").read_bytes())
    done = run("train.py", "resume=run", "device=cpu")
    assert "Resuming at step 4 of 6" in done.stderr
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 6


def test_a_run_that_was_finished_then_is_finished_now(run, tmp_path):
    """Started again by the same command, as a sweep does; metrics.json is that of finished.pt."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_bytes((FILES / "metrics.json").read_bytes())
    words = read_metrics(FILES / "metrics.json")["overrides"]
    assert "finished: nothing to do" in run("train.py", *words, "hydra.run.dir=run").stderr
