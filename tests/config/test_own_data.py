"""Runs on arrays and on varied images: what a checkpoint holds of them, and what may be another when it goes on."""

import numpy as np
import pytest
from config_helpers import compose, tiny_config
from omegaconf import OmegaConf

from diffusion.config import build, changed_images, resuming, settings, starting
from diffusion.records import checkpoint
from diffusion.system.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
VARIED = {"flip", "shift"}


def plain(*overrides):
    return resuming.plain(OmegaConf.create(compose("train", *overrides)))


def resumed(saved, *overrides):
    return resuming.resumed_config(saved, OmegaConf.create(compose("train", *overrides)), overrides)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=PIXELS, y=np.arange(24) % 2)
    return path


def test_a_run_without_augmentation_is_known_as_it_was_before_there_was_any():
    """So that it counts as finished."""
    assert not VARIED & settings.without_later(plain())["data"].keys()
    varied = settings.without_later(plain("data.flip=true"))["data"]
    assert varied["flip"] is True and "shift" not in varied


@pytest.mark.parametrize(("before", "asked", "was"), [("shift=2", "shift=3", "2"), ("shift=0", "shift=1", "0")])
@pytest.mark.parametrize("known", [True, False])
def test_a_run_goes_on_with_its_own_augmentation(before, asked, was, known):
    saved = plain(f"data.{before}", "data.flip=true")
    if known:  # at what it does nothing with, as tests write it
        saved["data"] = {"shift": 0, **saved["data"]}
    assert resumed(saved, "training.steps=9", f"data.{before}", "data.flip=true")["data"] == saved["data"]
    with pytest.raises(UserError, match=rf"'data.{asked}' would change what .* trained with \(data.shift is {was}\)"):
        resumed(saved, f"data.{asked}")
    with pytest.raises(UserError, match=r"\(data.flip is True\)"):
        resumed(saved, "data.flip=false")


def test_the_augmentation_reaches_the_data():
    data = build.build_data(tiny_config(**{"data.flip": "true", "data.shift": 2})["data"])
    assert (data.augmentation.flip, data.augmentation.shift) == (True, 2)
    with pytest.raises(UserError, match="data.shift=99 must be less than the 28×28 pixels"):
        build.build_data(tiny_config(**{"data.shift": 99})["data"])


def test_arrays_that_moved_are_given_anew(file, tmp_path):
    saved = tiny_config(data="arrays", **{"data.train": file})
    image = build.build_data(saved["data"]).describe()
    assert resumed(saved, "training.steps=9")["data"]["train"] == str(file)
    moved = file.rename(tmp_path / "b.npz")
    with pytest.raises(UserError, match=r"data.train=.*a.npz, which the checkpoint names, is no file here"):
        resumed(saved, "training.steps=9")
    for words in (["data=arrays"], []):
        config = resumed(saved, *words, f"{'' if words else '++'}data.train={moved}")
        assert config["data"] == {**saved["data"], "train": str(moved)}
    resuming.same_run(tmp_path / "run", saved, {**saved, "data": config["data"]})
    with pytest.raises(UserError, match=r"\(data.layout is None\)"):
        resumed(saved, f"++data.train={moved}", "++data.layout=hwc")
    started = OmegaConf.create(compose("train", f"++data.train={moved}", "checkpoint=run"))
    start = {"config": saved, "image": image}
    assert starting.starting_config(start, started, [f"++data.train={moved}"])["data"]["train"] == str(moved)
    node = OmegaConf.create({"train": str(moved)})
    assert build.data_of({"config": saved, "image": image}, node).class_names == ["0", "1"]
    np.savez(moved, x=PIXELS // 2, y=np.arange(24) % 2)
    changed = build.build_data({**saved["data"], "train": str(moved)}).describe()
    with pytest.raises(UserError, match="their pixels differ"):
        changed_images.check_same_images("b", changed, start, saved, tmp_path)


def test_a_run_goes_on_with_its_own_labels_and_test_images_alone(file, tmp_path):
    saved = tiny_config(data="arrays", **{"data.train": file, "data.test": file})
    image = build.build_data(saved["data"]).describe()
    checkpoint.check_image(image)
    other = tmp_path / "other.npz"

    def told(x, y, earlier=image, **places):
        np.savez(other, x=x, y=y)
        found = build.build_data({**saved["data"], **dict.fromkeys(places, str(other))}).describe()
        return resuming.difference(found, earlier)

    old = {name: value for name, value in image.items() if name not in ("labels", "test")}
    assert told(PIXELS, np.arange(24) % 2, train=1, test=1) is None  # the same, moved
    assert told(PIXELS, 1 - np.arange(24) % 2, train=1) == "their labels differ"
    assert told(PIXELS, 1 - np.arange(24) % 2, old, train=1, test=1) is None  # of before there was a hash
    for pixels, labels in ((PIXELS[::-1], np.arange(24) % 2), (PIXELS, 1 - np.arange(24) % 2)):
        assert told(pixels, labels, test=1) == "those to test with differ"
    assert told(PIXELS[:20], np.arange(20) % 2, train=1) == "there are 20 to train with instead of 24"
    assert "pixels differ" in told(PIXELS // 2, 1 - np.arange(24) % 2, train=1)


def test_a_checkpoint_fetches_nothing_from_the_hub(monkeypatch):
    """A stranger's may name any data set; one's own was fetched before."""
    from diffusion.data.datasets import hub

    saved = {**tiny_config(), "data": {"_target_": "diffusion.data.datasets.huggingface", "name": "some/one"}}
    monkeypatch.setattr(hub, "fetched", lambda name: False)
    for read in (lambda: resumed(saved, "training.steps=9"), lambda: resuming.moved_data(saved["data"], None)):
        with pytest.raises(
            UserError, match=r"data.name=some/one, .* was not fetched .*: if you trust it, add data.name=s"
        ):
            read()
    assert resumed(saved, "++data.name=some/one")["data"]["name"] == "some/one"
    monkeypatch.setattr(hub, "fetched", lambda name: True)
    assert resumed(saved, "training.steps=9")["data"]["name"] == "some/one"
    for name in ("/not/here", "pandas", "../some"):  # of which the library has a reader, or kept another folder
        saved["data"]["name"] = name
        with pytest.raises(UserError, match=f"data.name={name}, which the checkpoint names, is no folder here"):
            resumed(saved, "training.steps=9")
