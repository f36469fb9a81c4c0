"""How the package is built: sizes, rooms, who imports whom; and a picture of it, drawn from the imports themselves.

    python benchmarks/structure.py                  the numbers of this checkout
    python benchmarks/structure.py --root OTHER     those of another one, older versions included
    python benchmarks/structure.py --picture        draws docs/architecture.svg

A room is a folder of diffusion/, or a module that lies there by itself; the scripts are a room, too. An arrow leads
from one room to another if any file of the first imports any of the second, wherever in the file. The floor of a room
is the number of rooms on the longest path of arrows that starts in it.
"""

import argparse
import ast
import random
import re
from collections.abc import Container, Iterator
from graphlib import TopologicalSorter
from itertools import combinations, groupby, pairwise
from pathlib import Path
from statistics import fmean
from textwrap import wrap

ROOT = Path(__file__).parent.parent
PICTURE = Path("docs") / "architecture.svg"
PACKAGE, SCRIPTS, GROUND = "diffusion", "scripts", "system"
Graph = dict[str, set[str]]  # module or room → what it imports


def modules(root: Path) -> dict[str, Path]:
    """Name → file of the scripts and of the package's modules."""
    files = [*sorted(root.glob("*.py")), *sorted((root / PACKAGE).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def room(module: str) -> str:
    """Where a module lies: a script in "scripts", which a `__main__` is, too; diffusion/__init__.py in "diffusion"."""
    first, *inner = module.split(".")
    return SCRIPTS if first != PACKAGE or inner[-1:] == ["__main__"] else inner[0] if inner else PACKAGE


def imported(file: Path, known: Container[str]) -> set[str]:
    """The modules that a file imports, wherever in it; of those that are not known the names as they stand."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else node.module for name in found}
    return names


def module_graph(root: Path) -> Graph:
    """What every module imports of the others."""
    files = modules(root)
    return {module: imported(file, files) & files.keys() - {module} for module, file in files.items()}


def room_graph(graph: Graph) -> Graph:
    """What every room imports of the others, from the graph of the modules."""
    rooms: Graph = {room(module): set() for module in graph}
    for module, imported in graph.items():
        rooms[room(module)] |= {room(name) for name in imported} - {room(module)}
    return rooms


def reachable(graph: Graph) -> Graph:
    """All that arrows lead to from each node, directly or through others."""
    reached = {node: set(imported) for node, imported in graph.items()}
    for between in graph:  # Warshall's algorithm
        for names in reached.values():
            names |= reached[between] if between in names else set()
    return reached


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """The sets of nodes that import each other, directly or through others."""
    reached = reachable(graph)
    return sorted({tuple(sorted(other for other in reached[node] if node in reached[other])) for node in graph} - {()})


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each node, counted from 1; the graph has no circles."""
    found: dict[str, int] = {}
    for node in TopologicalSorter(graph).static_order():
        found[node] = 1 + max((found[other] for other in graph[node]), default=0)
    return found


def functions(file: Path) -> Iterator[tuple[int, str]]:
    """Every function and method of a file: its number of lines, and its name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def constructors(file: Path) -> Iterator[tuple[int, str]]:
    """Every class of a file: the number of arguments it is made with, without `self`, and its name.

    The fields of dataclasses and named tuples are such arguments, too; what a class inherits does not count.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            marks = " ".join(ast.unparse(part) for part in [*node.decorator_list, *node.bases])
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            count = len(fields) if re.search(r"\b(dataclass|NamedTuple)\b", marks) else 0
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    count = len(item.args.posonlyargs + item.args.args + item.args.kwonlyargs) - 1
            yield count, node.name


def numbers(root: Path) -> dict[str, str]:
    """What is counted → how much it is."""
    files, graph = modules(root), module_graph(root)
    size = {name: len(file.read_text().splitlines()) for name, file in files.items()}
    package, scripts = ([name for name in files if (room(name) == SCRIPTS) == wanted] for wanted in (False, True))
    longest = [(n, f"{name}.{inner}") for name in package for n, inner in functions(files[name])]
    widest = [(n, f"{name}.{inner}") for name in package for n, inner in constructors(files[name])]
    rooms = room_graph(graph)
    rounds = [*circles(graph), *circles(rooms)]
    return {
        "lines of diffusion/": f"{sum(size[name] for name in package):,} in {len(package)} files",
        "lines of the scripts": f"{sum(size[name] for name in scripts):,} in {len(scripts)} files",
        "longest module": "{} {}".format(*max((size[name], name) for name in package)),
        "longest function": "{} {}".format(*max(longest)),
        "most arguments of a constructor": "{} {}".format(*max(widest)),
        "floors": "–" if rounds else f"{max(floors(rooms).values())}, with {len(rooms)} rooms",
        "arrows": f"{sum(map(len, graph.values()))} between modules, {sum(map(len, rooms.values()))} between rooms",
        "circles": "; ".join(" ↔ ".join(nodes) for nodes in rounds) or "none",
    }


WIDTH, EDGE, GAP, LANE, BETWEEN = 1080, 40, 16, 24, 48  # the picture, its edge, between rooms, a lane, between floors
LINE = 15  # from one line of text to the next
TITLES = {SCRIPTS: "command line", PACKAGE: "import diffusion"}
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" text-anchor="middle"><style>
  text {{ font: 12px Helvetica, Arial, sans-serif; fill: #22354a }} .name {{ font-size: 15px; font-weight: bold }}
  rect {{ stroke-width: 1.5px; fill: #eef3f9; stroke: #8aa3bd }} .theory rect {{ fill: #fff1c9; stroke: #d9950b }}
  .entrance rect {{ fill: #22354a; stroke: #22354a }} .entrance text {{ fill: white }}
  .ground rect {{ fill: #e4e7eb; stroke: #8b95a1 }} path {{ stroke-width: 1.5px; stroke: #747f8d; fill: none }}
</style><marker id="tip" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="6" markerHeight="6" orient="auto">
<path d="M0 0L8 4L0 8z" style="fill: #747f8d; stroke: none"/></marker>
<rect width="{width}" height="{height}" style="fill: #ffffff; stroke: none"/>
{parts}</svg>
"""
Place = tuple[str, int]  # a room and its row; in the rows above it, the lane of the arrows that lead to it


class Picture:
    """A house whose floors are all as wide as the house: rooms side by side, and lanes for arrows that go further."""

    def __init__(self, root: Path) -> None:
        self.files, graph = modules(root), room_graph(module_graph(root))
        reached, home, pieces = reachable(graph), floors(graph), set[tuple[Place, Place]]()
        home |= {GROUND: 0} | dict.fromkeys(TITLES, max(home.values()))
        self.single = {name for name in graph if self.files.get(f"{PACKAGE}.{name}", root).stem == name}
        self.theory = {name for name in self.single if reached[name] <= self.single}
        for name, imported in graph.items():
            for other in imported - set().union(*(reached[between] for between in imported)):
                lane = [(other, row) for row in range(home[name] - 1, home[other] - 1, -1)]
                pieces |= set(pairwise([(name, home[name]), *lane]))
        self.home, self.pieces = set(home.items()), sorted(pieces)
        self.span: dict[Place, tuple[float, float]] = {}  # left and right
        self.order()
        self.text = {place: self.write(*place) for place in sorted(self.home)}
        self.rows: dict[int, tuple[int, int]] = {}  # top and height
        y = EDGE
        for row in sorted({row for _, row in self.home}, reverse=True):
            self.rows[row] = y, 34 + LINE * max(len(lines) for (_, other), lines in self.text.items() if other == row)
            y += self.rows[row][1] + BETWEEN

    def write(self, name: str, row: int) -> list[str]:
        """The lines under a name: the modules of a room; of a module by itself, the head of its docstring."""
        inside = [module for module in self.files if room(module) == name and module.count(".") in (0, 2)]
        text = ", ".join(module.rpartition(".")[2] for module in inside if module != PACKAGE)
        if name in self.single:
            document = ast.get_docstring(ast.parse(self.files[f"{PACKAGE}.{name}"].read_text())) or ""
            text = re.split(r"[:.,]| \(", document.removeprefix(f"{name.title()}: "))[0]
            text = text[:1].upper() + text[1:]
        return wrap(text, int((self.span[name, row][1] - self.span[name, row][0]) / 7))

    def fill(self, row: list[Place]) -> None:
        """Share the width out over the places of a row."""
        lanes = len(row) - len(self.home.intersection(row))
        share = (WIDTH - 2 * EDGE - LANE * lanes - GAP * (len(row) - 1)) / (len(row) - lanes)
        x = float(EDGE)
        for place in row:
            self.span[place] = x, x + (share if place in self.home else LANE)
            x = self.span[place][1] + GAP

    def order(self) -> None:
        """Of many orders at random, each swept up and down (Sugiyama et al. 1981,
        https://doi.org/10.1109/TSMC.1981.4308636), take that with the fewest crossings and the shortest arrows."""
        chance, best, least = random.Random(0), self.span, float("inf")
        places = sorted(self.home.union(*self.pieces), key=lambda place: (place[1], place[0]))
        rows = [list(row) for _, row in groupby(places, key=lambda place: place[1])]
        beside = {place: [a if b == place else b for a, b in self.pieces if place in (a, b)] for place in places}
        pairs = [(p, q) for p, q in combinations(self.pieces, 2) if p[0][1] == q[0][1]]
        for _ in range(300):
            for row in rows:
                chance.shuffle(row)
                self.fill(row)
            for row in [*rows, *reversed(rows)] * 4:
                row.sort(key=lambda place: fmean([sum(self.span[other]) for other in beside[place] or [place]]))
                self.fill(row)
            ends = {piece: self.ends(piece) for piece in self.pieces}
            cost = sum(abs(start - end) for start, end in ends.values()) / WIDTH / 2
            cost += sum((ends[p][0] - ends[q][0]) * (ends[p][1] - ends[q][1]) < 0 for p, q in pairs)
            if cost < least:
                best, least = dict(self.span), cost
        self.span = best

    def ends(self, piece: tuple[Place, Place]) -> tuple[float, float]:
        """Where a piece starts and ends: in the middle of the narrower place, and as near as can be in the other."""
        narrow, wide = sorted((self.span[place] for place in piece), key=lambda span: span[1] - span[0])
        middle = sum(narrow) / 2
        other = min(max(middle, wide[0] + LANE / 2), wide[1] - LANE / 2)
        return (middle, other) if narrow == self.span[piece[0]] else (other, middle)

    def arrow(self, piece: tuple[Place, Place]) -> str:
        """A piece of an arrow, with its tip where it arrives."""
        (start, end), (top, height), (y, lane) = self.ends(piece), *(self.rows[place[1]] for place in piece)
        bend = 0.6 * (y - top - height)
        way = f"M{start:.0f} {top + height}C{start:.0f} {top + height + bend:.0f} {end:.0f} {y - bend:.0f} {end:.0f} "
        return f'<path d="{way}' + (f'{y - 6}" marker-end="url(#tip)"/>' if piece[1] in self.home else f'{y}v{lane}"/>')

    def box(self, place: Place) -> str:
        """A room, with its name and its text."""
        name, (left, right), (top, height), lines = place[0], self.span[place], self.rows[place[1]], self.text[place]
        kind = "theory" if name in self.theory else "entrance" if name in TITLES else "ground" * (name == GROUND)
        box = f'<rect x="{left:.0f}" y="{top}" width="{right - left:.0f}" height="{height}" rx="7"/>'
        x, y = (left + right) / 2, top + (height - LINE * len(lines)) / 2 + 5
        box += f'<text class="name" x="{x:.0f}" y="{y:.0f}">{TITLES.get(name, name)}</text>'
        rest = (f'<text x="{x:.0f}" y="{y + 2 + LINE * i:.0f}">{line}</text>' for i, line in enumerate(lines, start=1))
        return f'<g class="{kind or "room"}">{box}{"".join(rest)}</g>'

    def svg(self) -> str:
        """The whole picture."""
        parts = [*map(self.arrow, self.pieces), *map(self.box, self.text)]
        return SVG.format(width=WIDTH, height=sum(self.rows[0]) + EDGE, parts="\n".join(parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout; this one if not given")
    parser.add_argument("--picture", action="store_true", help=f"write {PICTURE.as_posix()}")
    given = parser.parse_args()
    if given.picture:
        (given.root / PICTURE).write_text(Picture(given.root).svg())
    else:
        print(*(f"{what:32}{much}" for what, much in numbers(given.root).items()), sep="\n")
