"""Checkpoints: what is read, what is refused, and which run `latest` means."""

import os
import pickle

import pytest
import torch
from conftest import compose, tiny_config
from omegaconf import OmegaConf

from diffusion.config import build, trained
from diffusion.records import checkpoint
from diffusion.system.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = build.build_trainer(tiny_config(), folder)
    trainer.fit()
    trainer.tracker.close()
    return folder


def test_it_holds_the_config_and_loads_without_code(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    assert state["config"]["schedule"]["_target_"] == "diffusion.schedule.Cosine"
    assert state["image"]["class_names"][7] == "Sneaker"
    assert "output_dir" not in state["config"]


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.99])
def test_a_truncated_checkpoint_is_named(finished, tmp_path, keep):
    whole = (finished / "last.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"cut\.pt is no checkpoint of this project, or it is cut short"):
        checkpoint.load(path)


def test_other_files_are_refused_and_their_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    for name, content in (("text.pt", b"hello"), ("evil.pt", pickle.dumps(Evil()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="no checkpoint"):
            checkpoint.load(tmp_path / name)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint of this project"):
        checkpoint.load(tmp_path / "other.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.open",
        "torch.load",
        "diffusion.data.datasets.gzip.open",
        "diffusion.nothing.Here",
        "torch.optim.lr_scheduler.LambdaLR",
    ],
)
def test_a_config_from_a_file_cannot_name_foreign_code(target):
    with pytest.raises(UserError, match="model._target_="):
        build.build({"_target_": target}, "model")


def test_finding_runs(finished, tmp_path):
    assert checkpoint.find(str(finished)) == finished / "last.pt"
    assert checkpoint.find(str(finished / "last.pt")) == finished / "last.pt"
    with pytest.raises(UserError, match="no such file or folder"):
        checkpoint.find(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"holds no last\.pt"):
        checkpoint.find(str(tmp_path))
    with pytest.raises(UserError, match="there is no run under"):
        checkpoint.find("latest", str(tmp_path))
    for age, name in ((20, "old"), (10, "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.pt").write_bytes(b"")
        os.utime(tmp_path / name / "last.pt", (1e9 - age, 1e9 - age))
    assert checkpoint.find("latest", str(tmp_path)) == tmp_path / "new" / "last.pt"


def test_the_model_comes_back_with_its_own_schedule_and_weights(finished):
    state = checkpoint.load(finished / "last.pt")
    state["config"]["schedule"] = {"_target_": "diffusion.schedule.Linear", "steps": 200}
    device = build.build({"_target_": "diffusion.system.device.Device", "type": "cpu"}, "device")
    model = trained.load_image_model(state, device)
    assert type(model.denoiser.schedule).__name__ == "Linear" and model.denoiser.schedule.steps == 200
    for name, value in model.denoiser.network.state_dict().items():
        assert torch.equal(value, state["ema"]["network"][name])


def resumed(saved, *overrides):
    return build.resumed_config(saved, OmegaConf.create(compose("train", *overrides)), overrides)


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
    saved = build.plain(OmegaConf.create(compose("train")))
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
