"""A memory that is too small: what is whole is saved before the run ends, and the way on that is named works."""

import re

import pytest
import torch
from conftest import same
from plain import make, train

from diffusion.records import checkpoint
from diffusion.system.errors import UserError

ERRORS = {
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}
STATE = ("step", "network", "ema", "optimizer", "timesteps", "sums")
STEPS, FAILED = 8, 6  # the checkpoint before is of step 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return train(tmp_path_factory.mktemp("whole"), steps=STEPS)


def failing(function, error, trainer, after=False):
    """The function, without memory in one step: before it does anything, or when it has done its part."""

    def fails(*args, **kwargs):
        found = function(*args, **kwargs) if after else None
        if trainer.progress.step == FAILED:
            raise error
        return found if after else function(*args, **kwargs)

    return fails


def run_out(trainer, place, error, monkeypatch):
    parts, step = trainer.parts, trainer.train_step
    if place == "data":
        step.draw = failing(step.draw, error, trainer)
    elif place == "forward":
        parts.network.forward = failing(parts.network.forward, error, trainer)
    elif place == "backward":
        step.backward = failing(step.backward, error, trainer, after=True)  # with all gradients there
    elif place == "clipping":
        clip = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", failing(clip, error, trainer))
    elif place == "optimizer":
        parts.optimizer.step = failing(parts.optimizer.step, error, trainer, after=True)
    elif place == "average":
        parts.ema.update = failing(parts.ema.update, error, trainer)
    elif place == "sums":
        trainer.sums.add = failing(trainer.sums.add, error, trainer, after=True)
    with pytest.raises(UserError) as caught:
        trainer.fit()
    trainer.tracker.close()
    monkeypatch.undo()
    return str(caught.value)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("place", ["data", "forward", "backward", "clipping"])
def test_a_step_that_has_changed_nothing_is_left_out_and_all_before_it_is_saved(
    tmp_path, place, kind, whole, monkeypatch
):
    text = run_out(make(tmp_path, steps=STEPS), place, ERRORS[kind], monkeypatch)
    assert f"the run stops after step {FAILED} of {STEPS}, saved; training.accumulate=2 takes 4 at once" in text
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == FAILED
    assert checkpoint.load(tmp_path / "previous.pt")["step"] == 4
    again = train(tmp_path, resume=state, steps=STEPS)
    assert all(same(again[key], whole[key]) for key in STATE)


@pytest.mark.parametrize("place", ["optimizer", "average", "sums"])
def test_a_step_that_was_done_in_part_is_not_saved(tmp_path, place, whole, monkeypatch):
    text = run_out(make(tmp_path, steps=STEPS), place, ERRORS["device"], monkeypatch)
    assert re.search(rf"the run stops in step {FAILED}, and its last good checkpoint is .*last\.pt, of step 4; ", text)
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 4
    again = train(tmp_path, resume=state, steps=STEPS)
    assert all(same(again[key], whole[key]) for key in STATE)


def test_the_way_on_has_the_same_gradient(tmp_path, whole, monkeypatch):
    text = run_out(make(tmp_path, steps=STEPS), "forward", ERRORS["cpu"], monkeypatch)
    assert text.endswith("training.accumulate=2.") and "gives the same gradient: python train.py resume=" in text
    again = train(tmp_path, resume=checkpoint.load(tmp_path / "last.pt"), steps=STEPS, accumulate=2)
    for name, value in whole["network"].items():  # up to the order of sums
        torch.testing.assert_close(again["network"][name], value, rtol=1e-3, atol=1e-4)


def test_a_state_that_cannot_be_written_is_not_called_saved(tmp_path, monkeypatch):
    trainer, save = make(tmp_path, steps=STEPS), torch.save

    def full(*args, **kwargs):
        if trainer.progress.step == FAILED:
            raise OSError(28, "No space left on device")
        return save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    text = run_out(trainer, "forward", ERRORS["device"], monkeypatch)
    assert f"the run stops in step {FAILED}, and its last good checkpoint is" in text and "of step 4" in text


@pytest.mark.parametrize("when", ["on the way", "in the end"])
def test_what_is_shown_does_not_lose_the_training(tmp_path, when, monkeypatch):
    trainer = make(tmp_path, steps=STEPS, preview_every=FAILED if when == "on the way" else 0)

    def too_large(step, number):
        raise ERRORS["cpu"]

    monkeypatch.setattr(trainer.monitor, "preview", too_large)
    with pytest.raises(UserError, match=r"too small for the .*preview.*, saved; .*score\.batch_size=1, or leave"):
        trainer.fit()
    trainer.tracker.close()
    assert checkpoint.load(tmp_path / "last.pt")["step"] == (FAILED if when == "on the way" else STEPS)


def test_other_errors_are_told_as_they_are(tmp_path):
    trainer = make(tmp_path)

    def broken(batch):
        raise RuntimeError("shapes cannot be multiplied")

    trainer.train_step = broken
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.fit()
    trainer.tracker.close()
