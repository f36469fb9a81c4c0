"""Files that are read with care: what is whole comes back as it was written, and is one thing to every reader."""

import zipfile

import plain
import torch
from conftest import same
from hostile import two_directories

from diffusion.system import untrusted


def test_what_is_read_is_what_was_written(tmp_path):
    network = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    content = {
        "tensors": [torch.randn(3, 4), torch.arange(5), torch.tensor([True]), torch.zeros(2, dtype=torch.bfloat16)],
        "weights": network.state_dict(),
        "nested": {"a": (1, 2.5, None, "text", True), 3: []},
    }
    torch.save(content, tmp_path / "file.pt")
    found = untrusted.read_torch(tmp_path / "file.pt")
    assert same(found, {**content, "weights": dict(content["weights"])})
    assert found["weights"]["weight"].stride() == network.weight.stride()


def test_what_both_readers_find_is_one_archive(tmp_path):
    """The archive with two directories is what it is said to be; and a whole checkpoint is no such archive."""
    two_directories(tmp_path / "file.pt")
    with zipfile.ZipFile(tmp_path / "file.pt") as file:
        assert b"bytearray" not in file.read("archive/data.pkl")
    assert b"bytearray" in torch._C.PyTorchFileReader(str(tmp_path / "file.pt")).get_record("data.pkl")
    for old in (True, False):  # without and with a directory of 64 bits
        torch.save(plain.state(), tmp_path / "whole.pt")
        if old:
            with zipfile.ZipFile(tmp_path / "whole.pt", "a") as file:
                file.writestr("whole/more", b"x")
        untrusted.check_end(tmp_path / "whole.pt")
