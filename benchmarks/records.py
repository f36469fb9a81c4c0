"""The record board: checks runs against the rules of docs/records.md, scores them, and enters them there.

python train.py experiment=best training.budget=4min hydra.run.dir=outputs/mine_0
python benchmarks/records.py outputs/mine_0                                   one run
python benchmarks/records.py outputs/mine_0 outputs/mine_1 outputs/mine_2     seeds of one command: one entry
python benchmarks/records.py --table                                          only write the tables

What is not scored with n = 5,000 yet is scored by evaluate.py, into the run folder's record/. The entry goes into
docs/records.json, and takes in the seeds of one of the same command, commit and machine; the tables are made from that
file.
"""

import argparse
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from common import ROOT, fill, read, run
from record_rules import BUDGETS, N, check_run, check_scores, kept, log_of, options_of, place_of

from diffusion.evaluation.document import markdown_table
from diffusion.records import checkpoint
from diffusion.records.results import finished, write_json
from diffusion.system.errors import UserError

PAGE, BOARD = ROOT / "docs" / "records.md", ROOT / "docs" / "records.json"
LISTED = 3  # of each class
SCORES = ("fid", "recall", "accuracy")
PLAIN = ("checkpoint=", "n=", "device=", "trust=")  # words of evaluate.py that leave drawing and scoring as they are
SAME = ("class", "budget", "machine", "command", "own_parts")  # for all runs of an entry


# ------------------------------------------------------------------------------------------------- one run


def one_run(folder: Path, trust: str | None = None) -> dict[str, Any]:
    """What the board says of a run, by its folder.

    Args:
        folder: of the run.
        trust: the modules of the user's own that it needs.

    Raises:
        UserError: it breaks a rule.
    """
    folder = checkpoint.find(str(folder), setting="RUN").parent
    state, metrics = checkpoint.load(folder / checkpoint.LAST), finished(folder)
    check_run(folder, metrics, state)
    assert metrics is not None
    check_options(folder, metrics["overrides"])
    config = state["config"]
    kind, budget, machine = place_of(folder, config["training"]["budget"])
    scores = scored(folder, state["step"], trust)
    check_scores(folder, scores)
    targets = {key: node.get("_target_") for key, node in config.items() if isinstance(node, dict)}
    began = re.search(r"\d{4}-\d\d-\d\d", log_of(folder))
    return {
        "class": kind,
        "budget": budget,
        "machine": machine,
        "command": shlex.join(["python", "train.py", *kept(metrics["overrides"])]),
        "own_parts": {key: name for key, name in targets.items() if name and not name.startswith("diffusion.")},
        "date": began[0] if began else date.today().isoformat(),
        "run": {
            "seed": config["seed"],
            "images": state["step"] * config["training"]["batch_size"],
            "seconds": state["seconds"],
            **{name: scores[name] for name in SCORES},
            "real": {name: scores["real"][name] for name in SCORES},
            "nearer_than_real": scores["memorisation"]["nearer_than_real"],
            "drawn": re.sub(r"^.*weights.*? at step \d+; ", "", scores["protocol"]["images"]),
            "drawing_seconds": scores.get("settings", {}).get("seconds"),
        },
    }


def check_options(folder: Path, words: Sequence[str]) -> None:
    """Raise `UserError` where a word chooses an option of conf/ that the repository does not hold."""
    named = {name: word for name, word in options_of(words).items() if (ROOT / "conf" / name).parent.is_dir()}
    known = git("ls-files", "--", *(f"conf/{name}" for name in named)).splitlines() if named else []
    word = next((word for name, word in named.items() if f"conf/{name}" not in known), None)
    if word is not None:
        raise UserError(
            f"{folder} was told {word}, an option that git does not know here: commit its file in conf/, or say the "
            "same by settings."
        )


