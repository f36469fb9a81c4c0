"""Image files of every kind become the pixels that a person sees; what cannot be told is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from hostile import careful, read_or_refused, told
from PIL import Image, TiffImagePlugin

from diffusion.data.decoding import BLACK, IMAGE_SUFFIXES, colour, decode_file, read_image
from diffusion.data.images import ImageData, ImageFiles, Images
from diffusion.system.errors import UserError

RED, GREEN, GREY = (255, 0, 0), (0, 128, 0), (200, 200, 200)


def png(path, width, height, bits, kind, rows, chunks=()):
    """A PNG of our own, for kinds that Pillow does not write; `rows` are packed pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = b"".join(chunk(name, content) for name, content in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def sprite(hidden=GREEN):
    """8×8 pixels, the left half red and the right half transparent above a hidden colour."""
    image = Image.new("RGBA", (8, 8), (*RED, 255))
    image.paste((*hidden, 0), (4, 0, 8, 8))
    return image


def save_rgba(path):
    sprite().save(path / "a.png")


def save_la(path):
    grey = Image.new("LA", (8, 8), (76, 255))  # the luma of red
    grey.paste((30, 0), (4, 0, 8, 8))
    grey.save(path / "a.png")


def paletted():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*GREEN, *RED, *GREY])
    image.paste(0, (4, 0, 8, 8))
    return image


def save_palette_index(path):
    paletted().save(path / "a.png", transparency=0)


def save_palette_bytes(path):
    paletted().save(path / "a.png", transparency=bytes([0, 255, 128]))


def save_colour_key(path):
    image = sprite().convert("RGB")
    image.save(path / "a.png", transparency=GREEN)


def save_webp(path):
    sprite().save(path / "a.webp", lossless=True, exact=True)


def save_gif(path):
    paletted().save(path / "a.gif", transparency=0)


def save_tiff(path):
    sprite().save(path / "a.tif")


def save_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise when it is shown
    sprite().transpose(Image.Transpose.ROTATE_90).save(path / "a.png", exif=exif)


def save_palette_alpha_tiff(path):
    """Mode PA: a palette beside a channel of alpha, and no other hidden colour than green."""
    pixels = np.array(paletted())
    alpha = np.where(pixels == 1, 255, 0).astype(np.uint8)
    raw = np.stack([pixels, alpha], axis=-1).tobytes()
    palette = np.zeros((3, 256), np.uint16)
    palette[:, 0], palette[:, 1] = np.array(GREEN) * 257, np.array(RED) * 257
    tiff(path / "a.tif", 8, 8, raw, bits=(8, 8), photometric=3, extra=2, palette=palette.flatten().tolist())


def save_premultiplied_tiff(path):
    """Mode RGBa: the colours are multiplied by alpha, so that nothing is hidden."""
    pixels = np.array(sprite())
    pixels[..., :3] = np.where(pixels[..., 3:] == 0, 0, pixels[..., :3])
    tiff(path / "a.tif", 8, 8, pixels.tobytes(), bits=(8,) * 4, photometric=2, extra=1)


def save_sixteen_bits_with_key(path):
    row = b"\xff\xff\0\0\0\0" * 4 + b"\0\0\x80\x80\0\0" * 4
    png(path / "a.png", 8, 8, 16, 2, [row] * 8, [(b"tRNS", b"\0\0\x80\x80\0\0")])


def tiff(path, width, height, raw, bits, photometric, extra=None, palette=None, form=1, tags=()):
    """An uncompressed little-endian TIFF of one strip."""
    fields = [(256, 4, [width]), (257, 4, [height]), (258, 3, bits), (259, 3, [1]), (262, 3, [photometric])]
    fields += [(273, 4, [8]), (277, 3, [len(bits)]), (278, 4, [height]), (279, 4, [len(raw)])]
    fields += [] if palette is None else [(320, 3, palette)]
    fields += [] if extra is None else [(338, 3, [extra])]
    fields = sorted([*fields, (339, 3, [form] * len(bits)), *tags])
    place, entries, later = 8 + len(raw) + 2 + 12 * len(fields) + 4, b"", b""
    for tag, kind, values in fields:
        data = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'L'}", *values)
        if len(data) <= 4:
            entries += struct.pack("<HHL", tag, kind, len(values)) + data.ljust(4, b"\0")
        else:
            entries += struct.pack("<HHLL", tag, kind, len(values), place + len(later))
            later += data
    head = b"II*\0" + struct.pack("<L", 8 + len(raw))
    path.write_bytes(head + raw + struct.pack("<H", len(fields)) + entries + struct.pack("<L", 0) + later)


TRANSPARENT = [
    *(save_rgba, save_la, save_palette_index, save_palette_bytes, save_colour_key, save_webp, save_gif, save_tiff),
    *(save_rotated, save_palette_alpha_tiff, save_premultiplied_tiff, save_sixteen_bits_with_key),
]


