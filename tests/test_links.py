"""The pages for people: every link and picture of theirs is there, and none tells of the machine it was written on."""

import json
import re
from collections import Counter
from functools import cache

import pytest
from conftest import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for folder in ("docs", "notebooks", "examples") for page in sorted((ROOT / folder).rglob("*.md"))),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),  # as GitHub shows them
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LINES = 120  # of the README, which is a front door
MACHINE = re.compile(r"(?<![\w.~])(?:/(?:home|root|tmp|work|Users|mnt|private|var|opt)/|[A-Z]:\\)|file://")


def text_of(page):
    """What is written on a page; of a notebook that which stands between its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


@cache
def prose(page):
    """A page without its code, in which brackets and number signs mean something else."""
    text = re.sub(r"^(```+|~~~+).*?^\1\s*?$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^ {4}(?! *[-*\d]).*$", "", text, flags=re.MULTILINE)


@cache
def anchors(page):
    """What a # can lead to: the page's headings, as GitHub names them."""
    seen = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.*?)(?: +#+)? *$", prose(page), re.MULTILINE):
        name = anchor(heading)
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', prose(page)))


def anchor(heading):
    """Letters, digits, hyphens and underscores stay, spaces become hyphens, all else goes."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-")


def links(page):
    text = re.sub(r"(`+)(?!`).*?\1", "", prose(page), flags=re.DOTALL)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return found + re.findall(r"^\[[^\]]+\]: +(\S+)", text, re.MULTILINE)


def broken(page):
    """The links that lead nowhere: to no file of the repository, or to no heading of a page."""
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, place = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.is_relative_to(ROOT.resolve()) and target.exists()
        if not there or (place and (target.suffix != ".md" or place not in anchors(target))):
            yield link


def test_headings_get_the_names_that_github_gives_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# `evaluate.py`: 10 % of x_0, [a link](b.md) & more!\n\n## Schritt für Schritt\n## Twice\n## Twice\n"
        "```bash\n# no heading\n```\n",
        encoding="utf-8",
    )
    first = "evaluatepy-10--of-x_0-a-link--more"
    assert anchors(page) == {first, "schritt-für-schritt", "twice", "twice-1"}


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[1](#here) [2](#there) [3](page.md#here) [4](page.md#there) [5](none.md) ![6](none.png)\n"
        '[7](../outside.md) [8](https://example.org/x) `[9](code.md)` <img src="no.gif">\n```\n[10](code.md)\n```\n',
        encoding="utf-8",
    )
    (tmp_path.parent / "outside.md").touch()
    assert sorted(broken(page)) == ["#there", "../outside.md", "no.gif", "none.md", "none.png", "page.md#there"]


def test_a_broken_link_between_the_code_of_a_notebook_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    cells = [("markdown", ["# Title\n", "[1](there.ipynb), [2](none.ipynb)"]), ("code", ["x[0](none.md)"])]
    cells += [("markdown", ["[3](there.ipynb#heading), [4](https://example.org)\n"])]
    page = tmp_path / "page.ipynb"
    page.write_text(json.dumps({"cells": [{"cell_type": kind, "source": source} for kind, source in cells]}))
    (tmp_path / "there.ipynb").touch()
    assert list(broken(page)) == ["none.ipynb", "there.ipynb#heading"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    assert not list(broken(page))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_page_tells_of_a_machine(page):
    assert not MACHINE.findall(text_of(page))


def test_the_readme_is_a_front_door():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= LINES
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links(readme)}
    assert not {page.name for page in (ROOT / "docs").glob("*.md") if page.resolve() not in reached}
