"""Names of classes in every script, as pictures, tables and folders show them."""

import os
import unicodedata

import pytest

from diffusion.drawing.names import captions, fitted, folder_names, has_glyph, legend, one_line, shorten, titles

LONG = "a name that nobody would type twice, of sixty signs and more"


@pytest.mark.parametrize(
    "name", ["T-shirt", "Ankle-boot", "7", "3.5", "null", "naïve", "Ærø", "Ш", "λ", "$x_1$", "_a_", "a&b<c>|`"]
)
def test_a_name_that_the_fonts_have_is_its_own_caption(name):
    assert captions([name]) == titles([name]) == [name] and legend([name]) == ""


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("猫", "#0"),
        ("한국어", "#0"),
        ("हिन्दी", "#0"),
        ("ไก่", "#0"),
        ("שלום", "#0"),  # from right to left, which not every Pillow can set
        ("قطة", "#0"),
        ("🦀", "#0 crab"),
        ("👩\u200d🚀", "#0 woman rocket"),
        ("🇩🇪", "#0 d e"),
        ("猫 cat", "#0 … cat"),
        ("(猫)", "#0"),
        ("a\nb\tc", "#0 a b c"),
        ("a\x00b\x1b[31m", "#0 a b [31m"),
        ("evil\u202etxt.exe", "#0 eviltxt.exe"),
        ("\udcffcat", "#0 cat"),  # a byte of a file name that is no letter
        (" cat ", "#0 cat"),
        *((blank, "#0") for blank in ("", " ", "\u200b", "\u00a0", "\u3164", "\u2800", "\n")),
    ],
)
def test_a_name_that_cannot_be_shown_whole_has_its_number(name, caption):
    assert captions([name]) == [caption]
    (title,) = titles([name])
    assert title == f"#0 {one_line(name)}".strip() and legend([name]) == title
    assert title.isprintable() or "\u200d" in title  # tables have the name, but no sign that does something


def test_letters_and_marks_are_put_together():
    """As macOS writes names of folders: é as e and an accent."""
    assert captions([unicodedata.normalize("NFD", "café")]) == ["café"]


def test_a_long_name_loses_its_middle():
    assert len(LONG) == 60
    (caption,) = captions([LONG])
    assert caption == "a name that no…igns and more" and len(caption) == 28
    assert titles([LONG]) == [LONG] and legend([LONG]) == ""
    assert shorten("abcdefg", 5) == "ab…fg" and shorten("abcdefg", 4) == "ab…g" and shorten("abcdefg", 7) == "abcdefg"


def test_no_two_captions_are_alike():
    alike = [LONG, LONG.replace("nobody would", "somebody may"), "a b", "a\nb", "猫", "犬", "#4"]
    shown = captions(alike)
    assert len(set(shown)) == len(alike)
    assert shown[2:] == ["#2 a b", "#3 a b", "#4", "#5", "#6 #4"]
    many = captions([f"{'x' * 40}{k}{'y' * 40}" for k in range(1000)])
    assert len(set(many)) == 1000 and max(map(len, many)) <= 28 + len("#999 ")


def test_every_sign_of_a_caption_has_a_glyph():
    """Of all of the first plane, and of the emoji; the font is asked by Matplotlib's own reader."""
    names = [chr(k) for k in [*range(0x20, 0xD800, 7), *range(0x1F300, 0x1FAFF, 3)]]
    assert all(has_glyph(sign) for caption in captions(names) for sign in caption)


def test_the_legend_tells_some_and_counts_the_rest():
    assert legend(["猫", "dog", "犬"]) == "#0 猫, #2 犬"
    assert legend(["猫"] * 12, most=2) == "#0 猫, #1 猫 and 10 more"
    assert titles(["a", "猫"], numbered=True) == ["#0 a", "#1 猫"]


def test_a_text_is_cut_until_it_fits():
    assert fitted("abcdefghij", lambda text: len(text) <= 5) == "ab…ij"
    assert fitted("abcdefghij", lambda text: len(text) <= 50) == "abcdefghij"
    assert fitted("abcdefghij", lambda text: False) == "a" and fitted("", lambda text: False) == ""


# ------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("name", ["T-shirt", "3.5", "猫", "a b", "a:b", "a\nb", "100%", "\udcff", "A&B", "a\\b"])
def test_a_folder_has_the_name_of_its_class(name, tmp_path):
    assert folder_names([name], "linux") == [name]
    if os.name == "posix":
        (tmp_path / name).mkdir()


@pytest.mark.parametrize(
    ("names", "folders", "system"),
    [
        (["a/b", "/etc/x", "../../x"], ["a%2Fb", "%2Fetc%2Fx", "%2E.%2F..%2Fx"], "linux"),
        ([".", "..", ".hidden"], ["%2E", "%2E.", "%2Ehidden"], "linux"),
        (["", "\0", "\ud800"], ["#0", "%00", "%uD800"], "linux"),
        (["a/b", "a%2Fb"], ["a%2Fb#0", "a%2Fb#1"], "linux"),
        (["A", "a", "b"], ["A", "a", "b"], "linux"),
        (["A", "a", "b"], ["A#0", "a#1", "b"], "darwin"),
        (["a/b", "a%2Fb", "a%2Fb#0"], ["a%2Fb#0#0", "a%2Fb#1", "a%2Fb#0#2"], "linux"),
        (["train", "bus", "car"], ["train", "bus", "car"], "linux"),  # which no test images stand beside
        (["train", "Test", "car"], ["train#0", "Test#1", "car"], "linux"),
        (["val"], ["val#0"], "linux"),
        (["__MACOSX", "lost+found"], ["%5F_MACOSX", "%6Cost+found"], "linux"),
        (["CON", "nul.x", "console"], ["%43ON", "%6Eul.x", "console"], "win32"),
        (["CON", "nul"], ["CON", "nul"], "linux"),
        (['a:b|c?"', "dots. ", "x\n"], ["a%3Ab%7Cc%3F%22", "dots.%20", "x%0A"], "win32"),
    ],
)
def test_a_folder_that_cannot_have_its_name_is_told_apart(names, folders, system):
    assert folder_names(names, system) == folders


def test_names_longer_than_a_folder_may_have():
    """255 bytes on most systems: 85 signs of Chinese."""
    made = folder_names(["猫" * 80, "猫" * 81, "x" * 250], "linux")
    assert all(len(os.fsencode(name)) <= 200 for name in made) and len(set(made)) == 3
