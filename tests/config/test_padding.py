"""data.padding=auto: what it becomes for each network, and that a run is known again by it; sizes in checkpoints."""

import pytest
import torch
from config_helpers import tiny_config, train_config
from omegaconf import OmegaConf
from PIL import Image

from diffusion.config import guiding, padding, resuming, training_run
from diffusion.data.images import ImageData, Images
from diffusion.records import checkpoint
from diffusion.records.checkpoint import check_image
from diffusion.system.errors import UserError

NETWORKS = {
    "unet_light": {"model.width": 8, "model.groups": 4, "model.head_width": 8},
    "unet_simple": {"model.width": 4, "model.time_width": 8},
    "dit_small": {"model.width": 16, "model.depth": 1, "model.heads": 2},
}


@pytest.fixture
def folder(tmp_path):
    """Images of 30×22 in two classes."""
    for name, grey in (("dark", 30), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (22, 30), (grey, 10 * i, 90)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def config(folder, network, **settings):
    data = {"data": "image_folder", "data.root": folder, "data.image_size": "null", "data.padding": "auto"}
    small = {"training.batch_size": 2, "training.steps": 1, "training.preview_every": 0, "preview.steps": 2}
    more = {"score.n": 0, "score.held_out": 1, "device": "cpu", "device.precision": "fp32"}
    words = {**data, "model": network, **NETWORKS[network], **small, **more, **settings}
    return train_config(*(f"{key}={value}" for key, value in words.items()))


# 30×22 becomes 32×24, a multiple of 4 and of 8.
@pytest.mark.parametrize("network", NETWORKS)
def test_the_least_padding_is_in_the_config_and_in_the_checkpoint(network, folder, tmp_path):
    wanted = config(folder, network)
    trainer = training_run.build_trainer(wanted, tmp_path / "run")
    assert wanted["data"]["padding"] == 1 and trainer.parts.data.padding == 1
    assert trainer.monitor.model.shape == (3, 32, 24)
    trainer.fit()
    trainer.tracker.close()
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state["image"]["size"] == [30, 22] and state["image"]["padding"] == 1
    assert state["config"]["data"]["padding"] == 1
    # The same command again is the same run.
    cfg = OmegaConf.create(config(folder, network))
    guiding.settle(cfg, state["image"])
    padding.settle(cfg, state)
    resuming.same_run(tmp_path / "run", state["config"], resuming.plain(cfg))
    images = trainer.monitor.model.draw(trainer.monitor.sampler, 2, torch.tensor([0, 1]), seed=0, batch_size=2)
    assert images.shape == (2, 3, 30, 22)


@pytest.mark.parametrize(
    ("size", "model", "expected"),
    [  # by hand: what is missing to the next multiple, the smaller half on top and on the left
        ([28, 28], {"_target_": "diffusion.networks.unet.UNet", "patch": 2, "multipliers": [1, 2]}, 0),
        ([28, 28], {"_target_": "diffusion.networks.unet_simple.UNetSimple"}, 2),
        ([21, 30], {"_target_": "diffusion.networks.unet_simple.UNetSimple"}, [1, 2, 1, 1]),
        ([12, 48], {"_target_": "diffusion.networks.unet_simple.UNetSimple"}, [2, 2, 0, 0]),
        ([5, 7], {"_target_": "diffusion.networks.dit.DiT", "patch": 4}, [1, 2, 0, 1]),
        ([5, 7], {"_target_": "diffusion.networks.layers.GroupNorm"}, 0),  # one that says nothing takes any size
        ([5, 7], {"_target_": "diffusion.networks.dit.DiT", "patch": 0}, 0),  # which the network itself refuses
        ([5, 7], {"_target_": "diffusion.networks.unet_simple.UNetSimple", "levels": -3}, 0),
    ],
)
def test_the_least_padding(size, model, expected):
    assert padding.least(size, model) == expected


def test_more_padding_than_images_can_have_is_told():
    model = {"_target_": "diffusion.networks.unet_simple.UNetSimple", "levels": 9}
    with pytest.raises(UserError, match=r"data\.padding=auto: .* images of 28×28 pixels only with more than 64 around"):
        padding.least(28, model)


def test_a_run_of_before_a_setting_of_its_data_existed_is_still_known():
    saved, asked = tiny_config(), tiny_config()
    folder = {"_target_": "diffusion.data.datasets.image_folder", "root": "a", "image_size": 8}
    saved["data"], asked["data"] = dict(folder), {**folder, "root": "b", "fit": "crop", "padding": 0}
    resuming.same_run("run", saved, asked)
    with pytest.raises(UserError, match="another data than"):
        resuming.same_run("run", saved, {**asked, "data": {**asked["data"], "fit": "pad"}})


GOOD = {"size": [48, 32], "channels": 3, "padding": [0, 1, 0, 64], "class_names": []}


def test_images_of_two_sides_and_paddings_of_four_may_be_in_a_checkpoint():
    check_image(GOOD)
    check_image({**GOOD, "size": 48, "padding": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"size": size}
            for size in ([48], [48, 32, 3], [48, 3], [48, 2000], [48, 48], [48, 32.0], [48, True], [], "48")
        ),
        *({"size": size} for size in ({"a": 48, "b": 32}, (48, 32), [[48], [32]], [10**30, 48], None, 28.0, -5)),
        *(
            {"padding": each}
            for each in ([0, 1], [0] * 4, [0, 1, 0, 65], [0, 1, 0, -1], [0, 1, 0, "1"], "auto", [[], 1, 0, 0])
        ),
        *({"channels": channels} for channels in ([3], [1, 3], True, 0)),
    ],
)
def test_no_other_shape_is_taken_from_a_checkpoint(wrong):
    with pytest.raises(ValueError, match=f"its images have the {next(iter(wrong))} .* which is not from"):
        check_image({**GOOD, **wrong})


def test_data_that_pad_themselves_get_no_setting_that_they_do_not_know():
    images = Images(torch.zeros(2, 1, 9, 10, dtype=torch.uint8))
    data = ImageData("own", images, images, [], padding="auto")
    node = {"_target_": "diffusion.data.datasets.fashion_mnist_here"}  # a function without the argument padding
    wanted = {"data": dict(node), "model": {"_target_": "diffusion.networks.dit.DiT", "patch": 4}}
    padding.choose(wanted, data)
    assert data.padding == [1, 2, 1, 1] and wanted["data"] == node
