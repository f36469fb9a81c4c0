"""Files of arrays: which of them are the images, what values and axes mean, and what is said where that is open."""

import logging
import re

import numpy as np
import pytest
import torch

from diffusion.data.array_file import meaning
from diffusion.data.datasets import arrays
from diffusion.system.errors import UserError

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)  # height 6, width 5
LABELS = np.arange(40) % 4


def saved(folder, name="a.npz", **content):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, content["x"])
    else:
        np.savez(path, **content)
    return str(path)


def refused(*arguments, **settings):
    with pytest.raises(UserError) as error:
        arrays(*arguments, **settings)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400, sentence
    return sentence


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "x": (None, "x"),
        "X_train": ("train", "x"),
        "ytest": ("test", "y"),
        "train_images": ("train", "images"),
        "labels-val": ("val", "labels"),
        "arr_0": (None, "arr_0"),
        "test": ("test", "images"),
        "x_latest": (None, "x_latest"),
        "": (None, ""),
    }.items(),
)
def test_what_names_of_arrays_mean(name, expected):
    assert meaning(name) == expected


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("images", "labels", "images_val", "labels_val"),
        ("arr_0", "arr_1", "test", "y_test"),
    ],
)
def test_both_splits_of_one_file_are_found(tmp_path, names):
    content = (COLOUR[:30], LABELS[:30], COLOUR[30:], LABELS[30:])
    data = arrays(saved(tmp_path, **dict(zip(names, content, strict=True))))
    assert torch.equal(data.train.images, torch.from_numpy(COLOUR[:30]).permute(0, 3, 1, 2))
    assert torch.equal(data.test.images, torch.from_numpy(COLOUR[30:]).permute(0, 3, 1, 2))
    assert data.class_names == ["0", "1", "2", "3"] and data.name == "a"
    assert data.train.labels.tolist() == LABELS[:30].tolist() and data.test.labels.tolist() == LABELS[30:].tolist()


def test_the_test_images_come_before_those_for_validation_and_one_line_tells_it(tmp_path, caplog):
    content = {"train_images": COLOUR, "val_images": COLOUR[:3], "test_images": COLOUR[:7], "other": np.zeros(3)}
    with caplog.at_level(logging.INFO, "diffusion"):
        data = arrays(saved(tmp_path, **content))
    assert (len(data.train), len(data.test), data.train.labels) == (40, 7, None)
    assert "40 images from train_images without labels; to test, 7 images from test_images" in caplog.text
    assert "not used: val_images, other." in caplog.text


def test_files_apart_and_names_that_are_given(tmp_path):
    images, words = saved(tmp_path, "images.npy", x=COLOUR), np.array(["cat", "dog", "bird", "ant"])[LABELS]
    data = arrays(images, train_labels=saved(tmp_path, "labels.npy", x=words), test_fraction=0.25)
    assert data.class_names == ["ant", "bird", "cat", "dog"] and (len(data.train), len(data.test)) == (30, 10)
    of_row = {
        tuple(image.flatten().tolist()): name for image, name in zip(COLOUR.transpose(0, 3, 1, 2), words, strict=True)
    }
    for split in (data.train, data.test):  # each image has kept its class
        for image, label in zip(split.images, split.labels, strict=True):
            assert of_row[tuple(image.flatten().tolist())] == data.class_names[label]
    odd = saved(tmp_path, "odd.npz", a=COLOUR, b=LABELS[:, None], c=COLOUR[:8], d=LABELS[:8])
    assert "holds a 40×6×5×3 uint8, b 40×1 int64, c 8×6×5×3 uint8" in refused(odd)
    data = arrays(odd, keys=["a", "b", "c", "d"], class_names=["w", "x", "y", "z"])
    assert data.class_names == ["w", "x", "y", "z"] and len(data.test) == 8
    assert arrays(odd, test=odd, keys=["a", "b"]).test.labels.tolist() == LABELS.tolist()
    assert arrays(odd, keys=["a", None]).class_names == []
    assert "but no e: choose from these" in refused(odd, keys=["e"])
    assert arrays(saved(tmp_path, x=COLOUR, y=LABELS), labels=False).class_names == []


@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_the_axes_are_found_or_asked_for(tmp_path, order):
    axes = {"hwc": (0, 1, 2, 3), "chw": (0, 3, 1, 2)}[order]
    data = arrays(saved(tmp_path, x=COLOUR.transpose(axes)))
    assert torch.equal(data.train.images[0], torch.from_numpy(COLOUR).permute(0, 3, 1, 2)[rows(data)[0]])
    assert data.train.images.shape[1:] == (3, 6, 5)
    grey = arrays(saved(tmp_path, x=COLOUR[..., 0]))
    assert grey.train.images.shape[1:] == (1, 6, 5)
    wide = np.full((4, 3, 8, 3), 9, np.uint8)
    assert "can be read in two ways: add data.layout=hwc or data.layout=chw" in refused(saved(tmp_path, x=wide))
    assert "3×8 pixels; at least 4 a side" in refused(saved(tmp_path, x=wide), layout="hwc")
    assert "8×3 pixels; at least 4 a side" in refused(saved(tmp_path, x=wide), layout="chw")
    long = np.zeros((3, 1, 4, 1025), np.uint8)
    assert "4×1025 pixels; at most 1024 a side" in refused(saved(tmp_path, x=long), layout="chw")
    assert "must be hwc" in refused(saved(tmp_path, x=COLOUR), layout="cwh")


