"""Guidance that is chosen on the trained model: the search, and what a run keeps of it."""

import math
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import toy
from plain import make

from diffusion.evaluation.features.base import Features
from diffusion.evaluation.reference import reference_of
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.records import checkpoint
from diffusion.training import tuning
from diffusion.training.interruption import Stopped
from diffusion.training.rule import numbers
from diffusion.training.tuning import INTERVAL, NAMES, SCALE, best_scale, opened, search


def never():
    return False


@pytest.mark.parametrize("best", [1.5, 1.9, 2.5, 2.7, 3.6, 4.2])
def test_of_a_parabola_over_the_logarithm_the_lowest_point_is_found(best):
    asked = []

    def score(scale):
        asked.append(scale)
        return 0.5 + math.log(scale / best) ** 2

    on_grid, between = best_scale(score, 2.5, never)
    assert between == pytest.approx(best, rel=0.01)
    assert abs(math.log(on_grid / best)) <= 0.51 * math.log(tuning.RATIO)
    assert len(asked) == len(set(asked)) <= 5


def test_a_best_scale_that_is_far_is_gone_towards():
    assert best_scale(lambda scale: -scale, 2.0, never) == (pytest.approx(2 * tuning.RATIO**3, rel=0.01),) * 2
    asked = []
    on_grid, between = best_scale(lambda scale: asked.append(scale) or scale, 2.0, lambda: True)
    assert on_grid == between == 1.6 and len(asked) == 3  # time is up


def test_the_end_of_the_interval_is_chosen_at_the_best_scale():
    def score(guidance):
        return 1 + math.log(guidance.scale / 3) ** 2 + math.log(guidance.interval[1] / 4.5) ** 2

    start, tried = ClassifierFree(0.1, scale=2.4, interval=[0.0, 2.9]), {}
    found = search(start, NAMES, score, never, tried)
    assert found.scale == pytest.approx(3, rel=0.01) and found.interval == [0.0, pytest.approx(2.9 * 1.5, rel=0.02)]
    assert set(tried) >= {(2.4, 2.9), (3.0, 2.9), (3.0, 1.9)} and found.dropout == 0.1
    assert search(start, [SCALE], score, never, {}).interval == [0.0, 2.9]
    assert search(start, [INTERVAL], score, never, {}).scale == 2.4
    flat = search(start, [INTERVAL], lambda guidance: 1.0, never, {})  # no gain
    assert flat.interval == [0.0, 2.9]


class Corners(Features):
    """A few pixels."""

    name, fingerprint = "corners", "corners"

    def extract(self, images):
        return images.flatten(1)[:, ::9][:, :4].float(), None


class Contrast:
    """A model whose light and dark images lie the further apart the more it is guided, as far as real ones at BEST."""

    BEST = 2.2

    def __init__(self):
        self.guidance = ClassifierFree(0.1, scale=2.6, interval=[0.0, 2.9])

    def labels(self, n):
        return torch.arange(n) % 2

    def draw(self, sampler, n, labels, seed, batch_size, progress):
        images = toy(n, shift=seed + 1).train.images.float()
        dark = images - 120 * labels.view(-1, 1, 1, 1)
        return (dark + 120 * self.guidance.scale / self.BEST * labels.view(-1, 1, 1, 1)).clamp(0, 255).to(torch.uint8)


def monitor(model, tmp_path):
    data = toy(600)
    data.test = toy(400, shift=1000).train
    reference = reference_of(Corners(data, torch.device("cpu"), str(tmp_path)))
    return SimpleNamespace(model=model, reference=reference, sampler=None, seed=0, at_once=100)


def test_the_scale_at_which_a_model_draws_like_the_data_is_chosen(tmp_path, caplog):
    model = Contrast()
    before = model.guidance
    with caplog.at_level("INFO", "diffusion"):
        found = tuning.tune(monitor(model, tmp_path), [SCALE], 10**6)
    assert found.scale == pytest.approx(Contrast.BEST, rel=0.05)
    assert found.interval == [0.0, 2.9] and model.guidance is before
    assert f"guidance.scale={found.scale}: chosen in" in caplog.text and "by the FID of 400 images each" in caplog.text
    start = numbers(10**6).scale  # of the rule, wherever an earlier choice ended
    assert f"at scale {start:g} up to σ/α 2.9" in caplog.text and "against 400 held-out ones" in caplog.text


