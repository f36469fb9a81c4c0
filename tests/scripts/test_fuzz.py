"""Command lines at random: each builds its objects, or ends in one sentence that names a setting."""

import json
import os
import re
import runpy
import subprocess
import sys

import pytest
import torch
from config_helpers import compose, saved_run
from conftest import CACHE, ROOT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diffusion import tasks
from diffusion.drawing import image_model
from diffusion.evaluation import likelihood, scoring
from diffusion.training import loop as training

EXAMPLES = {"train": 240, "sample": 140, "evaluate": 140}  # 520 in CI
QUICK = 15
AWAY = ("root", "cache", "output_dir", "resume")  # folders of this machine, and a download
SLOW_DATA = ("cifar10", "mnist", "kmnist", "image_folder")
TINY = "model.width=8 model.groups=4 model.head_width=8 training.batch_size=8 device=cpu".split()


class Built(KeyboardInterrupt):
    """Everything was built, and the work would begin."""


def leaves(node, prefix=""):
    """(name, value) of all settings of a config."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.")
        elif key not in (*AWAY, "_target_"):
            yield name, value


def options(script):
    """group=option, of every group of the configs that the script has."""
    groups = {
        "train": "data model schedule objective loss timesteps guidance ema sampler preview optimizer device "
        "features experiment",
        "sample": "sampler task device",
        "evaluate": "sampler data device features",
    }
    for group in groups[script].split():
        folder = ROOT / "conf" / ("sampler" if group == "preview" else group)
        for path in sorted(folder.glob("*.yaml")):
            if not (group == "data" and path.stem in SLOW_DATA) and path.stem not in ("cuda", "cifar10", "inception"):
                yield f"{group}={path.stem}"


NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 7, 64, 1000, 10**6, 2**31, 2**63, 10**30, -(10**30)]),
    st.integers(-5, 200),
    st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 6)),
    st.sampled_from(["nan", "inf", "-inf", "1e400", "1e-320", "0x10", "1_000", ".5", "5."]),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["null", "true", "false", "''", "latest", "uniform", "[]", "{}", "{a:1}", "[1,2]", "[0.5,x]", "???"]
    ),
    st.sampled_from(
        [
            "${oc.env:HOME}",
            "${nothing.here}",
            "${seed}",
            "${",
            "a,b",
            "a=b",
            "x" * 10_000,
            "9" * 5_000,
            "[" * 300,
            "../..",
        ]
    ),
    st.text(min_size=1, max_size=12).filter(lambda text: "\0" not in text and not text.startswith("-")),
    st.sampled_from(["größe", "日本語", "😀", "\u202e", "a b", "'", '"', "\\", "#", "%s", "{}{", "\n"]),
)
SEPARATORS = st.sampled_from(["=", "=", "=", "=", "=", "=", "==", ":", "", "+="])


@st.composite
def override(draw, known, choices):
    """One override, right or wrong."""
    kind = draw(
        st.sampled_from(["near", "near", "value", "value", "option", "misspelt", "invented", "deleted", "added"])
    )
    if kind == "option":
        chosen = draw(st.sampled_from(choices))
        return draw(
            st.sampled_from(
                [chosen, chosen, chosen, chosen + "x", chosen.split("=")[0] + "=", "~" + chosen.split("=")[0]]
            )
        )
    name, value = draw(st.sampled_from(known))
    if kind == "near":  # mostly right
        number = isinstance(value, int | float) and not isinstance(value, bool)
        changed = draw(st.sampled_from([value, value * 2, value / 2])) if number else value
        changed = int(changed) if isinstance(value, int) else changed
        return f"{name}={json.dumps(changed)}"
    value = draw(st.one_of(NUMBERS, TEXTS))
    if kind == "misspelt":
        place = draw(st.integers(0, len(name) - 1))
        name = name[:place] + draw(st.sampled_from("abcs_.")) + name[place + 1 :]
    elif kind == "invented":
        name = draw(st.from_regex(r"[a-z_]{1,12}(\.[a-z_]{1,8})?", fullmatch=True))
    elif kind == "deleted":
        return f"~{name}"
    elif kind == "added":
        name = f"+{name}" if draw(st.booleans()) else f"++{name}"
    return f"{name}{draw(SEPARATORS)}{value}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run of no steps to draw from."""
    folder = tmp_path_factory.mktemp("home")
    saved_run(folder / "run")
    return folder


def stop(*arguments, **named):
    raise Built


@pytest.fixture
def nothing_runs(monkeypatch):
    """The scripts stop where the work would begin."""
    monkeypatch.setattr(training.Trainer, "fit", stop)
    monkeypatch.setattr(image_model.ImageModel, "draw", stop)
    monkeypatch.setattr(scoring.Scorer, "score", stop)
    monkeypatch.setattr(likelihood, "measure", stop)
    for task in vars(tasks).values():
        if isinstance(task, type) and hasattr(task, "run"):
            monkeypatch.setattr(task, "run", stop)


