"""Captions of grids: of the usual classes, of long names, of small images, and of hundreds of classes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion.drawing import pictures
from diffusion.drawing.names import captions, font_file
from diffusion.drawing.pictures import Film, caption_fonts, class_grid, heading, labelled_grid, save_pngs

GARMENTS = "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split()
ODD = ["猫", "café", "🦀", "Ш", "שלום", "x" * 60, "a\nb", "$x_1$", "", "a&b"]


def images(n, side=28, channels=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)


def dark(picture):
    """Columns and rows that have a dark pixel."""
    pixels = np.array(picture.convert("L")) < 128
    return np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))


def test_ten_short_names_stand_in_the_middle_of_their_columns():
    """As ever: Pillow's own font of 11 pixels, two below the upper edge, over the grid twice as large."""
    pixels, cell = images(20), (10 * 29 + 1) * 2 / 10
    grid = pictures.to_pil(pictures.tile(pixels, 10, gap=1)).resize((582, 118), Image.Resampling.NEAREST)
    expected = Image.new("RGB", (582, 118 + 18), "white")
    expected.paste(grid, (0, 18))
    font = ImageFont.load_default(11)
    for i, name in enumerate(GARMENTS):
        place = (i * cell + (cell - font.getlength(name)) / 2, 2)
        ImageDraw.Draw(expected).text(place, name, fill="black", font=font)
    assert class_grid(pixels, torch.arange(20) % 10, GARMENTS).tobytes() == expected.tobytes()


@pytest.mark.parametrize("side", [4, 8, 28])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_name_wider_than_its_column_is_written_upwards_in_it(side, place):
    width = (10 * (side + 1) + 1) * 2
    shown = [captions(["w" * 60])[0] if i == place else "" for i in range(10)]
    strip = heading(shown, width, 10)
    columns, rows = dark(strip)
    assert strip.width == width and 100 < strip.height < 300
    assert place * width / 10 <= columns[0] <= columns[-1] < (place + 1) * width / 10
    assert rows[-1] < strip.height - 1 and rows[0] > 0  # nothing is cut off


def test_upwards_reads_from_below():
    """L has its foot on the right of the line, so turned to the left the foot lies above the stem's end."""
    strip = np.array(heading(["L" * 30, ""], 40, 2).convert("L")) < 128
    lying = np.array(heading(["L" * 30], 400, 2).convert("L")) < 128
    ink, flat = strip.any(axis=1).sum(), lying.any(axis=0).sum()
    assert ink > 100 and abs(int(ink) - int(flat)) < 60
    rows = np.flatnonzero(strip.any(axis=1))
    assert strip.shape[0] - rows[-1] <= 6  # begins just over the grid


def test_one_name_alone_has_the_room_that_it_needs():
    shown = labelled_grid(images(9, 8), 3, ["n01440764 tench…ng name of it"])
    columns, _ = dark(shown.crop((0, 0, shown.width, 17)))
    assert 100 < columns[-1] < shown.width - 1
    assert labelled_grid(images(9), 3, ["Sneaker"]).width == (3 * 29 + 1) * 2  # as ever


def test_fonts_have_what_is_asked_of_them():
    assert {font.getname()[0] for font in caption_fonts(["Ankle-boot", "a…b"])} == {"Aileron"}
    assert {font.getname()[0] for font in caption_fonts(["Ankle-boot", "café"])} == {"DejaVu Sans"}
    assert font_file().is_file()
    accent, box = (caption_fonts(["é"])[0].getmask(sign) for sign in ("é", "\uffff"))
    assert bytes(accent) != bytes(box)


@pytest.mark.filterwarnings("error")
def test_names_of_every_kind_in_a_grid():
    shown = class_grid(images(40), torch.arange(40) % 10, ODD)
    assert shown.width == 582 and shown.height < (4 * 29 + 1) * 2 + 200


