"""Several processes by torchrun: the same training, images and scores as one process, and one folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from conftest import CACHE, ROOT, curve, ended, write_pictures

TINY = (
    *("model.width=8", "model.groups=4", "model.head_width=8", "training.batch_size=8", "device=cpu"),
    *("device.precision=fp32", "training.log_every=2", "training.preview_every=0", "preview.steps=2"),
    *("score.held_out=16", f"features.cache={CACHE}"),
)


def command(processes, script, *words):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*(torchrun if processes > 1 else [sys.executable]), str(ROOT / script), *words]


def start(processes, cwd, script, *words, check=True):
    return ended(command(processes, script, *words), cwd, check)


def begun(cwd, *words):
    """Two processes that train in the folder `run` of `cwd` and have written their first checkpoint."""
    process = subprocess.Popen(
        command(2, "train.py", *words, "hydra.run.dir=run"),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (cwd / "run" / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    return process


def weights(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def difference(a, b):
    """The largest difference of two states, relative to the largest value of each tensor."""
    return max(float((a[name] - b[name]).abs().max() / a[name].abs().max().clamp(min=1e-3)) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("training.accumulate=2", "timesteps=stratified"),
        ("timesteps=loss_aware", "optimizer=adamw", "optimizer.lr=1e-3"),
        ("model=dit_small", "model.depth=1", "model.width=16", "ema=power"),
        ("data.flip=true", "data.shift=2"),
    ],
)
def test_two_processes_train_as_one(tmp_path, settings):
    """The same losses and, up to the order of sums, the same weights; one folder, one log."""
    tiny = TINY[3:] if "model=dit_small" in settings else TINY
    words = (*tiny, "training.steps=6", "training.checkpoint_every=3", "score.n=0", *settings)
    for processes, name in ((1, "one"), (2, "two")):
        start(processes, tmp_path, "train.py", *words, f"hydra.run.dir={name}")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one["step"] == two["step"] == 6 and one["config"] == two["config"]
    initial = difference(one["network"], {name: torch.zeros_like(value) for name, value in one["network"].items()})
    assert difference(one["network"], two["network"]) < 2e-3 < initial
    one_curve, two_curve = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert list(one_curve) == list(two_curve) == [2, 4, 6]
    assert all(abs(one_curve[step] / two_curve[step] - 1) < 1e-3 for step in one_curve)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert len(list(tmp_path.rglob("train.log"))) == 2 and len(list(tmp_path.rglob("events*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), ("training.accumulate=2", "loss=hybrid", "guidance.dropout=0.5")])
def test_two_processes_have_the_gradient_of_one(tmp_path, settings):
    """After one step, Adam's first moment is a tenth of the gradient: of the same images, noise, times and labels."""
    words = (*TINY, "training.steps=1", "score.n=0", "optimizer=adamw", *settings)
    for processes in (1, 2):
        start(processes, tmp_path, "train.py", *words, f"hydra.run.dir={processes}")
    one, two = (
        {str(number): state["exp_avg"] for number, state in weights(tmp_path / name)["optimizer"]["state"].items()}
        for name in "12"
    )
    whole = torch.cat([value.flatten() for value in one.values()])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in one])
    assert whole.norm() > 0.01 and apart.norm() < 1e-5 * whole.norm()


@pytest.mark.slow
def test_large_folders_stream_to_every_process_and_go_on_inside_an_epoch(tmp_path, mini):
    write_pictures(tmp_path / "pictures", mini)
    folder = ("data=image_folder", "data.root=pictures", "data.image_size=28", "data.channels=1", "data.padding=2")
    words = (*TINY, *folder, "training.checkpoint_every=0", "score.n=0", "training.workers=1", "guidance=none")
    words = (*words, "training.decay=constant", "training.warmup=0")  # which do not depend on the length
    start(1, tmp_path, "train.py", *words, "training.steps=6", "hydra.run.dir=memory")
    files = (*words, "data.memory_limit=1e-9", "hydra.run.dir=files")
    start(2, tmp_path, "train.py", *files, "training.steps=2")  # 16 of 27 images
    start(2, tmp_path, "train.py", "resume=files", "training.steps=5")  # into the second epoch
    start(1, tmp_path, "train.py", "resume=files", "training.steps=6")
    one, two = weights(tmp_path / "memory"), weights(tmp_path / "files")
    assert one["step"] == two["step"] == 6
    assert difference(one["network"], two["network"]) < 2e-3


