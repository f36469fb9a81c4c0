"""The edge between Hydra and a person: errors as one sentence, exit codes, and the job itself."""

import functools
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.config import arguments, command, trust
from diffusion.config.advice import as_sentence
from diffusion.system import ranks, terminal
from diffusion.system.errors import InUse, UserError
from diffusion.system.files import sole_use
from diffusion.system.threads import wait_asleep

log = logging.getLogger("diffusion")
_failure: list[BaseException] = []  # of the one job of a single run, to be told by `launch`


def job(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Decorates the body of a script, under `hydra.main`: reports a failure at once, in the job's own log.

    What the user can mend is one sentence on the screen, with the traceback in the log file alone; anything else is
    a defect of the program and shows its traceback. In a sweep the exception goes on to Hydra, which marks the job as
    failed and runs the next.
    """

    @functools.wraps(task)
    def run(cfg: DictConfig) -> Any:
        try:
            ranks.join()
            os.chdir(HydraConfig.get().runtime.cwd)  # with hydra.job.chdir=true paths are those of the command, too
            arguments.settle(cfg)
            writes = isinstance(cfg.output_dir, str) and ranks.first()
            with trust.given(cfg.get("trust")), sole_use(Path(cfg.output_dir)) if writes else nullcontext():
                cfg.output_dir = ranks.shared(cfg.output_dir)
                trust.part_from_options(cfg, HydraConfig.get().overrides.task)
                return task(cfg)
        except Exception as error:
            sentence = as_sentence(error)
            ranks.let_first_speak()
            if sentence is not None and not ranks.first():
                sentence = f"Process {ranks.rank()} of {ranks.size()}: {sentence}"
            if sentence is None:
                log.error("The job failed.\n%s", traceback.format_exc())
            else:
                log.error("%s", sentence)
                log.debug("%s", traceback.format_exc())
            if not isinstance(error, InUse):  # by another run, whose record it is
                _record_failure(cfg, sentence or repr(error))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            _failure.append(error)
            return None

    return run


def launch(main: Callable[[], Any]) -> None:
    """Run a script decorated by `hydra.main`, and leave with 0, 1, or 128 + the number of the signal."""
    terminal.forgive()
    wait_asleep()
    hide_tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0") in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own long report
    logging.raiseExceptions = False  # a log file that a full disk refuses must not bury the message, nor must
    threading.excepthook = quiet_about_files  # TensorBoard's writing thread
    if not ranks.first():  # what all processes meet alike is told once
        log.setLevel(logging.ERROR)
    code, composed = 1, True
    try:
        sweep = bool({"-m", "--multirun"}.intersection(sys.argv))
        sys.argv[1:] = command.arranged(sys.argv[1:], Path(sys.argv[0]).stem, sweep)
        sys.argv[1:] = ranks.arrange_arguments(sys.argv[1:])
        main()
        if not _failure:
            ranks.leave()
            code = 0
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one more Ctrl-C meets no Python that is being taken down
        if ranks.first():
            print(f"\n{str(stop) or 'Interrupted.'}", file=sys.stderr)
        code = getattr(stop, "exit_code", 130)
    except Exception as error:
        sentence = as_sentence(error)
        ranks.let_first_speak()
        composed = _told(error)
        if not composed:
            if sentence is None or not hide_tracebacks:
                raise
            print(f"Error: {sentence}", file=sys.stderr)
    finally:
        if "diffusion.config.leaderboard" in sys.modules:  # this was a sweep
            sys.modules["diffusion.config.leaderboard"].show(composed)
        terminal.part()
    ranks.end(code)


def quiet_about_files(failure: threading.ExceptHookArgs) -> None:
    """A thread that could not write ends without a traceback: the main thread meets the same error and tells it."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _told(error: BaseException) -> bool:
    """Whether a job already logged this error (Hydra raises the first failed job's again after a sweep)."""
    return "return_value" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}


def _record_failure(cfg: DictConfig, reason: str) -> None:
    """A metrics.json that says "failed", for the leaderboard; an unfinished run keeps its scores in TensorBoard."""
    from diffusion.records.results import finished, write_json

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or finished(Path(hydra.runtime.output_dir)):  # in an earlier start
        return
    try:
        content = {"status": "failed", "error": reason, "overrides": list(hydra.overrides.task)}
        write_json(Path(hydra.runtime.output_dir) / "metrics.json", content)
    except OSError:
        log.warning("The failure could not be recorded in %s.", hydra.runtime.output_dir)


def folder_name(overrides: str) -> str:
    """Overrides as a folder name without `=`, `,` or `/`, which later commands would stumble over."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", overrides.replace(",", "_"))[:150].strip("-") or "run"


def trials_left(total: int, folder: str) -> int:
    """How many trials of a search are still to be run, when it is started again in its folder."""
    from diffusion.records.results import metrics_of_jobs

    left = int(total) - sum(metrics.get("status") == "finished" for metrics in metrics_of_jobs(Path(folder)))
    if left < 1:
        raise UserError(f"trials={total}: the search in {folder} has finished as many: give more to go on with it.")
    return left


def search_seed(seed: int, folder: str) -> int:
    """The seed of a search, another one whenever it is started again: it would only repeat its first trials."""
    return int(seed) + len(list(Path(folder).glob("*/metrics.json")))


OmegaConf.register_new_resolver("search_seed", search_seed, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("trials_left", trials_left, replace=True)
