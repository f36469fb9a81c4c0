"""From config to objects: what is wrong is told in one sentence with the name of the setting."""

import re

import pytest
import torch
from config_helpers import tiny_config
from conftest import ROOT
from omegaconf import OmegaConf

from diffusion.config import build, settings, starting, trained, training_run
from diffusion.config.classes import class_numbers
from diffusion.drawing.image_model import ImageModel
from diffusion.system.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance.dropout": 1.5}, r"guidance\.dropout=1\.5 must lie between 0 and 1"),
        ({"training.batch_size": "many"}, r"training\.batch_size='many' has the wrong type: it must be a whole number"),
        ({"training.batch_size": 2.5}, r"training\.batch_size=2\.5 has the wrong type"),
        ({"training.accumulate": 3}, r"training\.accumulate=3 must be at least 1 and divide batch_size=8"),
        ({"training.epochs": 2}, r"training\.steps=4 and epochs=2\.?0? both set the length|both set the length"),
        ({"training.steps": 0}, r"training\.steps=0"),
        ({"training.steps": "null", "training.epochs": 1e308}, r"training: cannot convert float infinity to integer"),
        ({"training.decay": "steep"}, r"training\.decay=steep must be one of constant, linear, cosine"),
        ({"training.warmup": 1.0}, r"training\.warmup=1\.0"),
        ({"model.width": -8}, r"model\.width=-8"),
        ({"model.multipliers": "[1,2,2,2,2,2]"}, r"model: images of .* cannot be halved"),
        ({"model.multipliers": "[1,two]"}, r"model\.multipliers=\[1, 'two'\] has the wrong type: it must be a list"),
        ({"data.padding": -1}, r"data\.padding=-1"),
        ({"schedule": "linear", "schedule.steps": 10}, r"schedule\.steps=10 is too few"),
        ({"preview.steps": 0}, r"preview\.steps=0"),
        ({"ema.decay": 1}, r"ema\.decay=1"),
        ({"score.n": -1}, r"score\.n=-1"),
        ({"device.precision": "fp8"}, r"device\.precision=fp8 must be one of"),
        ({"optimizer.lr": "fast"}, r"optimizer\.lr='fast' has the wrong type"),
        ({"optimizer": "adamw", "optimizer.lr": -1}, r"optimizer: Invalid learning rate"),
        ({"optimizer.lr": -1}, r"optimizer\.lr=-1 must be positive"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        training_run.build_trainer(tiny_config(**settings), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_asked_for_and_absent(tmp_path):
    with pytest.raises(UserError, match=r"device\.type=cuda: PyTorch sees no CUDA device here; use device=cpu"):
        training_run.build_trainer(tiny_config(device="cuda"), tmp_path)


def test_unknown_settings_get_a_hint():
    node = {"_target_": "diffusion.ema.EMA", "decai": 0.9}
    with pytest.raises(UserError, match=r"Unknown setting 'ema\.decai': did you mean 'ema\.decay'"):
        build.build(node, "ema", network=torch.nn.Linear(1, 1))
    cfg = OmegaConf.create({"n": 1, "sed": 2})
    with pytest.raises(UserError, match="Unknown setting 'sed': did you mean 'seed'"):
        settings.check_top_level(cfg, {"n": int, "seed": int})


def test_a_length_on_the_command_line_replaces_that_of_the_experiment():
    def lengths(*overrides):
        cfg = OmegaConf.create({"training": {"images": 9, "epochs": None, "steps": None, "budget": "15min"}})
        cfg.merge_with_dotlist([override.lstrip("+") for override in overrides])
        settings.choose_length(cfg, overrides)
        return [cfg.training[name] for name in ("epochs", "steps", "budget")]

    assert lengths("seed=1") == [None, None, "15min"]
    assert lengths("training.steps=5") == [None, 5, None]
    assert lengths("training.images=5") == [None, None, None]
    assert lengths("training.steps=5", "training.budget=4min") == [None, 5, "4min"]  # the trainer asks which


@pytest.mark.parametrize("name", ["diffusion.optimizer.orthogonalise", "diffusion.optimizer.torch"])
def test_an_optimizer_is_a_class_of_that_kind(name):
    assert settings.allowed_target("diffusion.optimizer.Muon", "optimizer")
    with pytest.raises(UserError, match=r"optimizer\._target_=.* is not allowed"):
        settings.allowed_target(name, "optimizer")


def test_what_options_have_in_common_is_no_option():
    with pytest.raises(UserError, match=r"guidance\._target_=diffusion\.guidance\._Scaled is not allowed"):
        settings.allowed_target("diffusion.guidance._Scaled", "guidance")


@pytest.mark.parametrize(
    "name",
    [
        "sampler.Sampler",
        "sampler.base.Sampler",
        "schedule.Schedule",
        "schedule.DiscreteSchedule",
        "objective.Objective",
        "loss.Weighted",
        "timesteps.Timesteps",
        "tasks.Task",
        "evaluation.features.base.Features",
    ],
)
def test_a_base_that_leaves_its_methods_open_is_no_option(name):
    (key, *_) = (key for key, home in settings.HOMES.items() if f"diffusion.{name}".startswith(f"{home}."))
    with pytest.raises(UserError, match=rf"{key}\._target_=diffusion\.{name} is not allowed: it is what .* in common"):
        settings.allowed_target(f"diffusion.{name}", key)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("sampler", "diffusion.sampler.base.Conditions"),
        ("sampler", "diffusion.sampler.base.out_of_memory"),
        ("features", "diffusion.evaluation.features.module.import_name"),
        ("ema", "diffusion.ema.post_hoc"),
        ("data", "diffusion.data.datasets.read_idx"),
        ("guidance", "diffusion.guidance.Autoguidance"),
    ],
)
def test_a_helper_is_no_option(key, name):
    with pytest.raises(UserError, match=r"_target_=.* is not allowed: it must be a"):
        settings.allowed_target(name, key)


