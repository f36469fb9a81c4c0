"""A run that ends because it does not get better, by the command line."""

import json

import pytest
from conftest import CACHE


@pytest.mark.slow
def test_it_ends_in_good_order_and_is_known_as_finished(run, tmp_path):
    words = [
        *("model.width=8", "model.groups=4", "model.head_width=8", "device=cpu", "preview.steps=1", "track=null"),
        *("training.batch_size=4", "training.steps=40", "training.evaluate_every=2", "training.preview_every=0"),
        *("score.n=8", "score.held_out=0", "training.keep=2", "training.keep_by=score/precision"),
        *("training.patience=1", f"features.cache={CACHE}", "hydra.run.dir=run"),
    ]
    told = run("train.py", *words).stderr
    assert "The run ends at step 4 of 40: score/precision has not been better than" in told  # noise has no precision
    assert "train.py resume=run training.patience=2" in told and "Done." in told
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["status"] == "finished" and found["step"] == 4
    assert {path.name for path in (tmp_path / "run").glob("*.pt")} >= {"last.pt", "best.pt", "best_step4.pt"}
    assert not list((tmp_path / "run").glob("events*"))
    assert "finished: nothing to do" in run("train.py", *words).stderr
    told = run("sample.py", "checkpoint=run", "n=1", "sampler.steps=1", "device=cpu", "hydra.run.dir=drawn").stderr
    assert "so far" not in told and (tmp_path / "drawn").exists()
