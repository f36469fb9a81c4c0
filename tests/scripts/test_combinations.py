"""Every two options meet in some run, which takes a step and draws an image, or is refused by one sentence; and each
meets images of other shapes, in grey and in colour.
"""

import itertools
import random
import re

import pytest
import torch
from config_helpers import tiny_config
from conftest import ROOT
from omegaconf import OmegaConf
from PIL import Image

from diffusion.config import build, training_run, trust
from diffusion.system.errors import UserError

NETWORKS = {  # the sizes of one network are alike here
    "unet_light": {"width": 8, "groups": 4, "head_width": 8},
    "unet_tiny": {"width": 8, "groups": 4, "head_width": 8},
    "unet_flexible": {"width": 4, "time_width": 8, "levels": 2, "attention": [2]},
    "dit_small": {"width": 16, "depth": 1, "heads": 2},
}
FOLDER = {"_target_": "diffusion.data.datasets.image_folder", "root": "pictures", "padding": "auto", "fit": "pad"}
IMAGES = {  # name → the node of the config, and the shape of what is drawn
    "grey_square": ({"_target_": "diffusion.data.datasets.fashion_mnist_mini"}, (1, 28, 28)),
    "colour_tall": ({**FOLDER, "image_size": [24, 16]}, (3, 24, 16)),
    "colour_own": ({**FOLDER, "image_size": None}, (3, 14, 18)),
    "grey_wide": ({**FOLDER, "image_size": [16, 21], "channels": 1}, (1, 16, 21)),  # padded on one side more
}
VARIANTS = {  # settings that matter as much as the choice of an option: group → name → (option, settings)
    "schedule": {"linear_zero_snr": ("linear", {"zero_terminal_snr": True})},
    "guidance": {
        "interval": ("classifier_free", {"interval": [0.3, 3.0], "rescale": 0.5}),
        "plus_plus": ("classifier_free", {"plus_plus": True, "scale": 0.5}),
    },
    "sampler": {"ddpm_learned": ("ddpm", {"variance": "learned"})},
}


def choices(group):
    """name → the node of the config, for every option of a group and its variants."""
    found = {path.stem: (path.stem, {}) for path in sorted((ROOT / "conf" / group).glob("*.yaml"))}
    found = {name: (name, settings) for name, settings in NETWORKS.items()} if group == "model" else found
    return {
        name: {**OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / group / f"{option}.yaml")), **settings}
        for name, (option, settings) in {**found, **VARIANTS.get(group, {})}.items()
    }


CHOICES = {
    group: choices(group)
    for group in ("model", "schedule", "objective", "loss", "timesteps", "guidance", "ema", "sampler")
} | {"data": {name: node for name, (node, _) in IMAGES.items()}}
CHOICES["model"]["own"] = {"_target_": "my_parts.Net", "width": 8, "blocks": 1}  # that of examples/own_parts


def covering_set(groups, seed=0):
    """Rows of names such that every two options of different groups share a row: greedily, the most new pairs first."""
    rng, names = random.Random(seed), [sorted(group) for group in groups]
    pairs = {
        ((i, a), (j, b)) for i, j in itertools.combinations(range(len(names)), 2) for a in names[i] for b in names[j]
    }
    rows = []
    while pairs:
        (i, a), (j, b) = min(pairs)
        best = (0, [])
        for _ in range(20):
            row = [rng.choice(options) for options in names]
            row[i], row[j] = a, b
            new = sum(pair in pairs for pair in itertools.combinations(enumerate(row), 2))
            best = max(best, (new, row))
        rows.append(best[1])
        pairs -= set(itertools.combinations(enumerate(best[1]), 2))
    return rows


ROWS = covering_set(CHOICES.values())


def impossible(row):
    """The two names that a refusal must hold, or None: what is known to make no sense, written down here by hand."""
    _, schedule, objective, loss, _, guidance, _, sampler, _ = row
    if objective == "epsilon" and schedule == "flow":
        return "objective=epsilon", "schedule=flow"
    if objective == "epsilon" and schedule == "linear_zero_snr":
        return "objective=epsilon", "schedule.zero_terminal_snr=true"
    if loss == "consistency" and objective in ("x0", "epsilon"):
        return "loss=consistency", f"objective={objective}"
    if sampler == "ddpm_learned" and loss != "hybrid":
        return "sampler.variance=learned", "loss=hybrid"
    if guidance == "plus_plus" and sampler not in ("ddim", "ddpm", "ddpm_learned", "euler"):
        return "guidance.plus_plus=true", "sampler"
    return None


def refusal(config, folder):
    """The trainer of a config and no message, or no trainer and the message it is refused with."""
    try:
        return training_run.build_trainer(config, folder), None
    except UserError as error:
        return None, str(error)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Six images of 14×18 in two classes, in the working folder."""
    monkeypatch.chdir(tmp_path)
    chance = random.Random(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            Image.frombytes("RGB", (18, 14), chance.randbytes(756)).save(tmp_path / "pictures" / name / f"{i}.png")


def test_the_set_covers_every_pair():
    for (i, a), (j, b) in itertools.combinations(enumerate(CHOICES.values()), 2):
        assert {(row[i], row[j]) for row in ROWS} == set(itertools.product(a, b))


@pytest.fixture
def trusted(monkeypatch):
    """The network of examples/own_parts is found, and trusted."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "own_parts")
    with trust.given("my_parts"):
        yield


@pytest.mark.usefixtures("trusted")
def test_every_combination_trains_and_draws_or_is_refused_in_one_sentence(tmp_path, pictures):
    base = tiny_config(
        **{"training.batch_size": 4, "training.steps": 1, "score.held_out": 0, "sampler@preview": "ddim"}
    )
    outcomes = {"drawn": 0, "refused": 0}
    for number, row in enumerate(ROWS):
        config = base | {group: CHOICES[group][name] for group, name in zip(CHOICES, row, strict=True)}
        trainer, message = refusal(config, tmp_path / str(number))
        wanted = impossible(row)
        if wanted is not None:
            assert message is not None, f"{row} should have been refused"
            assert all(name in message for name in wanted), (row, message)
            assert re.fullmatch(r"[^\n]+\.", message), message
            outcomes["refused"] += 1
            continue
        assert trainer is not None, f"{row} was refused: {message}"
        trainer.train_step(trainer.parts.data.train.select(torch.arange(4)))
        trainer.state.check_finite()
        model = trainer.monitor.model
        sampler = build.build({**config["sampler"], "steps": 3}, "sampler")
        drawn = model.draw(sampler, 2, model.labels(2), seed=0, batch_size=2)
        assert drawn.shape == (2, *IMAGES[row[-1]][1]) and drawn.dtype == torch.uint8, row
        trainer.tracker.close()
        outcomes["drawn"] += 1
    assert outcomes["drawn"] > 40 and outcomes["refused"] > 10, outcomes


def test_labels_that_are_missing_are_named():
    image = {"size": 28, "channels": 1, "padding": 0, "class_names": [], "sigma_data": 1.0}
    with pytest.raises(UserError, match="guidance=classifier_free needs labels.*guidance=none"):
        build.Recipe(tiny_config(), image)