def test_every_option_is_allowed():
    """Those of conf/; the features of a network of one's own have a _target_ that must be given."""
    groups = {"preview": "sampler"}
    found = 0
    for key in settings.HOMES:
        for file in (ROOT / "conf" / groups.get(key, key)).glob("*.yaml"):
            name = re.search(r"^_target_: (\S+)", file.read_text(encoding="utf-8"), re.M)
            if name is not None:
                found += callable(settings.allowed_target(name[1], key))
    assert found > 50


def test_what_must_be_given_is_asked_for():
    cfg = OmegaConf.create({"checkpoint": "???"})
    with pytest.raises(UserError, match=r"checkpoint must be given: add checkpoint=…"):
        settings.check_top_level(cfg, {"checkpoint": str})
    with pytest.raises(UserError, match=r"data\.image_size must be given"):
        build.build({"_target_": "diffusion.data.datasets.image_folder", "root": "x"}, "data")


def model(guidance):
    image = {"size": 28, "channels": 1, "padding": 0, "class_names": ["Bag", "Sneaker"], "sigma_data": 0.8}
    config = tiny_config(guidance=guidance)
    device, recipe = build.build(config["device"], "device"), build.Recipe(config, image)
    return ImageModel(recipe.denoiser(recipe.network(0)), recipe.guidance, device, image)


def test_classes_by_name_or_number():
    conditional = model("classifier_free")
    assert class_numbers("sneaker", conditional) == [1]
    assert class_numbers(["Bag", 1], conditional) == [0, 1]
    assert class_numbers(None, conditional) is None
    assert conditional.labels(5).tolist() == [0, 1, 0, 1, 0]
    assert conditional.labels(3, [1]).tolist() == [1, 1, 1]
    for wrong, message in (
        (7, "from 0 to 1"),
        (-1, "from 0 to 1"),
        ("hat", "choose from Bag, Sneaker"),
        ([], "no class"),
    ):
        with pytest.raises(UserError, match=message):
            class_numbers(wrong, conditional)


