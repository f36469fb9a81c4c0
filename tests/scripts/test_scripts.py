"""The real command lines, on real images, in processes of their own."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import CACHE, ROOT, curve, same
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TINY = ("model.width=8", "model.groups=4", "model.head_width=8", "training.batch_size=8", "device=cpu")
SCORED = f"features.cache={CACHE}"
FAST = (*TINY, SCORED, "training.steps=6", "training.log_every=2", "preview.steps=2", "score.n=20", "score.held_out=16")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with `=` and `,` in its name, made by train.py."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "runs" / "a=1,b"
    command = [sys.executable, str(ROOT / "train.py"), *FAST, "sampler=ddim", f"hydra.run.dir='{folder}'"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def refusal(done):
    """The one sentence of a refused command."""
    text = done.stdout + done.stderr
    assert done.returncode != 0, text
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.strip()][-1]


def test_training_leaves_what_it_should(trained):
    assert {"last.pt", "best.pt", "grid.png", "metrics.json", "report.md", "config.yaml", "train.log"} <= {
        path.name for path in trained.iterdir()
    }
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["status"] == "finished" and metrics["n"] == 20 == metrics["real"]["n"] and metrics["step"] == 6
    assert 0 <= metrics["accuracy"] <= 1 and metrics["fid"] > metrics["real"]["fid"] > 0
    assert len(list(trained.rglob("events*"))) == 1
    pictures = re.findall(r"!\[.*\]\((.*?)\)", (trained / "report.md").read_text())
    assert len(pictures) >= 4 and all((trained / name).exists() for name in pictures)
    assert "resume=" in (trained / "train.log").read_text()


def test_sampling(trained, run, tmp_path):
    run(
        "sample.py",
        f"checkpoint={trained}",
        "n=7",
        "batch_size=3",
        "classes=[sneaker,8]",
        "sampler=ddpm",
        "sampler.steps=3",
        "guidance.scale=1.5",
        "gif=true",
        "png=true",
        "seed=7",
        "output_dir=new/one",
    )
    with np.load(tmp_path / "new" / "one" / "samples.npz", allow_pickle=False) as file:
        images, labels = file["arr_0"], file["arr_1"]
    assert images.shape == (7, 28, 28, 1) and images.dtype == np.uint8
    assert labels.tolist() == [7, 8, 7, 8, 7, 8, 7]
    assert len(list((tmp_path / "new" / "one" / "images" / "Sneaker").glob("*.png"))) == 4
    with Image.open(tmp_path / "new" / "one" / "images" / "Bag" / "000001.png") as picture:
        assert np.array_equal(np.array(picture), images[1, :, :, 0])
    with Image.open(tmp_path / "new" / "one" / "denoising.gif") as film:
        assert film.n_frames >= 2
    assert (tmp_path / "new" / "one" / "grid.png").exists()
    same = ("sampler=ddpm", "sampler.steps=3", "guidance.scale=1.5", "seed=7", "classes=[7,bag]")
    run("sample.py", f"checkpoint={trained}/last.pt", "n=7", "batch_size=7", *same, "hydra.run.dir=two")
    with np.load(tmp_path / "two" / "samples.npz") as file:
        other = file["arr_0"]
    assert np.abs(images.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.slow
def test_scoring_a_model_its_samples_and_a_folder(trained, run, tmp_path):
    drawn = ("n=30", "sampler.steps=2", "guidance.scale=2", "guidance.interval=[]", "repeats=2", SCORED)
    run("evaluate.py", f"checkpoint={trained}", *drawn, "hydra.run.dir=model")
    both = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert both["n"] == 30 and "2 steps" in both["protocol"]["images"] and both["seeds"]["count"] == 2
    assert both["settings"]["evaluations"] == 4 and both["settings"]["guidance"] == 2  # guided: two for each step
    assert both["settings"]["seconds"] > 0
    text = (tmp_path / "model" / "report.md").read_text()
    assert "test images" in text and "±" in text and "sampling seeds" in text
    assert "data:image/png" in (tmp_path / "model" / "report.html").read_text()
    assert {"grid.png", "neighbours.png", "confusion.png"} <= {path.name for path in (tmp_path / "model").iterdir()}
    events = EventAccumulator(str(tmp_path / "model")).Reload().Tags()
    assert "score/fid" in events["scalars"] and "score/neighbours" in events["images"]
    names = ("model/samples.npz", "model/samples_seed1.npz")
    given = ("data=fashion_mnist_mini", SCORED)
    run("evaluate.py", f"samples=[{','.join(names)}]", *given, "hydra.run.dir=file")
    sets = json.loads((tmp_path / "file" / "metrics.json").read_text())["sets"]
    assert [one["name"] for one in sets] == list(names)
    assert np.isclose(np.mean([one["fid"] for one in sets]), both["fid"], rtol=1e-12)
    assert "model/samples_seed1.npz, n = 30" in (tmp_path / "file" / "report.md").read_text()
    assert (tmp_path / "file" / "confusion_2.png").exists()
    scores = sets[0]
    with np.load(tmp_path / "model" / "samples.npz") as file:
        for i, image in enumerate(file["arr_0"]):
            target = tmp_path / "pngs" / "Bag" / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[:, :, 0]).save(target)
    run("evaluate.py", "samples=pngs", *given, "features=pca", "hydra.run.dir=pca")
    pca = json.loads((tmp_path / "pca" / "metrics.json").read_text())
    assert pca["fid"] > 0 and pca["inception_score"] is None and pca["accuracy"] is None
    run("evaluate.py", "samples=pngs", *given, "hydra.run.dir=folder")
    folder = json.loads((tmp_path / "folder" / "metrics.json").read_text())
    assert abs(folder["fid"] - scores["fid"]) < 1e-6 * scores["fid"]


WRONG = [
    ("train.py", ["trainng.steps=3"], "Unknown setting 'trainng.steps': did you mean 'training.steps'"),
    ("train.py", ["stepss=3"], "Unknown setting 'stepss': did you mean"),
    ("sample.py", ["guidance=none", "checkpoint=RUN"], "'guidance' has no options here, only settings: guidance.scale"),
    ("train.py", ["+unknown=1"], "Unknown setting 'unknown': choose from"),
    ("train.py", ["+model.wdth=1"], "Unknown setting 'model.wdth': did you mean 'model.width'"),
    ("train.py", ["training.steps=abc"], "training.steps='abc' has the wrong type"),
    ("train.py", ["+seed=1"], "The setting 'seed' exists already"),
    ("train.py", ["data=null"], "data=null: choose an option by its name, or leave this out"),
    ("train.py", ["preview=3"], "preview=3: choose an option by its name, or leave this out"),
    ("train.py", ["preview=nothing"], "preview=nothing: there is no such option; choose one of"),
    ("train.py", ["seed=-1"], "seed=-1 must be 0 or more"),
    ("train.py", ["hydra.run.dir='RUN'"], "holds a run already, with another model than this command asks for"),
    ("train.py", ["seed=abc"], "seed='abc' has the wrong type"),
    ("train.py", ["experiment=consistency"], "loss=consistency teaches a trained model to draw in few steps: add"),
    (
        "train.py",
        ["guidance.plus_plus=true", "guidance.scale=0.5", "sampler=ddim", "preview=unipc"],
        "The preview UniPC cannot be used",
    ),
    ("train.py", ["ema=power", "ema.decay=0.9"], "Unknown setting 'ema.decay'"),
    ("train.py", ["checkpoint=RUN", "loss=hybrid"], "was trained without loss=hybrid"),
    (
        "sample.py",
        ["checkpoint=RUN", "sampler.order=3"],
        "sampler.order=3 is no setting of the sampler DDIM: choose one",
    ),
    (
        "sample.py",
        ["checkpoint=RUN", "sampler.variance=forward"],
        "has no effect without fresh noise: add sampler.eta=1",
    ),
    (
        "sample.py",
        ["checkpoint=RUN", "task=inpait"],
        "there is no such option; choose one of generate, image_to_image, inp",
    ),
    ("sample.py", ["checkpoint=RUN", "task=inpaint", "task.mask=middle"], "task.mask=middle is no image file"),
    ("sample.py", ["checkpoint=RUN", "task=inpaint", "gif=true"], "gif=true films new images alone"),
    ("sample.py", ["checkpoint=RUN", "task=invert", "sampler.steps=5"], "sampler.steps=5 has no effect on task=invert"),
    (
        "sample.py",
        ["checkpoint=RUN", "task=invert", "guidance.scale=3"],
        "guidance.scale=3 has no effect on task=invert",
    ),
    ("sample.py", ["checkpoint=RUN", "task=invert", "batch_size=0"], "batch_size=0 must be at least 1"),
    ("evaluate.py", ["checkpoint=RUN", "likelihood_steps=9"], "likelihood_steps=9 has no effect without likelihood="),
    (
        "train.py",
        ["schedule=cosin"],
        "schedule=cosin: there is no such option; choose one of cosine, edm, flow, linear",
    ),
    ("train.py", ["schedule={"], "'schedule={' cannot be read"),
    ("train.py", ["guidance=none", "guidance.scale=2"], "the chosen option of guidance has no settings"),
    ("train.py", ["guidance.dropout=1.2"], "guidance.dropout=1.2 must lie between 0 and 1"),
    ("train.py", ["model.multipliers=[1,1,1,1,1]"], "cannot be halved 4 times"),
    ("train.py", ["resume=nowhere"], "resume=nowhere: there is no such file or folder"),
    ("train.py", ["hydra.run.dir=/proc/nowhere"], "/proc/nowhere"),
    ("train.py", ["data=image_folder"], "data.root must be given"),
    ("train.py", ["data=image_folder", "data.root=empty"], "empty"),
    ("sample.py", [], "checkpoint must be given: add checkpoint="),
    ("sample.py", ["checkpoint=nowhere"], "checkpoint=nowhere: there is no such file or folder"),
    ("sample.py", ["checkpoint=latest"], "checkpoint=latest: there is no run under outputs/ yet"),
    ("sample.py", ["checkpoint=text.pt"], "text.pt is no checkpoint of this project"),
    ("sample.py", ["checkpoint=RUN", "n=0"], "n=0"),
    ("sample.py", ["checkpoint=RUN", "n=-5"], "n=-5 must be at least 1"),
    ("train.py", ["guidance.dropout=0", "guidance.scale=2"], "guidance.scale=2 must be 1"),
    ("train.py", ["training.epochs=inf"], "training.epochs=inf has the wrong type"),
    ("sample.py", ["checkpoint=RUN", "classes=10"], "classes=10: the labels go from 0 to 9"),
    ("sample.py", ["checkpoint=RUN", "classes=hat"], "classes=hat: there is no such class; choose from T-shirt"),
    ("sample.py", ["checkpoint=RUN", "schedule=linear"], "'schedule': it comes from the checkpoint"),
    ("sample.py", ["checkpoint=RUN", "sampler.steps=0"], "sampler.steps=0"),
    ("evaluate.py", [], "Give either checkpoint=RUN"),
    ("evaluate.py", ["checkpoint=RUN", "n=0"], "n=0"),
    ("evaluate.py", ["samples=text.pt", "data=fashion_mnist_mini"], "samples=text.pt is no .npz"),
    ("evaluate.py", ["samples=x.npz", "n=5"], "n=5 says how to draw from a checkpoint"),
    ("evaluate.py", ["samples=[]"], "samples=[]: give one or more files or folders"),
    ("evaluate.py", ["samples=[a.npz,a.npz]"], "give one or more files or folders, each once"),
    ("evaluate.py", ["samples=[nowhere.npz]"], "samples=nowhere.npz: no such file or folder"),
    ("evaluate.py", ["checkpoint=RUN", "repeats=0"], "repeats=0 at least 1"),
    ("evaluate.py", ["checkpoint=RUN", "features=inception", "features.weights=no"], "features.weights=no does not"),
    ("evaluate.py", ["checkpoint=RUN", "features=module"], "features.network._target_ must be given"),
    ("evaluate.py", ["checkpoint=RUN", "features=module", "features.network._target_=os.system"], "is no torch.nn"),
]


# Imports once what takes seconds, and runs every command as a script in a process forked from there.
FORKING = """
import json, os, runpy, sys
import torch, hydra
import diffusion.config.build, diffusion.config.trained, diffusion.training.loop, diffusion.evaluation.scoring
for number, (script, arguments) in enumerate(json.loads(sys.stdin.read())):
    child = os.fork()
    if not child:
        with open(f"{number}.txt", "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [script, *arguments]
        sys.path[0] = os.path.dirname(script)
        code = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else bool(end.code)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    with open(f"{number}.code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
"""


@pytest.fixture(scope="module")
def answers(trained, tmp_path_factory):
    """What each of the WRONG commands ends with."""
    home = tmp_path_factory.mktemp("wrong")
    (home / "text.pt").write_text("hello")
    (home / "empty").mkdir()
    cases = [(str(ROOT / script), [a.replace("RUN", str(trained)) for a in given]) for script, given, _ in WRONG]
    subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(cases), cwd=home, text=True, timeout=240, check=True
    )
    return [
        subprocess.CompletedProcess(case, int((home / f"{i}.code").read_text()), (home / f"{i}.txt").read_text(), "")
        for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda i: " ".join([WRONG[i][0], *WRONG[i][1]]))
def test_what_is_wrong_is_one_sentence(answers, number):
    assert WRONG[number][2] in refusal(answers[number])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_asked_for_and_absent(run):
    assert "device=cpu" in refusal(run("train.py", "device=cuda", "device.index=1", check=False))


def test_a_truncated_checkpoint(trained, run, tmp_path):
    (tmp_path / "cut.pt").write_bytes((trained / "last.pt").read_bytes()[:5000])
    assert "cut.pt is no checkpoint" in refusal(run("evaluate.py", "checkpoint=cut.pt", check=False))


def test_a_half_written_data_file(run, tmp_path):
    (tmp_path / "data" / "fashion_mnist").mkdir(parents=True)
    (tmp_path / "data" / "fashion_mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00half")
    assert "train-images-idx3-ubyte.gz is damaged" in refusal(run("train.py", "data=fashion_mnist", check=False))


@pytest.mark.slow
def test_a_sweep_with_a_failing_job(run, tmp_path):
    done = run(
        "train.py", "-m", *FAST, "training.steps=2", "schedule=linear,cosine", "guidance.dropout=0.1,7", check=False
    )
    assert done.returncode != 0 and "Leaderboard" in done.stdout
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert len(folders) == 4 and not any(set("=,/") & set(path.name) for path in folders)
    with open(sweep / "leaderboard.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["finished", "finished", "failed", "failed"]
    assert float(table[0]["fid"]) <= float(table[1]["fid"])
    assert "guidance.dropout=7 must lie between" in table[2]["error"]
    failed = next(path for path in folders if path.name == table[2]["folder"])
    assert "Traceback" in (failed / "train.log").read_text()  # in its own log, not on the screen
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_of_samplers_and_scales_draws_curves(trained, run, tmp_path):
    given = (f"checkpoint='{trained}'", "n=20", SCORED, "sampler=ddim,ddpm", "sampler.steps=1,2", "guidance.scale=1,2")
    done = run("evaluate.py", "-m", *given)
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    assert "curves.png" in done.stdout
    with Image.open(sweep / "curves.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(10**6)) > 10
    assert "curves" in EventAccumulator(str(sweep)).Reload().Tags()["images"]
    with open(sweep / "leaderboard.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8 and all(0 <= float(row["recall"]) <= 1 for row in table)


@pytest.mark.slow
def test_a_network_of_the_user_from_the_working_directory(trained, run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Pool(torch.nn.Module):\n"
        "    def __init__(self, size=2):\n"
        "        super().__init__()\n"
        "        self.pool = torch.nn.AdaptiveAvgPool2d(size)\n"
        "    def forward(self, x):\n"
        "        return self.pool(x)\n"
    )
    mine = ("features=module", "features.network._target_=mine.Pool", "+features.network.size=3")
    run("evaluate.py", f"checkpoint={trained}", "n=20", "sampler.steps=2", *mine, "hydra.run.dir=here")
    scores = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert scores["protocol"]["features"] == 9 and scores["protocol"]["scorer"].startswith("mine.Pool")
    assert scores["inception_score"] is None and scores["fid"] > scores["real"]["fid"]


@pytest.mark.parametrize("value", ["", "0"])
def test_full_errors_are_asked_for_by_one_alone(run, value):
    done = run("train.py", "model.widht=3", check=False, env={"HYDRA_FULL_ERROR": value})
    assert "Unknown setting 'model.widht': did you mean 'model.width'" in refusal(done)


def test_a_system_that_writes_ascii(run, tmp_path):
    """A terminal without UTF-8, as on Windows or in a bare container: reports, tables and the log hold × and σ."""
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    run("train.py", "-m", "seed=0", *FAST, "hydra.sweep.dir=sweep", env=ascii_only)
    for name, sign in (("report.md", "×"), ("report.html", "×"), ("train.log", "σ")):
        (path,) = (tmp_path / "sweep").glob(f"*/{name}")
        assert sign in path.read_text(encoding="utf-8"), name
    assert "seed" in (tmp_path / "sweep" / "leaderboard.csv").read_text(encoding="utf-8")


def test_other_working_directories_and_help(run, tmp_path):
    help_text = run("train.py", "--help").stdout
    assert "schedule: cosine, edm, flow, linear, quadratic, sigmoid" in help_text
    shown = run("train.py", "--cfg", "job", "experiment=base").stdout
    assert "diffusion.schedule.Linear" in shown
    assert not (tmp_path / "outputs").exists()


def start(tmp_path, *arguments):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},  # as in `run`: other threads add up in another order
    )


def wait_for(condition, process, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


LONG = (
    *TINY,
    "training.steps=200",
    "training.checkpoint_every=5",
    "score.held_out=0",
    "score.n=0",
    "preview.steps=1",
)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path, *LONG, "training.steps=100000", "hydra.run.dir=run")
    wait_for((tmp_path / "run" / "last.pt").exists, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in text
    message = re.search(r"Stopped at step (\d+) of 100000, saved; continue with: python \S*train.py (resume=run)", text)
    assert message, text
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == int(message.group(1))


@pytest.mark.slow
def test_kill_nine_and_resume_is_bit_identical(run, tmp_path):
    run("train.py", *LONG, "hydra.run.dir=whole")
    process = start(tmp_path, *LONG, "hydra.run.dir=cut")
    wait_for((tmp_path / "cut" / "last.pt").exists, process)
    time.sleep(random.uniform(0.1, 1.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    killed_at = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)["step"]
    assert killed_at < 200
    run("train.py", "resume=cut")
    whole, cut = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "cut"))
    assert cut["step"] == whole["step"] == 200
    for key in ("network", "ema", "optimizer", "sums"):
        assert same(whole[key], cut[key]), f"{key} differs after a kill near step {killed_at}"
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
    assert not (tmp_path / "outputs").exists()  # it went on in its own folder


SHORT = (
    "training.steps=3",
    "training.batch_size=4",
    "preview.steps=2",
    "score.n=20",
    "score.held_out=8",
    "device=cpu",
)


@pytest.mark.slow
@pytest.mark.full_data
@pytest.mark.parametrize("rung", ["base", "improved", "cosine", "cfg", "ema"])
def test_every_rung_trains_samples_and_scores(run, tmp_path, rung):
    run("train.py", f"experiment={rung}", *SHORT, "model.width=8", "model.time_width=16", "hydra.run.dir=run")
    run("sample.py", "checkpoint=run", "n=10", "sampler.steps=4", "hydra.run.dir=drawn")
    with np.load(tmp_path / "drawn" / "samples.npz") as file:
        assert file["arr_0"].shape == (10, 28, 28, 1)
        assert ("arr_1" in file.files) == (rung in ("cfg", "ema"))
    run("evaluate.py", "checkpoint=run", "n=20", "sampler.steps=4", "hydra.run.dir=scored")
    scores = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert scores["protocol"]["reference"] == "60000 training images of fashion_mnist"
    assert scores["real"]["fid"] < scores["fid"]


@pytest.mark.slow
def test_colour_images_without_labels(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(generator.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    options = ("data=image_folder", f"data.root={folder}", "data.image_size=16", "guidance=none")
    done = run("train.py", *FAST, *options, "hydra.run.dir=run")
    assert "it is scored by features=pca" in done.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["fid"] > 0
    run("sample.py", "checkpoint=run", "n=3", "sampler.steps=2", "hydra.run.dir=drawn")
    with np.load(tmp_path / "drawn" / "samples.npz") as file:
        assert file["arr_0"].shape == (3, 16, 16, 3)


@pytest.mark.slow
def test_other_data_trains_its_own_scorer_once(run, tmp_path):
    folder = tmp_path / "shades"
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = generator.integers(low, low + 128, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    options = ("data=image_folder", f"data.root={folder}", "data.image_size=16", "features.epochs=2")
    done = run("train.py", *FAST, *options, "hydra.run.dir=run")
    assert "Training a scoring classifier" in done.stderr
    done = run("evaluate.py", "checkpoint=run", "n=20", "sampler.steps=2", "features.epochs=2", SCORED)
    assert "Training a scoring classifier" not in done.stderr
    assert "marked" not in done.stderr


@pytest.mark.slow
def test_training_on_from_a_trained_model(trained, run, tmp_path):
    """Consistency tuning takes model, data and averaged weights from the run, and is a run of its own."""
    from diffusion.records import checkpoint

    quick = (
        "training.steps=2",
        "training.batch_size=4",
        "training.warmup=0",
        "score.n=0",
        "score.held_out=8",
        "device=cpu",
    )
    given = ("experiment=consistency", f"checkpoint={trained}")
    run("train.py", *given, *quick, "hydra.run.dir=tuned")
    before, after = checkpoint.load(trained / "last.pt"), checkpoint.load(tmp_path / "tuned" / "last.pt")
    assert after["config"]["loss"]["_target_"].endswith("Consistency") and after["step"] == 2
    for name in ("model", "schedule", "objective", "data"):
        assert after["config"][name] == before["config"][name]
    moved = [
        float((after["network"][name] - value).abs().max() / value.abs().max().clamp(min=1e-3))
        for name, value in before["ema"]["network"].items()
        if value.is_floating_point()
    ]
    assert 0 < max(moved) < 0.5  # two small steps from the averaged weights, not a new start
    run("train.py", "resume=tuned", "training.steps=3")
    assert checkpoint.load(tmp_path / "tuned" / "last.pt")["step"] == 3
