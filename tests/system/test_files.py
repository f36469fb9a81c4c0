"""One run per folder, and texts that are the same wherever they are written."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

from diffusion.system.files import sole_use


def test_two_runs_do_not_share_a_folder(tmp_path):
    with sole_use(tmp_path / "run"):
        code = "import sys; from pathlib import Path; from diffusion.system.files import sole_use\n"
        code += "with sole_use(Path(sys.argv[1])): pass"
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "InUse" in other.stderr and "is in use by another run: wait for it" in other.stderr
    with sole_use(tmp_path / "run"):  # free again
        pass


@pytest.mark.parametrize("path", sorted(ROOT.glob("diffusion/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_utf_8_whatever_the_system_prefers(path):
    """An encoding is named wherever a text is read or written, for σ and × and the names of classes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
        writes = name == "open" and modes in (["w"], ["r"], ["x"])
        if name in ("write_text", "read_text") or writes:
            assert "encoding" in {keyword.arg for keyword in node.keywords}, f"{path.name}:{node.lineno}"