def test_where_nothing_can_be_chosen_the_guidance_stays(tmp_path, caplog):
    model = Contrast()
    judged = monitor(model, tmp_path)
    with caplog.at_level("INFO", "diffusion"):
        assert tuning.tune(judged, NAMES, 1000) is None
        judged.reference = None
        assert tuning.tune(judged, NAMES, 10**6) is None
    said = "guidance.scale=2.6 guidance.interval=[0.0,2.9]: not chosen anew, since"
    assert f"{said} the training was too short." in caplog.text
    assert f"{said} nothing here scores images (score.n=0)." in caplog.text
    for guidance in (Unconditional(), ClassifierFree(0.1, scale=[1.0, 2.0])):
        model.guidance = guidance
        assert tuning.tune(judged, NAMES, 10**6) is None


def test_an_interruption_leaves_the_guidance(tmp_path):
    model = Contrast()
    before, model.draw = model.guidance, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(monitor(model, tmp_path), NAMES, 10**6)
    assert model.guidance is before


@pytest.mark.parametrize(
    ("held", "meant"),
    [
        ({"settings": [SCALE, INTERVAL], "step": 7}, {"settings": [SCALE, INTERVAL], "step": 7}),
        ({"settings": ["model.width", INTERVAL, []], "step": "late"}, {"settings": [INTERVAL], "step": None}),
        *((wrong, None) for wrong in (None, [], "guidance.scale", {"settings": SCALE}, {"settings": []}, {"step": 1})),
    ],
)
def test_what_a_checkpoint_says_of_it_may_be_anything(held, meant):
    assert opened({"tuned": held}) == meant and opened({}) is None


def test_a_run_keeps_what_it_chose_and_chooses_again_only_after_more_training(tmp_path, monkeypatch):
    calls = []

    def tune(monitor, names, images, longest):
        calls.append((names, images, longest, monitor.model.guidance.scale))
        return replace(monitor.model.guidance, scale=1.5 + len(calls))

    monkeypatch.setattr(tuning, "tune", tune)

    def trained(resume=None, **plan):
        trainer = make(tmp_path / "run", resume, **plan)
        header = trainer.state.header
        assert header is trainer.header
        header["tuned"] = tuning.begun([SCALE]) if resume is None else opened(resume)
        if resume is not None:
            header["config"] = resume["config"]
        trainer.fit()
        trainer.tracker.close()
        return checkpoint.load(tmp_path / "run" / "last.pt")

    first = trained()
    assert calls == [([SCALE], 4 * 8, math.inf, 2.25)]
    assert first["config"]["guidance"]["scale"] == 2.5 and first["tuned"] == {"settings": [SCALE], "step": 4}
    assert first["step"] == first["total_steps"] == 4
    again = trained(first)
    assert len(calls) == 1 and again["config"]["guidance"]["scale"] == 2.5
    longer = trained(again, steps=8)
    assert len(calls) == 2 and longer["config"]["guidance"]["scale"] == 3.5 and longer["tuned"]["step"] == 8


def test_a_run_that_is_stopped_while_it_chooses_chooses_when_it_goes_on(tmp_path, monkeypatch):
    def stopped(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    def begin(resume=None):
        trainer = make(tmp_path / "run", resume)
        trainer.header["tuned"] = tuning.begun([SCALE]) if resume is None else opened(resume)
        return trainer

    monkeypatch.setattr(tuning, "tune", stopped)
    trainer = begin()
    with pytest.raises(Stopped, match="^Stopped at step 4 of 4, saved"):
        trainer.fit()
    trainer.tracker.close()
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state["tuned"]["step"] is None and "scale" not in state["config"]["guidance"]
    monkeypatch.setattr(tuning, "tune", lambda monitor, *_: replace(monitor.model.guidance, scale=1.75))
    trainer = begin(state)
    trainer.fit()
    trainer.tracker.close()
    assert checkpoint.load(tmp_path / "run" / "last.pt")["config"]["guidance"]["scale"] == 1.75
