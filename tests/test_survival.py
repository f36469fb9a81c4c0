"""Runs that are killed, filled disks, damaged files, two runs in one folder: nothing is lost."""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import CACHE, ROOT, curve, same, tiny_config, write_pictures
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import make, train

from diffusion.config import build
from diffusion.records import checkpoint
from diffusion.records.tracking import Tracker
from diffusion.system import untrusted
from diffusion.system.errors import UserError
from diffusion.system.files import sole_use
from diffusion.training.interruption import Stopped


@pytest.mark.slow
def test_thirty_kills_lose_nothing(tmp_path):
    """SIGKILL at 24 moments and 6 times inside a checkpoint; the same command again ends bit for bit the same."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kills.py"), str(tmp_path)],
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 8 steps, with checkpoints at 4 and 8."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, **{"training.steps": 8})
    return folder


def test_the_checkpoint_before_the_last_is_kept(finished):
    assert checkpoint.load(finished / "last.pt")["step"] == 8
    assert checkpoint.load(finished / "previous.pt")["step"] == 4
    assert {path.name for path in finished.glob("*.pt")} == {"last.pt", "previous.pt"}


@pytest.mark.parametrize("name", ["last.pt", "model.safetensors"])
def test_every_bit_flip_that_matters_is_noticed(name, finished, tmp_path):
    """A flipped bit at 200 places: the checkpoint is refused, or nothing that is read from it has changed."""
    if name != "last.pt":
        state = checkpoint.load(finished / "last.pt")
        checkpoint.save_model(finished / name, state, state["ema"]["network"])
    content = bytearray((finished / name).read_bytes())
    whole, path, refused = checkpoint.load(finished / name), tmp_path / name, 0
    for number in range(200):
        place = (number * 2_654_435_761) % (8 * len(content))
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        content[place // 8] ^= 1 << place % 8
        try:
            assert same(checkpoint.load(path), whole), place
        except UserError:
            refused += 1
    assert refused > 100  # the rest is padding between the entries


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_offered(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    with open(folder / "last.pt", "r+b") as file:
        file.truncate(os.path.getsize(folder / "last.pt") // 2)
    with pytest.raises(
        UserError, match=r"last\.pt is no checkpoint of this project, or it is cut short.*give .*previous\.pt instead"
    ):
        checkpoint.load(folder / "last.pt")
    state = checkpoint.load(folder / "previous.pt")
    again = train(folder, resume=state, **{"training.steps": 8})
    assert again["step"] == 8 and same(again["network"], checkpoint.load(finished / "last.pt")["network"])
    assert checkpoint.load(folder / "previous.pt")["step"] == 4  # the damaged one did not take its place


def test_a_full_disk_in_the_middle_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    trainer = make(tmp_path, **{"training.steps": 16})
    save, seen = torch.save, []

    def sometimes_full(*args, **kwargs):
        seen.append(trainer.step)
        if trainer.step in (4, 8):
            raise OSError(28, "No space left on device")
        return save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", sometimes_full)
    with caplog.at_level(logging.WARNING):
        trainer.fit()
    trainer.tracker.close()
    assert seen == [0, 4, 8, 12, 16]
    warned = [record.getMessage() for record in caplog.records if "Training goes on" in record.getMessage()]
    assert len(warned) == 2 and all("No space left" in text and "previous one is untouched" in text for text in warned)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 16


@pytest.mark.parametrize("what", ["the folder", "TensorBoard's files"])
def test_what_is_deleted_in_the_middle_is_made_again(tmp_path, what, caplog):
    folder = tmp_path / "run"
    trainer = make(folder, **{"training.steps": 16})
    step = trainer.train_step

    def deleting(batch):
        if trainer.step == 6:
            trainer.tracker.flush()  # what is written later would make the file again
            if what == "the folder":
                shutil.rmtree(folder)
            else:
                for path in folder.glob("events*"):
                    path.unlink()
        return step(batch)

    trainer.train_step = deleting
    with caplog.at_level(logging.WARNING):
        trainer.fit()
    trainer.tracker.close()
    assert checkpoint.load(folder / "last.pt")["step"] == 16
    assert list(curve(folder)) == [9, 12, 15, 16]  # what is left of 3, 6, 9, …
    assert "is gone: its curves go on in a new one" in caplog.text


def test_curves_that_cannot_be_written_are_left_out(tmp_path, caplog):
    tracker = Tracker(tmp_path)
    tracker.scalars({"a": 1.0}, 1)
    tracker.flush()
    writer = tracker.opened.file_writer.event_writer._async_writer

    def full(data):
        raise OSError(28, "No space left on device")

    writer._writer.write = full
    threading.excepthook, before = lambda failure: None, threading.excepthook
    try:
        for step in range(2, 40):
            tracker.scalars({"a": 1.0, "b": 2.0}, step)
    finally:
        threading.excepthook = before
    tracker.close()
    assert caplog.text.count("cannot be written for now") == 1
    assert 39 in curve(tmp_path, "a") and 1 in curve(tmp_path, "a")


def test_pictures_become_rarer_and_the_newest_is_written_in_the_end(tmp_path):
    tracker = Tracker(tmp_path)
    for step in range(1, 1000):
        tracker.image("grid", torch.full((3, 2, 2), step % 256, dtype=torch.uint8), step)
    tracker.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    steps = [event.step for event in events.Images("grid")]
    assert steps[:16] == list(range(1, 17)) and steps[-1] == 999 and steps == sorted(steps) and len(steps) < 70
    apart = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert apart[:-1] == sorted(apart[:-1]) and all(b < a / 4 for a, b in zip(steps[32:], apart[32:], strict=False))


def test_a_clock_that_is_moved_back_changes_nothing(tmp_path, monkeypatch):
    trainer = make(tmp_path / "moved", **{"training.steps": 8})
    step, clock = trainer.train_step, time.time

    def moving(batch):
        if trainer.step == 3:
            monkeypatch.setattr(time, "time", lambda: clock() - 1e6)
        return step(batch)

    trainer.train_step = moving
    trainer.fit()
    trainer.tracker.close()
    monkeypatch.undo()
    assert list(curve(tmp_path / "moved")) == [3, 6, 8]
    assert same(weights(tmp_path / "moved"), weights_after(tmp_path / "whole", 8))


def weights(folder):
    return checkpoint.load(folder / "last.pt")["network"]


def weights_after(folder, steps):
    return train(folder, **{"training.steps": steps})["network"]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with sole_use(tmp_path / "run"):
        code = "import sys; from pathlib import Path; from diffusion.system.files import sole_use\n"
        code += "with sole_use(Path(sys.argv[1])): pass"
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "InUse" in other.stderr and "is in use by another run: wait for it" in other.stderr
    with sole_use(tmp_path / "run"):  # free again
        pass


def test_a_run_of_other_settings_is_not_gone_on_with(finished):
    saved = checkpoint.load(finished / "last.pt")["config"]
    build.same_run(finished, saved, tiny_config(**{"training.steps": 99, "training.log_every": 7}))
    for key, value, group in (("model.width", 16, "model"), ("seed", 1, "seed"), ("optimizer.lr", 1e-5, "optimizer")):
        with pytest.raises(UserError, match=f"holds a run already, with another {group} than this command asks for"):
            build.same_run(finished, saved, tiny_config(**{key: value}))


def poison(trainer, steps):
    """Make the loss of these steps NaN."""
    loss = trainer.loss

    def poisoned(*args):
        return loss(*args) * (math.nan if trainer.step in steps else 1.0)

    poisoned.learns_variance = False
    trainer.loss = poisoned


def test_steps_that_are_not_finite_can_be_skipped_and_counted(tmp_path, caplog):
    trainer = make(tmp_path, **{"training.steps": 12, "training.nonfinite": "skip"})
    poison(trainer, {2, 7})
    before = {}
    skip = trainer.skip

    def watched():
        before[trainer.step] = [p.clone() for p in trainer.parameters]
        skip()
        assert all(map(torch.equal, before[trainer.step - 1], trainer.parameters))

    trainer.skip = watched
    trainer.fit()
    trainer.tracker.close()
    assert sorted(before) == [2, 7]
    assert curve(tmp_path, "train/skipped_steps") == {3: 1, 6: 1, 9: 2, 12: 2}
    assert all(math.isfinite(value) for value in curve(tmp_path).values())
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 12 and state["skipped"] == 2
    assert "Step 7 is skipped" in caplog.text


def test_only_skipping_stops_in_the_end(tmp_path):
    trainer = make(tmp_path, **{"training.steps": 200, "training.nonfinite": "skip"})
    poison(trainer, range(5, 200))
    with pytest.raises(UserError, match=r"100 steps in a row.*last good checkpoint is .*last\.pt"):
        trainer.fit()
    trainer.tracker.close()
    state = checkpoint.load(tmp_path / "last.pt")
    assert all(value.isfinite().all() for value in state["network"].values())


def test_too_little_memory_names_the_accumulation_that_fits(tmp_path):
    trainer = make(tmp_path, **{"training.steps": 12, "training.batch_size": 12, "training.accumulate": 2})

    def too_much(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer.train_step = too_much
    message = (
        r"too small for the 6 images that training\.batch_size=12 with training\.accumulate=2 takes at once; "
        r"training\.accumulate=3 takes 4 at once and gives the same gradient: "
        r"python .*resume=\S+ training\.accumulate=3"
    )
    with pytest.raises(UserError, match=message):
        trainer.fit()
    trainer.tracker.close()


@pytest.mark.slow
def test_a_long_run_takes_no_more_memory_and_bounded_disk(tmp_path):
    """A shortened long run: 600 steps, 60 previews, 60 checkpoints, 20 scorings."""
    psutil = pytest.importorskip("psutil")
    settings = {"training.steps": 600, "training.checkpoint_every": 10, "training.preview_every": 10}
    settings |= {"training.evaluate_every": 30, "score.n": 20, "features.cache": CACHE, "training.log_every": 10}
    trainer = make(tmp_path, **settings)
    step, memory, process = trainer.train_step, {}, psutil.Process()

    def watched(batch):
        if trainer.step % 100 == 0:
            memory[trainer.step] = process.memory_info().rss / 2**20
        return step(batch)

    trainer.train_step = watched
    trainer.fit()
    trainer.tracker.close()
    assert memory[500] - memory[200] < 60, memory
    assert {path.name for path in tmp_path.glob("*.pt")} == {"last.pt", "previous.pt", "best.pt"}
    (events,) = tmp_path.glob("events*")
    assert events.stat().st_size < 10 * 2**20  # it was 16 MiB with every picture
    other = [path for path in tmp_path.rglob("*") if path.is_file() and "events" not in path.name]
    assert len(other) < 25, other


def test_the_signal_before_the_end_of_a_batch_system_saves_and_then_queues_again(tmp_path):
    """Slurm's launcher answers SIGUSR2 by queueing the job again, which must find the checkpoint."""
    trainer, queued = make(tmp_path, **{"training.steps": 50, "training.checkpoint_every": 0}), []
    step = trainer.train_step

    def signalled(batch):
        step(batch)
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGUSR2)

    def queue(number, frame):
        queued.append((number, checkpoint.load(tmp_path / "last.pt")["step"]))

    trainer.train_step, before = signalled, signal.signal(signal.SIGUSR2, queue)
    try:
        with pytest.raises(Stopped, match="Stopped at step 7 of 50, saved"):
            trainer.fit()
        assert signal.getsignal(signal.SIGUSR2) is queue
    finally:
        signal.signal(signal.SIGUSR2, before)
        trainer.tracker.close()
    assert queued == [(signal.SIGUSR2, 7)]


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


def test_a_folder_that_cannot_be_written_is_named(tmp_path, run):
    """What cannot be made anywhere: a folder under a file."""
    (tmp_path / "file").write_text("")
    done = run("train.py", "hydra.run.dir=file/run", check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in text and "file/run" in text.splitlines()[-1]


def test_what_is_read_is_what_was_written(tmp_path):
    network = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    content = {
        "tensors": [torch.randn(3, 4), torch.arange(5), torch.tensor([True]), torch.zeros(2, dtype=torch.bfloat16)],
        "weights": network.state_dict(),
        "nested": {"a": (1, 2.5, None, "text", True), 3: []},
    }
    torch.save(content, tmp_path / "file.pt")
    found = untrusted.read_torch(tmp_path / "file.pt")
    assert same(found, {**content, "weights": dict(content["weights"])})
    assert found["weights"]["weight"].stride() == network.weight.stride()