@pytest.mark.parametrize("save", TRANSPARENT, ids=lambda save: save.__name__[5:])
def test_what_lies_under_transparent_pixels_is_covered(save, tmp_path):
    save(tmp_path)
    (path,) = tmp_path.iterdir()
    for name, value in (("white", 255), ("black", 0), ("#808080", 128)):
        grey = read_image(path, 8, 1, colour(name))[0]
        assert grey[:, :4].unique().tolist() == [76] and grey[:, 4:].unique().tolist() == [value]
    if save is not save_la:
        image = read_image(path, 8, 3, (1, 2, 3))
        assert image[:, 0, 0].tolist() == [*RED] and image[:, 0, 7].tolist() == [1, 2, 3]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_so_many_bits(bits, tmp_path):
    """The first pixel is of the brightest grey and transparent, the others are black."""
    top = 2**bits - 1
    row = (top << 7 * bits).to_bytes(bits, "big")
    png(tmp_path / "a.png", 8, 8, bits, 0, [row] * 8, [(b"tRNS", struct.pack(">H", top))])
    assert read_image(tmp_path / "a.png", None, 1, (100,) * 3)[0, 0].tolist()[:2] == [100, 0]
    png(tmp_path / "b.png", 8, 8, bits, 0, [row] * 8)
    assert read_image(tmp_path / "b.png", None, 1)[0, 0].tolist()[:2] == [255, 0]


def test_half_transparent_pixels_are_mixed_exactly(tmp_path):
    """c = a · colour + (1 − a) · background for every colour and every alpha, to the nearest."""
    values, alpha = np.meshgrid(np.arange(256), np.arange(256))
    Image.merge("LA", [Image.fromarray(x.astype(np.uint8)) for x in (values, alpha)]).save(tmp_path / "a.png")
    for ground in (0, 255, 77):
        exact = (alpha * values + (255 - alpha) * ground) / 255
        found = read_image(tmp_path / "a.png", None, 1, (ground,) * 3)[0].numpy()
        assert np.abs(found - exact).max() <= 0.5


def test_hidden_colours_do_not_bleed_into_the_edges(tmp_path):
    for name, hidden in (("a", (0, 0, 0)), ("b", (255, 255, 255)), ("c", (0, 255, 0))):
        sprite(hidden).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / f"{name}.png")
    for size in (9, 100):
        first, *others = (read_image(tmp_path / f"{name}.png", size, 3) for name in "abc")
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "CMYK", "RGBA", "LA"])
def test_images_without_transparency_are_as_pillow_reads_them(mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image, path = Image.fromarray(noise).convert(mode), tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    for channels, kind in ((1, "L"), (3, "RGB")):
        # an alpha of 255 everywhere hides nothing
        plain = image.convert(kind).resize((15, 10), Image.Resampling.LANCZOS).crop((2, 0, 12, 10))
        expected = torch.from_numpy(np.array(plain).reshape(10, 10, channels)).permute(2, 0, 1)
        assert torch.equal(read_image(path, 10, channels, BLACK), expected)


@pytest.mark.parametrize("wrong", ["no colour", "#12", "#11223344", [1, 2], [0, 0, 256], [0.5, 0, 0], "", [True], 7])
def test_what_is_no_colour_is_told(wrong):
    with pytest.raises(ValueError, match="background=.* is no colour: give white"):
        colour(wrong)


def test_colours():
    assert colour("white") == colour("#ffffff") == colour([255, 255, 255]) == (255, 255, 255)
    assert colour("black") == (0, 0, 0) and colour("#102030") == (16, 32, 48)


# ------------------------------------------------------------------------------------------- sizes and kinds


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 20_000)])
def test_long_images_take_no_memory(size, tmp_path):
    """Enlarged as a whole, it would have 61 million pixels, or 6 GB in colour."""
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "long.png")

    def read():
        image = read_image(tmp_path / "long.png", 32, 3)
        raise UserError(f"{image.shape[1:]}: {image.flatten(1).unique(dim=1).tolist()}.")

    assert told(read, megabytes=60, seconds=5) == "torch.Size([32, 32]): [[10], [20], [30]]."


def test_of_long_images_the_middle_is_taken(tmp_path):
    """A ramp along the long side, of which the middle is known."""
    ramp = np.tile(np.linspace(0, 255, 2001).round().astype(np.uint8)[:, None], (1, 20))
    Image.fromarray(ramp).save(tmp_path / "tall.png")
    Image.fromarray(ramp.T.copy()).save(tmp_path / "wide.png")
    tall, wide = (read_image(tmp_path / f"{name}.png", 10, 1)[0] for name in ("tall", "wide"))
    assert torch.equal(tall, wide.T)
    assert set(tall.unique().tolist()) <= {126, 127, 128, 129} and tall.float().mean().round() == 128


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_kind_of_file_is_read(suffix, tmp_path):
    image = Image.new("RGB", (9, 7), (255,) * 3)
    image.convert("L" if suffix == ".pgm" else "1" if suffix == ".pbm" else "RGB").save(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}", 7, 3)
    assert found.shape == (3, 7, 7) and int(found.min()) > 252


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_of_several_frames_the_first_is_read(suffix, tmp_path):
    first, *others = (Image.new("RGB", (8, 8), shade) for shade in (GREY, RED, GREEN))
    first.save(tmp_path / f"still.{suffix}")
    first.save(tmp_path / f"moving.{suffix}", save_all=True, append_images=others)
    still, moving = (decode_file(tmp_path / f"{name}.{suffix}", 8, 3) for name in ("still", "moving"))
    assert (still.moving, moving.moving) == (False, True)
    assert np.abs(moving.pixels.astype(int) - 200).max() <= 1


