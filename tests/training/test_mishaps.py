"""What happens to a run in process: full disks, damaged and deleted files, clocks, infinite losses; nothing is lost."""

import logging
import math
import os
import shutil
import signal
import time
from contextlib import nullcontext

import pytest
import torch
from conftest import curve, same
from plain import make, train

from diffusion.records import checkpoint
from diffusion.system import ranks
from diffusion.system.errors import UserError
from diffusion.training.interruption import Stopped, StopSignals


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 8 steps, with checkpoints at 4 and 8."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, steps=8)
    return folder


def test_the_checkpoint_before_the_last_is_kept(finished):
    assert checkpoint.load(finished / "last.pt")["step"] == 8
    assert checkpoint.load(finished / "previous.pt")["step"] == 4
    assert {path.name for path in finished.glob("*.pt")} == {"last.pt", "previous.pt"}


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
    again = train(folder, resume=state, steps=8)
    assert again["step"] == 8 and same(again["network"], checkpoint.load(finished / "last.pt")["network"])
    assert checkpoint.load(folder / "previous.pt")["step"] == 4  # the damaged one did not take its place


def test_a_full_disk_in_the_middle_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    trainer = make(tmp_path, steps=16)
    save, seen = torch.save, []

    def sometimes_full(*args, **kwargs):
        seen.append(trainer.progress.step)
        if trainer.progress.step in (4, 8):
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
    trainer = make(folder, steps=16)
    step = trainer.train_step

    def deleting(batch):
        if trainer.progress.step == 6:
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


def test_a_clock_that_is_moved_back_changes_nothing(tmp_path, monkeypatch):
    trainer = make(tmp_path / "moved", steps=8)
    step, clock = trainer.train_step, time.time

    def moving(batch):
        if trainer.progress.step == 3:
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
    return train(folder, steps=steps)["network"]


def poison(trainer, steps):
    """Make the loss of these steps NaN."""
    loss = trainer.parts.loss

    def poisoned(*args):
        return loss(*args) * (math.nan if trainer.progress.step in steps else 1.0)

    poisoned.learns_variance = False
    trainer.parts.loss = poisoned


def test_steps_that_are_not_finite_can_be_skipped_and_counted(tmp_path, caplog):
    trainer = make(tmp_path, steps=12, nonfinite="skip")
    poison(trainer, {2, 7})
    before = {}
    skip = trainer.train_step.skip

    def watched():
        before[trainer.progress.step] = [p.clone() for p in trainer.parts.parameters]
        skip()
        assert all(map(torch.equal, before[trainer.progress.step - 1], trainer.parts.parameters))

    trainer.train_step.skip = watched
    trainer.fit()
    trainer.tracker.close()
    assert sorted(before) == [2, 7]
    assert curve(tmp_path, "train/skipped_steps") == {3: 1, 6: 1, 9: 2, 12: 2}
    assert all(math.isfinite(value) for value in curve(tmp_path).values())
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 12 and state["skipped"] == 2
    assert "Step 7 is skipped" in caplog.text


def test_only_skipping_stops_in_the_end(tmp_path):
    trainer = make(tmp_path, steps=200, nonfinite="skip")
    poison(trainer, range(5, 200))
    with pytest.raises(UserError, match=r"100 steps in a row.*last good checkpoint is .*last\.pt"):
        trainer.fit()
    trainer.tracker.close()
    state = checkpoint.load(tmp_path / "last.pt")
    assert all(value.isfinite().all() for value in state["network"].values())


def test_too_little_memory_names_the_accumulation_that_fits(tmp_path):
    trainer = make(tmp_path, steps=12, batch_size=12, accumulate=2)

    def too_much(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer.train_step = too_much
    message = (
        r"too small for the 6 images that training\.batch_size=12 with training\.accumulate=2 takes at once; "
        r"the run stops after step 0 of 12, saved; training\.accumulate=3 takes 4 at once and gives the same gradient: "
        r"python .*resume=\S+ training\.accumulate=3"
    )
    with pytest.raises(UserError, match=message):
        trainer.fit()
    trainer.tracker.close()


@pytest.mark.slow
def test_a_long_run_takes_no_more_memory_and_bounded_disk(tmp_path, scorer):
    """A shortened long run: 600 steps, 60 previews, 60 checkpoints, 20 scorings."""
    psutil = pytest.importorskip("psutil")
    often = {"checkpoint_every": 10, "preview_every": 10, "evaluate_every": 30, "log_every": 10}
    trainer = make(tmp_path, scorer=scorer, n=20, steps=600, **often)
    step, memory, process = trainer.train_step, {}, psutil.Process()

    def watched(batch):
        if trainer.progress.step % 100 == 0:
            memory[trainer.progress.step] = process.memory_info().rss / 2**20
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
    trainer, queued = make(tmp_path, steps=50, checkpoint_every=0), []
    step = trainer.train_step

    def signalled(batch):
        step(batch)
        if trainer.progress.step == 7:
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


@pytest.mark.parametrize("scoring", [True, False])
def test_one_of_several_processes_says_at_once_what_a_stop_waits_for(scoring, monkeypatch, caplog):
    monkeypatch.setattr(ranks, "size", lambda: 2)
    with StopSignals() as stop, stop.at_once() if scoring else nullcontext():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
    what = "the scores and pictures that are being made" if scoring else "this step"
    assert caplog.messages == [f"Saving and stopping after {what}; press Ctrl-C again to leave at once."]
