"""Heights and widths: how they are written, what padding does, and how images of any shape are brought to one."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data import reading
from diffusion.data.datasets import image_folder
from diffusion.data.decoding import decode_file, read_image
from diffusion.data.images import ImageData, ImageFiles, Images, crop_images, encode, pad_images
from diffusion.data.shapes import in_words, padded, pair, short, sides
from diffusion.system.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pixels(n, *shape):
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def paint(folder, *sizes, **kinds):
    """Images of these heights and widths, each of its own grey; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (height, width) in enumerate(sizes):
        Image.new("L", (width, height), 20 + i).save(folder / f"{i}.png", **kinds)
    return folder


def test_a_square_is_one_number_and_the_rest_are_two():
    assert pair(28) == (28, 28) and pair([48, 32]) == (48, 32)
    assert short((28, 28)) == 28 and short((48, 32)) == [48, 32] and short((1, 2, 0, 0)) == [1, 2, 0, 0]
    assert in_words(28) == "28×28" and in_words([48, 32]) == "48×32"
    assert padded([30, 22], [0, 2, 1, 1]) == (32, 24) and padded(28, 2) == (32, 32)


@pytest.mark.parametrize("wrong", [-1, [1, 2], [1, 2, 3, -4], [1, 2, 3, "4"], "some"])
def test_what_is_no_padding_is_refused(wrong):
    with pytest.raises(ValueError, match="^padding="):
        sides(wrong)


@pytest.mark.parametrize("padding", [0, 3, [1, 2, 0, 5], [0, 0, 0, 1]])
def test_padding_is_black_stands_where_it_should_and_goes_away_again(padding):
    images = pixels(2, 3, 5, 7)
    whole, (top, bottom, left, right) = pad_images(images, padding), sides(padding)
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    assert np.array_equal(whole.numpy(), expected)
    assert torch.equal(crop_images(whole, padding), images)


@pytest.mark.parametrize(
    ("size", "padding"), [((12, 8), 0), ((12, 8), [1, 2, 0, 3]), ((8, 8), 2), ((8, 8), [2, 2, 2, 2])]
)
def test_what_a_model_must_know_of_its_images(size, padding):
    images = Images(pixels(6, 3, *size))
    data = ImageData("any", images, images, [], padding)
    found = data.describe()
    assert data.image_size == size and found["size"] == (8 if size == (8, 8) else [12, 8])
    assert found["padding"] == (2 if size == (8, 8) else padding) and found["channels"] == 3
    expected = encode(pad_images(images.images, padding)).double().square().mean().sqrt()
    assert found["sigma_data"] == pytest.approx(float(expected), abs=1e-7)


def test_padding_that_is_left_to_the_network_is_not_described():
    images = Images(pixels(2, 1, 8, 8))
    data = ImageData("any", images, images, [], "auto")
    with pytest.raises(ValueError, match="padding=auto is settled by the network"):
        data.describe()


# ------------------------------------------------------------------------------------- images of other shapes


