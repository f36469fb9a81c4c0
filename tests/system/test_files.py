"""One run per folder."""

import subprocess
import sys

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
