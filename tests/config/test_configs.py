"""Every option of every group builds, and every rung of the ladder changes what it says and nothing else."""

from pathlib import Path

import pytest
import torch
from config_helpers import compose, train_config
from conftest import ROOT
from omegaconf import OmegaConf

from diffusion.config import automatic, build, settings
from diffusion.config.left_open import left_open

LADDER = ["base", "improved", "cosine", "cfg", "ema"]
IMAGE = {"size": 28, "channels": 1, "padding": 0, "class_names": list("abcdefghij"), "sigma_data": 0.8}


def options(group):
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g in ("schedule", "objective", "loss", "timesteps", "guidance", "sampler") for o in options(g)],
)
def test_every_option_builds(group, option):
    config = train_config(f"{group}={option}")
    node = build.measured(config[group], IMAGE)
    assert build.build(node, group, {"schedule": build.build(config["schedule"], "schedule")}) is not None


@pytest.mark.parametrize("option", options("model"))
def test_every_network_builds_and_has_the_size_its_file_names(option):
    config = compose("train", f"model={option}")
    network = build.Recipe(config, IMAGE).network(seed=0)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    head = (ROOT / "conf" / "model" / f"{option}.yaml").read_text().splitlines()[0]
    stated = [float(word) for word in head.replace(",", " ").split() if word.replace(".", "").isdigit()]
    if stated:
        assert abs(millions - stated[0]) < 0.05 * stated[0]


@pytest.mark.parametrize("option", ["adamw"])
def test_every_optimizer_builds(option):
    config = compose("train", f"optimizer={option}")
    assert build.build(config["optimizer"], "optimizer", params=[torch.zeros(1, requires_grad=True)])


@pytest.mark.parametrize("option", options("ema"))
def test_every_average_builds(option):
    assert build.build(compose("train", f"ema={option}")["ema"], "ema", network=torch.nn.Linear(1, 1))


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_names_only_settings_that_exist(option):
    config = compose("train", f"experiment={option}")
    settings.check_types(config)
    automatic.fill(config, left_open(config), width=32, batch=64, images=30_000)
    recipe = build.Recipe({**config, "model": {**config["model"], "width": 32}}, IMAGE)
    recipe.denoiser(recipe.network(seed=0))


def changed(parent, child):
    return {key for key in child if parent.get(key) != child[key]}


def test_each_rung_changes_what_it_says():
    rungs = [compose("train", f"experiment={name}") for name in LADDER]
    assert rungs[0]["schedule"]["_target_"].endswith("Linear") and rungs[0]["sampler"]["steps"] == 1000
    assert rungs[0]["sampler"]["eta"] == 1 and rungs[0]["guidance"]["_target_"].endswith("Unconditional")
    expected = [{"model", "data"}, {"schedule"}, {"guidance"}, {"ema"}]
    assert [changed(a, b) for a, b in zip(rungs, rungs[1:], strict=False)] == expected


def test_without_an_experiment_it_is_the_quickstart():
    assert compose("train") == compose("train", "experiment=quickstart")
    config = compose("train")
    assert config["data"]["_target_"].endswith("fashion_mnist_mini")
    assert config["guidance"]["dropout"] > 0 and config["ema"]["decay"] > 0


def test_the_command_line_wins_over_the_experiment():
    config = compose("train", "experiment=ema", "schedule=linear", "ema.decay=0.5", "training.batch_size=7")
    assert config["schedule"]["_target_"].endswith("Linear")
    assert config["ema"]["decay"] == 0.5 and config["training"]["batch_size"] == 7


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_says_what_it_changes(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith("# ")


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_sampling_knows_no_schedule_of_its_own(name):
    config = compose(name, "checkpoint=x")
    assert not {"schedule", "objective", "model", "timesteps"} & set(config)


@pytest.mark.parametrize("option", options("experiment"))
def test_experiments_give_their_length_in_images_so_that_steps_and_epochs_are_free(option):
    training = compose("train", f"experiment={option}")["training"]
    assert training["images"] and training["steps"] is None and training["epochs"] is None


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        (["experiment=v", "ema=power"], ["ema.decay"]),
        (["experiment=flow", "timesteps=uniform"], ["timesteps.mean", "timesteps.std"]),
        (["experiment=learned_variance", "sampler=heun"], ["sampler.variance"]),
        (["experiment=zero_snr", "schedule=flow"], ["schedule.zero_terminal_snr"]),
        (["experiment=cfg_plus_plus", "guidance=none"], ["guidance.plus_plus", "guidance.scale"]),
        (["experiment=base", "data=fashion_mnist_mini"], []),  # which knows the padding, too
        (["ema=power", "+ema.decay=0.5"], []),  # to be refused
    ],
)
def test_settings_of_an_experiment_go_with_the_option_they_were_for(given, left_out):
    cfg = OmegaConf.create(compose("train", *given))
    assert sorted(settings.leave_out_foreign(cfg, given)) == left_out
    if "+" not in "".join(given):
        settings.check_types(OmegaConf.to_container(cfg))