@pytest.mark.slow
def test_a_checkpoint_goes_on_at_any_number_of_processes_and_draws_and_scores_alike(tmp_path):
    words = (*TINY, "score.n=40", "training.checkpoint_every=2")
    start(2, tmp_path, "train.py", *words, "training.steps=4", "hydra.run.dir=run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "finished" and metrics["n"] == 40
    start(1, tmp_path, "train.py", "resume=run", "training.steps=6", "score.n=0")
    start(2, tmp_path, "train.py", "resume=run", "training.steps=8", "score.n=0")
    assert weights(tmp_path / "run")["step"] == 8

    images, scores = {}, {}
    for processes in (1, 2):
        name = f"drawn{processes}"
        start(processes, tmp_path, "sample.py", "checkpoint=run", "n=33", "sampler.steps=4", f"hydra.run.dir={name}")
        with np.load(tmp_path / name / "samples.npz") as file:
            images[processes] = file["arr_0"].astype(int), file["arr_1"]
        name = f"scored{processes}"
        words = ("checkpoint=run", "n=41", "sampler.steps=4", f"features.cache={CACHE}", f"hydra.run.dir={name}")
        start(processes, tmp_path, "evaluate.py", *words)
        scores[processes] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert images[1][0].shape == images[2][0].shape and (images[1][1] == images[2][1]).all()
    assert np.abs(images[1][0] - images[2][0]).max() <= 1
    for key in ("fid", "kid", "inception_score", "accuracy", "precision", "recall"):
        assert scores[1][key] == pytest.approx(scores[2][key], rel=1e-2, abs=1e-3), key
    assert scores[1]["real"] == scores[2]["real"]

    for processes in (1, 2):  # of the same images, the very same scores
        words = ("samples=scored1/samples.npz", f"features.cache={CACHE}", f"hydra.run.dir=file{processes}")
        start(processes, tmp_path, "evaluate.py", "data=fashion_mnist_mini", *words)
        scores[processes] = json.loads((tmp_path / f"file{processes}" / "metrics.json").read_text())
    for key in ("fid", "kid", "inception_score", "accuracy", "precision", "recall"):
        assert scores[1][key] == pytest.approx(scores[2][key], rel=1e-6), key


@pytest.mark.slow
def test_patience_ends_all_processes_after_the_same_step(tmp_path):
    words = (*TINY, "training.steps=20", "training.evaluate_every=2", "training.patience=2", "score.n=20")
    frozen = ("optimizer=adamw", "optimizer.lr=1e-30", "sampler=ddim", "sampler.steps=2")  # no score gets better
    done = start(2, tmp_path, "train.py", *words, *frozen, "hydra.run.dir=run")
    assert weights(tmp_path / "run")["step"] == 6 and "training.patience=2" in done.stderr
    assert weights(tmp_path / "run")["ended"]


@pytest.mark.slow
def test_sweeps_under_torchrun_are_refused(tmp_path):
    done = start(2, tmp_path, "train.py", "-m", "seed=0,1", check=False)
    assert done.returncode != 0 and "leave out torchrun" in done.stdout + done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path):
    words = (*TINY, "training.steps=100000", "score.n=0")
    process = begun(tmp_path, *words)
    time.sleep(1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(children.split()[-1]), signal.SIGKILL)
    text = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and re.search(r"exitcode\s*:\s*-9", text)


