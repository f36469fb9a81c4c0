"""One run per folder, and texts that are the same wherever they are written."""

import ast
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from diffusion.system.errors import InUse
from diffusion.system.files import discard_partial, replacing, sole_use


def test_two_runs_do_not_share_a_folder(tmp_path):
    with sole_use(tmp_path / "run"):
        code = "import sys; from pathlib import Path; from diffusion.system.files import sole_use\n"
        code += "with sole_use(Path(sys.argv[1])): pass"
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "InUse" in other.stderr and "is in use by another run: wait for it" in other.stderr
    with sole_use(tmp_path / "run"):  # free again
        pass


def other(folder, then="pass"):
    """Another process that takes a folder; what it says."""
    code = "import os, sys, time; from pathlib import Path; from diffusion.system.files import sole_use\n"
    code += f"with sole_use(Path(sys.argv[1])) as held: print('in', flush=True); {then}"
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_no_lock_behind(tmp_path):
    process = other(tmp_path / "run", "time.sleep(60)")
    assert process.stdout.readline() == "in\n"
    with pytest.raises(InUse), sole_use(tmp_path / "run"):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / "run" / ".lock").exists()
    with sole_use(tmp_path / "run"):
        pass


def write(path):
    with replacing(path) as temporary:
        temporary.write_text("mine", encoding="utf-8")


def test_a_folder_that_is_deleted_is_made_again_and_still_held(tmp_path, caplog):
    folder = tmp_path / "run"
    with sole_use(folder):
        shutil.rmtree(folder)
        write(folder / "last.pt")
        assert (folder / "last.pt").read_text() == "mine" and caplog.text.count("was deleted: this run goes on") == 1
        assert "is in use by another run" in other(folder).communicate()[1]
        write(folder / "last.pt")
        assert caplog.text.count("was deleted") == 1
    assert not other(folder).communicate()[1]


@pytest.mark.parametrize("done", [False, True])
def test_a_run_whose_folder_is_another_ones_by_now_leaves_it_alone(tmp_path, done):
    """While the other one is at work, and when it is done and only what it left is there."""
    folder = tmp_path / "run"
    with sole_use(folder):
        shutil.rmtree(folder)
        process = other(folder, "Path(sys.argv[1], 'last.pt').write_text('theirs'); pass" if done else "time.sleep(60)")
        assert process.stdout.readline() == "in\n"
        if done:
            process.communicate("")
        with pytest.raises(InUse, match="was deleted while this run was at work in it, and another run has begun"):
            write(folder / "last.pt")
        process.kill()
        process.communicate()
    assert [path.name for path in sorted(folder.iterdir())] == [".lock", "last.pt"][: 1 + done]
    assert not done or (folder / "last.pt").read_text() == "theirs"


def test_what_is_half_written_is_removed_at_a_sudden_end(tmp_path):
    def ended():
        with replacing(tmp_path / "a.pt") as temporary:
            temporary.write_text("half", encoding="utf-8")
            discard_partial()
            assert not list(tmp_path.iterdir())

    with pytest.raises(FileNotFoundError):
        ended()


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
