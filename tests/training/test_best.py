"""The best checkpoints by any score: which are kept, in which files, after a full disk, a kill and a resume."""

import math
import os
import signal

import pytest
import torch
from conftest import curve, same
from plain import make, train

from diffusion.evaluation.ranking import NAMES, badness, direction
from diffusion.records import checkpoint
from diffusion.system.errors import NotWritten, UserError
from diffusion.training import monitor
from diffusion.training.best import Best
from diffusion.training.interruption import Stopped
from diffusion.training.plan import Plan


class Says:
    """A scorer of given FIDs, one after the other."""

    neighbours = nearest = None

    def __init__(self, *fids):
        self.fids = list(fids)

    def score(self, images, source):
        fid = self.fids.pop(0)
        if fid is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"fid": fid, "real": {"fid": 0.1}}


def scored(folder, monkeypatch, *fids, **settings):
    """A run that is scored after each step; its last checkpoint."""
    monkeypatch.setattr(monitor, "illustrate", lambda *given: [])
    monkeypatch.setattr(monitor, "write_report", lambda *given: None)
    settings = {"steps": len(fids), "evaluate_every": 1, "checkpoint_every": 100, "batch_size": 2, **settings}
    return train(folder, scorer=Says(*fids), n=2, **settings)


def judged(folder, *fids, resume=None, steps=None, **settings):
    """The same without the training and the scoring: one step after the other is judged; the last checkpoint."""
    trainer = make(folder, resume, evaluate_every=1, **{"keep": 3, "steps": 100, **settings})
    for fid in fids:
        trainer.progress.step += 1
        trainer.state.judge(fid, fid)
    trainer.state.save()
    trainer.tracker.close()
    return checkpoint.load(folder / "last.pt")


def kept(folder):
    return {path.name: checkpoint.load(path)["step"] for path in folder.glob("best*.pt")}


def test_the_best_three_are_kept_and_the_best_of_all_is_best_pt(tmp_path):
    state = judged(tmp_path, 5.0, 4.0, 6.0, 4.5, 3.0, 9.0, 3.5)
    assert kept(tmp_path) == {"best.pt": 5, "best_step7.pt": 7, "best_step2.pt": 2}
    assert state["best"] == 3.0 and [step for step, *_ in state["kept"]["best"]] == [5, 7, 2]


def test_any_order_of_scores_keeps_the_same_as_sorting_them(tmp_path):
    fids = torch.randperm(9, generator=torch.Generator().manual_seed(0)).add(1).double().tolist()
    judged(tmp_path, *fids, keep=4)
    assert set(kept(tmp_path).values()) == {fids.index(value) + 1 for value in (1.0, 2.0, 3.0, 4.0)}
    assert kept(tmp_path)["best.pt"] == fids.index(1.0) + 1


def test_of_equals_the_earlier_is_kept(tmp_path):
    judged(tmp_path, 2.0, 2.0, 2.0, 2.0, keep=2)
    assert kept(tmp_path) == {"best.pt": 1, "best_step2.pt": 2}


def test_by_default_there_is_one_by_fid_and_nothing_else_is_written(tmp_path):
    state = judged(tmp_path, 5.0, 4.0, 6.0, keep=1)
    assert kept(tmp_path) == {"best.pt": 2} and state["best"] == 4.0 and "kept" not in state


def test_every_score_knows_what_is_better():
    real = {"fid": 0.1, "precision": 0.5, "recall": 0.9, "memorisation": {"nearer_than_real": 0.01, "copies": 0.0}}
    pairs = {  # the better one first
        "score/fid": ({"fid": 1.0}, {"fid": 2.0}),
        "score/recall": ({"recall": 0.8}, {"recall": 0.7}),
        "score/precision": ({"precision": 0.6}, {"precision": 0.3}),  # as real: near to 0.5
        "score/memorisation.copies": ({"memorisation": {"copies": 0.0}}, {"memorisation": {"copies": 0.2}}),
        "score/memorisation.nearer_than_real": tuple(
            {"memorisation": {"nearer_than_real": share}} for share in (0.02, 0.0301)
        ),
    }
    for name, (good, bad) in pairs.items():
        assert badness(name, {**good, "real": real}) < badness(name, {**bad, "real": real}), name
    assert badness("score/accuracy", {"accuracy": None, "real": {}}) is None
    assert badness("score/precision", {"precision": 0.5, "real": {}}) is None
    assert all(direction(name).endswith("better") for name in NAMES)


