"""The edge between Hydra and a person: errors as one sentence, exit codes, and paths that need no quotes."""

import functools
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.system import ranks
from diffusion.system.errors import InUse, UserError
from diffusion.system.files import sole_use

log = logging.getLogger("diffusion")
PATH_SETTINGS = (
    *("checkpoint", "resume", "samples", "data.root", "features.weights"),
    *("guidance.weaker", "task.images", "task.mask"),
)
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
            writes = isinstance(cfg.output_dir, str) and ranks.first()
            with sole_use(Path(cfg.output_dir)) if writes else nullcontext():
                cfg.output_dir = ranks.shared(cfg.output_dir)
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


def as_sentence(error: BaseException) -> str | None:
    """What to tell the user, or None for a defect of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return hydra_sentence(str(error))
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}: check the path, the permissions and the free space."
    if str(error).startswith("Config group override must be a string"):  # Hydra's, without a name
        from diffusion.config.settings import HOMES

        groups = [a for a in sys.argv[1:] if re.split("[=@]", a)[0] in (*HOMES, "experiment", "launch", "search")]
        given = next(
            (a for a in groups if type(OverridesParser.create().parse_override(a).value()) not in (str, list)), ""
        )
        return f"{given.replace('sampler@', '')}: choose an option by its name, or leave this out."
    if isinstance(error, ValueError) and "integer string conversion" in str(error):  # Python's, without a name
        given = next((argument for argument in sys.argv[1:] if re.search(r"\d{4301}", argument)), "A setting")
        return f"{given[:60]}… is too large a number."
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "The device ran out of memory: use smaller batches, training.accumulate=2 (with the same gradient) or, "
            "when sampling, a smaller batch_size or score.batch_size."
        )
    return None


def hydra_sentence(message: str) -> str:
    """Hydra's report of a setting that does not compose, as one sentence."""
    flat = " ".join(message.split())
    resolved = re.search(r"UserError raised while resolving interpolation: (.*?\.)(?: full_key:|$)", flat)
    if resolved:
        return resolved[1]
    override = re.search(r"Could not (?:override|append to|delete)[^']*'([^']*)'", message)
    if override:
        from diffusion.config.settings import FROM_CHECKPOINT, unknown

        name = override.group(1).split("=")[0].replace("sampler@preview", "preview")
        if "Could not append" in message:
            return f"The setting '{name}' exists already: change it without the plus sign, {name}=…."
        keys = [] if name in FROM_CHECKPOINT else _settings()
        section = name.rpartition(".")[0]
        siblings = [key for key in keys if section and key.startswith(f"{section}.")]
        return unknown(name, siblings if section in keys else keys)
    plugin = re.search(r"(?:Could not find|Could not override) '(?:hydra/)?(?:launcher|sweeper)/([a-z_]+)", message)
    if plugin:
        extra = {"optuna": "search", "tpe": "search"}.get(plugin[1], plugin[1].partition("_")[0])
        return f'{plugin[1]} is not installed: pip install -e ".[{extra}]".'
    option = re.search(r"Could not find '([^']*)/([^'/]*)'\s*Available options in '[^']*':\n((?:\t.*\n?)*)", message)
    if option:
        group, wrong, rest = option.groups()
        if f"sampler@preview={wrong}" in sys.argv:
            group = "preview"
        options = ", ".join(rest.split())
        return f"{group}={wrong}: there is no such option; choose one of {options}."
    if "override_grammar" in message:
        parser = OverridesParser.create()
        for argument in sys.argv[1:]:
            try:
                parser.parse_override(argument)
            except HydraException:
                shown = " ".join(argument[:200].split())
                return f"'{shown}' cannot be read: write name=value, and put special characters into quotes."
    several = re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", message)
    if several:
        name, values = several.groups()
        return f"{name}={values}: add -m for a sweep over these, or write {name}=[{values}] for a list of them."
    return flat if flat.endswith((".", "?")) else f"{flat}."


