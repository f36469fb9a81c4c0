"""The folder for diffusers draws our images, in a process that has not our package."""

import os
import re
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ended
from models import SMALL, untrained
from safetensors.torch import load_file

from diffusion.evaluation.score_table import ScoreTable
from diffusion.sampler import DDIM
from diffusion.system.errors import UserError

diffusers = pytest.importorskip("diffusers")
STOCK = "model.sinusoid_ratio=1"
GUIDED = ("guidance.scale=2.5", "guidance.interval=[0.2,3]")
# name → settings, of images, whether the network is diffusers' own
CASES = {
    "v": ([*SMALL, STOCK, *GUIDED], {}, True),
    "code": ([*SMALL, *GUIDED], {}, False),
    "epsilon": ([*SMALL, STOCK, "objective=epsilon", "schedule=linear", "guidance=none"], {"padding": 2}, True),
    "margin": ([*SMALL, STOCK, "objective=epsilon", "schedule=linear", "guidance=none", "loss.margin=0.2"], {}, True),
    "x0": ([*SMALL, STOCK, "objective=x0", "schedule=quadratic", "guidance.rescale=0.7"], {"channels": 3}, True),
    "rescaled": ([*SMALL, STOCK, "guidance.rescale=0.7", "model.patch=1"], {"size": [8, 12]}, True),
    "zero": (
        [*SMALL, STOCK, "schedule.zero_terminal_snr=true", "guidance.interval=[]"],
        {"padding": [0, 0, 2, 2]},
        True,
    ),
    "dit": (["model=dit_small", "model.width=16", "model.depth=2", *GUIDED], {}, False),
    "simple": (["model=unet_flexible", "model.width=8", "model.time_width=16", "loss=hybrid"], {}, False),
}
CHECK = """
import sys

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "diffusion":
            raise ImportError(name)

sys.meta_path.insert(0, Without)
import numpy as np
from diffusers import DiffusionPipeline

for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    np.save(f"{folder}.npy", pipe(5, num_inference_steps=10, seed=3, output_type="pt").images.numpy())
"""


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and no module of another test's in the cache."""
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])


def drawn(model):
    """Ours, of the same noise."""
    return model.sample(5, sampler=DDIM(10, clip=None), seed=3)


def off(found, model):
    """The largest difference in grey levels; the images must say something."""
    expected = drawn(model)
    assert expected.float().std() > 20 and found.shape == expected.shape
    return int((torch.as_tensor(found).int() - expected.int()).abs().max())


@pytest.mark.parametrize("name", ["v", "code", "zero", "epsilon", "margin"])
def test_it_draws_our_images(name, offline, tmp_path):
    settings, of_images, stock = CASES[name]
    model = untrained(*settings, **of_images)
    folder = model.export(tmp_path / "folder", to="diffusers")
    assert (folder / "unet" / "network.py").exists() != stock
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert off(pipe(5, num_inference_steps=10, seed=3, output_type="pt").images, model) <= 1
    if name == "v":
        images = pipe(2, labels=["sneaker", 8], num_inference_steps=5, guidance_scale=1.5).images
        expected = model.sample(2, labels=["sneaker", 8], sampler=DDIM(5, clip=None), guidance=1.5)
        assert np.abs(np.array(images[1]).astype(int) - expected[1, 0].numpy()).max() <= 1
        with pytest.raises(ValueError, match="labels=hat: there is no such class; choose from T-shirt"):
            pipe(labels="hat")


@pytest.mark.slow
def test_in_a_process_without_our_package(tmp_path):
    models = {name: untrained(*settings, **of_images) for name, (settings, of_images, _) in CASES.items()}
    folders = [str(model.export(tmp_path / name, to="diffusers")) for name, model in models.items()]
    (tmp_path / "check.py").write_text(CHECK)
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    ended([sys.executable, "check.py", *folders], tmp_path, env=env)
    for name, model in models.items():
        assert off(np.load(tmp_path / f"{name}.npy"), model) <= 1, name


def test_the_stock_network_needs_no_code(tmp_path):
    model = untrained(*SMALL, STOCK)
    folder = model.export(tmp_path / "folder", to="diffusers")
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    count = sum(value.numel() for value in model.denoiser.network.parameters())
    assert sum(value.numel() for value in unet.parameters()) == count
    diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".md", ".json", ".py", ".safetensors"}
    assert sum(value.numel() for value in load_file(next(folder.rglob("*.safetensors"))).values()) == count


def test_the_card(tmp_path):
    model = untrained(*SMALL, STOCK)
    scored = dict.fromkeys(("fid", "kid", "inception_score", "precision", "recall", "coverage", "accuracy"), 0.5)
    protocol = {"scorer": "classifier trained on fashion_mnist", "images": "averaged", "floor": "1000 test images"}
    found = {"status": "finished", "step": 3, "n": 1000, **scored, "real": {**scored, "fid": 0.2}, "protocol": protocol}
    found["overrides"] = [
        "ema=none",
        f"data.root={tmp_path}",
        f"hydra.run.dir={tmp_path}",
        f"a.b=['{tmp_path}']",
    ]
    model.scores = ScoreTable(found)
    folder = model.export(tmp_path / "folder", to="diffusers")
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "mit" and head["library_name"] == "diffusers" and "diffusion" in head["tags"]
    assert head["datasets"] == ["zalando-datasets/fashion_mnist"]
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert {"type": "fid", "value": 0.5}.items() <= metrics[0].items() and "classifier" in metrics[0]["name"]
    assert "| FID | 0.500 | 0.200 |" in body and "not that of InceptionV3" in body and "1000 test images" in body
    assert "python train.py ema=none\n" in body and "subfolder=" in body
    for path in folder.rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes() and os.path.expanduser("~") + "/" not in path.name


