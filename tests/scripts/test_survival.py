"""Runs in processes of their own that are killed or signalled, or cannot write: nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, curve, same, write_pictures

from diffusion.records import checkpoint


@pytest.mark.slow
def test_thirty_kills_lose_nothing(tmp_path):
    """SIGKILL at 24 moments and 6 times inside a checkpoint; the same command again ends bit for bit the same."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "scripts" / "kills.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == 30
    assert sum(kill["killed"] == -signal.SIGKILL for kill in kills) >= 25  # a run may end before the last moments
    assert sum(bool(kill["left"]) for kill in kills) >= 10  # many were killed with a checkpoint behind them
    for kill in kills:
        left = tmp_path / f"{kill['name']}.left"
        found = {path.name: checkpoint.load(path)["step"] for path in left.glob("*.pt")}
        assert kill["left"] == [] or found["last.pt"] % 3 == 0 or found["last.pt"] == 40, kill
        assert found.get("previous.pt", -1) <= found.get("last.pt", 0)
    whole = checkpoint.load(tmp_path / "whole" / "last.pt")
    assert whole["step"] == 40
    for kill in kills:
        folder = tmp_path / kill["name"]
        text = (tmp_path / f"{kill['name']}.txt").read_text()
        assert kill["again"] == 0 and "Traceback" not in text, text
        state = checkpoint.load(folder / "last.pt")
        for key in ("step", "network", "ema", "optimizer", "sums"):
            assert same(whole[key], state[key]), f"{key} differs after a kill {kill['moment']}"
        assert curve(folder) == curve(tmp_path / "whole"), kill["moment"]


@pytest.mark.slow
def test_a_signal_to_all_processes_leaves_the_readers_of_images_alive_until_the_step_is_done(tmp_path, mini):
    write_pictures(tmp_path / "pictures", mini)
    words = "data=image_folder data.root=pictures data.image_size=28 data.channels=1 data.padding=2 guidance=none "
    words += "data.memory_limit=1e-9 model.width=8 model.groups=4 model.head_width=8 training.batch_size=8 device=cpu "
    words += "training.steps=1000000 training.checkpoint_every=0 score.n=0 preview.steps=2 hydra.run.dir=run"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words.split()],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "run" / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGTERM)
    began = time.monotonic()
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM and "Stopped at step" in text and "Traceback" not in text, text
    assert time.monotonic() - began < 20 and checkpoint.load(tmp_path / "run" / "last.pt")["step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_leaves_at_once(tmp_path, number, code):
    """In the midst of a step that takes long: the first one waits for its end, the second one does not."""
    begin = "import sys, time, runpy; sys.argv[0] = sys.argv.pop(1)\n"
    begin += "from diffusion.training import step\nbackward = step.TrainStep.backward\n"
    begin += (
        "def slow(self, *a):\n    time.sleep(60 if self.progress.step == 3 else 0)\n    return backward(self, *a)\n"
    )
    begin += "step.TrainStep.backward = slow\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    words = "model.width=8 model.groups=4 model.head_width=8 training.batch_size=8 device=cpu training.steps=9 "
    words += "training.checkpoint_every=2 training.preview_every=0 score.n=0 hydra.run.dir=run"
    process = subprocess.Popen(
        [sys.executable, "-c", begin, str(ROOT / "train.py"), *words.split()],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run" / "previous.pt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(number)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(number)
    began = time.monotonic()
    text = process.communicate(timeout=60)[1]
    assert process.returncode == code and "Traceback" not in text and time.monotonic() - began < 5, text
    assert "press Ctrl-C again to leave at once" in text
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 2
    assert not list((tmp_path / "run").glob(".*partial*"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path, run):
    """What cannot be made anywhere: a folder under a file."""
    (tmp_path / "file").write_text("")
    done = run("train.py", "hydra.run.dir=file/run", check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in text and "file/run" in text.splitlines()[-1]
