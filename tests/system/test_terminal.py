"""Standard output and error that are closed or full: nothing fails, and nothing else gets into a file."""

import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from diffusion.system.progress import progress_bar
from diffusion.system.terminal import Forgiving, forgiving


class Full(io.StringIO):
    """A stream on a disk without space."""

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        raise OSError(28, "No space left on device")

    def isatty(self):
        raise ValueError("I/O operation on closed file")


def test_what_cannot_be_written_is_lost():
    stream = forgiving(Full())
    assert stream.write("four") == 4 and not stream.isatty()
    stream.writelines(["a", "b"])
    stream.flush()
    assert forgiving(stream) is stream


def test_what_can_be_written_is():
    inner = io.StringIO()
    stream = Forgiving(inner)
    print("hello", file=stream)
    assert inner.getvalue() == "hello\n" == stream.getvalue()


@pytest.mark.parametrize("stream", [None, Full()])
def test_bars_without_a_screen(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(3, "training", "images") as bar:
        for _ in range(3):
            bar.update()
    assert bar.n == 3


PROGRAM = """
import os, sys
from diffusion.system import terminal
terminal.forgive()
file = open("kept", "w")
assert file.fileno() > 2
print("to the screen"); print("to the screen", file=sys.stderr)
os.write(2, b"by a C library") if sys.argv[1] == "closed" else None
file.write("kept")
terminal.part()
sys.exit(3)
"""


@pytest.mark.parametrize("where", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
def test_the_exit_code_and_the_files_stay(tmp_path, where):
    kind = "closed" if "2>&-" in where else "full"
    command = f"\"{sys.executable}\" -c '{PROGRAM.replace(chr(39), chr(34))}' {kind} {where}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "kept").read_text(encoding="utf-8") == "kept"