def test_without_scores_or_a_known_licence_the_card_says_so(tmp_path):
    model = untrained(*SMALL, "data=image_folder", "data.root=mine", "guidance=none", class_names=[])
    text = (model.export(tmp_path / "folder", to="diffusers") / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert "licence of the images is not known" in text and "No scores are known of these weights" in text
    assert "labels=" not in text


def test_text_of_strangers_breaks_no_card(tmp_path):
    """A tag, a heading, a link, a fence and a cell of a table, in every text that is not ours."""
    evil = "<script>x</script>|a\n\n# hi\n```\n[b](http://c)`d`\u2028\x85\ud800"
    model = untrained(*SMALL, STOCK, class_names=[evil, *map(str, range(9))])
    model.config["ema"], model.config["optimizer"] = {"_target_": "a.B", "c": evil, evil: 1}, {}
    scored = {"n": 1000, **dict.fromkeys(("fid", "kid"), 0.5)}
    overrides = ["seed=1", f"name={evil}", "name=`id`", "name=a\n```", "name=<b>"]
    protocol = dict.fromkeys(("scorer", "images", "reference", "floor"), evil)
    model.scores = ScoreTable({"step": 3, **scored, "real": scored, "protocol": protocol, "overrides": overrides})
    text = (model.export(tmp_path / "folder", to="diffusers") / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert "\n" not in yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"][0]["name"]
    lines = body.splitlines()
    assert [line for line in lines if line.startswith("#")][1:] == [
        "## How to load it",
        "## How it was trained",
        "## How good it is",
        "## What it is not",
    ]
    assert [line for line in lines if "```" in line and "\\`" not in line] == ["```python", "```", "```bash", "```"]
    assert "python train.py seed=1 'name=<b>'" in lines and "pipe(4, labels=0, seed=0).images[0].show()" in lines
    rest = re.sub(r"```.*?\n```\n", "", re.sub(r"\\[`|\[\\]", "", body), flags=re.DOTALL)
    assert "<" not in rest and "](" not in rest.replace("b](", "")
    for row in (line for line in rest.splitlines() if line.startswith("|")):
        assert row.count("|") in (3, 4), row
    assert "| optimizer |  |" in rest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["schedule=flow", "objective=flow"], "schedule=flow cannot be exported to=diffusers.*choose to=onnx"),
        (["schedule=edm", "objective=edm"], "schedule=edm cannot"),
        (["objective=edm"], "objective=edm cannot"),
        (["loss=consistency", "timesteps=log_normal"], "loss=consistency cannot"),
        (["guidance.plus_plus=true", "guidance.scale=0.5", "sampler=ddim"], r"guidance\.plus_plus=true"),
    ],
)
def test_what_diffusers_has_no_scheduler_for(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        untrained(*SMALL, *settings).export(tmp_path / "folder", to="diffusers")
    assert not (tmp_path / "folder").exists()


def test_a_folder_of_something_else_stays_as_it_is(tmp_path):
    model = untrained(*SMALL, STOCK)
    for name, text in (
        ("mine.txt", "mine"),
        ("model_index.json", '{"_class_name": "StableDiffusionPipeline"}'),
        ("model_index.json", "[]"),
        ("model_index.json", "no JSON"),
    ):
        (tmp_path / name).write_text(text)
        before = {path.name for path in tmp_path.iterdir()}
        with pytest.raises(UserError, match="holds something else already: give a new folder"):
            model.export(tmp_path, to="diffusers")
        assert {path.name for path in tmp_path.iterdir()} == before and (tmp_path / name).read_text() == text
    with pytest.raises(UserError, match="holds something else already"):
        model.export(tmp_path / "mine.txt", to="diffusers")


def test_a_folder_of_ours_is_written_again(tmp_path):
    model = untrained(*SMALL, STOCK)
    for _ in range(2):
        model.export(tmp_path / "folder", to="diffusers")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_place_that_cannot_be_written_is_one_sentence(name, tmp_path):
    with pytest.raises(UserError, match="could not be written"):
        untrained(*SMALL, STOCK).export(tmp_path / name, to="diffusers")


@pytest.mark.parametrize(
    ("dropout", "fits", "other", "message"),
    [(0, 1.0, 2.0, r"never learnt to go without a label"), (1, 0.0, 1.0, "was never shown a label")],
)
def test_it_refuses_guidance_by_what_was_never_learnt(dropout, fits, other, message, offline, tmp_path):
    settings = (f"guidance.dropout={dropout}", f"guidance.scale={fits}")
    folder = untrained(*SMALL, STOCK, *settings).export(tmp_path / "folder", to="diffusers")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(1, num_inference_steps=1).images) == 1
    with pytest.raises(ValueError, match=message):
        pipe(1, guidance_scale=other)
    with pytest.raises(ValueError, match=message):
        pipe(1, guidance_scale=[fits] * 9 + [other])
