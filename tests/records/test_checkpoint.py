"""Checkpoints: what is read, what is refused, and which run `latest` means."""

import os
import pickle
import shlex

import pytest
import torch
from conftest import same
from plain import state

from diffusion.records import checkpoint
from diffusion.system.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, with its last checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder / "last.pt", state())
    return folder


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.99])
def test_a_truncated_checkpoint_is_named(finished, tmp_path, keep):
    whole = (finished / "last.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"cut\.pt is no checkpoint of this project, or it is cut short"):
        checkpoint.load(path)


def test_other_files_are_refused_and_their_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    for name, content in (("text.pt", b"hello"), ("evil.pt", pickle.dumps(Evil()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="no checkpoint"):
            checkpoint.load(tmp_path / name)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint of this project"):
        checkpoint.load(tmp_path / "other.pt")
    assert not (tmp_path / "executed").exists()


def test_finding_runs(finished, tmp_path):
    assert checkpoint.find(str(finished)) == finished / "last.pt"
    assert checkpoint.find(str(finished / "last.pt")) == finished / "last.pt"
    with pytest.raises(UserError, match="no such file or folder"):
        checkpoint.find(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"holds no last\.pt"):
        checkpoint.find(str(tmp_path))
    with pytest.raises(UserError, match="there is no run under"):
        checkpoint.find("latest", str(tmp_path))
    for age, name in ((20, "old"), (10, "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.pt").write_bytes(b"")
        os.utime(tmp_path / name / "last.pt", (1e9 - age, 1e9 - age))
    assert checkpoint.find("latest", str(tmp_path)) == tmp_path / "new" / "last.pt"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES = {
    "truncated": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>not found</html>", encoding="utf-8"),
    "another file": lambda path: torch.save({"weights": torch.zeros(2)}, path),
    "of another format": lambda path: torch.save({**checkpoint.load(path), "format": 99}, path),
}


@pytest.fixture
def three(tmp_path):
    """A run with the checkpoints of steps 4 (before), 8 (last) and 6 (best)."""
    for name, step in (("previous.pt", 4), ("last.pt", 8), ("best.pt", 6)):
        checkpoint.save(tmp_path / name, state(step))
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "way_out", "step"), [("best.pt", "last.pt", 8), ("last.pt", "best.pt", 6), ("previous.pt", "last.pt", 8)]
)
def test_beside_a_damaged_checkpoint_the_newest_whole_one_is_offered(three, damage, name, way_out, step):
    DAMAGES[damage](three / name)
    way_on = f"another one of this run is whole, of step {step}: give {three / way_out} instead."
    with pytest.raises(UserError) as caught:
        checkpoint.load(three / name)
    assert str(caught.value).startswith(str(three / name)) and str(caught.value).endswith(way_on)
    assert checkpoint.load(three / way_out)["step"] == step


def test_what_is_damaged_too_is_not_offered(three):
    for name in ("last.pt", "best.pt"):
        cut(three / name)
    with pytest.raises(UserError, match=r"whole, of step 4: give .*previous\.pt instead\.$"):
        checkpoint.load(three / "best.pt")
    cut(three / "previous.pt")
    with pytest.raises(UserError, match=r"\(\S+previous\.pt and \S+best\.pt are damaged, too\)\.$"):
        checkpoint.load(three / "last.pt")
    (three / "other.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:  # a file of somebody's own, beside a run
        checkpoint.load(three / "other.pt")
    assert str(caught.value).endswith("it is no whole archive.")


def test_what_is_offered_can_be_pasted_into_a_shell(three):
    run = three.with_name("it's a run")
    three.rename(run)
    cut(run / "last.pt")
    with pytest.raises(UserError) as caught:
        checkpoint.load(run / "last.pt")
    assert shlex.split(str(caught.value).partition(": give ")[2]) == [str(run / "best.pt"), "instead."]


def test_checkpoints_that_took_each_others_place_are_read_as_what_they_are(three):
    (three / "last.pt").rename(three / "x")
    (three / "best.pt").rename(three / "last.pt")
    (three / "x").rename(three / "best.pt")
    assert checkpoint.load(checkpoint.find(str(three)))["step"] == 6
    assert checkpoint.load(three / "best.pt")["step"] == 8


def test_a_folder_without_its_last_checkpoint_names_the_others(three):
    (three / "last.pt").unlink()
    with pytest.raises(UserError, match=r"holds no last\.pt; another one of this run is whole, of step 6: give .*best"):
        checkpoint.find(str(three))


@pytest.mark.parametrize("name", ["last.pt", "model.safetensors"])
def test_every_bit_flip_that_matters_is_noticed(name, finished, tmp_path):
    """A flipped bit at 200 places: the checkpoint is refused, or nothing that is read from it has changed."""
    if name != "last.pt":
        saved = checkpoint.load(finished / "last.pt")
        checkpoint.save_model(finished / name, saved, saved["ema"]["network"])
    content = bytearray((finished / name).read_bytes())
    whole, path, refused = checkpoint.load(finished / name), tmp_path / name, 0
    for number in range(200):
        place = (number * 2_654_435_761) % (8 * len(content))
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        content[place // 8] ^= 1 << place % 8
        try:
            assert same(checkpoint.load(path), whole), place
        except UserError:
            refused += 1
    assert refused > 100  # the rest is padding between the entries
