"""Modules that are compiled from their source at every import, whatever compiled files lie beside it: what runs is what
one can read, and what was hashed."""

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

_names: set[str] = set()


class FromSource(SourceFileLoader):
    """Reads no `__pycache__`, and writes none."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class Finder:
    """Finds what `only_source` was asked for where Python would, and leaves all else to Python."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in _names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = FromSource(spec.loader.name, spec.loader.path)
        return spec


def only_source(name: str) -> None:
    """From now on, import a module or package of this name, with all that lies in it, from its source."""
    _names.add(name)
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
