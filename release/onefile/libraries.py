"""Imports compiled modules from the zip."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from zipimport import zipimporter

from onefile.memory import path_of

# The stable ABI: one library works with every Python from 3.11 on.
SUFFIX = ".abi3.so"


def load_from(archive: zipimporter) -> None:
    """Search this zip for compiled modules before all other places."""
    sys.meta_path.insert(0, _Finder(archive))


class _Finder(MetaPathFinder):
    def __init__(self, archive: zipimporter) -> None:
        self._archive = archive

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        try:
            library = self._archive.get_data(fullname.replace(".", "/") + SUFFIX)
        except OSError:
            return None
        where = path_of(library)
        return ModuleSpec(fullname, ExtensionFileLoader(fullname, where), origin=where)
