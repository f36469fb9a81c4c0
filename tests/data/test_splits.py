"""Folders as splits and classes: what is trained on, what is held out, and in which order the classes are numbered."""

import logging
import shlex

import pytest
import torch
from PIL import Image

from diffusion.data.datasets import image_folder
from diffusion.data.images import ImageData, Images
from diffusion.data.splits import class_order, find_splits, number_as
from diffusion.system.errors import UserError


def put(folder, *names, n=0):
    """Grey images; with n, so many in each of the folders named."""
    for name in names if n == 0 else [f"{name}/{i}.png" for name in names for i in range(n)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), sum(map(ord, name)) % 256).save(folder / name)


def split(folder, labels=None, fraction=0.1):
    found = find_splits(str(folder), labels, fraction)
    train, test = ([path.relative_to(folder).as_posix() for path, _ in part] for part in found[:2])
    return train, test, found.class_names


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "diffusion")
    return caplog


@pytest.mark.parametrize("training", ["train", "training", "Train", "TRAINING"])
@pytest.mark.parametrize("held_out", ["test", "testing", "Test", "val", "valid", "validation", "VALID", "dev", "eval"])
def test_splits_by_their_usual_names(tmp_path, said, training, held_out):
    put(tmp_path, f"{training}/cat/1.png", f"{training}/dog/2.png", f"{held_out}/cat/3.png")
    train, test, names = split(tmp_path)
    assert train == [f"{training}/cat/1.png", f"{training}/dog/2.png"] and test == [f"{held_out}/cat/3.png"]
    assert names == ["cat", "dog"]
    assert said.messages == [
        f"data.root={tmp_path}: 2 training images from {training}/, 1 test image from {held_out}/.",
        f"data.root={tmp_path}: 2 classes: cat, dog.",
    ]


@pytest.mark.parametrize(
    ("training", "held_out"),
    [
        ("training_set", "test_set"),
        ("train-set", "Test-Set"),
        ("trainset", "testset"),
        ("train_images", "val_images"),
        ("Training", "test data"),
        ("train", "validation_set"),
        ("train", "test_set"),
    ],
)
def test_splits_by_longer_names(tmp_path, training, held_out):
    put(tmp_path, f"{training}/cat/1.png", f"{training}/dog/2.png", f"{held_out}/cat/3.png")
    train, test, names = split(tmp_path)
    assert train == [f"{training}/cat/1.png", f"{training}/dog/2.png"] and test == [f"{held_out}/cat/3.png"]
    assert names == ["cat", "dog"]


def test_the_shortest_name_of_a_split_is_meant_and_a_kind_of_image_is_a_class(tmp_path, said):
    put(tmp_path / "a", "train_set/cat", "train/cat", "train/dog", "test_images/cat", "test/cat", n=1)
    train, test, _ = split(tmp_path / "a")
    assert train == ["train/cat/0.png", "train/dog/0.png"] and test == ["test/cat/0.png"]
    assert "not used: test_images/ (1), train_set/ (1)." in said.text
    put(tmp_path / "b", "dataset", "images", "contest", "strain", n=2)
    assert split(tmp_path / "b")[2] == ["contest", "dataset", "images", "strain"]


def test_the_number_and_the_names_of_the_classes_are_said(tmp_path, said):
    put(tmp_path, *(f"kind{k}" for k in range(12)), n=2)
    split(tmp_path)
    assert said.messages[-1] == f"data.root={tmp_path}: 12 classes: {', '.join(f'kind{k}' for k in range(10))}, …."


def test_a_third_split_and_what_lies_beside_them_is_named(tmp_path, said):
    put(tmp_path, "train", "valid", "test", "extra", n=2)
    put(tmp_path, "cover.png")
    train, test, names = split(tmp_path)
    assert train == ["train/0.png", "train/1.png"] and test == ["test/0.png", "test/1.png"] and names == []
    assert said.messages == [
        f"data.root={tmp_path}: 2 training images from train/, 2 test images from test/; not used: extra/ (2), "
        "valid/ (2), 1 image beside these folders."
    ]


def test_splits_without_a_partner(tmp_path, said):
    put(tmp_path / "a", "train/x", "train/y", n=5)
    put(tmp_path / "b", "Test/x", "Test/y", n=5)
    put(tmp_path / "c", "test/x", "val/x", n=3)
    for name, base in (("a", "train"), ("b", "Test")):
        train, test, names = split(tmp_path / name)
        assert (len(train), len(test)) == (9, 1) and names == ["x", "y"]
        assert f"10 images from {base}/, 1 of them held out for testing." in said.messages[-2]
    train, test, names = split(tmp_path / "c")
    assert (train[0], test[0], names) == ("val/x/0.png", "test/x/0.png", ["x"])
    assert "3 training images from val/, 3 test images from test/." in said.messages[-1]


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    put(tmp_path / "a", "train", "bus", "car", n=3)  # vehicles
    put(tmp_path / "b", "valid", "invalid", n=3)
    assert split(tmp_path / "a")[2] == ["bus", "car", "train"]
    assert split(tmp_path / "b")[2] == ["invalid", "valid"]
    put(tmp_path / "c", "train/train", "train/bus", "test/train", "test/bus", n=1)
    assert split(tmp_path / "c")[2] == ["bus", "train"]


