"""Data sets of the library datasets, from folders that it wrote itself; nothing is fetched."""

import io
import json
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from hostile import Call
from PIL import Image

from diffusion.data.datasets import huggingface
from diffusion.data.datasets.hub import by_use
from diffusion.system.errors import UserError

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
LABELS = [0, 2, 1] * 8
NAMES = ["cat", "ant", "dog"]  # in no order but its own


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where the library keeps what it has read: not in the home of whoever runs the tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "kept"


def table(rows=slice(None), **columns):
    """Images and their classes, as PNGs with the numbers of `ClassLabel`."""
    images = [Image.fromarray(each) for each in PIXELS[rows]]
    kinds = {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    content = {"img": images, "label": LABELS[rows], **columns}
    return datasets.Dataset.from_dict({name: content[name] for name in kinds}, features=datasets.Features(kinds))


def bytes_of(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def same_images(split, rows=slice(None)):
    return torch.equal(split.images, torch.from_numpy(PIXELS[rows]).permute(0, 3, 1, 2))


def refused(*arguments, **settings):
    with pytest.raises(UserError) as error:
        huggingface(*arguments, **settings)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 500, sentence
    return sentence


def saved(folder):
    datasets.DatasetDict(train=table(slice(18)), test=table(slice(18, 24))).save_to_disk(folder)


def parquet(folder):
    folder.mkdir()
    table(slice(18)).to_parquet(folder / "train-00000-of-00001.parquet")
    table(slice(18, 24)).to_parquet(folder / "validation-00000-of-00001.parquet")


def pictures(folder):
    for row, pixels in enumerate(PIXELS):
        place = folder / ("train" if row < 18 else "test") / NAMES[LABELS[row]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{row:02}.png")


@pytest.mark.parametrize("make", [saved, parquet, pictures])
def test_folders_of_all_kinds(tmp_path, make, caplog):
    make(tmp_path / "mine")
    with caplog.at_level(logging.INFO, "diffusion"):
        data = huggingface(str(tmp_path / "mine"))
    assert data.name == "mine" and (len(data.train), len(data.test), data.channels) == (18, 6, 3)
    if make is pictures:  # whose classes the library sorts, and its images by them
        assert data.class_names == sorted(NAMES)
        rows = sorted(range(18), key=lambda row: NAMES[LABELS[row]])
        assert same_images(data.train, rows)
        assert [data.class_names[k] for k in data.train.labels] == [NAMES[LABELS[row]] for row in rows]
    else:
        assert data.class_names == NAMES and data.train.labels.tolist() == LABELS[:18]
        assert same_images(data.train, slice(18)) and same_images(data.test, slice(18, 24))
    assert "18 images from train, 6 to test from" in caplog.text and "labels in label" in caplog.text


def test_one_table_is_split_and_a_parquet_file_is_one(tmp_path):
    table().save_to_disk(tmp_path / "mine")
    table().to_parquet(tmp_path / "mine.parquet")
    for name in ("mine", "mine.parquet"):
        data = huggingface(str(tmp_path / name), test_fraction=0.25)
        assert (len(data.train), len(data.test)) == (18, 6) and set(data.train.labels.tolist()) == {0, 1, 2}


def test_images_are_made_of_one_size_and_kind(tmp_path):
    sizes = [Image.fromarray(np.full((8 + row, 20, 3), 9 * row, np.uint8)) for row in range(24)]
    table(img=sizes).save_to_disk(tmp_path / "mine")
    assert "has 9×20 pixels, and the first image 8×20: give one size for all" in refused(str(tmp_path / "mine"))
    data = huggingface(str(tmp_path / "mine"), image_size=8, channels=1, test_fraction=0.1)
    assert data.train.images.shape == (22, 1, 8, 8)
    assert set(data.train.images.flatten().tolist()) <= {9 * row for row in range(24)}  # even images stay even
    grey = [image.convert("L").resize((5, 4)) for image in sizes]
    table(img=grey).save_to_disk(tmp_path / "grey")
    assert huggingface(str(tmp_path / "grey")).train.images.shape[1:] == (1, 4, 5)
    clear = [Image.new("RGBA", (4, 4), (0, 0, 0, 0))] * 24
    table(img=clear).save_to_disk(tmp_path / "clear")
    assert huggingface(str(tmp_path / "clear")).train.images.min() == 255
    assert huggingface(str(tmp_path / "clear"), background="#000080").train.images[0, :, 0, 0].tolist() == [0, 0, 128]


def test_columns_of_arrays_and_labels_that_are_texts(tmp_path):
    kinds = {"x": datasets.Array3D((6, 6, 3), "uint8"), "label": datasets.Value("string")}
    content = {"x": PIXELS.tolist(), "label": [NAMES[label] for label in LABELS]}
    datasets.Dataset.from_dict(content, features=datasets.Features(kinds)).save_to_disk(tmp_path / "a")
    data = huggingface(str(tmp_path / "a"))
    assert data.class_names == sorted(NAMES) and data.train.images.shape[1:] == (3, 6, 6)
    values = {"x": (PIXELS[..., 0] / 255).tolist(), "kind": LABELS}
    datasets.Dataset.from_dict(values).save_to_disk(tmp_path / "b")
    assert "data.range=[0,1]" in refused(str(tmp_path / "b"))
    data = huggingface(str(tmp_path / "b"), range=[0, 1], label_column="kind")
    assert data.class_names == ["0", "1", "2"] and data.train.images.shape[1:] == (1, 6, 6)
    known = {pixels.tobytes() for pixels in PIXELS[..., 0]}
    assert all(image.numpy().tobytes() in known for image in data.train.images)


def test_settings_of_images_are_not_ignored_for_arrays_nor_the_other_way_round(tmp_path, monkeypatch):
    table().save_to_disk(tmp_path / "images")
    datasets.Dataset.from_dict({"x": PIXELS.tolist()}).save_to_disk(tmp_path / "arrays")
    for given, said in (({"range": [0, 1]}, "data.range=[0,1]"), ({"layout": "hwc"}, "data.layout=hwc")):
        assert f"{said} is for arrays, and" in refused(str(tmp_path / "images"), **given)
    huggingface(str(tmp_path / "arrays"), range=[0, 255], layout="hwc")
    for given, said in (
        ({"image_size": [8, 6]}, "data.image_size=[8,6]"),
        ({"channels": 1}, "data.channels=1"),
        ({"fit": "pad"}, "data.fit=pad"),
    ):
        assert f"{said} is for images, and" in refused(str(tmp_path / "arrays"), **given)
    monkeypatch.setattr("diffusion.data.columns.MEMORY_LIMIT", PIXELS.size - 1)
    assert "its 24 arrays take more than 0.0 GiB" in refused(str(tmp_path / "arrays"), range=[0, 255])


def test_a_folder_of_several_configurations_says_their_names(tmp_path):
    for name in ("aa", "bb"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        table(slice(18) if name == "aa" else slice(12)).to_parquet(tmp_path / "mine" / name / "train.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*\n" for name in ("aa", "bb"))
    (tmp_path / "mine" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    mine = str(tmp_path / "mine")
    assert "has several configurations: choose from aa, bb, by data.subset=aa." in refused(mine)
    assert "has no configuration cc: choose from aa, bb, by data.subset=aa." in refused(mine, subset="cc")
    data = huggingface(mine, subset="bb", test_fraction=0.25)
    assert len(data.train) + len(data.test) == 12


def test_an_empty_split_to_train_with_is_told(tmp_path):
    tables = {"train": table(slice(0)), "test": table()}
    with pytest.raises(UserError, match="mine: its split train is empty"):
        by_use(tables, "mine")
    datasets.DatasetDict(train=table(slice(0)), test=table()).save_to_disk(tmp_path / "saved")
    assert "/saved: train is empty: leave it out, or fill it." in refused(str(tmp_path / "saved"))
    (tmp_path / "mine").mkdir()
    table(slice(0)).to_parquet(tmp_path / "mine" / "train.parquet")
    table().to_parquet(tmp_path / "mine" / "test.parquet")
    assert "/mine: its split train is empty: leave it out, or fill it." in refused(str(tmp_path / "mine"))


def test_a_test_split_without_classes_is_not_used(tmp_path, caplog):
    splits = {"train": table(), "test": table(slice(6), label=[-1] * 6)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "mine")
    data = huggingface(str(tmp_path / "mine"))
    assert "the images of split test have no classes, so that they are not used" in caplog.text
    assert (len(data.train), len(data.test)) == (22, 2)
    unlabelled = huggingface(str(tmp_path / "mine"), labels=False)
    assert (len(unlabelled.train), len(unlabelled.test), unlabelled.class_names) == (24, 6, [])


def test_wrong_columns_and_names_are_one_sentence(tmp_path):
    saved(tmp_path / "mine")
    mine = str(tmp_path / "mine")
    assert "is no column of" in (said := refused(mine, image_column="image"))
    assert "choose from img (Image), label (ClassLabel)" in said
    assert "data.label_column=kind is no column" in refused(mine, label_column="kind")
    assert "data.image_column=label holds no images" in refused(mine, image_column="label")
    assert "is no folder here, and data sets of the Hub are called OWNER/NAME" in refused(str(tmp_path / "nothing"))
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    assert "a file must be .parquet" in refused(str(tmp_path / "a.txt"))
    (tmp_path / "empty").mkdir()
    assert "cannot be read by the library datasets" in refused(str(tmp_path / "empty"))
    two = table().add_column("other", LABELS).cast_column("other", datasets.ClassLabel(names=NAMES))
    two.save_to_disk(tmp_path / "two")
    assert "has labels in label and other: choose by data.label_column=label" in refused(str(tmp_path / "two"))
    datasets.DatasetDict(a=table(), b=table()).save_to_disk(tmp_path / "ab")
    assert "has the splits a, b, and none of them is called train" in refused(str(tmp_path / "ab"))


def test_a_table_names_no_file_elsewhere_and_no_program_is_started(tmp_path, postscript):
    """Its pictures are opened as those of a folder are: a PostScript file stays shut."""
    import pyarrow.parquet as parquet_file

    Image.new("RGB", (6, 6)).save(tmp_path / "secret.png")
    entries = {"elsewhere": {"bytes": None, "path": str(tmp_path / "secret.png")}}
    entries |= {"program": {"bytes": postscript.read_bytes(), "path": None}, "empty": None}
    entries |= {"damaged": {"bytes": bytes_of(Image.fromarray(PIXELS[0]))[:60], "path": None}}
    for name, entry in entries.items():
        (tmp_path / name).mkdir()
        parquet_file.write_table(table(img=[entry] * 24).data.table, tmp_path / name / "train.parquet")
        said = refused(str(tmp_path / name))
        assert "column img, its row 0, cannot be read as an image" in said
        assert ("outside the data" in said) == (name == "elsewhere")


@pytest.mark.parametrize("name", ["json", "text", "parquet", "pandas", "imagefolder"])
def test_a_folder_called_as_one_of_the_librarys_readers(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert "is no folder here, and data sets of the Hub are called OWNER/NAME" in refused(name)
    parquet(tmp_path / name)
    data = huggingface(name)
    assert (len(data.train), len(data.test)) == (18, 6) and same_images(data.train, slice(18))
    shutil.rmtree(tmp_path / name)  # and what the library kept of it is not taken in its place
    assert "is no folder here" in refused(name)


def test_no_pickle_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pandas").mkdir()
    (tmp_path / "pandas" / "train.pkl").write_bytes(pickle.dumps(Call(os.mkdir, "owned"), 2))
    for name in ("pandas", str(tmp_path / "pandas")):
        assert "cannot be read by the library datasets" in refused(name)
    assert "a file must be .parquet" in refused("pandas/train.pkl")
    assert not (tmp_path / "owned").exists()


CARDS = {
    "../secret/train.parquet": "README.md",
    "data/../../secret/*": ".huggingface.yaml",
    "https://example.org/train.parquet": "README.md",
    "hf://datasets/some/one/train.parquet": "README.md",
    "/etc/*": "README.md",
}


@pytest.mark.parametrize("place", CARDS)
def test_a_card_names_no_files_outside_its_folder(tmp_path, place):
    parquet(tmp_path / "secret")
    parquet(tmp_path / "mine")
    card = tmp_path / "mine" / CARDS[place]
    fence = "---\n" if card.suffix == ".md" else ""
    for setting in ("data_files: '{}'", "data_files: [{{split: train, path: ['{}']}}]", "data_dir: '{}'"):
        config = f"configs:\n- config_name: a\n  {setting.format(place)}\n"
        card.write_text(f"{fence}{config}{fence}", encoding="utf-8")
        assert f"{card.name} names a file outside the folder, {place}" in refused(str(tmp_path / "mine"))
    card.write_text(f"{fence}{config.replace(place, '.')}{fence}", encoding="utf-8")
    assert len(huggingface(str(tmp_path / "mine")).train) > 0


def test_what_save_to_disk_wrote_names_no_files_outside_its_folder(tmp_path):
    table(slice(18)).save_to_disk(tmp_path / "secret")
    saved(tmp_path / "mine")
    state = tmp_path / "mine" / "train" / "state.json"
    was = json.loads(state.read_text(encoding="utf-8"))
    (file,) = (tmp_path / "secret").glob("*.arrow")
    for name in (f"../../secret/{file.name}", str(file)):
        state.write_text(json.dumps({**was, "_data_files": [{"filename": name}]}), encoding="utf-8")
        assert f"state.json names a file outside the folder, {name}" in refused(str(tmp_path / "mine"))
    state.write_text(json.dumps(was), encoding="utf-8")
    splits = tmp_path / "mine" / "dataset_dict.json"
    splits.write_text('{"splits": ["../secret"]}', encoding="utf-8")
    assert "dataset_dict.json names a file outside the folder, ../secret" in refused(str(tmp_path / "mine"))


def test_the_hub_that_cannot_be_reached_is_told_at_once_unless_it_was_fetched_before(
    tmp_path, kept, monkeypatch, caplog
):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    assert "the Hub cannot be reached (no network): connect this machine" in refused("someone/mine")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "nor was it fetched before HF_HUB_OFFLINE was set" in refused("someone/mine")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    parquet(tmp_path / "mine")
    huggingface(str(tmp_path / "mine"))
    shutil.move(kept / "mine", kept / "someone___mine")
    data = huggingface("someone/mine")
    assert data.name == "mine" and same_images(data.train, slice(18))
    assert "is taken as it was fetched before" in caplog.text and not datasets.config.HF_HUB_OFFLINE


def test_without_the_library_the_sentence_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install -e ".[hub]"' in refused("mine")
