"""Curves of very long runs: points at longer and longer intervals, each the mean of all that lies between."""

from conftest import curve
from plain import make, train

from diffusion.records import checkpoint, tracking
from diffusion.records.tracking import POINTS

LONG = {"steps": 21, "log_every": 1, "checkpoint_every": 5, "preview_every": 0}


def test_a_very_long_run_logs_means_over_longer_times_the_same_after_a_resume(tmp_path, monkeypatch):
    train(tmp_path / "every", **LONG)
    monkeypatch.setattr(tracking.kept, "__defaults__", (4,))  # as if 4 points were as many as are written one by one
    train(tmp_path / "whole", **LONG)
    train(tmp_path / "resumed", stop_at=12, **LONG)  # between two points, with a checkpoint at 10
    train(tmp_path / "resumed", resume=checkpoint.load(tmp_path / "resumed" / "last.pt"), **LONG)
    each, points = curve(tmp_path / "every"), curve(tmp_path / "whole")
    assert list(each) == list(range(1, 22))
    assert list(points) == [1, 2, 3, 4, 6, 8, 12, 16, 21]  # the last one is always there
    for before, step in zip([0, *points], points, strict=False):
        mean = sum(each[k] for k in range(before + 1, step + 1)) / (step - before)
        assert abs(points[step] / mean - 1) < 1e-5, step
    for tag in ("train/loss", "train/grad_norm", "train/learning_rate"):
        assert curve(tmp_path / "resumed", tag) == curve(tmp_path / "whole", tag)


def test_so_do_losses_of_previews_but_the_last(tmp_path, monkeypatch):
    trainer = make(tmp_path)
    monkeypatch.setattr(trainer.monitor, "held_out_loss", lambda: 1.0)
    for step, number in ((1, POINTS - 1), (2, POINTS), (3, POINTS + 1), (4, 0)):
        trainer.monitor.preview(step, number)
    trainer.tracker.close()
    assert list(curve(tmp_path, "held_out/loss")) == [1, 2, 4]
    trainer.progress.step = 3
    assert trainer.number(2) == 1 and trainer.number(0) == 0
    trainer.progress.step = trainer.progress.total_steps
    assert trainer.number(1) == 0