def test_nested_folders_belong_to_the_class_above(tmp_path):
    put(tmp_path, "cat/1.png", "cat/deep/2.png", "cat/deep/er/3.png", "dog/test/4.png")
    found = find_splits(str(tmp_path), None, 0.1)
    assert found.class_names == ["cat", "dog"]
    assert sorted(name for _, name in found.train + found.test) == ["cat", "cat", "cat", "dog"]


def test_test_images_without_classes_beside_classes_are_not_used(tmp_path, said):
    put(tmp_path, "train/cat", "train/dog", "test", n=5)
    train, test, names = split(tmp_path)
    assert (len(train), len(test), names) == (9, 1, ["cat", "dog"])
    assert "the images in test/ are of no class, so they are not used" in said.text
    assert "not used: test/ (5)" in said.text
    assert split(tmp_path, labels=False)[1] == [f"test/{i}.png" for i in range(5)]


def test_a_class_that_is_never_trained_is_named_and_left_out(tmp_path, said):
    put(tmp_path, "train/cat", "train/dog", "test/cat", "test/zebra", "test/yak", n=2)
    _, test, names = split(tmp_path)
    assert names == ["cat", "dog"] and test == ["test/cat/0.png", "test/cat/1.png"]
    assert "no training images of yak, zebra, so its test images (4) are left out" in said.text
    assert len(split(tmp_path, labels=False)[1]) == 6
    put(tmp_path / "other", "train/cat", "test/dog", n=2)
    with pytest.raises(UserError, match=r"the classes of the test images \(dog\) are none of .* \(cat\)"):
        split(tmp_path / "other")


def test_a_folder_around_the_classes_is_seen_through(tmp_path, said):
    """As many archives are unpacked."""
    put(tmp_path, "flowers/rose", "flowers/tulip", n=5)
    assert split(tmp_path)[2] == ["flowers"]
    hint = "all images are in flowers/: if its subfolders are the classes, or the splits, give "
    assert f"{hint}data.root={tmp_path}/flowers." in said.text
    said.clear()
    assert split(tmp_path / "flowers")[2] == ["rose", "tulip"]
    assert said.messages == [f"data.root={tmp_path}/flowers: 2 classes: rose, tulip."]


def test_a_hint_can_be_pasted_into_a_shell(tmp_path, said):
    put(tmp_path, "Bob's pictures/train/rose", "Bob's pictures/test/rose", n=2)
    split(tmp_path)
    words = shlex.split(said.messages[-1].rpartition(" give ")[2].removesuffix("."))
    assert words == [f"data.root={tmp_path}/Bob's pictures"]
    assert split(tmp_path / "Bob's pictures")[1] == ["test/rose/0.png", "test/rose/1.png"]


def test_classes_of_the_test_images_may_be_written_in_other_capitals(tmp_path, said):
    put(tmp_path, "train/Cat", "train/dog", "test/cat", "test/DOG", "test/yak", n=2)
    _, test, names = split(tmp_path)
    found = find_splits(str(tmp_path), None, 0.1)
    assert names == ["Cat", "dog"] and [name for _, name in found.test] == ["dog", "dog", "Cat", "Cat"]
    assert "are taken for those of the same letters: DOG for dog, cat for Cat." in said.text
    assert "no training images of yak" in said.text and len(test) == 4
    put(tmp_path / "b", "train/Cat", "train/cat", "train/dog", "test/CAT", "test/dog", n=1)  # which of the two?
    assert split(tmp_path / "b")[1:] == (["test/dog/0.png"], ["Cat", "cat", "dog"])
    put(tmp_path / "c", "train/cat", "train/dog", "test/CAT", "test/Cat", "test/dog", n=1)
    assert split(tmp_path / "c")[1] == ["test/dog/0.png"]


def test_empty_classes_and_splits_are_named(tmp_path, said):
    put(tmp_path, "train/cat", "train/dog", n=2)
    for name in ("train/bird", "train/11", "train/2", "test", "train/cat/deep"):
        (tmp_path / name).mkdir()
    assert split(tmp_path)[2] == ["cat", "dog"]
    assert f"data.root={tmp_path}: no images in 2, 11, bird, test." in said.messages


def test_images_beside_classes_need_a_decision(tmp_path):
    put(tmp_path, "1.png", "cat/2.png", "cat/3.png")
    with pytest.raises(UserError, match=r"not every image of .* \(1.png does not\); set data.labels=false"):
        split(tmp_path)
    train, test, names = split(tmp_path, labels=False)
    assert sorted(train + test) == ["1.png", "cat/2.png", "cat/3.png"] and names == []
    put(tmp_path / "flat", "1.png", "2.png")
    with pytest.raises(UserError, match="data.labels"):
        split(tmp_path / "flat", labels=True)


