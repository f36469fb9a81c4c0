"""Parts of the user's own by the real command line: the commands of docs/your_own.md, and code that nobody trusts."""

import json
import re
import shutil
import sys

import pytest
import torch
from config_helpers import tiny_config
from conftest import CACHE, ROOT, ended

from diffusion.config import training_run
from diffusion.records import checkpoint

EXAMPLE = ROOT / "examples" / "own_parts"
TINY = ("training.budget=null", "training.steps=2", "training.batch_size=8", "preview.steps=1", "score.n=0")
TINY = (*TINY, "score.held_out=4", "data.n=64", "model.width=8", "device=cpu", f"features.cache={CACHE}")
MORE = {"train.py": TINY, "sample.py": ("n=2",), "evaluate.py": ("n=20", "features=pca", f"features.cache={CACHE}")}


@pytest.fixture
def copied(tmp_path):
    """The example in a folder of its own, where its commands find the scripts."""
    for name in ("train.py", "sample.py", "evaluate.py", "conf", "diffusion"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "own_parts")
    return tmp_path / "examples" / "own_parts"


def start(folder, script, *words, check=True):
    done = ended([sys.executable, str(script), *words], folder, check)
    return done.stdout + done.stderr


def commands(page, heading):
    """The commands of a part of a page, as a shell would part them."""
    part = page.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", part, re.DOTALL)).splitlines()
    return [line.split() for line in lines if line.startswith("python ")]


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(copied):
    found = commands(ROOT / "docs" / "your_own.md", "Your own parts")
    assert [words[1].rpartition("/")[2] for words in found] == ["train.py", "sample.py", "evaluate.py", "train.py"]
    for _, script, *words in found:
        start(copied, script, *words, *MORE[script.rpartition("/")[2]])
    first, second = (torch.load(path, weights_only=True) for path in sorted(copied.glob("outputs/train/*/last.pt")))
    assert first["config"]["model"] == {"_target_": "my_parts.Net", "width": 8, "blocks": 4}
    assert second["config"]["model"] == {"_target_": "my_parts.Net", "width": 8}
    assert first["own_parts"] == second["own_parts"] and "trust" not in first["config"]
    (scores,) = copied.glob("outputs/evaluate/*/metrics.json")
    assert json.loads(scores.read_text())["class_names"] == ["disc", "ring"]


@pytest.mark.slow
def test_the_example_is_tested(copied):
    assert " passed" in start(copied, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "test_my_parts.py")


@pytest.mark.slow
def test_an_own_network_by_the_command_line(copied):
    """Settings of a class, a wrong one, another folder to write into, a sweep; and a run that is gone on with."""
    given = ("trust=my_parts", "model._target_=my_parts.Net", "model.blocks=1", "--config-dir", "conf", "data=discs")
    text = start(copied, ROOT / "train.py", *given, "model.wdith=8", *TINY, check=False)
    assert "Unknown setting 'model.wdith': did you mean 'model.width'?" in text and "Traceback" not in text
    text = start(copied, ROOT / "train.py", "-m", *given, *TINY, "hydra.sweep.dir=sweep", "hydra.job.chdir=true")
    (run,) = (path.parent for path in (copied / "sweep").glob("*/last.pt"))
    assert re.search(r"continue with: python \S+train.py resume=sweep\S+ trust=my_parts\n", text)
    state = checkpoint.load(run / "last.pt")
    assert state["config"]["model"] == {"_target_": "my_parts.Net", "blocks": 1, "width": 8}
    text = start(copied, ROOT / "train.py", f"resume={run}", "training.steps=3", check=False)
    assert "its source is still the same): if you trust it, add trust=my_parts." in text and "Traceback" not in text
    with open(copied / "my_parts.py", "a", encoding="utf-8") as file:
        file.write("# more\n")
    again = (f"hydra.run.dir={run}", "hydra.job.chdir=true")
    text = start(copied, ROOT / "train.py", *given, *TINY, *again, check=False)
    assert "holds a run already, with another source of my_parts" in text and "Traceback" not in text
    assert checkpoint.load(run / "last.pt")["own_parts"] == state["own_parts"]
    text = start(copied, ROOT / "train.py", f"resume={run}", "training.steps=3", "trust=my_parts")
    assert "my_parts has changed since" in text
    changed = checkpoint.load(run / "last.pt")
    assert changed["step"] == 3 and changed["own_parts"] != state["own_parts"]


def test_a_checkpoint_from_a_stranger_runs_nothing_that_lies_here(tmp_path):
    trainer = training_run.build_trainer(tiny_config(), tmp_path / "run")
    state = trainer.state.state_dict()
    trainer.tracker.close()
    config = {**state["config"], "model": {"_target_": "my_parts.Net"}, "trust": ["my_parts"]}
    checkpoint.save(tmp_path / "file.pt", {**state, "config": config, "trust": ["my_parts"]})
    (tmp_path / "my_other_parts.py").write_text("", encoding="utf-8")
    (tmp_path / "my_parts.py").write_text("open('owned', 'w')\n", encoding="utf-8")
    text = start(tmp_path, ROOT / "sample.py", "checkpoint=file.pt", "trust=my_other_parts", check=False)
    assert "model._target_=my_parts.Net (my_parts: its source was not recorded): if you trust it" in text
    assert "Traceback" not in text and not (tmp_path / "owned").exists()


@pytest.mark.slow
def test_several_processes_and_those_that_read_images_find_the_module(copied):
    """torchrun's, and a worker that Python starts afresh, to which images of a class of the module are sent."""
    words = ("--config-dir", "conf", "model=net", "data=discs", *TINY, "hydra.run.dir=run")
    start(copied, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py"), *words)
    assert checkpoint.load(copied / "run" / "last.pt")["step"] == 2
    (copied / "my_files.py").write_text(
        "from torch.utils.data import Dataset\n"
        "class Squares(Dataset):\n"
        "    def __len__(self):\n"
        "        return 4\n"
        "    def __getitem__(self, index):\n"
        "        return index**2\n",
        encoding="utf-8",
    )
    (copied.parent.parent / "main.py").write_text(
        "from torch.utils.data import DataLoader\n"
        "from diffusion.config import trust\n"
        "if __name__ == '__main__':\n"
        "    with trust.given('my_files'):\n"
        "        squares = trust.load('my_files').Squares()\n"
        "    print([int(x) for x in DataLoader(squares, num_workers=1, multiprocessing_context='spawn')])\n",
        encoding="utf-8",
    )
    assert "[0, 1, 4, 9]" in start(copied, copied.parent.parent / "main.py")
