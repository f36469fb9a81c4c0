"""A run that starts from another's weights, with other images than that one had."""

import logging

import pytest
import torch
from config_helpers import compose, tiny_config, trained_run
from omegaconf import OmegaConf
from PIL import Image

from diffusion.config import guiding, resuming, settings, starting, trained, training_run
from diffusion.records import checkpoint
from diffusion.system.device import Device
from diffusion.system.errors import UserError

SMALL = ("training.steps=2", "training.batch_size=4", "score.n=0", "score.held_out=2", "device=cpu")
SMALL += ("device.precision=fp32", "preview.steps=2", "training.preview_every=0")


def pictures(folder, classes, size=8, mode="L", count=4):
    """A folder of noise, with a subfolder for each class."""
    noise = torch.Generator().manual_seed(len(classes))
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = torch.randint(256, (size * size * len(mode),), generator=noise, dtype=torch.uint8)
            Image.frombytes(mode, (size, size), bytes(pixels.tolist())).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on Fashion-MNIST."""
    return trained_run(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of Fashion-MNIST, and two that it has not."""
    return pictures(tmp_path_factory.mktemp("images") / "own", ["Bag", "Dress", "hat", "sock"], size=32)


def of(folder, size=32):
    return ("data=image_folder", f"data.root='{folder}'", f"data.image_size={size}", "data.channels=1")


def config_of(run, *overrides):
    """The config of a run that starts from another."""
    cfg = OmegaConf.create(compose("train", f"checkpoint='{run}'", *SMALL, *overrides))
    settings.leave_out_foreign(cfg, overrides)
    return starting.starting_config(checkpoint.load(run / "last.pt"), cfg, [*SMALL, *overrides])


def started(run, target, *overrides):
    """The trainer of a run that starts from another, before its first step; its curves are closed."""
    trainer = training_run.build_trainer(config_of(run, *overrides), target, start=checkpoint.load(run / "last.pt"))
    trainer.tracker.close()
    return trainer


def draws(denoiser, x, label):
    with torch.no_grad():
        return denoiser(x, 0.4, None if label is None else torch.full((len(x),), label))


def test_a_margin_that_was_learned_is_kept_unless_another_is_asked_for(run):
    start = checkpoint.load(run / "last.pt")
    start["config"]["loss"]["margin"] = 0.2

    def margin(*words):
        cfg = OmegaConf.create(compose("train", f"checkpoint='{run}'", *SMALL, *words))
        return starting.starting_config(start, cfg, [*SMALL, *words])["loss"].get("margin")

    assert margin() == 0.2 == margin("loss=min_snr")
    assert margin("loss.margin=0.1") == 0.1
    assert margin("loss=consistency") == 0.2


def test_a_class_that_stays_is_drawn_as_before_and_a_new_one_as_none(run, folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "diffusion"):
        trainer = started(run, tmp_path / "second", *of(folder))
    model = trained.load_image_model(checkpoint.load(run / "last.pt"), Device("cpu", precision="fp32"))
    x = torch.randn(3, 1, 32, 32)
    had, now = model.class_names, trainer.parts.data.class_names
    assert now == ["Bag", "Dress", "hat", "sock"]
    for parts in (trainer.parts.denoiser, trainer.monitor.model.denoiser):  # the weights and their average
        for name in ("Bag", "Dress"):
            assert torch.equal(draws(parts, x, now.index(name)), draws(model.denoiser, x, had.index(name)))
        for label in (2, 3, 4):
            assert torch.equal(draws(parts, x, label), draws(model.denoiser, x, 10))
    assert 'Classes: 2 kept (Bag, Dress), 2 new (hat, sock), which start as "no class", 8 left out' in caplog.text
    assert "their size is 32 instead of 28" in caplog.text


def test_its_config_is_whole_so_that_it_goes_on_by_itself(run, folder, tmp_path):
    trainer = started(run, tmp_path / "second", *of(folder))
    trainer.fit()
    state = checkpoint.load(tmp_path / "second" / "last.pt")
    assert state["config"]["model"]["width"] == 8 and state["config"]["data"]["root"] == str(folder)
    assert state["config"]["guidance"]["_target_"] == guiding.LABELLED
    given = [*SMALL, *of(folder), f"checkpoint='{run}'"]  # the same command, typed again in its folder
    cfg = OmegaConf.create(compose("train", *given))
    guiding.settle(cfg, state["image"])
    resuming.same_run(tmp_path, state["config"], resuming.plain(cfg))
    assert resuming.resumed_config(state["config"], cfg, given) == state["config"]
    longer = OmegaConf.create(compose("train", "training.steps=3", "resume=x"))
    config = resuming.resumed_config(state["config"], longer, ["training.steps=3", "resume=x"])
    again = training_run.build_trainer(config, tmp_path / "second", resume=state)
    again.fit()
    again.tracker.close()
    assert checkpoint.load(tmp_path / "second" / "last.pt")["step"] == 3