def test_an_unconditional_model_cannot_be_guided():
    unconditional = model("none")
    assert unconditional.labels(3) is None
    with pytest.raises(UserError, match="classes=1: this model was trained with guidance=none"):
        class_numbers(1, unconditional)
    with pytest.raises(UserError, match=r"guidance\.scale=2: this model was trained with guidance=none"):
        trained.set_guidance(unconditional, {"config": tiny_config(guidance="none")}, {"scale": 2})


def test_a_model_that_never_dropped_labels_cannot_be_guided():
    never = model("classifier_free")
    state = {"config": tiny_config(**{"guidance.dropout": 0, "guidance.scale": 1})}
    for given, wrong in (({"scale": 2}, "scale=2"), ({"plus_plus": True}, "plus_plus=true")):
        with pytest.raises(UserError, match=rf"guidance\.dropout=0 never teaches .* guidance\.{wrong} must be"):
            trained.set_guidance(never, state, given)
    trained.set_guidance(never, state, {"scale": 1})


def test_the_network_depends_on_the_seed_alone():
    image = {"size": 28, "channels": 1, "padding": 0, "class_names": []}
    config = tiny_config(guidance="none")
    torch.manual_seed(1)
    first = build.Recipe(config, image).network(seed=3).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # the global generator was left alone
    second, other = (build.Recipe(config, image).network(seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_guidance_needs_labels():
    image = {"size": 28, "channels": 1, "padding": 0, "class_names": []}
    with pytest.raises(UserError, match="guidance=classifier_free needs labels.*guidance=none"):
        build.Recipe(tiny_config(guidance="classifier_free"), image)


@pytest.mark.parametrize("padding", [0, 2])
def test_images_have_the_size_of_the_data(padding):
    config = tiny_config(**{"data.padding": padding})
    image = {"size": 28, "channels": 1, "padding": padding, "class_names": list("ab"), "sigma_data": 0.8}
    device, recipe = build.build(config["device"], "device"), build.Recipe(config, image)
    made = ImageModel(recipe.denoiser(recipe.network(0)), recipe.guidance, device, image)
    images = made.draw(recipe.preview, 3, made.labels(3), seed=0, batch_size=2)
    assert images.shape == (3, 1, 28, 28) and images.dtype == torch.uint8


def test_too_few_test_images_leave_scores_out_instead_of_stopping_the_training(tmp_path, caplog):
    from PIL import Image

    for i in range(4):  # 3 + 1
        Image.new("L", (8, 8), 60 * i).save(tmp_path / f"{i}.png")
    folder = {"data": "image_folder", "data.root": tmp_path, "data.image_size": 8, "data.channels": 1}
    small = {"guidance": "none", "model.multipliers": "[1]", "model.attention": "[]", "score.n": 5}
    trainer = training_run.build_trainer(tiny_config(**folder, **small), tmp_path / "run")
    trainer.tracker.close()
    assert trainer.monitor.scorer is None and "Scores are left out: they need at least 2 test images" in caplog.text


def test_what_comes_with_a_checkpoint_cannot_be_chosen_again(tmp_path):
    saved, cfg = tiny_config(), OmegaConf.create({**tiny_config(**{"guidance.scale": 1.5}), "checkpoint": "RUN"})
    with pytest.raises(
        UserError, match="^'model.width=16' cannot be given with checkpoint=RUN, which brings its own model"
    ):
        starting.starting_config({"config": saved, "image": {}}, cfg, ["model.width=16"])
    taken = starting.starting_config({"config": saved, "image": {}}, cfg, ["guidance.scale=1.5", "loss=consistency"])
    assert taken["guidance"]["scale"] == 1.5 and taken["model"] == saved["model"]
