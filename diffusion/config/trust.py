"""Code of the user's own: a config may name it once the person at the command line has said that it is trusted.

    python train.py trust=my_parts model._target_=my_parts.Net

Until then nothing of a module is run: it is only looked for, in the working directory and then where Python looks, and
its files are hashed. A checkpoint never brings the trust itself; see `diffusion.config.opening`.
"""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder, all_suffixes
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, ListConfig, open_dict

from diffusion.config.from_source import only_source
from diffusion.system.errors import UserError, brief

DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")  # names of Python's, with dots between
LONGEST = 200
# Calling what a config names there is calling anything, and no part of a model lies there that we do not know.
NEVER = {*sys.stdlib_module_names, "__main__", "diffusion", "hydra", "omegaconf", "torch", "numpy"}
_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def given(modules: Any) -> Iterator[None]:
    """A block in which configs may name classes of some modules, and of these alone.

    Args:
        modules: the setting `trust`: a name, a list of names, or None.

    Raises:
        UserError: there is no such module, or nobody may trust it so.
    """
    names = [modules] if isinstance(modules, str) else [] if modules is None else modules
    if not isinstance(names, list | tuple | ListConfig) or not all(isinstance(name, str) for name in names):
        raise UserError(f"trust={modules!r} must be the name of a module of yours, or a list of such names.")
    for name in names:
        check(name)
    token = _trusted.set(tuple(names))
    try:
        yield
    finally:
        _trusted.reset(token)


def check(name: str) -> None:
    """Raise `UserError` unless there is a module of this name that may be trusted; nothing of it is run."""
    if not possible(name) or name.endswith(".py"):
        raise UserError(
            f"trust={name[:LONGEST]}: give the name of a module of yours, as in an import: my_parts for my_parts.py."
        )
    if name.partition(".")[0] in NEVER:
        raise UserError(f"trust={name} is no code of yours: give the name of a module of your own.")
    if not sources(name):
        raise UserError(f"trust={name}: {missing(name)}.")


def missing(name: str) -> str:
    """That a module is not found, and where it was looked for, in words."""
    return (
        f"there is no such module, {name.replace('.', '/')}.py, in the working directory {os.getcwd()}, nor where "
        "Python looks for modules: start the command where it lies"
    )


def modules() -> tuple[str, ...]:
    """Those that are trusted here."""
    return _trusted.get()


def possible(name: str) -> bool:
    """Whether a text could be the dotted name of something."""
    return len(name) <= LONGEST and DOTTED.fullmatch(name) is not None


def covering(name: str) -> str | None:
    """The trusted module that what has this dotted name would lie in, or None."""
    return next((module for module in modules() if possible(name) and name.startswith(f"{module}.")), None)


def foreign(name: str) -> bool:
    """Whether a dotted name leads to code that somebody may own: neither to Python's, nor to PyTorch's, nor to ours."""
    return possible(name) and "." in name and name.partition(".")[0] not in NEVER


def part_from_options(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Where the command line names a part of the user's own, leave out the settings of the option that it replaces.

    Args:
        cfg: the composed config, changed in place.
        overrides: of the command line.
    """
    given = {override.split("=", 1)[0].lstrip("+~") for override in overrides}
    for key in map(str, cfg):
        node = cfg.get(key)
        replaced = f"{key}._target_" in given and key not in given and isinstance(node, DictConfig)
        if replaced and foreign(str(node.get("_target_"))):
            with open_dict(node):
                for name in [str(name) for name in node if name != "_target_" and f"{key}.{name}" not in given]:
                    del node[name]


# ------------------------------------------------------------------------------------ its files, without running any


def sources(module: str) -> dict[str, Path]:
    """The files of a module or package that can run, by their names in it; none where it is not found.

    Nothing is run. Compiled files count where Python would import them; those in `__pycache__` are never read.
    """
    if not possible(module):
        return {}
    importlib.invalidate_caches()
    places: Any = [os.getcwd(), *sys.path]
    full, spec = "", None
    for part in module.split("."):
        full = f"{full}.{part}" if full else part
        spec = PathFinder.find_spec(full, places) if places is not None else None
        if spec is None:
            return {}
        places = spec.submodule_search_locations
    assert spec is not None
    if places is None:
        return {Path(spec.origin).name: Path(spec.origin)} if spec.origin else {}
    found = {str(path.relative_to(place)): path for place in places for path in Path(place).rglob("*") if runs(path)}
    return dict(sorted(found.items()))


def runs(path: Path) -> bool:
    """Whether a file in a package is one that can be imported, rather than what Python keeps of one."""
    kept = path.parent.name == "__pycache__" and "." in path.stem
    return path.name.endswith(tuple(all_suffixes())) and not kept and path.is_file()


def source_hash(module: str) -> str:
    """A hash of the source of a module, or of all that of the package it lies in, whose `__init__.py` runs with it and
    whose other modules it may import; the same on every system."""
    digest = hashlib.sha256()
    for name, path in sources(module.partition(".")[0]).items():
        digest.update(f"{Path(name).as_posix()}\n".encode())
        content = path.read_bytes()
        digest.update(content.replace(b"\r\n", b"\n") if path.suffix == ".py" else content)
    return digest.hexdigest()[:16]


def load(module: str) -> ModuleType:
    """Import a trusted module, or one inside it; what the working directory holds comes first.

    Raises:
        UserError: it cannot be imported; with the file and the line where there are such.
    """
    here, top = os.getcwd(), module.partition(".")[0]
    forget_another(top)
    only_source(top)
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if not sources(top):
            raise UserError(f"The module {module} cannot be imported: {missing(top)}.") from error
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"There is no module {module}: write the name of the class as module.Class.") from error
        raise UserError(f"The module {module} cannot be imported: {told(error, module)}.") from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:  # for what it imports later, and for processes that this one starts
            sys.path.append(here)


def forget_another(name: str) -> None:
    """Let a module be imported anew where one of the same name, from another place, was before: what runs is what was
    looked for and hashed."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or Path(file).resolve() in [path.resolve() for path in sources(name).values()]:
        return
    for known in [known for known in sys.modules if f"{known}.".startswith(f"{name}.")]:
        del sys.modules[known]


def told(error: BaseException, module: str) -> str:
    """What an error in a module of the user's says, with the last place in its files that it went through."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    files = {str(path.resolve()) for path in sources(module.partition(".")[0]).values()}
    what, place, step = type(error).__name__, "", error.__traceback__
    while step is not None:
        file, within = Path(step.tb_frame.f_code.co_filename), step.tb_frame.f_code.co_name
        if str(file.resolve()) in files:
            place = f" ({file.name}, line {step.tb_lineno})"
        step = step.tb_next
        if step is None and isinstance(error, NotImplementedError):  # by which a base class says what it leaves out
            what += f" in {within}"
    return what + (f": {brief(error)}".rstrip(".") if str(error) else "") + place