def test_without_labels_and_with_labels_again(run, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffusion")
    model = trained.load_image_model(checkpoint.load(run / "last.pt"), Device("cpu", precision="fp32"))
    x = torch.randn(3, 1, 32, 32)
    plain = started(run, tmp_path / "plain", *of(folder), "data.labels=false")
    assert plain.state.header["config"]["guidance"] == guiding.UNLABELLED
    assert torch.allclose(draws(plain.parts.denoiser, x, None), draws(model.denoiser, x, None), atol=1e-5)
    assert "10 left out" in caplog.text and "takes no labels any more" in caplog.text
    plain.state.save()
    started(tmp_path / "plain", tmp_path / "hint", "++data.labels=null")
    assert "These images have classes, unlike those of that run: add guidance=auto" in caplog.text
    again = started(tmp_path / "plain", tmp_path / "again", *of(folder))
    assert again.state.header["config"]["guidance"]["_target_"] == guiding.LABELLED
    for label in range(5):
        assert torch.equal(draws(again.parts.denoiser, x, label), draws(plain.parts.denoiser, x, None))
    assert "4 new (Bag, Dress, hat, …), which make no difference at first" in caplog.text


def test_colour_starts_from_grey(run, tmp_path, caplog):
    colours = pictures(tmp_path / "colour", ["Bag", "hat"], 28, "RGB")
    trainer = started(run, tmp_path / "second", *of(colours, 28)[:3])
    model = trained.load_image_model(checkpoint.load(run / "last.pt"), Device("cpu", precision="fp32"))
    t = torch.full((2,), 400.0)
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = model.denoiser.network(x.mean(dim=1, keepdim=True), t, torch.tensor([8, 10]))
        found = trainer.parts.network(x, t, torch.tensor([0, 1]))  # Bag, and a hat that is nothing known
    assert torch.allclose(found, expected.expand_as(found), atol=1e-5)
    assert "made for 1 channel, and these images have 3" in caplog.text


def test_what_the_command_leaves_open_comes_with_the_weights(run, folder, caplog):
    caplog.set_level(logging.INFO, "diffusion")
    saved = checkpoint.load(run / "last.pt")["config"]
    config = config_of(run, *of(folder), "experiment=flow", "guidance.dropout=0.3")
    for name in ("model", "schedule", "objective"):
        assert config[name] == saved[name]
    assert config["timesteps"]["_target_"].endswith("LogitNormal")
    assert "Of that experiment, not taken over: model, schedule, objective; what belongs to a model" in caplog.text
    assert config["guidance"]["dropout"] == 0.3 and config["data"]["image_size"] == 32
    with pytest.raises(UserError, match=r"'model=dit_small' cannot be given with checkpoint=.*brings its own model"):
        config_of(run, "model=dit_small")
    with pytest.raises(UserError, match="data.pading': did you mean 'data.padding'"):
        config_of(run, "++data.pading=2")
    assert config_of(run, "++data.padding=2")["data"] == {**saved["data"], "padding": 2}
    assert config_of(run, "guidance=none")["guidance"] == guiding.UNLABELLED


def test_another_objective_or_schedule_says_what_is_lost(run, tmp_path, caplog):
    same = config_of(run, "objective=v", "schedule=cosine")
    assert (
        "learn anew" not in caplog.text and same["schedule"] == checkpoint.load(run / "last.pt")["config"]["schedule"]
    )
    trainer = started(run, tmp_path, "objective=flow", "schedule=flow")
    assert "Another schedule and objective than in" in caplog.text
    assert "must learn anew which t means how much noise and what its output means" in caplog.text
    old = checkpoint.load(run / "last.pt")["ema"]["network"]
    assert all(torch.equal(old[name], value) for name, value in trainer.parts.network.state_dict().items())


def test_a_measured_sigma_data_stays_that_of_the_weights(tmp_path, folder, caplog):
    edm = {"objective": "edm", "schedule": "edm", "timesteps": "log_normal", "sampler": "edm", "preview": "edm"}
    names = {name.replace("preview", "sampler@preview"): value for name, value in edm.items()}
    first = training_run.build_trainer(tiny_config(**names), tmp_path / "first")
    first.state.save()
    first.tracker.close()
    measured = first.state.header["image"]["sigma_data"]
    with caplog.at_level(logging.INFO, "diffusion"):
        second = started(tmp_path / "first", tmp_path / "second", *of(folder))
    assert second.parts.denoiser.objective.sigma_data == measured != second.state.header["image"]["sigma_data"]
    assert f"objective.sigma_data stays {measured:.4g}" in caplog.text
    third = started(tmp_path / "first", tmp_path / "third", *of(folder), "++objective.sigma_data=0.4")
    assert third.parts.denoiser.objective.sigma_data == 0.4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first.weight", None),
        ("first.weight", torch.zeros(4)),
        ("first.weight", torch.zeros(8, 0, 3, 3)),
        ("last.2.weight", torch.zeros(0, 8, 3, 3)),
        ("conditioning.label.weight", torch.tensor(1.0)),
        ("conditioning.label.weight", torch.zeros(11, 5)),
        ("conditioning.time.2.bias", torch.zeros(7)),
    ],
)
def test_weights_of_something_else_are_refused(run, tmp_path, name, value):
    """Also where they are made for other channels and without labels, by which each of them is looked at."""
    state, colours = checkpoint.load(run / "last.pt"), pictures(tmp_path / "own", ["a", "b"], 28, "RGB")
    weights = {**state["ema"]["network"], name: value}
    state["ema"] = {**state["ema"], "network": {k: v for k, v in weights.items() if v is not None}}
    for more in ((), ("data.labels=false",)) if value is None or "label" not in name else ((),):
        with pytest.raises(UserError, match="checkpoint: the weights of that run do not fit these images"):
            training_run.build_trainer(config_of(run, *of(colours, 28)[:3], *more), tmp_path / "x", start=state)


