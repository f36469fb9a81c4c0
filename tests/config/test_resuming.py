"""The config that a checkpoint holds: what is taken from it, what may be changed, and what is refused."""

import pytest
import torch
from config_helpers import compose, tiny_config, trained_run
from omegaconf import OmegaConf
from torch import nn
from torch.optim import AdamW

from diffusion.config import build, resuming, trained
from diffusion.records import checkpoint
from diffusion.system.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run"))


def test_it_holds_the_config_and_loads_without_code(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    assert state["config"]["schedule"]["_target_"] == "diffusion.schedule.Cosine"
    assert state["image"]["class_names"][7] == "Sneaker"
    assert "output_dir" not in state["config"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.open",
        "torch.load",
        "diffusion.data.datasets.known.gzip.open",
        "diffusion.nothing.Here",
        "torch.optim.lr_scheduler.LambdaLR",
    ],
)
def test_a_config_from_a_file_cannot_name_foreign_code(target):
    with pytest.raises(UserError, match="model._target_="):
        build.build({"_target_": target}, "model")


def test_the_model_comes_back_with_its_own_schedule_and_weights(finished):
    state = checkpoint.load(finished / "last.pt")
    state["config"]["schedule"] = {"_target_": "diffusion.schedule.Linear", "steps": 200}
    device = build.build({"_target_": "diffusion.system.device.Device", "type": "cpu"}, "device")
    model = trained.load_image_model(state, device)
    assert type(model.denoiser.schedule).__name__ == "Linear" and model.denoiser.schedule.steps == 200
    for name, value in model.denoiser.network.state_dict().items():
        assert torch.equal(value, state["ema"]["network"][name])


def resumed(saved, *overrides):
    return resuming.resumed_config(saved, OmegaConf.create(compose("train", *overrides)), overrides)


def test_resuming_takes_length_and_logging_and_refuses_the_rest():
    saved = tiny_config()
    assert resumed(saved, "training.steps=99", "training.log_every=7")["training"]["steps"] == 99
    longer = resumed(saved, "training.epochs=3")["training"]
    assert longer["epochs"] == 3 and longer["steps"] is None
    assert resumed(saved, "schedule=cosine") == saved  # nothing changes
    for override in ("schedule=linear", "objective=epsilon", "model.width=16", "optimizer.lr=1", "experiment=base"):
        with pytest.raises(UserError, match=f"resume: '{override}'"):
            resumed(saved, override)


def test_a_resumed_run_imports_no_code_that_its_checkpoint_names():
    saved = resuming.plain(OmegaConf.create(compose("train")))
    saved["features"] = {
        "_target_": "diffusion.evaluation.features.module.ModuleFeatures",
        "network": {"_target_": "antigravity.Net"},
        "weights": None,
        "cache": "data/cache",
    }
    with pytest.raises(UserError, match=r"scored by code of its owner, features.network._target_=antigravity.Net"):
        resumed(saved, "training.steps=99")
    assert "network" not in resumed(saved, "features=auto")["features"]
    trusted = resumed(saved, "features=module", "features.network._target_=mine.Net")
    assert trusted["features"]["network"]["_target_"] == "mine.Net"


def test_a_run_of_other_settings_is_not_gone_on_with(finished):
    saved = checkpoint.load(finished / "last.pt")["config"]
    kind = {"guidance": "classifier_free"}  # which guidance=auto became
    resuming.same_run(finished, saved, tiny_config(**kind, **{"training.steps": 99, "training.log_every": 7}))
    for key, value, group in (("model.width", 16, "model"), ("seed", 1, "seed"), ("optimizer.lr", 1e-5, "optimizer")):
        with pytest.raises(UserError, match=f"holds a run already, with another {group} than this command asks for"):
            resuming.same_run(finished, saved, tiny_config(**kind, **{key: value}))


def test_a_run_from_before_a_setting_was_there_is_known_by_its_default(tmp_path):
    kind = {"guidance": "none", "data": "image_folder", "data.root": str(tmp_path), "optimizer": "adamw"}
    saved, now = tiny_config(**kind), tiny_config(**kind)
    for name in ("background", "skip_damaged"):
        del saved["data"][name]
    del saved["optimizer"]["weight_decay"]
    now["optimizer"]["weight_decay"] = AdamW(nn.Linear(1, 1).parameters()).defaults["weight_decay"]
    resuming.same_run(tmp_path, saved, now)
    with pytest.raises(UserError, match="with another data than"):
        resuming.same_run(tmp_path, saved, {**now, "data": {**now["data"], "background": "black"}})
    words = ["data=image_folder", f"data.root={tmp_path}"]
    assert resumed(saved, *words, "data.background=white")["data"] == saved["data"]
    with pytest.raises(UserError, match=r"'data=image_folder' would change what this run is trained with"):
        resumed(saved, *words, "data.background=black")
