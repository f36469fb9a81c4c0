"""How fast a training is: measured on its own step, in a few steps of a few widths."""

import math
from types import SimpleNamespace

import pytest
import torch
from plain import make

from diffusion.training import rule, speed
from diffusion.training.speed import Measured

PARAMETERS = {width: 700 * width**2 for width in rule.WIDTHS}


class Known(Measured):
    """On a machine whose speed is known: seconds of a step by width and batch."""

    def __init__(self, seconds, step, each=0.05):
        super().__init__(None, 0, seconds)
        self.step, self.each, self.asked = step, each, []

    def rate(self, width, batch):
        self.asked.append((width, batch))
        self.spent += self.each
        took = self.step(width, batch)
        return batch / took if math.isfinite(took) else 0.0


def cpu(width, batch):
    return batch / 600 * (width / 32) ** 1.1


@pytest.mark.parametrize("seconds", [15, 60, 240, 900])
def test_few_measurements_find_a_width_as_good_as_all_would(seconds):
    found = Known(seconds, cpu)
    width = found.choose_width(PARAMETERS)
    left = seconds - found.spent
    fids = {w: rule.LAW(left * 64 / cpu(w, 64), parameters) for w, parameters in PARAMETERS.items()}
    assert fids[width] <= 1.02 * min(fids.values())
    assert len(found.asked) <= 4
    assert found.images(width) == pytest.approx(left * 64 / cpu(width, 64), rel=0.05)


def test_it_ends_when_its_time_is_up():
    found = Known(20, cpu, each=0.6)  # of half a second
    width = found.choose_width(PARAMETERS)
    assert found.asked == [(32, 64)] and width in PARAMETERS


def test_a_width_that_is_given_is_measured_alone():
    found = Known(900, cpu)
    assert found.choose_width({96: 1}) == 96 and found.asked == [(96, 64)]


def test_what_does_not_fit_in_memory_is_not_chosen():
    found = Known(86_400, lambda width, batch: math.inf if width > 48 else cpu(width, batch))
    assert found.choose_width(PARAMETERS) == 48
    nothing = Known(900, lambda width, batch: math.inf)
    assert nothing.choose_width(PARAMETERS) == min(PARAMETERS)  # whose run says so


def test_batches_grow_while_steps_cost_the_same():
    """As on a GPU that waits for its orders: 40 ms for every step of up to 512 images, at any width."""
    found = Known(900, lambda width, batch: 0.04 * max(1, batch / 512))
    found.choose_batch(PARAMETERS)
    images = [900 * b / 0.04 / max(1, b / 512) for b in (64, 128, 256, 512, 1024)]
    worth = [rule.useful(n, b) for n, b in zip(images, (64, 128, 256, 512, 1024), strict=True)]
    assert found.batch == (64, 128, 256, 512, 1024)[worth.index(max(worth))] > 64
    width = found.choose_width(PARAMETERS)  # as wide as makes any difference, since it costs nothing
    assert width >= 160 and rule.LAW(1e6, PARAMETERS[width]) == pytest.approx(rule.LAW(1e6, PARAMETERS[256]), rel=0.01)
    found = Known(900, cpu)
    found.choose_batch(PARAMETERS)
    assert found.batch == 64 and list(found.speeds) == [32]


def test_a_step_is_timed_and_leaves_no_trace(tmp_path):
    trainer = make(tmp_path)
    trainer.tracker.close()
    before = torch.random.get_rng_state()

    def parts(width, batch):
        return trainer.parts, trainer.plan

    found = Measured(parts, 0, 40.0)
    rate = found.rate(32, 8)
    assert rate > 0 and 0 < 8 / rate < found.spent
    assert torch.equal(before, torch.random.get_rng_state())
    assert trainer.progress.step == 0


def test_all_of_little_memory_is_told_from_other_errors(monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(speed, "step_seconds", fails)
    monkeypatch.setattr(speed.threads, "choose", lambda *_: None)
    parts = SimpleNamespace(device=SimpleNamespace(torch_device=torch.device("cpu")))
    found = Measured(lambda width, batch: (parts, None), 0, 60.0)
    assert found.rate(32, 64) == 0
    monkeypatch.setattr(speed, "step_seconds", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.rate(32, 64)