def first_words(script, home):
    if script == "train":
        return [*TINY, f"features.cache={CACHE}", "score.n=0", f"hydra.run.dir={home}/outputs/${{now:%f}}"]
    words = [f"checkpoint={home}/run", f"hydra.run.dir={home}/outputs/${{now:%f}}", "device=cpu"]
    return words + ([f"features.cache={CACHE}"] if script == "evaluate" else [])


def call(script, words, capfd, monkeypatch):
    """The exit code and what was printed, by the script as a person would start it, in this process."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / f"{script}.py"), *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    threads = torch.get_num_threads()
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code
    finally:
        from diffusion.config import cli

        cli._failure.clear()
        torch.set_num_threads(threads)
    captured = capfd.readouterr()
    return code, captured.out + captured.err


SAID = (  # in front of the sentence: what the scripts log on their way
    r"Data: |Network: |Run folder: |If it is interrupted|Resuming at step|This run has only got|No data= was given|"
    r"Not taken from the experiment|.*last\.pt, step \d+: |Scores are left out|.* the images are taken to imitate|"
    r".*compil|Resume |An average|.*average|.*images at once|.*it/s|usage: |.*Warning|  "
)


def judge(words, code, text):
    """Whether the objects were built (True), or the command was refused (False) in one sentence that names a word."""
    shown = [word if len(word) < 200 else f"{word[:100]}…" for word in words]
    assert "Traceback (most recent call last)" not in text, (shown, text[-3000:])
    if code == 130:  # Built
        return True
    assert code == 1 or (code == 2 and "usage:" in text), (shown, code, text[-1000:])
    *before, sentence = [line for line in text.splitlines() if line.strip()]
    names = {re.split(r"[=:]", word.lstrip("+~"))[0] for word in words}
    names |= {word.partition("=")[0] for word in TINY}  # other groups may have no such setting
    names |= {part for word in words for part in re.findall(r"[^\W\d]\w*", word[:200])}
    assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence) for name in names if name), (shown, sentence)
    assert sentence.rstrip("'\"")[-1] in ".?" or code == 2, (shown, sentence)
    assert all(re.match(SAID, line) for line in before), (shown, before)
    assert len(sentence) < 13_000, shown
    return False


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES)
def test_every_command_line_builds_or_is_refused_in_one_sentence(script, home, nothing_runs, capfd, monkeypatch):
    fuzz(script, EXAMPLES[script], home, capfd, monkeypatch)


@pytest.mark.parametrize("script", EXAMPLES)
def test_some_command_lines(script, home, nothing_runs, capfd, monkeypatch):
    fuzz(script, QUICK, home, capfd, monkeypatch)


def fuzz(script, examples, home, capfd, monkeypatch):
    known = list(leaves(compose(script, *(["checkpoint=x"] if script != "train" else []))))
    choices = list(options(script))
    counts = {True: 0, False: 0}
    monkeypatch.chdir(home)

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.lists(override(known, choices), min_size=1, max_size=3))
    def try_one(words):
        code, text = call(script, [*first_words(script, home), *words], capfd, monkeypatch)
        counts[judge(words, code, text)] += 1

    try_one()
    print(f"{script}: {counts[True]} built, {counts[False]} refused")
    assert (counts[False] > examples / 3 and counts[True] > examples / 20) or examples < 50


REAL = [
    ("train.py", "stepss=5"),
    ("train.py", "model.width=größe"),
    ("train.py", "model.width=" + "9" * 40),
    ("train.py", "seed=" + "9" * 5_000),
    ("train.py", "training.batch_size=1e400"),
    ("train.py", "schedule=日本語"),
    ("train.py", "optimizer.lr=[1,2]"),
    ("train.py", "guidance=none", "guidance.scale=3"),
    ("train.py", "training.steps=5", "training.epochs=5"),
    ("evaluate.py", "n=" + "x" * 5000),
    ("train.py", "~model"),
    ("train.py", "model._target_=os.system"),
    ("train.py", "loss=consistency"),
    ("sample.py", "n=0"),
    ("sample.py", "checkpoint=😀"),
    ("sample.py", "classes=[" + "a," * 2000 + "b]"),
    ("sample.py", "sampler.steps=-3"),
    ("sample.py", "task=inpaint", "task.mask=\u202e"),
    ("evaluate.py", "n=nan"),
    ("evaluate.py", "samples=x", "n=5"),
    ("evaluate.py", "+checkpoint.a.b.c=1"),
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(REAL)))
def test_real_command_lines_end_in_one_sentence(number, home):
    script, *words = REAL[number]
    given_run = (
        [] if script == "train.py" or any("checkpoint" in w or "samples" in w for w in words) else ["checkpoint=run"]
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *given_run, *words, "device=cpu"],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
    )
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in text, text[-2000:]
    assert not judge(words, done.returncode, text)
