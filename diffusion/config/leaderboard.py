"""A table of the runs of a sweep, ranked by FID, kept up to date as jobs end and whether or not some fail.

What the sweep is going to run is in its folder from the start, as sweep.json, so that the table also shows the jobs
that are missing, after a stop or a kill.
"""

import csv
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from diffusion.evaluation.report import comparable
from diffusion.records.results import metrics_of_jobs, read_metrics, write_json
from diffusion.system.files import replacing

COLUMNS = (
    *("rank", "status", "fid", "kid", "inception_score", "precision", "recall", "accuracy"),
    *("n", "protocol", "folder", "overrides", "error"),
)
LAST = {"failed": 1, "missing": 2}  # without a rank, at the end of the table
_sweep: list[Path] = []


class Leaderboard(Callback):
    """Hydra callback: rewrites leaderboard.csv, and curves.png, in the sweep folder after each job."""

    tracker: Any = None  # of the sweep, once there are curves

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        _sweep[:] = [folder]
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "sweep.json", {"command": sys.argv, "jobs": planned(config)})

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            folder = Path(config.hydra.sweep.dir)
            write(folder)
            self.draw_curves(folder)

    def draw_curves(self, folder: Path) -> None:
        """curves.png of a sweep of evaluate.py over samplers or guidance scales, also for TensorBoard."""
        jobs = metrics_of_jobs(folder)
        if sum("settings" in job for job in jobs) < 2:
            return
        from diffusion.evaluation import plots
        from diffusion.records.tensorboard import TensorBoard

        figure = plots.sweep_curves(jobs)
        if figure is not None:
            plots.save_figure(folder / "curves.png", figure)
            self.tracker = self.tracker or TensorBoard(folder)
            self.tracker.image("curves", plots.pixels(figure), len(jobs))
            self.tracker.flush()


def planned(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep over a grid; [] where a search chooses as it goes."""
    if not str(OmegaConf.select(config, "hydra.sweeper._target_", default="")).endswith("BasicSweeper"):
        return []
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    words = [*(f"{name}={value}" for name, value in params.items()), *config.hydra.overrides.task]
    try:
        parsed = OverridesParser.create().parse_overrides(words)
        return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    except HydraException:  # choices that only Hydra itself can list, such as experiment=glob(*)
        return []


def rows(folder: Path) -> list[dict[str, Any]]:
    """One row per job of a sweep folder, best FID first, then runs without a FID, failed ones and missing ones.

    FIDs of different n, scorer or reference do not compare: such runs are ranked apart, each kind from 1.
    """
    found: list[dict[str, Any]] = []
    for path in folder.glob("*/metrics.json"):
        metrics = read_metrics(path) or {"status": "failed", "error": f"{path.name} is damaged"}
        row = {name: metrics.get(name) for name in COLUMNS} | {"protocol": comparable(metrics)}
        found.append({**row, "folder": path.parent.name, "overrides": " ".join(metrics.get("overrides") or [])})
    done = {row["overrides"] for row in found}
    for overrides in map(" ".join, (read_metrics(folder / "sweep.json") or {}).get("jobs", [])):
        if overrides not in done:
            found.append({**dict.fromkeys(COLUMNS), "status": "missing", "protocol": "", "overrides": overrides})
    found.sort(
        key=lambda row: (
            LAST.get(str(row["status"]), 0),
            row["fid"] is None,
            -(row["n"] or 0),
            row["protocol"],
            row["fid"] or 0,
            row["folder"] or "",
        )
    )
    ranks: dict[tuple, int] = {}
    for row in found:
        kind = (row["n"], row["protocol"])
        if row["status"] not in LAST:
            ranks[kind] = row["rank"] = ranks.get(kind, 0) + 1
    return found


def write(folder: Path) -> None:
    """Rewrite leaderboard.csv; a reader never sees half of it."""
    with replacing(folder / "leaderboard.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows(folder))


def show(composed: bool = True) -> None:
    """Print the leaderboard of the sweep of this process, if there was one.

    Args:
        composed: whether the settings of its jobs fit together; the same command again would be of no use else.
    """
    if not _sweep or not (table := rows(_sweep[0])):
        return
    if not composed and all(row["status"] == "missing" for row in table):  # what is wrong has been told
        return
    with suppress(OSError):
        write(_sweep[0])  # jobs in processes of their own may have written it at once
    curves = _sweep[0] / "curves.png"
    print(f"\nLeaderboard ({_sweep[0] / 'leaderboard.csv'}), lower FID is better:")
    if len({(row["n"], row["protocol"]) for row in table if row["fid"] is not None}) > 1:
        print("The runs were not all scored alike (n, scorer, reference); each kind is ranked for itself.")
    print(f"{'rank':>4}  {'FID':>9}  {'IS':>6}  {'accuracy':>8}  {'n':>6}  run")
    for row in table:
        fid, score, accuracy = (
            "–" if row[k] is None else f"{row[k]:.{d}f}"
            for k, d in (("fid", 4), ("inception_score", 3), ("accuracy", 3))
        )
        note = f"  failed: {row['error']}" if row["status"] == "failed" else ""
        note = "  missing" if row["status"] == "missing" else note
        run = f"{row['overrides'] or row['folder']}{note}"
        print(f"{row['rank'] or '–':>4}  {fid:>9}  {score:>6}  {accuracy:>8}  {row['n'] or '–':>6}  {run}")
    left = sum(row["status"] == "missing" for row in table)
    if left:
        way = "give the same command again" if composed else "mend the command as said above and give it"
        folder = shlex.quote(f"hydra.sweep.dir={_sweep[0]}")
        print(f"{left} jobs are missing; to run them, {way} with {folder}")
    if curves.exists():
        print(f"Curves: {curves}")
