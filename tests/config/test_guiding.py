"""guidance=auto: as with labels as ever, and what is possible without."""

import pytest
from config_helpers import compose, tiny_config
from omegaconf import OmegaConf
from PIL import Image

from diffusion.config import guiding, resuming, starting, trained, training_run
from diffusion.records import checkpoint
from diffusion.records.results import fingerprint
from diffusion.system.device import Device
from diffusion.system.errors import UserError

SMALL = {"data.image_size": 8, "data.channels": 1, "model.multipliers": "[1]", "model.attention": "[]"}


@pytest.fixture
def pictures(tmp_path):
    """A folder of 20 grey images, without classes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.new("L", (8, 8), 12 * i).save(folder / f"{i}.png")
    return {"data": "image_folder", "data.root": folder, **SMALL}


@pytest.mark.parametrize(
    ("script", "given", "meant"),
    [
        ("train", ["guidance=null"], ["guidance=auto"]),
        ("train", ["guidance=Null", "seed=1"], ["guidance=auto", "seed=1"]),
        ("train", ["-m", "guidance=null,none"], ["-m", "guidance=auto,none"]),
        ("train", ["guidance=null", "resume=latest"], ["resume=latest"]),  # the run's own
        ("train", ["checkpoint=latest", "guidance=null"], ["checkpoint=latest"]),
        ("sample", ["guidance=null", "n=4"], ["n=4"]),
        ("train", ["guidance=none", "guidance.interval=null"], ["guidance=none", "guidance.interval=null"]),
    ],
)
def test_guidance_of_null_is_what_is_possible(script, given, meant):
    assert guiding.without_null(given, script) == meant


@pytest.mark.parametrize("experiment", ["quickstart", "ema", "cfg_plus_plus"])
def test_with_labels_it_is_classifier_free_guidance_to_the_letter(experiment):
    asked = compose("train", f"experiment={experiment}")
    explicit = compose("train", f"experiment={experiment}", "guidance=classifier_free")
    assert asked["guidance"]["_target_"] == guiding.AUTOMATIC
    asked["guidance"] = guiding.settled(asked["guidance"], ["cat", "dog"])
    assert asked == explicit
    none = compose("train", f"experiment={experiment}", "guidance=none")["guidance"]
    assert guiding.settled(none, ["cat"]) == none


def test_a_finished_run_of_before_is_known_by_the_same_fingerprint():
    names = {**checkpoint.FORMER, guiding.AUTOMATIC: guiding.LABELLED}
    found = [fingerprint([checkpoint.with_names(compose("train", *more), names), None]) for more in ([], ["seed=1"])]
    before = fingerprint([checkpoint.with_names(compose("train", "guidance=classifier_free"), checkpoint.FORMER), None])
    assert found[0] == before != found[1]


@pytest.mark.parametrize(
    "more", [{}, {"guidance.scale": 3.5}, {"guidance": "auto"}, {"guidance.interval": "[0.3,5.0]"}]
)
def test_without_labels_a_run_is_unguided_and_says_so(tmp_path, pictures, caplog, more):
    config = tiny_config(**pictures, **more)
    with caplog.at_level("INFO", "diffusion"):
        trainer = training_run.build_trainer(config, tmp_path / "run")
    trainer.tracker.close()
    said = "data=pictures has no labels: the model is trained and draws without guidance; its settings have no effect."
    assert caplog.text.count(said) == 1
    assert config["guidance"] == trainer.state.header["config"]["guidance"] == guiding.UNLABELLED
    assert not trainer.parts.guidance.conditional and trainer.parts.denoiser.num_classes == 0


def test_its_checkpoint_draws_resumes_and_starts_another(tmp_path, pictures):
    config = tiny_config(**pictures)
    trainer = training_run.build_trainer(config, tmp_path / "run")
    trainer.fit()
    trainer.tracker.close()
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    model = trained.load_image_model(state, Device("cpu"))
    assert model.labels(3) is None and model.guidance.describe() == "unconditional"
    cfg = OmegaConf.create({**tiny_config(**pictures, **{"guidance.scale": 3.0}), "checkpoint": None})
    guiding.settle(cfg, state["image"])
    resuming.same_run(tmp_path / "run", state["config"], resuming.plain(cfg))  # the same command, typed again
    for given in ("guidance=auto", "guidance.scale=3.0", "training.steps=9"):
        again = resuming.resumed_config(state["config"], cfg, [given])
        assert again["guidance"] == guiding.UNLABELLED
    assert starting.starting_config(state, cfg, ["loss=target"])["guidance"] == guiding.UNLABELLED


def test_a_run_without_guidance_on_labelled_images_is_another_run(tmp_path):
    """The default does not pass for guidance=none where there are labels."""
    saved, cfg = tiny_config(guidance="none"), OmegaConf.create(tiny_config())
    guiding.settle(cfg, {"class_names": ["a", "b"]})
    with pytest.raises(UserError, match="holds a run already, with another guidance"):
        resuming.same_run(tmp_path, saved, resuming.plain(cfg))


def test_classifier_free_guidance_that_is_asked_for_needs_labels(tmp_path, pictures):
    with pytest.raises(UserError, match="guidance=classifier_free needs labels.*leave it out, or use guidance=none"):
        training_run.build_trainer(tiny_config(**pictures, guidance="classifier_free"), tmp_path / "run")


@pytest.mark.parametrize(("key", "value"), [("scale", -1), ("dropout", 2), ("scale", "much"), ("interval", "[3,1]")])
def test_wrong_settings_of_guidance_with_labels_are_told_as_ever(tmp_path, key, value):
    with pytest.raises(UserError, match=rf"guidance\.{key}="):
        training_run.build_trainer(tiny_config(**{f"guidance.{key}": value}), tmp_path)


@pytest.mark.slow
def test_null_and_nothing_do_what_is_possible_on_the_command_line(run, tmp_path, pictures):
    small = {"model.width": 8, "model.groups": 4, "model.head_width": 8, "training.steps": 2, "training.batch_size": 4}
    words = [f"{key}={value}" for key, value in {**pictures, **small, "score.n": 0}.items()]
    for name, more in (("a", []), ("b", ["guidance=null"]), ("c", ["guidance.scale=3"])):
        done = run("train.py", *words, *more, f"hydra.run.dir={name}")
        assert "has no labels: the model is trained and draws without guidance" in done.stdout + done.stderr
        config = OmegaConf.load(tmp_path / name / "config.yaml")
        assert config.guidance == guiding.UNLABELLED
    again = run("train.py", *words, "guidance=null", "hydra.run.dir=b")
    assert "holds this very run, finished" in again.stdout + again.stderr
    run("sample.py", "checkpoint=a", "n=2")
    run("evaluate.py", "checkpoint=a", "n=2")