@pytest.mark.slow
@pytest.mark.parametrize("scoring", [False, True])
def test_a_signal_stops_all_processes_after_the_same_step_and_saves(tmp_path, scoring):
    """Also in the midst of scores that take longer than torchrun waits: they come after a checkpoint."""
    words = (*TINY, "training.steps=100000", "training.checkpoint_every=0")
    words = (*words, *(("score.n=10000", "training.evaluate_every=4") if scoring else ("score.n=0",)))
    process = begun(tmp_path, *words)
    time.sleep(2)
    while scoring and weights(tmp_path / "run")["step"] < 4:
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    if scoring:
        assert "Saving and stopping" in text and weights(tmp_path / "run")["step"] == 4
        return
    assert text.count("Stopped at step") == 1
    found = re.search(
        r"Stopped at step (\d+) of 100000, saved; continue with: torchrun --nproc_per_node=2 .* resume=run", text
    )
    assert found and weights(tmp_path / "run")["step"] == int(found[1]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(tmp_path, number):
    """In scores that take minutes, in which one process waits for the other."""
    words = (
        *TINY,
        "training.steps=100000",
        "training.checkpoint_every=0",
        "score.n=10000",
        "training.evaluate_every=4",
    )
    process = begun(tmp_path, *words)
    while weights(tmp_path / "run")["step"] < 4:
        time.sleep(0.5)
    time.sleep(3)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    time.sleep(1)
    process.send_signal(number)
    began = time.monotonic()
    text = process.communicate(timeout=60)[0]
    assert time.monotonic() - began < 10, text  # torchrun alone would wait for 30 seconds
    assert "press Ctrl-C again to leave at once" in text and not any(child.is_running() for child in children)
    assert weights(tmp_path / "run")["step"] == 4 and not list((tmp_path / "run").glob(".*partial*"))


FAULT = """
import os, runpy, sys
place, rank = sys.argv[1].split(":")
sys.argv = sys.argv[2:]
if os.environ["RANK"] == rank:
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device", "a file")
    if place == "scoring":
        from diffusion.evaluation import scoring
        scoring.extract_set = full
    elif place == "report":
        from diffusion.training import monitor
        monitor.illustrate = full
    elif place == "building":
        from diffusion.config import build
        build.Recipe.network = full
    elif place == "preview":
        from diffusion.drawing.image_model import ImageModel
        ImageModel.labels = full
    elif place == "memory":
        import torch
        from diffusion.training import step
        backward = step.TrainStep.backward
        def no_memory(self, *arguments):
            if self.progress.step == 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return backward(self, *arguments)
        step.TrainStep.backward = no_memory
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("building:0", r"^No space left on device \(a file\): check"),
        ("building:1", r"^Process 1 of 2: No space left on device"),
        ("scoring:0", r"^The scores could not be measured: .*No space left on device: 'a file'; the 2 processes"),
        ("scoring:1", r"^Process 1 of 2: The scores could not be measured"),
        ("report:0", r"^No space left on device \(a file\): check"),
        ("preview:0", r"^No space left on device \(a file\): check"),
        (
            "memory:0",
            r"^The memory is too small for the 4 images .* the run stops after step 3 of 6, saved; .*resume=run",
        ),
        (
            "memory:1",
            r"^Process 1 of 2: The memory is too small .* the run stops after step 3 of 6, saved; .*resume=run",
        ),
    ],
)
def test_a_failure_of_one_process_ends_all_with_its_sentence(tmp_path, fault, sentence):
    (tmp_path / "fault.py").write_text(FAULT, encoding="utf-8")
    words = (fault, str(ROOT / "train.py"), *TINY, "training.steps=6", "score.n=16", "hydra.run.dir=run")
    done = start(2, tmp_path, tmp_path / "fault.py", *words, check=False)
    text = done.stdout + done.stderr
    lines = [re.sub(r"^(training|sampling|scoring).*\]", "", line).strip() for line in re.split(r"[\r\n]+", text)]
    said = [line for line in lines if re.search(sentence, line)]
    assert done.returncode == 1 and len(said) == 1, text
    ours = text[: text.index("torch/distributed/elastic")]  # what torchrun adds comes after it
    assert "Traceback" not in ours
    assert "c10d" not in text and "gloo" not in text
    cause = text[text.index("Root Cause") :]
    assert re.search(rf"rank\s*: {fault[-1]} ", cause)
    if fault.startswith("memory"):
        assert weights(tmp_path / "run")["step"] == 3
        start(2, tmp_path, "train.py", "resume=run", "training.accumulate=2", "score.n=0")
        assert weights(tmp_path / "run")["step"] == 6


@pytest.mark.slow
def test_processes_choose_the_same_recipe(tmp_path):
    """Each measures its part of a batch, and the slowest decides."""
    words = ("experiment=best", "data=fashion_mnist_mini", "training.budget=20s", "score.n=0", "preview.steps=2")
    done = start(2, tmp_path, "train.py", *words, "device=cpu", f"features.cache={CACHE}", "hydra.run.dir=run")
    text = done.stdout + done.stderr
    assert text.count("images/s a network of width") == 1
    state = weights(tmp_path / "run")
    assert "auto" not in (state["config"]["model"]["width"], state["config"]["training"]["batch_size"])
    assert state["step"] == state["total_steps"] and 19 < state["seconds"] < 24
