"""Who may import whom: the core knows nothing of Hydra, and the mathematics as little as it can."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffusion"
HYDRA = {"build.py", "settings.py", "trained.py", "cli.py", "leaderboard.py"}
ALLOWED = {
    "schedule.py": set(),
    "objective.py": set(),
    "timesteps.py": {"schedule"},
    "variational.py": {"denoiser", "schedule"},
    "loss/weights.py": {"denoiser", "objective"},
    "loss/hybrid.py": {"denoiser", "loss.weights", "variational"},
    "loss/consistency.py": {"denoiser", "loss.weights", "objective"},
    "ema.py": set(),
    "device.py": {"errors", "ranks"},
    "optimizer.py": set(),
    "pacing.py": set(),
    "profiling.py": set(),
    "tracking.py": {"errors", "ranks"},
    "randomness.py": set(),
    "errors.py": set(),
    "pictures.py": {"files"},
    "networks/layers.py": set(),
    "networks/dit.py": {"networks.layers"},
    "networks/unet.py": {"networks.layers"},
    "networks/unet_simple.py": {"networks.layers"},
    "evaluation/metrics.py": set(),
    "evaluation/report.py": {"files"},
    "evaluation/cache.py": {"files", "untrusted"},
    "evaluation/plots.py": {"evaluation.report", "files", "pictures"},
    "evaluation/neighbours.py": {"data", "device"},
    "evaluation/samples.py": {"data", "errors", "untrusted"},
    "evaluation/likelihood.py": {
        *("data", "denoiser", "device", "errors", "evaluation.reference", "progress", "randomness", "schedule"),
        "variational",
    },
    "tasks/base.py": {
        *("data", "errors", "evaluation.reference", "evaluation.samples", "image_model", "pictures", "sampler"),
        "trained",
    },
    "tasks/inpaint.py": {"denoiser", "errors", "randomness", "sampler", "schedule", "tasks.base", "untrusted"},
    "tasks/image_to_image.py": {"sampler", "tasks.base"},
    "tasks/interpolate.py": {"denoiser", "errors", "pictures", "sampler", "tasks.base"},
    "tasks/invert.py": {"denoiser", "sampler", "schedule", "tasks.base"},
    "denoiser.py": {"schedule", "objective"},
    "guidance.py": {"denoiser", "schedule"},
    "sampler/base.py": {"denoiser", "progress", "randomness", "sampler.grid", "schedule"},
    "sampler/grid.py": {"schedule"},
    "sampler/ddim.py": {"denoiser", "sampler.base", "schedule"},
    "sampler/heun.py": {"sampler.base", "schedule"},
    "sampler/dpm_solver.py": {"sampler.base", "schedule"},
    "sampler/unipc.py": {"sampler.base", "schedule"},
    "sampler/consistency.py": {"sampler.base", "schedule"},
    "interruption.py": {"ranks"},
    "progress.py": {"ranks"},
    "checkpoint.py": {"errors", "files", "untrusted"},
    "data.py": {"errors", "randomness", "untrusted"},
    "datasets.py": {"data", "errors", "randomness", "untrusted"},
    "files.py": {"errors"},
    "untrusted.py": {"device", "errors"},
    "ranks.py": {"errors"},
}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if node.module == "diffusion" else node.module for alias in node.names
            }
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    names = imported(path)
    inner = str(path.relative_to(PACKAGE))
    if inner not in HYDRA:
        assert not any(name.split(".")[0] in ("hydra", "omegaconf") for name in names)
    if inner in ALLOWED:
        own = {name.removeprefix("diffusion.") for name in names if name.startswith("diffusion.")}
        assert own <= ALLOWED[inner]


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
        "diffusion.cli",
    }