def ramp(folder, height, width):
    """A file whose grey is its row plus 100 times whether the column is in the right half."""
    values = np.arange(height)[:, None] + 100 * (np.arange(width)[None] >= width / 2)
    Image.fromarray(values.astype(np.uint8)).save(folder / "a.png")
    return folder / "a.png", values


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (3, 20)])
def test_crop_cuts_the_middle(height, width, tmp_path):
    path, values = ramp(tmp_path, 20, 20)  # which is never scaled: one side fits
    found = read_image(path, (20, width), 1)[0].numpy()
    assert np.array_equal(found, values[:, (20 - width) // 2 :][:, :width])
    found = read_image(path, (height, 20), 1)[0].numpy()
    assert np.array_equal(found, values[(20 - height) // 2 :][:height])


def test_crop_covers_the_size_and_keeps_the_proportions(tmp_path):
    Image.new("L", (30, 10), 7).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.paste(255, (10, 0, 20, 10))  # a square in the middle, which must stay one
    image.save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", (20, 40), 1)[0]
    white = found > 128
    assert found.shape == (20, 40) and white.any(dim=0).sum() == 20 == white.any(dim=1).sum()
    assert bool(white[:, 10:30].all())


@pytest.mark.parametrize("size", [(20, 40), (16, 8), (5, 10), (9, 31)])
def test_pad_keeps_everything_in_the_middle_of_the_background(size, tmp_path):
    """A black image of 10×20, which fills one of both directions."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", size, 3, (255, 0, 9), fit="pad")
    height, width = size
    down = min(height, round(10 * min(height / 10, width / 20)))
    across = min(width, round(20 * min(height / 10, width / 20)))
    top, left = (height - down) // 2, (width - across) // 2
    expected = torch.tensor([255, 0, 9], dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    expected[:, top : top + down, left : left + across] = 0
    assert torch.equal(found, expected)


def test_pad_has_the_grey_of_its_background(tmp_path):
    Image.new("L", (4, 8), 50).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", (8, 8), 1, (255, 0, 0), fit="pad")[0]
    grey = Image.new("RGB", (1, 1), (255, 0, 0)).convert("L").getpixel((0, 0))
    assert found[0].tolist() == [grey] * 2 + [50] * 4 + [grey] * 2


def test_stretch_takes_all_of_the_image(tmp_path):
    path, _ = ramp(tmp_path, 64, 32)
    found = read_image(path, (8, 64), 1, fit="stretch")[0].float()
    rows, columns = found[:, 4:28].mean(dim=1), found.mean(dim=0)
    # rows 0 … 63 in eight bands, whose means are 3.5, 11.5, …; the ends have no neighbours on one side
    assert torch.allclose(rows, torch.arange(8) * 8 + 3.5, atol=1.0)
    assert float(columns[40:].mean() - columns[:24].mean()) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_image_of_the_right_shape_stays_as_it_is(fit, tmp_path):
    image = pixels(1, 3, 9, 5)[0]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", (9, 5), 3, fit=fit), image)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (7, 2000)])
def test_images_of_any_shape_get_the_size(size, fit, tmp_path):
    Image.new("L", size, 9).save(tmp_path / "a.png")
    found = decode_file(tmp_path / "a.png", (12, 20), 1, (9, 9, 9), fit).pixels
    assert found.shape == (12, 20, 1) and set(found.ravel().tolist()) == {9}


# ---------------------------------------------------------------------------------------------- in a folder


@pytest.mark.parametrize("limit", [4.0, 0.0])
def test_a_folder_at_any_size_in_memory_and_in_files(limit, tmp_path):
    folder = paint(tmp_path / "images", *[(30, 20)] * 4, *[(20, 30)] * 4)
    data = image_folder(str(folder), [12, 8], channels=1, memory_limit=limit, fit="pad", padding=[0, 0, 1, 1])
    assert isinstance(data.train, ImageFiles if limit == 0 else Images) and data.image_size == (12, 8)
    images = data.train.select(torch.arange(len(data.train)))[0]
    assert images.shape == (7, 1, 12, 8)
    upright = {int(image[6, 4]): bool((image == image[6, 4]).all()) for image in images[:, 0]}
    assert all(whole == (grey < 24) for grey, whole in upright.items())  # those of 20×30 have white above and below


def test_each_way_is_kept_under_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MANY", 3)
    folder = paint(tmp_path / "images", *[(30, 20)] * 6)
    ways = [
        {},
        {"fit": "pad"},
        {"fit": "stretch"},
        {"image_size": [12, 8]},
        {"image_size": [8, 12]},
        {"image_size": None},
    ]
    for _ in range(2):  # the second time from what is kept
        shapes = [image_folder(str(folder), **{"image_size": 8, "channels": 1, **way}).image_size for way in ways]
        assert shapes == [(8, 8)] * 3 + [(12, 8), (8, 12), (30, 20)]
    assert len(list((tmp_path / "data/cache").glob("*.npz"))) == len(ways)


def test_the_common_size_of_the_images_is_that_in_which_they_are_shown(tmp_path):
    folder = paint(tmp_path / "images", *[(9, 5)] * 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    Image.new("L", (9, 5)).save(folder / "turned.jpg", exif=exif)
    data = image_folder(str(folder), None, channels=1)
    assert data.image_size == (9, 5) and len(data.train) + len(data.test) == 4


def test_images_without_a_common_size_are_named(tmp_path):
    folder = paint(tmp_path / "images", (9, 5), (9, 5), (8, 12))
    wanted = r"but .*0\.png has 9×5 pixels \(height × width\) and .*2\.png has 8×12: give .*data\.image_size=\[H,W\]"
    with pytest.raises(UserError, match=wanted):
        image_folder(str(folder), None)
    with pytest.raises(UserError, match=r"0\.png has 2×2000 pixels, and sides are from 4 to 1024"):
        image_folder(str(paint(tmp_path / "long", (2, 2000), (2, 2000))), None)


def test_damaged_files_are_told_as_such_where_the_size_is_asked_of_the_images(tmp_path):
    folder = paint(tmp_path / "images", (9, 5), (9, 5), (9, 5))
    (folder / "0.png").write_text("no image")
    with pytest.raises(UserError, match=r"0\.png cannot be read"):
        image_folder(str(folder), None)
    assert image_folder(str(folder), None, skip_damaged=True).image_size == (9, 5)
    for file in folder.iterdir():
        file.write_text("no image")
    with pytest.raises(UserError, match="none of its 3 images can be read"):
        image_folder(str(folder), None, skip_damaged=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": [48]}, r"image_size=\[48\] must be the side of a square, or \[height,width\]"),
        ({"image_size": [48, 3]}, "image_size=.* is too small"),
        ({"image_size": [48, 4000]}, "image_size=.* is too large: give at most 1024"),
        ({"fit": "squeeze"}, "fit=squeeze must be one of crop, pad, stretch"),
        ({"padding": [1, 2]}, "padding=.* must be pixels for all sides, auto, or"),
    ],
)
def test_wrong_shapes_are_told_before_an_image_is_read(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        image_folder(str(tmp_path / "nowhere"), **{"image_size": 8, **settings})


def test_the_mean_square_of_other_shapes_is_that_of_their_pixels():
    """One white pixel of six, in padding that makes ten of it: √(mean of (±1)²) is 1 whatever the shape."""
    white = torch.zeros(1, 1, 4, 6, dtype=torch.uint8)
    white[0, 0, 0, 0] = 255
    data = ImageData("any", Images(white), Images(white), [], [0, 1, 0, 4])
    assert data.root_mean_square() == pytest.approx(1.0)
    grey = torch.full((1, 1, 4, 6), 127, dtype=torch.uint8)
    data = ImageData("any", Images(grey), Images(grey), [], [1, 0, 0, 0])  # 6 of 30 pixels are −1
    assert data.root_mean_square() == pytest.approx(math.sqrt(6 / 30 + 24 / 30 * (127 / 127.5 - 1) ** 2))