def test_a_resumed_run_remembers_what_it_kept(tmp_path):
    fids = [5.0, 4.0, 6.0, 4.5, 3.0, 9.0]
    whole = judged(tmp_path / "whole", *fids)
    cut = judged(tmp_path / "cut", *fids[:4])
    assert sorted(kept(tmp_path / "cut").values()) == [1, 2, 4]
    resumed = judged(tmp_path / "cut", *fids[4:], resume=cut)
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole") and same(whole["kept"], resumed["kept"])


def test_a_run_that_kept_one_may_go_on_to_keep_more(tmp_path):
    cut = judged(tmp_path, 5.0, 4.0, 6.0, keep=1)
    judged(tmp_path, 4.5, 3.0, resume=cut, keep=2)
    assert kept(tmp_path) == {"best.pt": 5, "best_step2.pt": 2}


def test_what_was_deleted_meanwhile_is_forgotten(tmp_path):
    cut = judged(tmp_path, 5.0, 4.0, 6.0)
    (tmp_path / "best_step1.pt").unlink()
    state = judged(tmp_path, 7.0, resume=cut)
    assert kept(tmp_path) == {"best.pt": 2, "best_step3.pt": 3, "best_step4.pt": 4} and state["best"] == 4.0


def test_a_kill_between_a_new_best_and_what_the_run_remembers(tmp_path):
    """best.pt is of step 3 already, last.pt still of step 2: the run that goes on finds the same three again."""
    cut = judged(tmp_path, 5.0, 4.0)
    judged(tmp_path, 3.0, resume=cut)
    assert kept(tmp_path) == {"best.pt": 3, "best_step2.pt": 2, "best_step1.pt": 1}
    judged(tmp_path, 3.0, 6.0, resume=cut)
    assert kept(tmp_path) == {"best.pt": 3, "best_step2.pt": 2, "best_step1.pt": 1}


def test_a_full_disk_loses_none_of_them(tmp_path, monkeypatch):
    write = checkpoint.save

    def full(path, state):
        if path.name.startswith("best") and state["step"] == 4:
            raise NotWritten("No space left on device.")
        write(path, state)

    cut = judged(tmp_path, 5.0, 4.0, 6.0)
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(NotWritten):
        judged(tmp_path, 3.0, resume=cut)
    assert kept(tmp_path) == {"best.pt": 2, "best_step1.pt": 1, "best_step3.pt": 3}


def test_a_file_that_the_run_did_not_write_stays(tmp_path, caplog):
    cut = judged(tmp_path, 5.0, 4.0, 6.0)
    (tmp_path / "best_step3.pt").write_text("my notes")
    (tmp_path / "best_step9.pt").write_text("mine, too")
    judged(tmp_path, 3.0, resume=cut)
    assert (tmp_path / "best_step3.pt").read_text() == "my notes" and "stays" in caplog.text
    assert (tmp_path / "best_step9.pt").read_text() == "mine, too"


@pytest.mark.parametrize(
    "kept",
    [
        5,
        {"by": "score/fid"},
        *({"by": "score/fid", "best": best, "waited": 1} for best in (5, [[1]], [["../x", 1, 1]])),
    ],
)
def test_a_file_that_remembers_nonsense_is_refused(tmp_path, kept):
    best = Best(Plan(keep=2, evaluate_every=1), tmp_path)
    with pytest.raises((TypeError, KeyError, ValueError)):  # which resuming tells in a sentence
        best.load_state_dict({"best": 1.0, "kept": kept})
    with pytest.raises(ValueError, match="of no step"):
        best.load_state_dict({"best": 1.0, "kept": {"by": "score/fid", "best": [[2**63, 1, 1]], "waited": 1}})


def test_whose_checkpoints_are_all_gone_begins_anew(tmp_path):
    cut = judged(tmp_path, 5.0, 6.0, 7.0, keep=1, patience=2)
    (tmp_path / "best.pt").unlink()
    best = Best(Plan(patience=2, evaluate_every=1), tmp_path)
    best.load_state_dict(cut)
    assert best.kept == [] and not best.exhausted


