"""The tests of a room know no more than the room: they run where Hydra and OmegaConf cannot be imported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "diffusion"
ROOMS = "data drawing evaluation loss networks records sampler system tasks training".split()
KNOWING = ("benchmarks", "config", "export", "notebooks", "scripts")  # folders that may know Hydra, as test_model.py
OTHER = ("test_model.py", "test_imports.py", "test_rooms.py", "test_structure.py", "test_links.py")  # beside the theory
THEORY = sorted(path for path in TESTS.glob("test_*.py") if path.name not in OTHER)


def imported(path):
    """The modules that a file imports, wherever in it, and the names from them, which may be modules, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module != "diffusion":  # which by itself imports nothing
                yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_with(module):
    """The files that importing a module executes, of the package and of the helpers of the tests."""
    names = module.split(".")
    for n in range(1, len(names) + 1):
        place = TESTS.parent.joinpath(*names[:n])
        for path in (TESTS / f"{names[0]}.py", place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file() and (n > 1 or path.parent != PACKAGE or module == "diffusion"):
                yield path


def way_to_hydra(path, seen):
    """The files from a test to one that imports Hydra or OmegaConf, if there is a way."""
    seen.add(path)
    for module in imported(path):
        if module.split(".")[0] in ("hydra", "omegaconf"):
            return [path.name, module]
        for further in files_with(module):
            if further not in seen and (way := way_to_hydra(further, seen)):
                return [path.name, *way]
    return []


def files_of(room):
    return sorted((TESTS / room).glob("test_*.py")) if room != "theory" else THEORY


def test_every_room_has_its_tests():
    """And every folder of tests is a room's, or may know Hydra."""
    there = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert there == {*ROOMS, *KNOWING}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"assets"} <= there
    assert all(files_of(room) for room in ["theory", *ROOMS])


@pytest.mark.parametrize("room", ["theory", *ROOMS])
def test_no_test_of_a_room_asks_for_hydra(room):
    """Neither itself, nor by a helper, a fixture or a module of the package; nor does it start a script."""
    for path in files_of(room):
        assert not way_to_hydra(path, set()), way_to_hydra(path, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert "run" not in {argument.arg for argument in node.args.args}, f"{path.name}: {node.name}"
    assert not way_to_hydra(TESTS / "conftest.py", set())


@pytest.mark.parametrize("name", ["tests/config/test_configs.py", "diffusion/config/trained.py", "tests/test_model.py"])
def test_the_way_to_hydra_is_found(name):
    """Through a helper of the tests, in a module of the package, and through `import diffusion` for its `load`."""
    assert len(way_to_hydra(TESTS.parent / name, set())) > 1


def without_hydra(paths):
    """pytest of these files, in a process in which `import hydra` fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:hydra_pytest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *map(str, paths)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
        env={**env, "WITHOUT_HYDRA": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("room", ["theory", *ROOMS])
def test_a_room_is_tested_without_hydra(room):
    done = without_hydra(files_of(room))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.slow
def test_without_hydra_the_config_cannot_be_tested():
    done = without_hydra([TESTS / "config" / "test_leaderboard.py"])
    assert done.returncode != 0 and "may not be imported in the tests of this room" in done.stdout