def launch(main: Callable[[], Any]) -> None:
    """Run a script decorated by `hydra.main`, and leave with 0, 1, or 128 + the number of the signal."""
    hide_tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0") in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own long report
    logging.raiseExceptions = False  # a log file that a full disk refuses must not bury the message, nor must
    threading.excepthook = quiet_about_files  # TensorBoard's writing thread
    if not ranks.first():  # what all processes meet alike is told once
        log.setLevel(logging.ERROR)
    code = 1
    try:
        # The preview is a sampler, too: preview=ddpm chooses one as sampler=ddpm does.
        sys.argv[1:] = [re.sub(r"^preview=", "sampler@preview=", quote_path(argument)) for argument in sys.argv[1:]]
        if any(argument.startswith("resume=") for argument in sys.argv[1:]):
            continue_in_run_folder()
        sys.argv[1:] = ranks.arrange_arguments(sys.argv[1:])
        main()
        if not _failure:
            ranks.leave()
            code = 0
    except KeyboardInterrupt as stop:
        if ranks.first():
            print(f"\n{str(stop) or 'Interrupted.'}", file=sys.stderr)
        code = getattr(stop, "exit_code", 130)
    except BrokenPipeError:  # the reader of our output, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        sentence = as_sentence(error)
        ranks.let_first_speak()
        if not _told(error):
            if sentence is None or not hide_tracebacks:
                raise
            print(f"Error: {sentence}", file=sys.stderr)
    finally:
        if "diffusion.config.leaderboard" in sys.modules:  # this was a sweep
            sys.modules["diffusion.config.leaderboard"].show()
    ranks.end(code)


def quiet_about_files(failure: threading.ExceptHookArgs) -> None:
    """A thread that could not write ends without a traceback: the main thread meets the same error and tells it."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _told(error: BaseException) -> bool:
    """Whether a job already logged this error (Hydra raises the first failed job's again after a sweep)."""
    return "return_value" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}


def quote_path(argument: str) -> str:
    """Quote the value of a setting that is an existing path, so that `=` and `,` in it are not Hydra's syntax."""
    name, equals, value = argument.partition("=")
    if name == "samples" and re.fullmatch(r"\[[^'\"]+\]", value):
        places = (place.strip() for place in value[1:-1].split(","))
        return f"{name}=[{','.join(quote_path(f'{name}={place}').partition('=')[2] for place in places)}]"
    if equals and name in PATH_SETTINGS and re.search(r"[=,:{}()\[\] ]", value) and os.path.exists(value):
        return f"{name}='{value}'"
    return argument


def continue_in_run_folder() -> None:
    """Point `hydra.run.dir` at the run that `resume=` names, so that it goes on in its own folder."""
    from diffusion.records import checkpoint

    if {"-m", "--multirun"} & set(sys.argv):
        raise UserError("resume= continues one run and cannot be swept: leave out -m.")
    number = next(i for i, argument in enumerate(sys.argv) if argument.startswith("resume="))
    value = sys.argv[number].partition("=")[2].strip("'\"")
    if value and value != "null":
        path = checkpoint.find(value, setting="resume")
        sys.argv[number] = f"resume='{path}'"  # what "latest" means is settled here, once
        sys.argv.insert(number + 1, f"hydra.run.dir='{path.parent}'")


def _settings() -> list[str]:
    """All settings of this script's config, for hints; composed anew with the user's choice of options alone."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    script = Path(sys.argv[0]).resolve()
    given = next((a.partition("=")[2] for a in sys.argv if a.startswith("--config-name=")), None)
    if given is None and "--config-name" in sys.argv[:-1]:
        given = sys.argv[sys.argv.index("--config-name") + 1]
    conf = script.parent / "conf"
    options = [a for a in sys.argv[1:] if (conf / a.partition("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    cfg: Any = {}
    with initialize_config_dir(str(conf), version_base="1.3"), suppress(Exception):  # only hints depend on it
        cfg = OmegaConf.to_container(compose(given or script.stem), resolve=False)
        cfg = OmegaConf.to_container(compose(given or script.stem, options), resolve=False)
    keys: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if key != "_target_":
                keys.append(f"{prefix}{key}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(cfg, "")
    return keys


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