def scored(folder: Path, step: int, trust: str | None) -> dict[str, Any]:
    """The scores of a run with n = 5,000: those of an earlier call, or what evaluate.py finds now.

    Those that a run has of itself do not count, since `preview.sampler` may have drawn for them. Nor do those of a call
    that was told how to draw or score.
    """
    made = folder.resolve() / "record"
    result = made / "metrics.json"
    newer = result.exists() and result.stat().st_mtime >= (folder / checkpoint.LAST).stat().st_mtime
    found = finished(made, step=step, n=N) if newer else None
    if found is None or not all(word.startswith(PLAIN) for word in found["overrides"]):
        print(f"Scoring {folder} with n={N} …", flush=True)
        words = [f"checkpoint={folder.resolve()}", f"n={N}", *([f"trust={trust}"] if trust else [])]
        run("evaluate.py", *words, f"hydra.run.dir={made}", log=folder.resolve() / "record.log")
    return dict(read(result))


# ------------------------------------------------------------------------------------------------- one entry


def entry_of(runs: Sequence[dict[str, Any]], commit: str, code: str | None = None) -> dict[str, Any]:
    """One entry of runs that differ by their seeds.

    Args:
        runs: from `one_run`.
        commit: that they were made with.
        code: where parts of their owner can be read.

    Raises:
        UserError: they differ by more, or nobody could read their parts.
    """
    for name in SAME:
        other = next((each[name] for each in runs if each[name] != runs[0][name]), None)
        if other is not None:
            raise UserError(
                f"These runs are no seeds of one entry, for the {name} of one is {runs[0][name]} and of another "
                f"{other}: enter them one by one."
            )
    found = sorted((each["run"] for each in runs), key=lambda each: each["seed"])
    seeds = [each["seed"] for each in found]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"These runs have the seeds {', '.join(map(str, seeds))}: train each with another seed=.")
    if runs[0]["own_parts"] and not code:
        parts = ", ".join(runs[0]["own_parts"].values())
        raise UserError(f"{parts} is not part of this package: add where people can read it, --code ADDRESS.")
    head = {name: runs[0][name] for name in SAME} | ({"code": code} if code else {})
    return {**head, "commit": commit, "date": min(each["date"] for each in runs), "runs": found}


def commit_of(given: str | None, ended: float) -> str:
    """The commit that runs were made with, in short.

    Args:
        given: by the person who enters them.
        ended: when the first of them was done, in seconds since 1970.

    Raises:
        UserError: it is not known here, or the one that is checked out is younger than the runs.
    """
    if given:
        return git("rev-parse", "--short", "--verify", f"{given}^{{commit}}")
    commit = git("rev-parse", "--short", "HEAD")
    if int(git("log", "-1", "--format=%ct")) > ended:
        raise UserError(f"The commit {commit} is younger than the run: say which one made it, --commit HASH.")
    board = [f":!{path.relative_to(ROOT).as_posix()}" for path in (PAGE, BOARD)]
    changed = git("status", "--porcelain", "--untracked-files=normal", "--", ".", *board)
    return f"{commit} with changes" if changed else commit


def git(*words: str) -> str:
    """What git answers about this repository."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"The commit is not known, since git does not run here ({error}).") from None
    if done.returncode:
        raise UserError(f"The commit is not known: git {' '.join(words)} says {done.stderr.strip()!r}.")
    return done.stdout.strip()


def with_entry(board: Sequence[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The board with an entry as its last; one of the same command, commit and machine becomes part of it.

    Of that one the seeds are kept that the entry has not.
    """
    same = (*SAME, "commit")
    others = [each for each in board if any(each[name] != entry[name] for name in same)]
    for old in board:
        seeds = {run["seed"] for run in entry["runs"]}
        earlier = [run for run in old["runs"] if run["seed"] not in seeds] if old not in others else []
        if earlier:
            runs = sorted([*earlier, *entry["runs"]], key=lambda run: run["seed"])
            entry = {**entry, "date": min(old["date"], entry["date"]), "runs": runs}
    return [*others, entry]


# ------------------------------------------------------------------------------------------------- the tables


