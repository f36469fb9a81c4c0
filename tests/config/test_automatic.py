"""Settings left open (auto): what they become, that named ones are kept, and that the run is known again."""

import pytest
from config_helpers import compose, train_config
from conftest import CACHE
from omegaconf import OmegaConf
from PIL import Image

import diffusion
from diffusion.config import automatic, guiding, resuming, starting, training_run, whole_run
from diffusion.config.fallback import fall_back
from diffusion.config.left_open import AUTO, KNOWN, left_open, settle, value_of
from diffusion.config.settings import check_types, choose_length, leave_out_foreign
from diffusion.records import checkpoint
from diffusion.system.errors import UserError
from diffusion.training import rule
from diffusion.training.speed import Measured

SMALL = (
    *("experiment=best", "data=fashion_mnist_mini", "device=cpu", "device.precision=fp32", "score.n=0", "track=null"),
    *("training.preview_every=0", "preview.steps=2", "score.held_out=16", f"features.cache={CACHE}"),
    "guidance.interval=auto",
)


def config(*words):
    cfg = OmegaConf.create(train_config(*SMALL, *words))
    choose_length(cfg, words)
    return resuming.plain(cfg)


def built(folder, *words):
    """The trainer of these words, before its first step, and its config."""
    made = config(*words)
    trainer = training_run.build_trainer(made, folder)
    trainer.tracker.close()
    return trainer, made


@pytest.fixture
def speeds(monkeypatch):
    """A machine on which a network of width 32 sees 500 images a second, and each look takes half a second."""
    asked = []

    def rate(self, width, batch):
        asked.append((width, batch))
        self.make(width, batch)  # which it would train
        self.spent += 0.5
        return 500 * (width / 32) ** -1.2

    monkeypatch.setattr(Measured, "rate", rate)
    return asked


def test_the_recipe_for_a_time_leaves_these_open():
    assert left_open(compose("train", "experiment=best")) == [name for name in KNOWN if name != "guidance.interval"]
    assert left_open(compose("train", "experiment=best", "guidance.interval=auto")) == list(KNOWN)
    assert left_open(compose("train")) == []


def test_of_a_length_in_images_they_are_those_of_the_rule(tmp_path):
    """Without any measurement: such a run is repeated bit by bit."""
    images = round(rule.TABLE[2].images)
    trainer, made = built(tmp_path, f"training.images={images}")
    row = rule.TABLE[2]
    assert made["optimizer"]["lr"] == row.lr and made["ema"]["width"] == rule.EMA
    assert made["guidance"]["scale"] == row.scale and made["guidance"]["interval"] == list(rule.INTERVAL)
    assert made["training"]["batch_size"] == rule.BATCH and made["model"]["width"] in rule.WIDTHS
    parameters = sum(p.numel() for p in trainer.parts.parameters)
    per_width = {w: parameters * (w / made["model"]["width"]) ** 2 for w in rule.WIDTHS}
    assert made["model"]["width"] == rule.width_for(per_width, images)
    assert trainer.state.header["config"] is made and left_open(made) == []
    assert trainer.header["tuned"] == {"settings": ["guidance.scale", "guidance.interval"], "step": None}


