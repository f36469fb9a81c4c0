"""A wheel holds all that Python needs: it trains and draws in an environment that has never seen the repository."""

import shutil
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec

import pytest
from conftest import ROOT, ended

COMMAND = """
import diffusion, sys
assert "torch" not in sys.modules
config = diffusion.compose("model.width=8", "model.groups=4", "model.head_width=8", "device=cpu", "training.steps=2",
    "training.batch_size=8", "training.preview_every=0", "preview.steps=2", "score.n=0", "score.held_out=8")
assert diffusion.train(config, "run").sample(2, steps=2).shape == (2, 1, 28, 28)
print(diffusion.__file__)
try:
    diffusion.compose("model.widht=8")
except diffusion.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_wheel_carries_its_options(tmp_path):
    source = tmp_path / "source"
    for name in ("diffusion", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    able = find_spec("setuptools") and find_spec("setuptools.command.bdist_wheel")  # older ones fetch a newer one
    built = ["--no-build-isolation"] if able else []
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    ended([*pip, "wheel", str(source), "--no-deps", "-q", "-w", str(tmp_path), *built], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.removeprefix("diffusion/") for name in archive.namelist()}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")} <= inside
    parts = [path for path in (ROOT / "diffusion" / "export" / "page_parts").iterdir() if path.is_file()]
    assert parts and {f"export/page_parts/{path.name}" for path in parts} <= inside
    assert not {"train.py", "setup.py", "tests"} & {name.split("/")[0] for name in inside}

    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = next((tmp_path / "env").glob("[bS]*/python*"))
    place = next((tmp_path / "env").rglob("site-packages"))
    ended([*pip, "install", "-q", "--no-deps", "--target", str(place), str(wheel)], tmp_path)
    (place / "zz_what_it_needs.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    done = ended([str(python), "-c", COMMAND], tmp_path / "empty", env={"PYTHONPATH": ""})
    assert str(place / "diffusion") in done.stdout
    assert "Unknown setting 'model.widht': did you mean 'model.width'" in done.stdout