def test_what_is_frozen_belongs_to_a_run(run, tmp_path):
    trainer = started(run, tmp_path, "training.freeze=[down.*,conditioning.*]")
    names = {name for name, p in trainer.parts.network.named_parameters() if not p.requires_grad}
    assert names and all(name.startswith(("down.", "conditioning.")) for name in names)
    saved = trainer.state.header["config"]
    cfg = OmegaConf.create(compose("train", "training.freeze=[up.*]"))
    with pytest.raises(UserError, match="would change what this run is trained with"):
        resuming.resumed_config(saved, cfg, ["training.freeze=[up.*]"])
    older = {**saved, "training": {k: v for k, v in tiny_config()["training"].items() if k != "freeze"}}
    newer = {**saved, "training": tiny_config()["training"]}
    resuming.same_run(tmp_path, older, newer)  # of before there was this setting
    with pytest.raises(UserError, match="another training"):
        resuming.same_run(tmp_path, saved, newer)
    with pytest.raises(UserError, match=r"^training\.freeze=down names no parameter of the network; near are down"):
        started(run, tmp_path, "training.freeze=[down]")


def test_images_that_were_added_are_told_with_the_commands_that_go_on(tmp_path, monkeypatch):
    own = pictures(tmp_path / "own images", ["cat", "dog"])
    small = {"model.multipliers": "[1]", "model.attention": "[]", "training.steps": 2, "training.checkpoint_every": 1}
    data = {"data": "image_folder", "data.root": f"'{own}'", "data.image_size": 8, "data.channels": 1}
    config = tiny_config(**data, **small)
    first = training_run.build_trainer(config, tmp_path / "first run")
    first.fit()
    first.tracker.close()
    state = checkpoint.load(tmp_path / "first run" / "last.pt")
    old = {**state, "image": {k: v for k, v in state["image"].items() if k != "images"}}  # of before it was counted
    for each in (state, old):
        again = training_run.build_trainer(each["config"], tmp_path / "first run", resume=each)
        again.tracker.close()
    pictures(own, ["cow"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        training_run.build_trainer(state["config"], tmp_path / "first run", resume=state)
    text = str(told.value)
    assert "there are 11 to train with instead of 7, and their classes differ (new are cow)" in text
    assert "train.py 'checkpoint=first run'  – or" in text
    assert f"'data.root={own}' data.image_size=8 data.channels=1" in text
    with pytest.raises(UserError, match="their classes differ"):
        training_run.build_trainer(old["config"], tmp_path / "first run", resume=old)