# ------------------------------------------------------------------------------------------------- holding out


def test_the_split_of_before_stays_where_it_keeps_every_class(tmp_path):
    """It was the first tenth of a permutation by seed 0, whatever the classes."""
    from diffusion.system.randomness import SPLIT, stream

    put(tmp_path, "a", "b", "c", n=20)
    names = [f"{kind}/{i}.png" for kind in "abc" for i in range(20)]
    names.sort()
    order = torch.randperm(60, generator=stream(0, SPLIT)).tolist()
    train, test, _ = split(tmp_path)
    assert test == [names[i] for i in sorted(order[:6])] and train == [names[i] for i in sorted(order[6:])]
    train, test, _ = split(tmp_path, labels=False)
    assert test == [names[i] for i in sorted(order[:6])]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_every_class_keeps_an_image_for_training(tmp_path, fraction):
    sizes = {"one": 1, "two": 2, "uno": 1, "three": 3, "many": 30}
    for name, n in sizes.items():
        put(tmp_path, name, n=n)
    train, test, names = split(tmp_path, fraction=fraction)
    assert names == sorted(sizes) and {path.split("/")[0] for path in train} == set(sizes)
    assert not [path for path in test if path.startswith(("one", "uno"))]
    assert sorted(train + test) == sorted(f"{name}/{i}.png" for name, n in sizes.items() for i in range(n))
    assert len(test) == min(max(1, round(fraction * 37)), 37 - len(sizes))
    assert split(tmp_path, fraction=fraction) == (train, test, names)


def test_one_image_of_each_class_leaves_none_for_testing(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    with pytest.raises(UserError, match=r"one image of every class.* data.labels=false"):
        split(tmp_path)
    assert len(split(tmp_path, labels=False)[0]) == 2
    put(tmp_path / "alone", "1.png")
    with pytest.raises(UserError, match="holds 1 image: at least 2 are needed"):
        split(tmp_path / "alone")


# ------------------------------------------------------------------------------------------- the order of classes


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "9", "10", "11", "100"],
        ["img1", "img2", "img10", "img10b", "img11"],
        ["-2", "-1", "0", "0.25", "0.5", "1.5", "1e3"],
        ["007", "7", "08", "9"],
        ["A", "B", "a", "b"],  # as before
        ["1", "2", "10", "cat"],
        ["v1.2", "v1.10", "v2.1"],
        ["Zebra", "apple", "Äpfel", "猫"],
        ["x²", "x³"],  # no digits to int()
    ],
)
def test_numbers_in_names_are_ordered_by_their_value(names):
    assert class_order(reversed(names)) == names and class_order(set(names)) == names


def test_labels_follow_the_order(tmp_path):
    for i in range(12):
        for k in range(3):
            (tmp_path / str(i)).mkdir(exist_ok=True)
            Image.new("L", (4, 4), 20 * i).save(tmp_path / str(i) / f"{k}.png")
    data = image_folder(str(tmp_path), 4, channels=1)
    assert data.class_names == [str(i) for i in range(12)]
    assert torch.equal(data.train.images[:, 0, 0, 0].long(), 20 * data.train.labels)
    assert torch.equal(data.test.images[:, 0, 0, 0].long(), 20 * data.test.labels)
    before = sorted(data.class_names)  # 0, 1, 10, 11, 2, …: of runs from before
    number_as(data, before)
    assert data.class_names == before
    for part in (data.train, data.test):
        assert [int(before[k]) for k in part.labels.tolist()] == (part.images[:, 0, 0, 0] // 20).tolist()


def test_other_classes_keep_their_own_numbers():
    images = Images(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2, 1]))
    data = ImageData("x", images, images, ["a", "b", "c"])
    for others in (["a", "b"], ["a", "b", "d"], ["a", "b", "c"], []):
        number_as(data, others)
        assert data.class_names == ["a", "b", "c"] and data.train.labels.tolist() == [0, 1, 2, 1]
    number_as(data, ["c", "a", "b"])  # both splits are one object: numbered once
    assert data.train.labels.tolist() == [1, 2, 0, 2]


def test_a_folder_is_named_after_itself(tmp_path, monkeypatch):
    put(tmp_path / "photos", "1.png", "2.png")
    monkeypatch.chdir(tmp_path / "photos")
    assert image_folder(".", 4).name == "photos"
    assert image_folder("../photos/", 4).name == "photos"


def test_a_class_with_the_name_of_a_split_is_said(tmp_path, said):
    put(tmp_path, "a", "b", "test", n=2)
    assert split(tmp_path)[2] == ["a", "b", "test"]
    assert f"data.root={tmp_path}: test is taken for a class, beside a, b." in said.messages
