"""What a run is to judge itself by and cannot measure is told before the training; what a resumed run may change."""

import pytest
from config_helpers import compose, tiny_config
from omegaconf import OmegaConf

from diffusion.config import resuming, settings, training_run
from diffusion.records.results import write_json
from diffusion.records.tracking import IDS
from diffusion.system.errors import UserError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training.keep": 2, "training.evaluate_every": 2}, "training.keep=2 needs score/fid, and score.n=0 leaves"),
        (
            {"training.keep_by": "held_out/loss", "training.preview_every": 2, "score.held_out": 0},
            "training.keep_by=held_out/loss needs held_out/loss, and score.held_out=0",
        ),
        ({"training.patience": 2, "score.n": 20}, "training.patience=2 needs score/fid .*training.evaluate_every=500"),
        ({"training.keep_by": "fid"}, "training.keep_by=fid is no score of a run: choose from score/fid"),
        ({"training.keep": 0}, "training.keep=0 must be at least 1"),
        (
            {"training.keep_by": "score/fid_infinite", "training.evaluate_every": 2, "score.n": 20},
            "needs score/fid_infinite, which 20 images of data=fashion_mnist_mini do not have",
        ),
        (
            {
                **{"training.keep_by": "score/accuracy", "training.evaluate_every": 2, "score.n": 20},
                "guidance": "none",
            },
            "needs score/accuracy, which images without a class",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_before_the_training(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        training_run.build_trainer(tiny_config(**settings), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_may_keep_more_wait_longer_and_be_shown_elsewhere():
    saved = compose("train", "track=[tensorboard,mlflow]")
    words = ["training.keep=3", "training.patience=4", "training.keep_by=score/recall", "track=null"]
    config = resuming.resumed_config(saved, OmegaConf.create(compose("train", *words)), words)
    assert config["track"] is None and [config["training"][k] for k in ("keep", "patience")] == [3, 4]
    del saved["track"]  # of a run from before there was a choice
    assert resuming.resumed_config(saved, OmegaConf.create(compose("train")), [])["track"] == "tensorboard"


def test_a_checkpoint_sends_nothing_to_a_place_that_nobody_asked_for(tmp_path, caplog):
    caplog.set_level("INFO")

    def shown(track, *words):
        cfg = OmegaConf.create({**compose("train", *words), "output_dir": str(tmp_path)})
        return resuming.resumed_config({**compose("train"), "track": track}, cfg, words)["track"]

    assert shown(["tensorboard", "mlflow"]) == ["tensorboard"] and "add track=mlflow." in caplog.text
    assert shown("wandb") == "tensorboard" and shown(["mlflow", "wandb"]) == "tensorboard"
    assert "asks for track=[mlflow,wandb], which this command does not: left out" in caplog.text
    caplog.clear()
    assert shown("wandb", "track=wandb") == "wandb" and shown(None) is None and shown("tensorboard") == "tensorboard"
    write_json(tmp_path / IDS, {"mlflow": "known"})  # by an earlier start
    assert shown(["tensorboard", "mlflow"]) == ["tensorboard", "mlflow"] and not caplog.text
    assert shown(["mlflow", "wandb"]) == ["mlflow"]


def test_a_config_from_before_is_known_again():
    now, other = compose("train"), compose("train", "training.keep=2")
    then = {name: value for name, value in now.items() if name != "track"}
    then["training"] = {k: v for k, v in now["training"].items() if k not in ("keep", "keep_by", "patience")}
    known = settings.without_later(now)
    assert known == settings.without_later(then) != settings.without_later(other)
    assert "track" not in known and known["training"] == {k: v for k, v in then["training"].items() if k != "freeze"}
