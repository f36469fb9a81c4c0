"""Names of classes as pictures, tables and folders can show them, in whatever script they are written.

A picture is drawn with the fonts that come with Pillow and Matplotlib, never with those of the machine, so that it is
the same picture wherever it is drawn. They have Latin, Greek, Cyrillic and most symbols. A class whose name they cannot
show whole is shown by its number, #3, as `classes=#3` takes it, with what can be shown; tables have its name, too,
since a browser finds more fonts.
"""

import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from diffusion.data.folders import OF_SYSTEMS
from diffusion.data.splits import TEST, TRAINING, VALIDATION, of_split

MOST, MOST_IN_TABLES, MOST_IN_FOLDERS = 28, 100, 200  # signs, signs and bytes of a name
JOINERS = "\u200c\u200d"  # inside words of some scripts, and inside emoji
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols that look like a space
RIGHT_TO_LEFT = {"R", "AL", "AN"}  # Unicode's bidirectional classes; not every Pillow can set them
WINDOWS = set('<>:"|?*\\')
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, in every folder
SPLITS = (TRAINING, (*TEST, *VALIDATION))


def captions(names: Sequence[str]) -> list[str]:
    """For each class a short text of one line that the fonts can draw; no two are alike.

    Args:
        names: of all classes, in the order of their numbers.

    Returns:
        the name where it can be drawn whole, shortened in the middle; else "#3" and what can be drawn of it. A symbol
        without a glyph is told by its Unicode name: "#3 crab".
    """
    return [_with_number(k, text, alone) for k, (text, alone) in enumerate(_drawn(names))]


def titles(names: Sequence[str], numbered: bool = False) -> list[str]:
    """For each class its name on one line, with its number where pictures show that; for tables, which have fonts.

    Args:
        names: of all classes, in the order of their numbers.
        numbered: show the number of every class.
    """
    shown = [shorten(one_line(name), MOST_IN_TABLES) for name in names]
    return [_with_number(k, shown[k], alone and not numbered) for k, (_, alone) in enumerate(_drawn(names))]


def legend(names: Sequence[str], most: int = 10) -> str:
    """What the numbers in pictures stand for, "#0 猫, #1 犬"; empty where every name tells its class.

    Args:
        most: classes that are told; of more, how many there are.
    """
    told = [title for title, (_, alone) in zip(titles(names), _drawn(names), strict=True) if not alone]
    return ", ".join(told[:most]) + (f" and {len(told) - most:,} more" if len(told) > most else "")


def _drawn(names: Sequence[str]) -> list[tuple[str, bool]]:
    """For each class what pictures can show of its name, and whether that tells the class without its number."""
    texts = [shorten(drawable(one_line(name))) for name in names]
    counts, found = Counter(texts), []
    for name, text in zip(names, texts, strict=True):
        whole = text == shorten(unicodedata.normalize("NFC", name)) != ""
        mistakable = counts[text] > 1 or re.match(r"#\d", text)  # for another class
        found.append((text, whole and not mistakable))
    return found


def _with_number(number: int, text: str, alone: bool) -> str:
    return text if alone else f"#{number} {text}".strip()


def one_line(name: str) -> str:
    """The text without line breaks, control characters and marks that change the direction of what follows."""
    signs = []
    for sign in unicodedata.normalize("NFC", name):
        kind = unicodedata.category(sign)
        if kind in ("Cc", "Zl", "Zp", "Zs") or sign in BLANKS:
            signs.append(" ")
        elif kind not in ("Cf", "Cs") or sign in JOINERS:
            signs.append(sign)
    return " ".join("".join(signs).split())


def drawable(text: str) -> str:
    """The text with an ellipsis for what the fonts lack, symbols by their names; empty where nothing is left."""
    if all(has_glyph(sign) for sign in text):
        return text
    signs, missing = [], False
    for sign in text:
        kind = unicodedata.category(sign)
        if kind == "Cf" or (missing and kind[0] == "M"):  # joiners, and marks on what is missing
            continue
        missing = not has_glyph(sign)
        symbol = unicodedata.name(sign, "").lower().removeprefix("regional indicator symbol letter ")
        signs.append(sign if not missing else f" {symbol} " if kind == "So" and symbol else "…")
    left = " ".join("".join(signs).split())
    while "……" in left:
        left = left.replace("……", "…")
    return left if any(sign.isalnum() for sign in left) else ""


def shorten(text: str, most: int = MOST) -> str:
    """The text with an ellipsis in the middle where it has more than `most` signs."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end].rstrip()}…{text[len(text) - end :].lstrip()}"


def fitted(text: str, fits: Callable[[str], bool]) -> str:
    """The text, shortened in the middle until it fits; at least its first sign."""
    most = len(text)
    while most > 1 and not fits(shorten(text, most)):
        most -= 1
    return shorten(text, most) if most > 1 else text[:1]


def font_file() -> Path:
    """DejaVu Sans, which comes with Matplotlib and is its default font."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file())).get_charmap())


def has_glyph(sign: str) -> bool:
    """Whether pictures can show a sign: the font has it, and it stands where it is written, from left to right."""
    if sign.isascii():
        return sign.isprintable()
    if unicodedata.category(sign)[0] == "C" or unicodedata.bidirectional(sign) in RIGHT_TO_LEFT:
        return False
    return ord(sign) in _glyphs()


def folder_names(names: Sequence[str], system: str = sys.platform) -> list[str]:
    """A name of a folder for each class: its own wherever there can be such a folder, no two alike.

    Args:
        names: of all classes, in the order of their numbers.
        system: for which; Windows forbids more, and like macOS does not tell a from A.

    Returns:
        the names with "%2F" for a slash and the like, and with the class's number where they are too long or alike, or
        would together be taken for splits (train, test): `data=image_folder` finds the same classes in these folders.
    """
    windows, made = system == "win32", []
    for number, name in enumerate(names):
        text = "".join(_in_folder(sign, windows) for sign in name)
        reserved = text.lower() in OF_SYSTEMS or (windows and DEVICES.fullmatch(text))
        if text.startswith(".") or reserved:  # hidden, the folder above, or what holds no images for `data.folders`
            text = f"%{ord(text[0]):02X}{text[1:]}"
        if windows and text.endswith((".", " ")):
            text = f"{text[:-1]}%{ord(text[-1]):02X}"
        if not text or len(os.fsencode(text)) > MOST_IN_FOLDERS:
            text = f"{shorten(text, 40)}#{number}"
        made.append(text)
    roles = [next((role for role in SPLITS if of_split(text) in role), None) for text in made]
    if len(set(roles) - {None}) > 1 or None not in roles:  # they would be splits
        made = [f"{text}#{k}" if roles[k] else text for k, text in enumerate(made)]
    while True:
        folded = [text.casefold() if system in ("win32", "darwin") else text for text in made]
        counts = Counter(folded)
        if len(counts) == len(made):
            return made
        made = [f"{text}#{k}" if counts[folded[k]] > 1 else text for k, text in enumerate(made)]


def _in_folder(sign: str, windows: bool) -> str:
    if sign in "/\0" or (windows and (sign in WINDOWS or ord(sign) < 32)):
        return f"%{ord(sign):02X}"
    try:
        os.fsencode(sign)
    except UnicodeEncodeError:  # half of a pair of UTF-16, or a system whose names are ASCII
        return f"%u{ord(sign):04X}"
    return sign
