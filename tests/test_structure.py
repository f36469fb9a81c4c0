"""How large the parts of the package may grow, and that the pages about its structure say what is so."""

import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import structure

ARGUMENTS, FUNCTION, MODULE = 12, 70, 300  # of a constructor; lines of a function; lines of a module
EXCEPTIONS = {  # what may be larger → why
    "diffusion.training.plan.Plan": "one field for each setting of conf/training",
}
PACKAGE = {name: file for name, file in structure.modules(ROOT).items() if structure.room(name) != structure.SCRIPTS}


def test_nothing_grows_too_large_but_what_is_allowed_to():
    large = {name for name, file in PACKAGE.items() if len(file.read_text().splitlines()) > MODULE}
    for name, file in PACKAGE.items():
        large |= {f"{name}.{inner}" for lines, inner in structure.functions(file) if lines > FUNCTION}
        large |= {f"{name}.{inner}" for arguments, inner in structure.constructors(file) if arguments > ARGUMENTS}
    assert large == EXCEPTIONS.keys()


def test_arguments_are_counted(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "class Plain:\n    def __init__(self, a, /, b, *, c=1): ...\n"
        "@dataclass(frozen=True)\nclass Fields:\n    a: int\n    b: int = 2\n    def use(self, x): ...\n"
        "class Row(NamedTuple):\n    a: int\n"
        "class Empty:\n    note: int\n"
    )
    assert list(structure.constructors(file)) == [(3, "Plain"), (2, "Fields"), (1, "Row"), (0, "Empty")]
    assert list(structure.functions(file)) == [(1, "__init__"), (1, "use")]


def test_floors_and_circles():
    graph = {"roof": {"wall", "ground"}, "wall": {"ground"}, "ground": set()}
    assert structure.floors(graph) == {"roof": 3, "wall": 2, "ground": 1}
    assert structure.circles(graph) == []
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]


def test_the_picture_is_that_of_the_imports():
    picture = (ROOT / structure.PICTURE).read_text()
    assert picture == structure.Picture(ROOT).svg(), "draw it anew: python benchmarks/structure.py --picture"


def test_the_page_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {structure.room(name) for name in PACKAGE} - {structure.PACKAGE}
    assert not {room for room in rooms if f"/{room})" not in page and f"/{room}.py)" not in page}