def save_values(path, values):
    Image.fromarray(values).save(path)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32_896, 65_535]] * 4, np.uint16)
    for suffix in ("png", "tif", "pgm"):
        save_values(tmp_path / f"a.{suffix}", values)
        assert read_image(tmp_path / f"a.{suffix}", None, 1)[0, 0].tolist() == [0, 1, 128, 255]
    tiff(tmp_path / "inverse.tif", 4, 4, values.tobytes(), bits=(16,), photometric=0)
    assert read_image(tmp_path / "inverse.tif", None, 1)[0, 0].tolist() == [255, 254, 127, 0]


def test_floating_point_numbers_are_shares_of_white_or_refused(tmp_path):
    save_values(tmp_path / "a.tif", np.array([[0, 0.5, 1]] * 3, np.float32))
    assert read_image(tmp_path / "a.tif", None, 1)[0, 0].tolist() == [0, 128, 255]
    for number, values in enumerate(([0, 255.0], [-1, 1], [np.nan, 0], [np.inf, 0])):
        save_values(tmp_path / f"{number}.tif", np.array([values] * 2, np.float32))
        with pytest.raises(UserError, match=r"numbers are not from 0 to 1: save it with 8 or 16 bits"):
            read_image(tmp_path / f"{number}.tif", None, 1)
    save_values(tmp_path / "b.tif", np.array([[0, 2**30]] * 2, np.int32))
    with pytest.raises(UserError, match=r"numbers have 32 bits, or a sign: save it with"):
        read_image(tmp_path / "b.tif", None, 1)


def test_four_inks(tmp_path):
    for suffix in ("jpg", "tif"):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"a.{suffix}")
        red, green, blue = read_image(tmp_path / f"a.{suffix}", 8, 3).float().mean(dim=(1, 2)).tolist()
        assert red > 250 and green < 5 and blue < 5


# ----------------------------------------------------------------------------------------- from strangers


@pytest.mark.usefixtures("loot")
@pytest.mark.parametrize("suffix", ["gif", "tif", "ppm"])
def test_damaged_files_of_the_new_kinds_are_read_or_refused(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    path = tmp_path / f"a.{suffix}"
    read_or_refused(path, path.read_bytes(), lambda path: read_image(path, 8, 3))


@careful[0]
@careful[1]
def test_bombs_of_the_new_kinds_are_not_unpacked(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6))
    (tmp_path / "a.ppm").write_bytes(b"P6\n60000 60000\n255\n" + bytes(100))
    tile = [(322, 4, [60_000]), (323, 4, [60_000]), (324, 4, [8]), (325, 4, [64])]
    tiff(tmp_path / "a.tif", 8, 8, bytes(64), bits=(8,), photometric=1, tags=tile)
    tiff(tmp_path / "b.tif", 60_000, 60_000, bytes(64), bits=(8,), photometric=1)
    for path in sorted(tmp_path.glob("?.*")):
        assert f"{path.name} cannot be read" in told(read_image, path, 8, 1, megabytes=50)


def test_no_tag_of_a_tiff_is_code(tmp_path):
    """Pillow reads tags lazily; texts in the place of numbers are refused by it or mean nothing."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262], info[305] = 1, "software\0" * 5
    Image.new("L", (8, 8), 9).save(tmp_path / "a.tif", tiffinfo=info)
    assert read_image(tmp_path / "a.tif", 8, 1).unique().tolist() == [9]


# ----------------------------------------------------------------------------------------- everywhere


def test_caches_depend_on_the_background_of_files(tmp_path):
    sprite().save(tmp_path / "a.png")

    def key(background):
        files = ImageFiles([tmp_path / "a.png"], None, 8, 3, background)
        return ImageData("sprites", files, files, [], background=background).fingerprint()

    assert key((255, 255, 255)) != key((0, 0, 0)) == key((0, 0, 0))


def test_one_class_is_no_label(caplog):
    images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    with caplog.at_level("INFO", "diffusion"):
        data = ImageData("cats", images, images, ["all"])
    assert data.class_names == [] and data.train.labels is None and data.test.labels is None
    assert data.describe()["class_names"] == [] and images.labels is not None
    assert "data=cats has one class (all), so it is treated as unlabelled." in caplog.text
    assert ImageData("cats", images, images, ["all", "none"]).train.labels is not None