NAMED = {
    "model.width": 24,
    "training.batch_size": 48,
    "optimizer.lr": 0.001,
    "ema.width": 0.11,
    "guidance.scale": 1.5,
    "guidance.interval": [0.5, 2.0],
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_is_kept_and_the_others_are_chosen(name, tmp_path):
    trainer, made = built(tmp_path, "training.images=640", f"{name}={NAMED[name]}".replace(" ", ""))
    assert value_of(made, name) == NAMED[name]
    assert all(value_of(made, other) != AUTO for other in KNOWN)
    tuned = [other for other in ("guidance.scale", "guidance.interval") if other != name]
    assert trainer.header["tuned"]["settings"] == tuned


def test_a_budget_measures_and_says_what_it_chose_and_why(tmp_path, speeds, caplog):
    with caplog.at_level("INFO", "diffusion"):
        trainer, made = built(tmp_path, "training.budget=4min")
    width = made["model"]["width"]
    rate = 500 * (width / 32) ** -1.2
    images = automatic.rounded((240 - trainer.state.spent) * rate)
    why = f"At {automatic.rounded(rate)} images/s a network of width {width} sees {images} images in 4 minutes: "
    assert f"{why}model.width={width} training.batch_size=64 optimizer.lr=" in caplog.text
    assert speeds[0] == (32, 64) and (width, 64) in speeds
    assert trainer.state.spent == 0.5 * len(speeds)  # which the budget counts
    longer = built(tmp_path / "longer", "training.budget=4h")[1]["model"]["width"]
    assert longer > width


def test_of_a_width_that_is_given_the_speed_says_how_many_images(tmp_path, speeds):
    made = built(tmp_path, "training.budget=4min", "model.width=48")[1]
    assert set(speeds) == {(48, 64)}
    images = 239.5 * 500 * 1.5**-1.2
    assert made["guidance"]["scale"] == rule.numbers(images).scale


def test_a_budget_that_is_too_short_to_measure_in_is_not_spent_on_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Measured, "rate", None)
    with caplog.at_level("INFO", "diffusion"):
        trainer, made = built(tmp_path, "training.budget=1s")
    assert made["model"]["width"] == min(rule.WIDTHS) and trainer.state.spent == 0
    assert "In 1 second, too short a time to measure anything" in caplog.text


def test_widths_that_a_network_cannot_have_are_left_out(tmp_path):
    made = built(tmp_path, "training.images=76_000", "model.groups=32", "model.head_width=64")[1]
    assert made["model"]["width"] % 32 == 0


def test_no_width_at_all_is_told_by_the_network(tmp_path):
    with pytest.raises(UserError, match=r"^model\.width=32 must be a positive multiple of 11"):
        built(tmp_path, "training.images=640", "model.groups=11")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=dit_small", "model.width=auto"), r"^model\.width=auto: the rule .* knows UNet alone, and this is DiT"),
        (("optimizer=adamw", "optimizer.lr=auto"), r"^optimizer\.lr=auto: .* knows Muon alone, and this is AdamW"),
        (("guidance=none", "guidance.scale=auto"), r"^Unknown setting 'guidance\.scale'"),
        (("guidance.rescale=auto",), r"^guidance\.rescale='auto' has the wrong type"),
        (("training.images=auto",), r"^training\.images='auto' has the wrong type"),
        (("training.budget=soon",), r"^training\.budget=soon must be a time with its unit"),
        (("training.steps=3", "training.epochs=1"), r"steps=3 and epochs=1(\.0)? both set the length"),
    ],
)
def test_what_no_rule_knows_is_one_sentence(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        built(tmp_path, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "name", "own"),
    [
        (["model=dit_small"], "model.width", 144),
        (["optimizer=adamw"], "optimizer.lr", 2e-4),
        (["model=unet_small"], "model.width", AUTO),
        (["guidance=classifier_free"], "guidance.scale", AUTO),
    ],
)
def test_another_option_has_its_own_number_where_the_rule_knows_none(words, name, own):
    cfg = OmegaConf.create(compose("train", "experiment=best", *words))
    leave_out_foreign(cfg, words)
    assert fall_back(cfg, ["experiment=best", *words]) == ([] if own == AUTO else [name])
    assert value_of(cfg, name) == own
    check_types(OmegaConf.to_container(cfg))
    assert diffusion.compose("experiment=best", *words)[name.partition(".")[0]][name.partition(".")[2]] == own