def rows(data):
    """Which images of COLOUR were not held out, by their content."""
    wanted = torch.from_numpy(COLOUR).permute(0, 3, 1, 2)
    return [int((wanted == image).flatten(1).all(1).nonzero()) for image in data.train.images]


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("float32", 0, 1), ("float64", -1, 1), ("float16", 0, 1), ("uint16", 0, 65535), ("int64", 0, 255)],
)
def test_values_become_bytes_by_their_range(tmp_path, kind, low, high):
    """Black is 0, white is 255, and a byte that was written as a number of that range comes back."""
    values = (COLOUR / 255 * (high - low) + low).round(0 if high > 1 else 12).astype(kind)
    values[0, 0, 0, 0], values[1, 0, 0, 0] = low, high
    path = saved(tmp_path, x_train=values, x_test=values[:1])
    assert f"holds {kind} from {low} to {high}: say which values are black and white" in refused(path)
    data = arrays(path, range=[low, high])
    back = torch.from_numpy(COLOUR).permute(0, 3, 1, 2).clone()
    back[0, 0, 0, 0], back[1, 0, 0, 0] = 0, 255
    assert torch.equal(data.train.images, back)
    assert f"outside data.range=[{low},{(low + high) / 2:g}]" in refused(path, range=[low, (low + high) / 2])


def test_the_range_is_named_that_the_values_have(tmp_path):
    x = np.zeros((9, 4, 4))
    x[0, 0, 0] = 1
    assert "data.range=[0,1]" in refused(saved(tmp_path, x=x))
    assert "data.range=[-1,1]" in refused(saved(tmp_path, x=2 * x - 1))
    assert "data.range=[0,255]" in refused(saved(tmp_path, x=255 * x))
    assert "data.range=[BLACK,WHITE]" in refused(saved(tmp_path, x=999 * x))
    assert "uint8 from 0 to 1" in refused(saved(tmp_path, x=x.astype(np.uint8)))  # a mask, which would look black
    assert arrays(saved(tmp_path, x=x.astype(bool))).train.images.max() == 255
    x[0, 0, 0] = np.nan
    assert "no numbers" in refused(saved(tmp_path, x=x), range=[0, 1])
    assert "must be two numbers" in refused(saved(tmp_path, x=np.abs(x[1:])), range=[1, 0])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            {"x": COLOUR.reshape(40, -1)[:, :64]},
            r"is 40 × 64; images are .*: reshape it, perhaps by x.reshape\(-1, 8, 8\)",
        ),
        ({"x": COLOUR[0]}, "5×3 pixels; at least 4 a side"),
        ({"x": np.zeros((3, 8, 8, 4), np.uint8)}, "leave its transparency out"),
        ({"x": np.zeros((0, 8, 8), np.uint8)}, "holds no images"),
        ({"x": np.zeros((3, 8, 8), "M8[s]")}, "of the kind datetime64"),
        ({"x": COLOUR, "y": LABELS[:7]}, "is 7, but labels are one for each of the 40 images"),
        ({"x": COLOUR, "y": np.eye(4)[LABELS]}, r"of one-hot labels take x.argmax\(1\)"),
        ({"x": COLOUR, "y": LABELS + 0.5}, "labels are whole numbers or texts; data.labels=false does without"),
        ({"x_train": COLOUR, "x_test": COLOUR[:, :, :4]}, "have 6×5 pixels with 3 channels, and the test images 6×4"),
        (
            {"x_train": COLOUR, "y_train": LABELS, "x_test": COLOUR, "y_test": LABELS + 9},
            "are none of those of the train",
        ),
        ({"a": COLOUR, "b": COLOUR}, r"name its images and labels by data.keys=\[…,…\]"),
        ({"x": COLOUR[:1]}, "1 image: at least 2"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, content, sentence):
    assert re.search(sentence, refused(saved(tmp_path, **content)))


def test_names_of_classes_must_fit(tmp_path):
    path = saved(tmp_path, x=COLOUR, y=LABELS)
    assert "numbers from 0 to 3, and data.class_names has names for 0 to 1" in refused(path, class_names=["a", "b"])
    assert "names a class twice" in refused(path, class_names=["a", "b", "b", "c"])
    assert arrays(path, class_names=["d", "c", "b", "a"]).class_names == ["d", "c", "b", "a"]
    words = saved(tmp_path, x=COLOUR, y=np.array([b"p", b"q", b"r", b"s"])[LABELS])
    assert arrays(words, class_names=["s", "r", "q", "p"]).class_names == ["s", "r", "q", "p"]
    assert "holds 'r', which is none of data.class_names=[p,q]" in refused(words, class_names=["p", "q"])


def test_other_files_are_told_apart(tmp_path):
    assert "no such file; give an .npz" in refused(str(tmp_path / "no.npz"))
    assert "is a folder: give an .npz or .npy, or a folder of images by data=image_folder" in refused(str(tmp_path))
    (tmp_path / "a.zip").write_bytes(b"PK")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.csv").write_text("1,2", encoding="utf-8")
    assert "is an archive: unpack it" in refused(str(tmp_path / "a.zip"))
    assert "is a single image" in refused(str(tmp_path / "a.png"))
    assert "cannot be read as .npz or .npy" in refused(str(tmp_path / "a.csv"))


def test_every_class_keeps_an_image_to_train_and_the_same_are_held_out_again(tmp_path):
    labels = np.array([0] * 36 + [1, 1, 2, 3])
    path = saved(tmp_path, x=COLOUR, y=labels)
    first, again = arrays(path), arrays(path)
    assert len(first.test) == 4 and torch.equal(first.test.images, again.test.images)
    assert set(first.train.labels.tolist()) == {0, 1, 2, 3}
