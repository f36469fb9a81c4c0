"""Who may import whom: a room only what lies below it, and Hydra only in the config."""

import ast
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import structure

FLOORS = (  # from the ground
    "system schedule objective ema networks optimizer",
    "data records denoiser timesteps",
    "sampler guidance variational",
    "loss drawing",
    "evaluation",
    "training tasks",
    "config",
    "export",
    "model assets",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = {name: path for name, path in structure.modules(ROOT).items() if structure.room(name) != structure.SCRIPTS}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "diffusion"])
def test_a_room_imports_only_what_lies_below_it(module):
    names, here = structure.imported(MODULES[module], MODULES), structure.room(module)
    for name in names:
        if name.startswith("diffusion."):
            there = structure.room(name)
            assert there == here or FLOOR[there] < FLOOR[here], name
    assert here == "config" or not {name.split(".")[0] for name in names} & {"hydra", "omegaconf"}


def test_no_circle():
    graph = structure.module_graph(ROOT)
    assert set(TopologicalSorter(graph).static_order()) >= MODULES.keys()


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py", "diffusion/export/__main__.py"])
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
        "sys",
        "typing",
        "hydra",
        "hydra.core.hydra_config",
        "hydra.types",
        "omegaconf",
        "diffusion.config",  # its module options, which knows no torch either
        "diffusion.config.cli",
    }
