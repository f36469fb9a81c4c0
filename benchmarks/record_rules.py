"""The rules of the record board, docs/records.md: each is a sentence for the run that breaks it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machine import name_of

from diffusion.system.errors import UserError
from diffusion.training.pacing import budget_seconds

BUDGETS = {"two CPU cores": ("1min", "4min", "15min"), "one GPU": ("30s", "1min", "3min", "4min", "15min")}
N = 5000
# The full Fashion-MNIST, and the scorer that comes with the package, with its reference.
DATA = "diffusion.data.datasets.fashion_mnist"
IMAGES = {"images": 60_000, "labels": "df63ab4724170489", "test": "df8f92fdbc4df32a"}
PROTOCOL = {
    "scorer": "classifier trained on fashion_mnist, weights 4ba12b5c1d4d669b",
    "reference": "60000 training images of fashion_mnist",
    "preprocessing": "native size; uint8 / 127.5 - 1",
    "copies": "all images against the 60000 training images of fashion_mnist, in pixels",
}
NEARER = 0.02  # the largest share of images nearer to a training image than 99 % of test images are
OVER = 0.02  # of the budget, or one step
# What a command may say that changes nothing about the images.
QUIET = re.compile(
    r"(data\.root|track|features\.cache|score(\.\w+)?|output_dir|training\.(log|preview|checkpoint)_every)="
)
PATH = re.compile(r"(^|[=\[,'\"])\s*(\.{0,2}/|~|[A-Za-z]:\\)")
OPTION = re.compile(r"\+{0,2}(?P<group>\w+(/\w+)*)(@[\w.:]+)?=(?!null$)(?P<option>[\w.-]+)")


def check_run(folder: Path, metrics: dict[str, Any] | None, state: dict[str, Any]) -> None:
    """Raise `UserError` where a run breaks a rule.

    Args:
        folder: of the run, for the sentence.
        metrics: what its metrics.json holds; None where it has not come to its end.
        state: its checkpoint.
    """
    config, image = state["config"], state["image"]
    if metrics is None or metrics["step"] != state["step"]:
        raise UserError(f"{folder} has not come to its end: go on with it by the same command, in the same folder.")
    if config["data"]["_target_"] != DATA or any(image.get(name) != value for name, value in IMAGES.items()):
        raise UserError(f"{folder} was not trained on the full Fashion-MNIST: train with data=fashion_mnist.")
    if config["guidance"]["_target_"].endswith(".Unconditional"):
        raise UserError(f"{folder} knows no classes, and the board scores all ten evenly: leave out guidance=none.")
    words = metrics["overrides"]
    if config.get("checkpoint") or any(word.startswith("checkpoint=") for word in words):
        raise UserError(f"{folder} starts from another run, checkpoint={config.get('checkpoint')}: leave that out.")
    if any(word.startswith("resume=") for word in words):
        raise UserError(
            f"{folder} was gone on with by resume=, and no single command makes it: after a stop start the first "
            "command again, with the same hydra.run.dir."
        )
    path = next((word for word in kept(words) if PATH.search(word)), None)
    if path is not None:
        raise UserError(f"{folder} was told of a file that only this machine has, {path}: nobody could run it again.")
    check_time(folder, state)


def options_of(words: Sequence[str]) -> dict[str, str]:
    """The word that chooses a file below conf/, by that file: "model/dit_small.yaml".

    Words are known by their form alone, and that of a setting is no other: `seed=1` gives "seed/1.yaml".
    """
    found = [(match["group"], match["option"], word) for word in words if (match := OPTION.fullmatch(word))]
    return {f"{group}/{option}.yaml": word for group, option, word in found}


def check_time(folder: Path, state: dict[str, Any]) -> None:
    """Raise `UserError` unless a run has a budget of time, and kept it."""
    budget, seconds = state["config"]["training"]["budget"], float(state.get("seconds", 0.0))
    if budget is None:
        raise UserError(f"{folder} has its length in images or steps: give it in time, training.budget=4min.")
    allowed = budget_seconds(budget)
    if seconds > allowed + max(OVER * allowed, seconds / max(state["step"], 1)):
        raise UserError(
            f"{folder} took {seconds:.1f} s, and training.budget={budget} allows {OVER:.0%} or one step more: train "
            "it again where less else runs."
        )


def kept(words: Sequence[str]) -> list[str]:
    """The words of a command that say how it trains and draws; its seed is told beside it."""
    return [word for word in words if not QUIET.match(word) and not word.startswith("seed=")]


def place_of(folder: Path, budget: str) -> tuple[str, str, str]:
    """The machine class of a run, its budget as the board calls it, and the machine, by what its log says.

    Raises:
        UserError: it is of no class.
    """
    text = log_of(folder)
    devices = set(re.findall(r" Device: (.*), (fp32|bf16), (\d+) CPU threads", text))
    if len(devices) != 1:
        raise UserError(f"{folder}/train.log tells of {len(devices)} machines, and must tell of one: enter whole runs.")
    device, precision, threads = devices.pop()
    if " processes share every batch" in text:
        raise UserError(f"{folder} was trained by several processes: the board is for one GPU or two CPU cores.")
    if device.startswith("cuda"):
        kind, name = "one GPU", device.partition(" ")[2]
    elif device == "cpu" and int(threads) <= 2:
        kind, name = "two CPU cores", f"{name_of(torch.device('cpu'))}, {threads} CPU threads"
    else:
        told = f"{threads} CPU threads" if device == "cpu" else device
        raise UserError(f"{folder} was trained with {told}: the board is for one GPU or two CPU cores, "
                        "device.threads=2.")  # fmt: skip
    same = [each for each in BUDGETS[kind] if budget_seconds(each) == budget_seconds(budget)]
    if not same:
        raise UserError(f"{folder} has training.budget={budget}: on {kind} it is one of {', '.join(BUDGETS[kind])}.")
    return kind, same[0], f"{name}, {precision}"


def log_of(folder: Path) -> str:
    """What a run said."""
    try:
        return (folder / "train.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise UserError(f"{folder} has no train.log, which says on what machine it was trained.") from None


def wrong_protocol(scores: dict[str, Any]) -> str:
    """What of these scores is not as the board wants it, in words; "" where all is."""
    if scores.get("n") != N:
        return f"it is scored with n={scores.get('n')}, not {N}"
    found = scores["protocol"]
    return next((f"the {key} is {found.get(key)}, not {value}" for key, value in PROTOCOL.items()
                 if found.get(key) != value), "")  # fmt: skip


def check_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Raise `UserError` where scores are not by the protocol, or show copies of training images."""
    wrong = wrong_protocol(scores)
    if wrong:
        raise UserError(f"{folder} is not scored as the board does it, for {wrong}: leave features= as it is.")
    found = scores["memorisation"]
    if found["copies"]:
        raise UserError(f"{folder} draws exact copies of training images, {found['copies']:.2%} of them: it is out.")
    if found["nearer_than_real"] > NEARER:
        raise UserError(
            f"{folder} learned by heart: {found['nearer_than_real']:.2%} of its images are nearer to a training image "
            f"than 99 % of test images are, and the board takes {NEARER:.0%} at most."
        )
