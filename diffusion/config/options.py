"""Where the options of the config lie, and a config made of them without Hydra's global state: who uses Hydra for
something else in the same process notices nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion.system.errors import UserError

VERSION_BASE = "1.3"  # of Hydra, as in the scripts
PACKAGE = Path(__file__).resolve().parent.parent


def home() -> Path:
    """The folder conf/: inside the package where it was installed from a wheel, beside it in the repository.

    Raises:
        UserError: it is in neither place.
    """
    places = (PACKAGE / "conf", PACKAGE.parent / "conf")
    found = next((place for place in places if (place / "train.yaml").is_file()), None)
    if found is None:
        raise UserError(f"The settings are missing: there is no {' and no '.join(map(str, places))}: install it anew.")
    return found


def composed(name: str, overrides: Sequence[str], places: Sequence[Path]) -> DictConfig:
    """The config of a script, with Hydra's own node `hydra`, unresolved.

    Args:
        name: of the script, "train" for example.
        overrides: as Hydra reads them.
        places: folders of options, looked through in this order; the first holds the script's own.

    Raises:
        HydraException: a setting does not compose.
    """
    search = create_config_search_path(str(places[0]))
    for place in places[1:]:
        search.prepend("command-line", f"file://{place}", anchor="schema")
    with version_base():
        setup_globals()  # what ${now:…} in an option means
        loader = ConfigLoaderImpl(config_search_path=search)
        return loader.load_configuration(config_name=name, overrides=list(overrides), run_mode=RunMode.RUN)


@contextmanager
def version_base() -> Iterator[None]:
    """A block in which Hydra behaves as in the scripts."""
    state = version.VersionBase.instance()
    before = state.version_base
    version.setbase(VERSION_BASE)
    try:
        yield
    finally:
        state.version_base = before
