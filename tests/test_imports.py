"""Who may import whom: a room only what lies below it, and Hydra only in the config."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffusion"
FLOORS = (  # from the ground
    "system schedule objective ema networks optimizer",
    "data records denoiser timesteps",
    "sampler guidance variational",
    "loss drawing",
    "evaluation",
    "training tasks",
    "config",
    "model assets",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(path):
    """All modules that a file imports, wherever in it, and the names in them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in found}
    return names


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize("module", [module for module in MODULES if module != "diffusion"])
def test_a_room_imports_only_what_lies_below_it(module):
    names = imported(MODULES[module])
    for name in names:
        if name.startswith("diffusion."):
            assert room(name) == room(module) or FLOOR[room(name)] < FLOOR[room(module)], name
    assert room(module) == "config" or not {name.split(".")[0] for name in names} & {"hydra", "omegaconf"}


def test_no_circle():
    graph = {module: imported(path) & MODULES.keys() for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
def test_scripts_start_without_torch(script):
    """So that --help and tab completion are quick: torch is imported inside `main`."""
    top = [
        node for node in ast.parse((ROOT / script).read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert names <= {
        "collections.abc",
        "contextlib",
        "logging",
        "os",
        "pathlib",
        "typing",
        "hydra",
        "hydra.core.hydra_config",
        "hydra.types",
        "omegaconf",
        "diffusion.config.cli",
    }
