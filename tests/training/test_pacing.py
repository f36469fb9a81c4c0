"""How long a training is: times with units, the speed so far, pauses, and runs that end on time."""

import pytest
from plain import make

from diffusion.records import checkpoint
from diffusion.system.errors import UserError
from diffusion.training import pacing, running_sums
from diffusion.training.monitor import Monitor


def test_times_with_units():
    assert [pacing.budget_seconds(text) for text in ("90s", "4min", "1.5h", " 2 min ")] == [90, 240, 5400, 120]
    for wrong in ("4", "4 days", "0s", "-1s", "", "min"):
        with pytest.raises(ValueError, match=r"must be a time with its unit, such as 90s, 4min or 1\.5h"):
            pacing.budget_seconds(wrong)


def test_the_length_follows_the_speed():
    pace = pacing.Pace(100, 0, guess=1000)
    assert pace.steps(0, 0) == 1000
    assert pace.steps(1, 40) == 1000  # it compiled
    assert pace.steps(2, 40.5) == 2 + 119  # half a second per step
    assert pace.steps(3, 42) == 3 + 58  # it got slower: a second per step
    assert pace.steps(4, 99.9) == 5 and pace.steps(4, 100) == 4
    assert pacing.Pace(100, 7, guess=7).steps(7, 60) == 10  # resumed


class Clock:
    """A clock that goes on when it is told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(running_sums.time, "perf_counter", lambda: self.now)


def test_a_pause_that_is_interrupted_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    watch = running_sums.Stopwatch()

    def interrupted():
        with watch.paused():
            clock.now += 50
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    clock.now += 2
    assert watch.spent() == 2


def budgeted(folder, clock, monkeypatch, resume=None, **overrides):
    """A run in which each step takes a second, and its learning rates."""
    trainer = make(folder, resume, **{"budget": "20s", "checkpoint_every": 5, **overrides})
    rates, step = [], trainer.train_step

    def slow(batch):
        step(batch)
        rates.append(trainer.parts.optimizer.param_groups[0]["lr"])
        clock.now += 1

    monkeypatch.setattr(trainer, "train_step", slow)
    trainer.fit()
    trainer.tracker.close()
    return trainer, rates


def test_a_budget_ends_the_run_on_time_with_a_learning_rate_of_zero(tmp_path, monkeypatch):
    trainer, rates = budgeted(tmp_path / "a", Clock(monkeypatch), monkeypatch, warmup=0)
    assert trainer.progress.step == len(rates) == 20
    assert rates[-1] < 0.02 * trainer.parts.base_rates[0]
    assert all(later < earlier for earlier, later in zip(rates[2:], rates[3:], strict=False))
    assert abs(rates[10] / trainer.parts.base_rates[0] - 0.5) < 0.06


def test_a_budget_shorter_than_a_step_is_one_step(tmp_path, monkeypatch):
    trainer, rates = budgeted(tmp_path / "a", Clock(monkeypatch), monkeypatch, budget="0.5s")
    assert trainer.progress.step == trainer.progress.total_steps == len(rates) == 1


def test_a_budget_that_is_spent_already_is_refused(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), tmp_path / "run"
    budgeted(folder, clock, monkeypatch)
    state = {**checkpoint.load(folder / "last.pt"), "total_steps": 30}  # as a checkpoint on the way has it
    with pytest.raises(UserError, match=r"trained for 20 s already, and training\.budget is 10 s: give a larger one"):
        make(folder, state, budget="10s")


def test_what_comes_before_the_first_step_does_not_count(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    trainer = make(tmp_path, budget="20s")
    clock.now += 1000  # a classifier is trained for the scores
    monkeypatch.setattr(trainer, "train_step", lambda batch: (_ for _ in ()).throw(ProcessLookupError("killed")))
    with pytest.raises(ProcessLookupError):
        trainer.fit()
    trainer.tracker.close()
    assert checkpoint.load(tmp_path / "last.pt")["seconds"] == 0


def test_previews_do_not_count_and_a_resumed_run_has_the_rest(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), tmp_path / "run"
    preview = Monitor.preview
    calls = []

    def long(self, *arguments, **settings):
        calls.append(clock.now)
        clock.now += 1000
        return preview(self, *arguments, **settings)

    monkeypatch.setattr(Monitor, "preview", long)
    trainer, _ = budgeted(folder, clock, monkeypatch, preview_every=8)
    assert trainer.progress.step == 20 and len(calls) >= 2
    state = checkpoint.load(folder / "last.pt")
    assert 19 <= state["seconds"] <= 21
    more, _ = budgeted(folder, clock, monkeypatch, resume=state, budget="30s")
    assert more.progress.step == 30
