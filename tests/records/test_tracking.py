"""Curves and pictures of a run: what cannot be written is left out, and old pictures become rarer."""

import threading

import torch
from conftest import curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion.records.tensorboard import TensorBoard
from diffusion.records.tracking import POINTS, kept


def test_curves_that_cannot_be_written_are_left_out(tmp_path, caplog):
    tracker = TensorBoard(tmp_path)
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
    tracker = TensorBoard(tmp_path)
    for step in range(1, 1000):
        tracker.image("grid", torch.full((3, 2, 2), step % 256, dtype=torch.uint8), step)
    tracker.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    steps = [event.step for event in events.Images("grid")]
    assert steps[:16] == list(range(1, 17)) and steps[-1] == 999 and steps == sorted(steps) and len(steps) < 70
    apart = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert apart[:-1] == sorted(apart[:-1]) and all(b < a / 4 for a, b in zip(steps[32:], apart[32:], strict=False))


def test_points_of_a_curve_are_bounded():
    """All of the first P, and P / 2 more for each doubling: points that are due every second, every fourth, … time."""
    assert all(kept(number) for number in range(POINTS))
    assert [number for number in range(40) if kept(number, 8)] == [*range(8), *range(8, 16, 2), *range(16, 32, 4), 32]
    for doublings in range(1, 7):
        assert sum(kept(number, 64) for number in range(64 * 2**doublings)) == 64 + 32 * doublings