def test_without_labels_there_is_no_guidance_to_choose(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        Image.new("L", (28, 28), 12 * i).save(tmp_path / "pictures" / f"{i}.png")
    words = ("data=image_folder", f"data.root={tmp_path / 'pictures'}", "data.image_size=28", "data.channels=1")
    trainer, made = built(tmp_path / "run", *words, "training.images=64", "training.batch_size=8")
    assert made["guidance"] == guiding.UNLABELLED and "tuned" not in trainer.header


def test_labels_that_are_never_dropped_leave_one_scale(tmp_path):
    trainer, made = built(tmp_path, "training.images=640", "guidance.dropout=0")
    assert made["guidance"]["scale"] == 1 and "tuned" not in trainer.header


# ---------------------------------------------------------------------------------- the same run, known again

COMMAND = [*SMALL, "training.images=128", "seed=3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run by the door of Python, to its end."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    diffusion.train(COMMAND, folder, progress=False)
    return folder


def test_config_and_checkpoint_hold_numbers(finished):
    state = checkpoint.load(finished / "last.pt")
    written = OmegaConf.to_container(OmegaConf.load(finished / "config.yaml"))
    assert written == state["config"] and left_open(written) == []
    assert all(value_of(written, name) not in (None, AUTO) for name in KNOWN)


def test_the_same_command_is_the_same_run(finished, caplog):
    before = (finished / "last.pt").stat().st_mtime_ns
    with caplog.at_level("INFO", "diffusion"):
        diffusion.train(COMMAND, finished, progress=False)
    assert "holds this very run, finished" in caplog.text
    assert (finished / "last.pt").stat().st_mtime_ns == before


def test_it_goes_on_with_what_it_chose(finished):
    """By the same command after a kill, or by resume=, whose experiment may be typed again."""
    saved = checkpoint.load(finished / "last.pt")["config"]
    longer = [word if not word.startswith("training.images") else "training.images=1_000_000" for word in COMMAND]
    cfg = OmegaConf.create({**train_config(*longer), "checkpoint": None})
    guiding.settle(cfg, {"class_names": ["a", "b"]})
    settle(cfg, saved)
    resuming.same_run(finished, saved, resuming.plain(cfg))
    again = resuming.resumed_config(saved, cfg, [*longer, "model.width=auto"])
    assert again["model"] == saved["model"] and again["optimizer"] == saved["optimizer"]
    assert again["training"]["batch_size"] == saved["training"]["batch_size"]
    assert again["training"]["images"] == 1_000_000
    with pytest.raises(UserError, match="with another model than this command asks for"):
        resuming.same_run(finished, saved, {**resuming.plain(cfg), "model": {**saved["model"], "width": 256}})


def test_a_run_that_starts_from_another_keeps_its_width(finished):
    state = checkpoint.load(finished / "last.pt")
    cfg = OmegaConf.create({**train_config(*COMMAND), "checkpoint": str(finished)})
    config = starting.starting_config(state, cfg, COMMAND)
    assert config["model"] == state["config"]["model"]
    assert left_open(config) == [name for name in KNOWN if name != "model.width"]
    with pytest.raises(UserError, match="'model.width=auto' cannot be given with checkpoint="):
        starting.starting_config(state, cfg, [*COMMAND, "model.width=auto"])


def test_a_command_is_asked_for_as_it_was_typed():
    """Its fingerprint knows no numbers, so that it is the same on a machine of another speed."""
    asked = [whole_run.asked_for(OmegaConf.create({**train_config(*words), "checkpoint": None})) for words in WORDS]
    assert asked[0] == asked[1] != asked[2]


WORDS = (["experiment=best"], ["experiment=best", "model.width=auto"], ["experiment=best", "model.width=32"])


@pytest.mark.slow
def test_a_short_budget_measures_and_trains(tmp_path, run):
    """The real thing, on the command line; and again, which has nothing to do."""
    words = (
        "experiment=best",
        "data=fashion_mnist_mini",
        "training.budget=40s",
        "score.n=0",
        f"features.cache={CACHE}",
    )
    said = run("train.py", *words, "hydra.run.dir=run")
    text = said.stdout + said.stderr
    assert "images/s a network of width" in text and "Measured in" in text
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert 38 < state["seconds"] < 43
    assert state["config"]["guidance"]["scale"] > 1 and left_open(state["config"]) == []
    again = run("train.py", *words, "hydra.run.dir=run")
    assert "holds this very run, finished" in again.stdout + again.stderr