@pytest.mark.parametrize(("side", "channels", "classes"), [(28, 1, 100), (28, 3, 1000), (8, 1, 1000), (32, 3, 21)])
def test_images_of_many_classes_have_a_caption_each(side, channels, classes):
    pixels, names = images(60, side, channels), [f"n{k:05d}" for k in range(classes)]
    shown = class_grid(pixels, torch.arange(60) % classes, names)
    scale = max(2, -(-48 // (side + 1)))  # as large as names need
    band = -(-13 // scale)
    assert shown.size == ((8 * (side + 1) + 1) * scale, (8 * (side + band + 1) + 1) * scale)
    for i in (0, 11, 59):
        left, top = (i % 8 * (side + 1) + 1) * scale, (i // 8 * (side + band + 1) + 1) * scale
        edge = top + band * scale
        columns, _ = dark(shown.crop((left, top, left + side * scale, edge)))
        assert len(columns) > 10  # its name
        below = shown.crop((left, edge, left + side * scale, edge + side * scale)).convert("RGB")
        exact = pictures.to_pil(pixels[i]).convert("RGB").resize(below.size, Image.Resampling.NEAREST)
        assert below.tobytes() == exact.tobytes()


@pytest.mark.parametrize("n", [17, 20, 21, 40])
def test_a_few_images_of_many_classes_have_captions_too(n):
    names = [f"n{k:05d}" for k in range(1000)]
    labels = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:n]
    columns = pictures.grid_layout(None, [], n)[0]
    assert class_grid(images(n), labels, names).height == -(-n // columns) * (28 + 7 + 1) * 2 + 2
    ten = class_grid(images(n), torch.randperm(40, generator=torch.Generator().manual_seed(0))[:n] % 10, GARMENTS)
    assert ten.height <= -(-n // columns) * 58 + 20  # as ever


def test_rounds_of_many_classes_do_not_make_one_wide_row():
    names = [str(k) for k in range(1000)]
    assert max(class_grid(images(2000, 8), torch.arange(2000) % 1000, names).size) < 5000
    few = class_grid(images(400), torch.arange(400) % 20, [str(k) for k in range(20)])
    assert few.width == (20 * 29 + 1) * 2  # one column each, as ever


def test_a_picture_ends_somewhere(caplog):
    """10,000 images of ten classes would be 58,000 pixels from top to bottom, more than most programs show."""
    with caplog.at_level("INFO", "diffusion"):
        shown = class_grid(images(4000), torch.arange(4000) % 10, GARMENTS)
    assert "room for the first 2820 of 4000 images" in caplog.text  # 282 rows of 58 pixels
    assert pictures.LONGEST - 58 <= shown.height <= pictures.LONGEST + 20
    assert class_grid(images(2000), torch.arange(2000) % 10, GARMENTS).height == (200 * 29 + 1) * 2 + 18
    many = class_grid(images(3000, 64), torch.arange(3000) % 30, [str(k) for k in range(30)])
    assert many.height <= pictures.LONGEST + 20


def test_a_film_of_many_classes(tmp_path):
    film = Film(lambda x: x.to(torch.uint8), torch.arange(30), [f"class {k}" for k in range(30)], steps=2)
    for shift in range(2):
        film((images(30, 8) + shift).float(), images(30, 8).float())
    film.save(tmp_path / "a.gif", 255 - images(30, 8))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.size == class_grid(images(30, 8), torch.arange(30), ["x"] * 30).size


def test_images_of_odd_classes_stay_in_their_folder(tmp_path):
    names = ["../../up", "/etc/x", ".", "a/b", "猫", "a\nb"]
    save_pngs(tmp_path / "deep" / "er", images(12, 4), torch.arange(12) % 6, names)
    found = sorted(path.relative_to(tmp_path / "deep" / "er") for path in tmp_path.rglob("*.png"))
    assert len(found) == 12 and all(len(path.parts) == 2 and ".." not in path.parts for path in found)
    assert {path.parts[0] for path in found} == {"%2E.%2F..%2Fup", "%2Fetc%2Fx", "%2E", "a%2Fb", "猫", "a\nb"}