def ranked(board: Sequence[dict[str, Any]], kind: str, budget: str) -> list[dict[str, Any]]:
    """The entries of a class by their median FID, those of three seeds and more before the others."""
    entries = [each for each in board if (each["class"], each["budget"]) == (kind, budget)]
    return sorted(entries, key=lambda each: (len(each["runs"]) < 3, median(one["fid"] for one in each["runs"])))


def tables(board: Sequence[dict[str, Any]]) -> str:
    """The best entries of each class, and how each was made, in Markdown."""
    heads = ["training", "", "FID, median", "best", "real", "recall (real)", "accuracy (real)", "images seen"]
    heads += ["seconds to draw", "nearer", "seeds"]
    parts: list[str] = []
    made: list[dict[str, Any]] = []
    for kind, budgets in BUDGETS.items():
        rows: list[list[str]] = []
        for budget in budgets:
            best = ranked(board, kind, budget)[:LISTED]
            for entry in best:
                made.append(entry)
                rows.append([budget, f"[{len(made)}](#how-each-was-made)", *numbers(entry["runs"])])
            rows += [] if best else [[budget, "", "no run yet", *[""] * (len(heads) - 3)]]
        parts.append(f"## {kind[0].upper()}{kind[1:]}\n\n{markdown_table(heads, rows)}")
    said = [f"{number}. {in_words(entry)}" for number, entry in enumerate(made, start=1)]
    return "\n\n".join([*parts, "## How each was made", "\n".join(said or ["No run yet."])])


def numbers(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What a row says of the runs of an entry: medians, and beside them the best FID and what real images have."""

    def beside_real(name: str) -> str:
        return f"{median(each[name] for each in runs):.3f} ({runs[0]['real'][name]:.3f})"

    fids, drawing = [each["fid"] for each in runs], [each["drawing_seconds"] for each in runs]
    return [
        f"**{median(fids):.3f}**",
        f"{min(fids):.3f}",
        f"{runs[0]['real']['fid']:.3f}",
        beside_real("recall"),
        beside_real("accuracy"),
        f"{median(each['images'] for each in runs):,.0f}",
        "–" if None in drawing else f"{median(drawing):,.1f}",
        f"{max(each['nearer_than_real'] for each in runs):.4f}",
        ", ".join(str(each["seed"]) for each in runs),
    ]


def in_words(entry: dict[str, Any]) -> str:
    """How an entry was made."""
    own = ", ".join(f"`{key}._target_={name}`" for key, name in entry["own_parts"].items())
    drawn = "; ".join(dict.fromkeys(run["drawn"] for run in entry["runs"]))
    return (
        f"`{entry['command']}`, commit {entry['commit']}, {entry['date']}, on {entry['machine']}; drawn with "
        f"{drawn}{f'; with {own} of ' if own else ''}{entry.get('code', '')}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders that differ by their seeds")
    parser.add_argument("--commit", help="that made the runs; the one checked out where nothing is said")
    parser.add_argument("--code", metavar="ADDRESS", help="where parts of your own can be read")
    parser.add_argument("--trust", metavar="MODULES", help="of your own, as train.py was given them")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    given = parser.parse_args()
    if bool(given.runs) == given.table:
        parser.error("give either run folders or --table")
    board = read(BOARD)["entries"]
    if given.runs:
        try:
            ended = min(checkpoint.find(str(folder), setting="RUN").stat().st_mtime for folder in given.runs)
            commit = commit_of(given.commit, ended)
            entry = entry_of([one_run(folder, given.trust) for folder in given.runs], commit, given.code)
        except UserError as error:
            raise SystemExit(str(error)) from None
        board = with_entry(board, entry)
        write_json(BOARD, {"entries": board})
        entry = board[-1]  # with the seeds that were there
        rank = ranked(board, entry["class"], entry["budget"]).index(entry) + 1
        print(f"Number {rank} of {entry['budget']} on {entry['class']}; {LISTED} are listed.")
    text = tables(board)
    print(text)
    fill(PAGE, "records", "benchmarks/records.py", text)


if __name__ == "__main__":
    main()
