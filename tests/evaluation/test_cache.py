"""What was computed once and is kept."""

import numpy as np
import pytest

from diffusion.evaluation import cache as cache_module
from diffusion.evaluation.cache import remembered
from diffusion.system.array_files import read_arrays


def test_what_was_computed_is_kept_and_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    calls = []

    def make():
        calls.append(1)
        return {"x": np.arange(3)}

    path = tmp_path / "deep" / "x.npz"
    for _ in range(2):
        assert remembered(path, "numbers", make)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:40])
    assert remembered(path, "numbers", make)["x"].tolist() == [0, 1, 2] and len(calls) == 2

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    path.unlink()
    monkeypatch.setattr(cache_module, "save_arrays", full_disk)
    assert remembered(path, "numbers", make)["x"].tolist() == [0, 1, 2]  # it can go on without


def test_a_cached_file_that_was_damaged_is_an_error_that_is_caught(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(1000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="its array x"):
        read_arrays(tmp_path / "a.npz")
