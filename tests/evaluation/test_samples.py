"""Images to score, from a file or a folder: what is read and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data.datasets import image_folder
from diffusion.data.images import ImageData, ImageFiles, Images
from diffusion.drawing.pictures import save_pngs, save_samples
from diffusion.evaluation.samples import load_samples
from diffusion.system.errors import UserError


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((3, 28, 28, 1))}, "it must be uint8"),
        ({"arr_0": np.zeros(3, np.uint8)}, "it must be uint8"),
        ({"other": np.zeros(3)}, "is no .npz with an array arr_0"),
        ({"arr_0": np.zeros((3, 28, 28, 1), np.uint8), "arr_1": np.zeros(2, int)}, "it must be N whole numbers"),
        ({"arr_0": np.zeros((3, 28, 28, 1), np.uint8), "arr_1": np.full(3, 10)}, "labels outside 0 … 9"),
        ({"arr_0": np.zeros((3, 32, 32, 1), np.uint8)}, "32×32 pixels with 1 channels.*28×28 with 1"),
        ({"arr_0": np.zeros((3, 28, 20, 1), np.uint8)}, "28×20 pixels with 1 channels.*28×28 with 1"),
        ({"arr_0": np.zeros((3, 28, 28, 3), np.uint8)}, "28×28 pixels with 3 channels.*28×28 with 1"),
        ({"arr_0": np.array([{}], dtype=object)}, "is no .npz with an array arr_0"),
    ],
)
def test_bad_sample_files_are_refused(mini, tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load_samples(str(tmp_path / "bad.npz"), mini)


def test_a_folder_of_images_scores_as_the_same_images_in_a_file(scorer, mini, tmp_path):
    few = mini.test.subset(torch.arange(60))
    save_samples(tmp_path / "few.npz", few.images, few.labels)
    for i in range(60):
        target = tmp_path / "pngs" / mini.class_names[few.labels[i]] / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(few.images[i, 0].numpy()).save(target)
    file, folder = (load_samples(str(tmp_path / name), mini) for name in ("few.npz", "pngs"))
    assert isinstance(folder, ImageFiles) and sorted(folder.labels.tolist()) == sorted(file.labels.tolist())
    a, b = scorer.score(file, "x"), scorer.score(folder, "x")
    assert np.isclose(a["fid"], b["fid"]) and a["class_accuracy"] == b["class_accuracy"]
    assert a["memorisation"] == b["memorisation"]
    Image.fromarray(np.zeros((30, 28), np.uint8)).save(tmp_path / "pngs" / "Bag" / "y.png")
    with pytest.raises(UserError, match=r"y.png: 30×28 pixels"):
        load_samples(str(tmp_path / "pngs"), mini)
    (tmp_path / "pngs" / "Bag" / "y.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"y.png cannot be read"):
        load_samples(str(tmp_path / "pngs"), mini)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["T-shirt", "bag", "猫", "10"], ["T-shirt", "bag", "猫", "10"]),
        (["a/b", "..", ".x", "a%2Fb"], ["a%2Fb#0", "%2E.", "%2Ex", "a%2Fb#3"]),
        (["train", "test", "lost+found", "c"], ["train#0", "test#1", "%6Cost+found", "c"]),
        (["train set", "test_set", "c", "d"], ["train set#0", "test_set#1", "c", "d"]),
    ],
)
def test_drawn_images_are_a_data_set_and_samples_with_the_same_labels(tmp_path, generator, channels, names, found):
    """Folders of sample.py, read as data=image_folder and as samples=; every pixel differs between any two images."""
    images = torch.randint(0, 256, (40, channels, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 4
    save_pngs(tmp_path / "run" / "images", images, labels, names)
    for name in ("last.pt", "config.yaml", "grid.png"):  # what tells a run's folder, whose pictures are passed over
        (tmp_path / "run" / name).touch()
    expected = {image.numpy().tobytes(): found[k] for image, k in zip(images, labels, strict=True)}

    data = image_folder(str(tmp_path / "run" / "images"), image_size=8, channels=channels)
    assert sorted(data.class_names) == sorted(found) and len(data.train) + len(data.test) == 40
    for split in (data.train, data.test):
        for image, k in zip(split.images, split.labels, strict=True):
            assert expected.pop(image.numpy().tobytes()) == data.class_names[k]
    assert not expected

    whole = ImageData("drawn", Images(images, labels), Images(images, labels), names)
    read, numbers = load_samples(str(tmp_path / "run" / "images"), whole).select(torch.arange(40))
    order = [int((images == image).flatten(1).all(dim=1).nonzero()) for image in read]
    assert sorted(order) == list(range(40)) and numbers.tolist() == labels[order].tolist()
