"""docs/settings.md says what conf/ and the code say, of every setting."""

import re
import sys

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs" / "make"))
import explained
import settings

CONF = ROOT / "conf"
PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_script_makes():
    assert settings.page() == PAGE, "write it anew: python docs/make/settings.py"


def test_every_setting_is_explained():
    assert not settings.unexplained(), "give these a comment in conf/ or a line in a docstring"


def test_every_group_is_there_with_every_option():
    folders = {
        folder.name: {file.stem for file in folder.glob("*.yaml")} for folder in CONF.iterdir() if folder.is_dir()
    }
    assert folders.keys() - {*settings.ELSEWHERE} == settings.GROUPS.keys()
    for group in settings.GROUPS:
        section = re.search(rf"^### {group}\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)[1]
        assert set(re.findall(r"^\| `(\w+)` \| (?!`|to be)", section, re.MULTILINE)) >= folders[group]


@pytest.mark.parametrize("file", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_setting_of_an_option_is_there_with_its_default(file):
    """Read by YAML itself, which knows no comments."""
    group, content = file.parent.name, yaml.safe_load(file.read_text(encoding="utf-8"))
    if group in (*settings.ELSEWHERE, "launch", "search", "task"):
        return
    for name, value in content.items():
        if name == "_target_" or isinstance(value, dict):
            continue
        rows = re.findall(rf"^\| `{group}\.{name}` \| (.*?) \|", PAGE, re.MULTILINE)
        defaults = [yaml.safe_load(each) for row in rows for each in re.findall(r"`([^`]*)`", row)]
        assert value in defaults or (value == "???" and any("to be given" in row for row in rows)), name


def test_first_settings_exist():
    for group, (_, first) in settings.GROUPS.items():
        names = {row.name for row in settings.of_group(group)[0]}
        assert {name if "." in name or group == "search" else f"{group}.{name}" for name in first.split()} <= names


def test_what_a_file_says_is_read_with_its_comments(tmp_path):
    file = tmp_path / "option.yaml"
    file.write_text(
        "# @package _global_\n# What it is\n_target_: a.B\nrate: 2e-4 # how fast\nsizes: [1, 2] # in pixels\n"
        "text: 'a # b' # with a sign\nfree: null\ninner: # a part\n  deep: true # far down\nfilled: ${rate}\n"
    )
    assert explained.parsed(file)[0] == "What it is"
    assert [tuple(leaf) for leaf in explained.leaves(file)] == [
        ("rate", "2e-4", "how fast"),
        ("sizes", "[1,2]", "in pixels"),
        ("text", "'a # b'", "with a sign"),
        ("free", "null", ""),
        ("inner.deep", "true", "far down"),
    ]


LARGEST = 7


class Part:
    """Something.

    Args:
        share, size: what both have
            in common. None is all.
        mode: how.
    """

    def __init__(self, share: float = 0.5, size: int | None = None, mode: str = "fast") -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} must lie between 0 and 1; 1 is all")
        if size is not None and not 1 <= size <= LARGEST:
            raise ValueError(f"size={size} must be from 1 to {LARGEST}, for example 3")
        if mode not in ("fast", "slow"):
            raise ValueError(f"mode={mode} must be 'fast' or 'slow'")


Part.__module__ = "diffusion.test"  # as if it were of the package


def test_what_the_code_says(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusion.test", sys.modules[__name__])
    assert explained.explained(Part) == {
        "share": "what both have in common. null is all",
        "size": "what both have in common. null is all",
        "mode": "how",
    }
    assert [explained.range_of(Part, name) for name in ("share", "size", "mode", "other")] == [
        "between 0 and 1",
        "from 1 to 7",
        "'fast' or 'slow'",
        "",
    ]
    assert explained.kind_of(float, "between 0 and 1") == "number, between 0 and 1"
    assert explained.kind_of(int | None, "") == "whole number or null"
    assert explained.kind_of(str, "'fast' or 'slow'") == "'fast' or 'slow'"
