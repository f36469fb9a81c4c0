"""The door for Python: the settings, weights and scores of the scripts, in a process that does other things as well."""

import json
import logging
import sys

import hydra
import numpy as np
import pytest
import torch
from config_helpers import train_config
from conftest import CACHE, ROOT, ended, same
from hydra import version
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import diffusion
from diffusion.config import command, training_run
from diffusion.config.composing import changes, said
from diffusion.data.images import Images
from diffusion.evaluation.score_table import ScoreTable
from diffusion.records import checkpoint
from diffusion.records.results import write_json
from diffusion.system.errors import InUse, UserError

NETWORK = ["model.width=8", "model.groups=4", "model.head_width=8"]
TINY = [
    *NETWORK,
    *("training.batch_size=8", "training.steps=4", "training.log_every=3", "training.checkpoint_every=4"),
    *("training.preview_every=0", "score.held_out=32", "preview.steps=2", "score.n=20", "score.batch_size=20"),
    *(f"features.cache={CACHE}", "device=cpu", "device.precision=fp32"),
]
FEATURES = {"data": "fashion_mnist_mini", "features": {"cache": CACHE}}
SCORED = ("n", "fid", "kid", "precision", "recall", "accuracy", "inception_score", "real", "scale", "memorisation")
# Runs scripts as from a shell, in processes forked from one that has imported what takes seconds.
FORKING = """
import json, os, runpy, sys
import diffusion.config.whole_evaluation, diffusion.config.whole_run
for script, *arguments in json.loads(sys.argv[1]):
    if not os.fork():
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
    _, status = os.wait()
    assert status == 0, (script, status)
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder where train.py and evaluate.py have run, as a person starts them."""
    folder = tmp_path_factory.mktemp("shell")
    drawing = ["n=20", "sampler.steps=2", "guidance.scale=1.5", "seed=3"]
    place = [f"features.cache={CACHE}", "device=cpu", "device.precision=fp32"]
    commands = [
        [str(ROOT / "train.py"), *TINY, "hydra.run.dir=run"],
        [str(ROOT / "evaluate.py"), "checkpoint=run", *drawing, *place, "hydra.run.dir=scores"],
        [
            str(ROOT / "evaluate.py"),
            "samples=scores/samples.npz",
            "data=fashion_mnist_mini",
            *place,
            "hydra.run.dir=mine",
        ],
    ]
    done = ended([sys.executable, "-c", FORKING, json.dumps(commands)], folder)
    (folder / "screen.txt").write_text(done.stderr, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run from Python, without scores: the model, its folder."""
    folder = tmp_path_factory.mktemp("python") / "run"
    return diffusion.train([*TINY, "score.n=0"], folder), folder


# ------------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize("words", [[], ["experiment=ema", "model.width=32"], ["sampler=heun", "seed=3", "track=null"]])
def test_the_settings_are_those_of_the_command_line(words):
    """As Hydra's own API composes them."""
    expected = {name: node for name, node in train_config(*words).items() if name != "output_dir"}
    assert diffusion.compose(*words) == expected


def test_words_and_changes_are_one():
    """What is changed counts as if it had been said: a length replaces that of an experiment."""
    config = diffusion.compose("experiment=best")
    assert config["training"]["budget"] == "15min"
    config["training"]["steps"], config["seed"] = np.int64(4), 2
    config["guidance"]["interval"] = (0.0, 1.5)
    assert config.overrides()[0] == "experiment=best"
    assert set(config.overrides()[1:]) == {"guidance.interval=[0.0, 1.5]", "training.steps=4", "seed=2"}
    said_at_once = diffusion.compose(*config.overrides())
    assert said_at_once["training"]["budget"] is None and said_at_once["guidance"]["interval"] == [0.0, 1.5]
    other = config.copy()
    other["seed"] = 5
    assert config["seed"] == 2 and "seed=5" in other.overrides()
    assert "width:" in repr(config) and OmegaConf.create(repr(config))["seed"] == 2


@pytest.mark.parametrize(
    ("words", "change", "left"),
    [
        (["model.width=32", "training.budget=1min"], {"steps": 500}, {"steps": 500}),
        (["training.budget=3s"], {"steps": 3, "budget": None}, {"steps": 3}),
        (["training.steps=2"], {"images": 24}, {"images": 24}),
        (["training.steps=2"], {"budget": "3s"}, {"budget": "3s"}),
        (["training.epochs=2"], {"steps": 3}, {"steps": 3}),
        (["+training.epochs=2", "training.images=16"], {"images": 24}, {"images": 24}),
        (["experiment=best", "training.steps=2"], {"epochs": 3}, {"epochs": 3}),
        (["training.steps=2"], {"steps": 3}, {"steps": 3}),
        (["training.steps=2"], {"log_every": 1}, {"steps": 2}),
        (["training.budget=3s"], {"budget": None}, {}),
    ],
)
def test_the_length_that_was_changed_last_is_the_length(words, change, left):
    config = diffusion.compose(*words)
    config["training"].update(change)
    training = diffusion.compose(*config.overrides())["training"]
    found = {name: training[name] for name in ("steps", "epochs", "budget") if training[name] is not None}
    assert found == {name: value for name, value in left.items() if name != "images"}
    assert training["images"] == config["training"]["images"] == left.get("images", training["images"])


def test_a_run_is_as_long_as_the_changed_setting_says(tmp_path):
    others = [word for word in TINY if word != "training.steps=4"]
    config = diffusion.compose(*others, "score.n=0", "training.budget=1min")
    config["training"]["images"] = 24  # three batches of eight
    state = diffusion.train(config, tmp_path / "run", progress=False).state
    assert state["step"] == state["total_steps"] == 3 and state["config"]["training"]["budget"] is None


def test_a_change_as_a_word():
    before = {"a": 1, "b": {"c": "x", "d": None}, "e": [1]}
    now = {"a": 1, "b": {"c": "a b, c", "f": True}, "g": {"h": 0.5}}
    assert list(changes(before, now)) == ["b.c='a b, c'", "~b.d", "b.f=true", "~e", "g.h=0.5"]
    assert list(said("n", torch.tensor(3))) == ["n=3"]
    with pytest.raises(UserError, match=r"n=<object .*must be a number, a text"):
        list(said("n", object()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.widht=8"], r"^Unknown setting 'model.widht': did you mean 'model.width'"),
        (["preview=nonsense"], "^preview=nonsense: there is no such option"),
        (["sampler.eta=1"], "^Unknown setting 'sampler.eta' for the chosen sampler: add sampler=ddim"),
        (["seed"], "^'seed' cannot be read: write name=value"),
        (["seed=0,1"], r"^seed=0,1: give one of these to each run, or write seed=\[0,1\] for a list"),
        ([3], "^3 is no setting: write a text with name=value"),
        (["resume=nowhere"], "^resume=nowhere: there is no such file or folder"),
        (["trust=no_such_parts"], "^trust=no_such_parts: there is no such module"),
        (["output_dir=mine"], "^output_dir=mine is for the command line alone: give folder= to diffusion.train"),
        (["hydra.run.dir=mine"], "^hydra.run.dir=mine is for the command line alone: give folder="),
        (["++hydra.mode=MULTIRUN"], r"^\+\+hydra.mode=MULTIRUN is for the command line alone"),
        (["hydra/job_logging=none"], "^hydra/job_logging=none is for the command line alone"),
    ],
)
def test_what_is_wrong_is_the_sentence_of_the_command_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        diffusion.compose(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(widht=8), r"^Unknown setting 'model.widht': did you mean 'model.width'"),
        (lambda c: c.update(sead=1), r"^Unknown setting 'sead': did you mean 'seed'\?$"),
        (lambda c: c["training"].update(steps="many"), "^training.steps='many' has the wrong type"),
        (lambda c: c["training"].update(steps=object()), "^training.steps=<object"),
        (lambda c: c["model"].update(_target_="os.system"), "^model._target_=os.system is not allowed"),
        (lambda c: c["model"].update(_target_="my_parts.Net"), "if you trust it, add trust=my_parts"),
        (lambda c: c.pop("data"), "data"),
        (lambda c: c.update(output_dir="mine"), "^output_dir is for the command line alone: give folder="),
        (lambda c: c.update(hydra={"mode": "MULTIRUN"}), "^hydra is for the command line alone: give folder="),
    ],
)
def test_a_change_that_is_wrong_is_told_by_train(change, message, tmp_path):
    config = diffusion.compose(*TINY)
    change(config)
    with pytest.raises(UserError, match=message):
        diffusion.train(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/*.pt"))


def test_hydra_of_ones_own_is_left_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n", encoding="utf-8")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        before = GlobalHydra.instance().hydra
        diffusion.compose("seed=1")
        with pytest.raises(UserError):
            diffusion.compose("seeed=1")
        assert GlobalHydra.instance().hydra is before and str(version.getbase()) == "1.2"
        assert hydra.compose("mine") == {"a": 1}
    assert not GlobalHydra.instance().is_initialized() and command.words() is sys.argv


def test_options_of_ones_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thin.yaml").write_text(
        "_target_: diffusion.networks.unet.UNet\nwidth: 8\n", encoding="utf-8"
    )
    assert diffusion.compose("model=thin", config_dir=tmp_path)["model"]["width"] == 8
    with pytest.raises(UserError, match="model=thick: there is no such option; choose one of .*thin"):
        diffusion.compose("model=thick", config_dir=tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        diffusion.compose(config_dir=tmp_path / "other")


# ------------------------------------------------------------------------------------------------- the training


def test_the_weights_are_those_of_the_run_that_the_settings_describe(trained, tmp_path):
    """As the trainer makes it of the same config, without the door."""
    model, folder = trained
    config = {name: node for name, node in train_config(*TINY, "score.n=0").items() if name in model.config}
    trainer = training_run.build_trainer(config, tmp_path)
    trainer.fit()
    trainer.tracker.close()
    mine, theirs = (checkpoint.load(place / "last.pt") for place in (folder, tmp_path))
    for name in ("network", "ema", "optimizer", "config", "image", "step"):
        assert same(mine[name], theirs[name]), name
    loaded = diffusion.load(tmp_path, device="cpu", precision="fp32")
    assert torch.equal(model.sample(3, steps=2), loaded.sample(3, steps=2))


def test_the_same_again_does_nothing_and_longer_goes_on(trained, tmp_path, caplog):
    _, folder = trained
    written = (folder / "last.pt").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "diffusion"):
        assert diffusion.train([*TINY, "score.n=0"], folder).state["step"] == 4
    assert "holds this very run, finished: nothing to do" in caplog.text
    assert (folder / "last.pt").stat().st_mtime_ns == written
    config = diffusion.compose(*TINY, "score.n=0", "training.decay=constant", "training.warmup=0")
    config["training"]["steps"] = 3
    whole = diffusion.train(config, tmp_path / "whole")
    config["training"]["steps"] = 2
    first = diffusion.train(config, tmp_path / "first")
    assert (first.state["step"], whole.state["step"]) == (2, 3) and first.scores is None
    on = diffusion.train([f"resume={tmp_path / 'first'}", "training.steps=3"])
    assert on.state["step"] == 3 and on.source == str(tmp_path / "first")
    assert same(on.state["network"], whole.state["network"])  # as if it had never ended
    with pytest.raises(UserError, match="in its own folder"):
        diffusion.train(f"resume={tmp_path / 'first'}", tmp_path / "other")
    with pytest.raises(UserError, match="holds a run already, with another seed"):
        diffusion.train([*TINY, "score.n=0", "seed=1"], folder)


@pytest.mark.slow
def test_the_weights_and_first_scores_are_those_of_the_command_line(shell, tmp_path):
    folder = tmp_path / "run"
    model = diffusion.train(diffusion.compose(*TINY), folder)
    mine, theirs = (checkpoint.load(place / "last.pt") for place in (folder, shell / "run"))
    for name in ("network", "ema", "optimizer", "config", "image", "step"):
        assert same(mine[name], theirs[name]), name
    mine, theirs = (json.loads((place / "metrics.json").read_text()) for place in (folder, shell / "run"))
    assert all(mine[name] == theirs[name] for name in (*SCORED, "asked", "overrides"))
    assert (folder / "config.yaml").read_text() == (shell / "run" / "config.yaml").read_text()
    assert model.scores["fid"] == theirs["fid"] and {path.name for path in folder.iterdir()} >= {
        "report.md",
        "train.log",
    }


def test_the_threads_of_a_training_are_not_those_of_the_caller(trained, monkeypatch):
    """Those that it asked for were given back at its end, and its model does not take them again."""
    settings = diffusion.compose(*TINY, "device.threads=2")
    monkeypatch.setattr("diffusion.config.from_python.train", lambda *_: (settings, trained[1]))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert diffusion.train().image_model.device.torch_device.type == "cpu" and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_folder_in_use_is_told_without_words_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion.system.files.locked", lambda folder: None)
    for call in (
        lambda: diffusion.train([*TINY, "score.n=0"], tmp_path),
        lambda: diffusion.evaluate(np.zeros((4, 28, 28), np.uint8), folder=tmp_path, **FEATURES),
    ):
        with pytest.raises(InUse, match="is in use by another run: .* or choose another folder\\.$"):
            call()


def test_what_train_takes(tmp_path):
    for wrong in ({"seed": 1}, None, OmegaConf.create({"seed": 1}), diffusion.load):
        with pytest.raises(UserError, match="config must be what diffusion.compose gives"):
            diffusion.train(wrong, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_lines_of_the_log(trained, tmp_path, capfd, monkeypatch):
    """On the screen as from train.py, unless the program has its own; and in the folder."""
    log = (trained[1] / "train.log").read_text(encoding="utf-8")
    assert "Network: UNet" in log and f"continue with: diffusion.train(config, '{trained[1]}')" in log
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(UserError):
        diffusion.train([*TINY, "training.accumulate=3"], tmp_path / "run")
    assert not logging.getLogger("diffusion").handlers
    assert "Data: fashion_mnist_mini" in capfd.readouterr().err
    assert (
        diffusion.train([*TINY, "score.n=0", "training.steps=1"], tmp_path / "quiet", progress=False).state["step"] == 1
    )
    assert capfd.readouterr().err == "" and "Data: " in (tmp_path / "quiet" / "train.log").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------- the scores


@pytest.mark.slow
def test_the_scores_of_a_model_are_those_of_the_command_line(shell, tmp_path):
    expected = json.loads((shell / "scores" / "metrics.json").read_text())
    how = {"n": 20, "steps": 2, "guidance": 1.5, "seed": 3, "features": {"cache": CACHE}}
    model = diffusion.load(shell / "run", device="cpu", precision="fp32")
    for folder in (None, tmp_path / "scores"):
        scores = diffusion.evaluate(model, **how, folder=folder)
        assert all(scores[name] == expected[name] for name in (*SCORED, "notes", "step"))
    made = {path.name for path in (tmp_path / "scores").iterdir()}
    assert (
        made >= {path.name for path in (shell / "scores").glob("*.[pmhn]*")} >= {"report.md", "samples.npz", "grid.png"}
    )


@pytest.mark.slow
def test_the_scores_of_images_are_those_of_the_command_line(shell):
    expected = json.loads((shell / "mine" / "metrics.json").read_text())
    arrays = np.load(shell / "scores" / "samples.npz")
    scores = diffusion.evaluate(arrays["arr_0"], labels=arrays["arr_1"], **FEATURES)
    assert all(scores[name] == expected[name] for name in (*SCORED, "notes"))


def test_the_scores_are_those_of_the_scorer(scorer, mini, trained, tmp_path, monkeypatch):
    """Whatever the layout of the images; of a model, those of the images that it draws."""
    monkeypatch.chdir(tmp_path)
    part = mini.test.subset(torch.arange(0, 1000, 25))
    for images, labels in (
        (part.images, part.labels),
        (part.images.permute(0, 2, 3, 1).numpy(), part.labels.numpy()),
        (part.images[:, 0], part.labels.tolist()),
    ):
        scores = diffusion.evaluate(images, labels=labels, **FEATURES)
        expected = scorer.score(part, "images")
        assert all(scores[name] == expected[name] for name in SCORED)
    assert scores["fid"] < scores["scale"]["noise"]["fid"] and scores["accuracy"] > 0.8
    model = trained[0]
    drawn = model.sample(20, steps=2, guidance=1.5, seed=3)
    scores = diffusion.evaluate(model, "sampler.steps=2", n=20, guidance=1.5, seed=3, features={"cache": CACHE})
    expected = scorer.score(Images(drawn, torch.arange(20) % 10), "images")
    assert all(scores[name] == expected[name] for name in SCORED)
    unlabelled = diffusion.evaluate(part.images, **FEATURES)
    assert unlabelled["accuracy"] is None and not list(tmp_path.iterdir())
    assert not any(remark.startswith("images") for remark in unlabelled.remarks())  # a name that tells nothing


def test_a_path_is_scored_as_it_is_to_be_loaded(trained, tmp_path, monkeypatch):
    """What says how to load it is no setting of the scores; "latest" is the name of the run that it is."""
    model, folder = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    (tmp_path / "outputs" / "mine" / "last.pt").write_bytes((folder / "last.pt").read_bytes())
    (tmp_path / "my_features_of_door.py").write_text("", encoding="utf-8")
    assert diffusion.load("latest", device="cpu").source == "outputs/mine"
    plain = diffusion.load(folder, averaged=False, device="cpu", precision="fp32")
    how = {"n": 20, "steps": 2, "features": {"cache": CACHE}}
    words = ("device=cpu", "device.precision=fp32")
    scores = diffusion.evaluate("latest", *words, averaged=False, trust="my_features_of_door", **how)
    expected = diffusion.evaluate(plain, **how)
    assert all(scores[name] == expected[name] for name in SCORED)
    assert scores["settings"]["checkpoint"] == "outputs/mine" and scores["settings"]["weights"] == "weights"
    assert scores["protocol"]["images"].startswith("checkpoint=outputs/mine, weights at step 4")
    with pytest.raises(UserError, match=r"ema_width=0\.1.*ema=power"):
        diffusion.evaluate(folder, ema_width=0.1, **how)
    with pytest.raises(UserError, match="trust=no_such_parts: there is no such module"):
        diffusion.evaluate(folder, trust=["no_such_parts"], **how)
    with pytest.raises(UserError, match="^folder= is empty"):
        diffusion.evaluate(model, folder="", **how)
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "my_features_of_door.py"}


def test_what_evaluate_refuses(trained):
    model, images = trained[0], np.zeros((4, 28, 28, 1), np.uint8)
    mini = "data=fashion_mnist_mini"
    for call, message in (
        (lambda: diffusion.evaluate(model, labels=[1]), "labels= are of images"),
        (lambda: diffusion.evaluate(model, averaged=False), "averaged=false is settled when a model is loaded"),
        (lambda: diffusion.evaluate(model, checkpoint="latest"), "checkpoint=latest cannot be given here"),
        (lambda: diffusion.evaluate(model, m=5), r"Unknown setting 'm'"),
        (lambda: diffusion.evaluate(model, n=1), "n=1 must be at least 2"),
        (lambda: diffusion.evaluate(model, data="mnist_mini"), "data=mnist_mini: there is no such option"),
        (lambda: diffusion.evaluate("nowhere"), "checkpoint=nowhere: there is no such file"),
        (lambda: diffusion.evaluate(images / 255, mini), r"images: float64 \(4, 28, 28, 1\); they must be uint8"),
        (lambda: diffusion.evaluate(images[:, :20], mini), "images: 20×28 pixels with 1 channels"),
        (
            lambda: diffusion.evaluate(images, mini, labels=[1, 2]),
            r"labels is int64 \(2,\); it must be N whole numbers",
        ),
        (lambda: diffusion.evaluate(images, mini, labels=[1, 2, 3, 10]), "labels holds labels outside 0 … 9"),
        (lambda: diffusion.evaluate(images, mini, n=3), "n=3 says how to draw from a checkpoint, but images are"),
        (lambda: diffusion.evaluate(images, mini, likelihood=3), "likelihood=3 needs a model"),
        (lambda: diffusion.evaluate(None), "None is nothing to score: give a model, the folder of a run, or images"),
        (lambda: diffusion.evaluate(model, ["n=20"]), r"\['n=20'\] is no setting: write n=20, or a text"),
        (lambda: diffusion.evaluate([images[0], images[1, :20]], mini), "images: these are no array, .* one shape"),
        (lambda: diffusion.evaluate(images, mini, labels=[[1], [2, 3]]), "labels: these are no array, .* one shape"),
        (lambda: diffusion.evaluate(model, "hydra.run.dir=x"), "hydra.run.dir=x is for the command line alone"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_model_and_its_scores_show_themselves(scorer, mini, trained, tmp_path):
    scores = ScoreTable(scorer.score(mini.test.subset(torch.arange(20)), "mine"))
    (tmp_path / "last.pt").write_bytes((trained[1] / "last.pt").read_bytes())
    write_json(tmp_path / "metrics.json", {"step": 4, **scores})
    model = diffusion.load(tmp_path, device="cpu")
    text, page = repr(model), model._repr_html_()
    for word in (
        "28×28 pixels, grey, 10 classes",
        "Trouser",
        "4 of 4 steps",
        "UNet",
        "UniPC, 12 steps",
        "FID",
        "mine.",
    ):
        assert word in text and word in page
    for shown in (repr(scores), scores._repr_html_()):
        values = [scores["fid"], scores["real"]["fid"], scores["scale"]["noise"]["fid"]]
        assert all(f"{value:.3f}" in shown for value in values) and "n = 20" in shown
    scores["notes"] = ["<script>"]
    assert "<script>" not in scores._repr_html_() and repr(scores).endswith("<script>")


@pytest.mark.parametrize("change", [{"step": 3}, {"real": 1}, {"n": "many"}, {"notes": [1]}, {"scale": {"noise": 2}}])
def test_scores_that_are_not_this_models_are_not_shown(change, trained, tmp_path, scorer, mini):
    (tmp_path / "last.pt").write_bytes((trained[1] / "last.pt").read_bytes())
    write_json(
        tmp_path / "metrics.json", {"step": 4, **scorer.score(mini.test.subset(torch.arange(20)), "x"), **change}
    )
    assert diffusion.load(tmp_path, device="cpu").scores is None