def test_a_damaged_one_names_others(tmp_path):
    judged(tmp_path, 5.0, 4.0, 6.0)
    for name in ("best.pt", "last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"of step 3: give .*best_step3\.pt instead"):
        checkpoint.load(tmp_path / "best.pt")
    (tmp_path / "best_step3.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"of step 1: give .*best_step1\.pt instead"):
        checkpoint.load(tmp_path / "best_step3.pt")


def test_a_score_that_is_not_there_keeps_nothing_and_is_told_once(tmp_path, caplog):
    state = judged(tmp_path, math.nan, None, math.nan)
    assert kept(tmp_path) == {} and state["best"] is None
    assert caplog.text.count("could not be measured") == 1


def test_held_out_loss_is_judged_with_each_preview(tmp_path):
    state = train(tmp_path, steps=3, batch_size=2, preview_every=1, keep=2, keep_by="held_out/loss")
    losses = curve(tmp_path, "held_out/loss")
    best = sorted(losses, key=losses.get)[:2]
    assert [step for step, *_ in state["kept"]["best"]] == best and set(kept(tmp_path).values()) == set(best)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep_by": "score/fidd"}, "keep_by=score/fidd is no score of a run: choose from score/fid, .*held_out/loss"),
        ({"keep": 3, "evaluate_every": 0}, "keep=3 needs score/fid .*training.evaluate_every=0.*add"),
        ({"patience": 2, "evaluate_every": 0}, "patience=2 needs score/fid"),
        ({"keep_by": "held_out/loss", "preview_every": 0}, "keep_by=held_out/loss needs .*training.preview_every=500"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_step(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        Best(Plan(**settings), tmp_path)


@pytest.mark.parametrize(("setting", "words"), [("keep", "keep=-1 must be at least 1"), ("patience", "patience=-1 0")])
def test_what_is_out_of_its_range(setting, words):
    with pytest.raises(ValueError, match=words):
        Plan(**{setting: -1})


# ------------------------------------------------------------------------------------------ ending by patience


def test_a_run_ends_when_it_does_not_get_better(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    state = scored(tmp_path, monkeypatch, 4.0, 6.0, 4.0, 1.0, patience=2)
    assert state["step"] == 3 and kept(tmp_path) == {"best.pt": 1} and state["ended"] is True
    assert "ends at step 3 of 4: score/fid has not been better than the 4 of step 1 (lower is better)" in caplog.text
    assert curve(tmp_path, "score/fid") == {1: 4.0, 2: 6.0, 3: 4.0}  # the last ones are measured once


def test_it_goes_on_with_more_patience_as_if_it_had_not_ended(tmp_path, monkeypatch):
    fids = [5.0, 6.0, 7.0, 1.0, 9.0]
    whole = scored(tmp_path / "whole", monkeypatch, *fids, keep=2)
    ended = scored(tmp_path / "cut", monkeypatch, *fids, keep=2, patience=2)
    assert ended["step"] == 3
    same_patience = scored(tmp_path / "cut", monkeypatch, 7.0, keep=2, patience=2, resume=ended, steps=5)
    assert same_patience["step"] == 3  # scored once more for its report, and that is all
    assert same_patience["kept"] == ended["kept"] and same_patience["total_steps"] == 5
    on = scored(tmp_path / "cut", monkeypatch, *fids[3:], keep=2, patience=4, resume=ended, steps=5)
    assert (
        on["step"] == 5
        and "ended" not in on
        and all(same(whole[key], on[key]) for key in ("network", "ema", "optimizer", "sums"))
    )
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")


def test_a_run_in_time_ends_by_patience_too(tmp_path, monkeypatch):
    state = scored(tmp_path, monkeypatch, 5.0, 6.0, budget="1h", patience=1, steps=None)
    assert state["step"] == 2


def test_no_patience_is_none(tmp_path):
    state = judged(tmp_path, 1.0, 2.0, 3.0, 4.0, patience=None)
    assert state["step"] == 4 and state["kept"]["waited"] == 3


def test_the_scores_of_a_step_that_a_signal_ended_are_measured_when_it_goes_on(tmp_path, monkeypatch):
    fids = [5.0, 4.0, 6.0, 7.0, 1.0]
    whole = scored(tmp_path / "whole", monkeypatch, *fids, keep=2, patience=2)
    with pytest.raises(Stopped):
        scored(tmp_path / "cut", monkeypatch, *fids[:2], None, keep=2, patience=2, steps=5)
    cut = checkpoint.load(tmp_path / "cut" / "last.pt")
    assert cut["step"] == 3 and cut["kept"]["judged"] == 2
    on = scored(tmp_path / "cut", monkeypatch, *fids[2:], keep=2, patience=2, steps=5, resume=cut)
    assert on["step"] == whole["step"] == 4 and on["kept"] == whole["kept"]
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")
    assert curve(tmp_path / "cut", "score/fid") == curve(tmp_path / "whole", "score/fid")


def test_a_run_of_before_is_not_measured_again(tmp_path):
    cut = judged(tmp_path, 5.0, 4.0)
    del cut["kept"]["judged"]
    best = Best(Plan(keep=3, evaluate_every=1), tmp_path)
    best.load_state_dict(cut)
    assert not best.missed(2)


def test_a_checkpoint_among_the_best_remembers_what_the_newest_does(tmp_path):
    state = judged(tmp_path, 5.0, 6.0, 7.0)
    assert state["kept"]["waited"] == 2
    assert checkpoint.load(tmp_path / "best_step3.pt")["kept"] == state["kept"]
