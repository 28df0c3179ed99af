"""Modules and public names that load when something of them is first asked for.

What is named only as ``module.Name`` in annotations and inside of functions costs nothing when
the package is imported, and ``typing.get_type_hints`` still finds it::

    if TYPE_CHECKING:
        from . import stats as _stats
    else:
        _stats = Later("iroh_fast.stats")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


class Later:
    """Stands for a module; asking for a name in it loads it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by those who inspect any object; the module stays out
            raise AttributeError(name)
        try:
            module = import_module(self._name)
        except ImportError:
            if sys.meta_path is None:  # the interpreter ends: a finalizer asks for it
                raise AttributeError(name) from None
            raise
        value = getattr(module, name)
        setattr(self, name, value)  # the next time costs what an attribute of a module costs
        return value

    def __repr__(self) -> str:
        return f"<Later {self._name}>"


def public_names(
    package: str, module_of: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that loads its names when they are first used.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    module_of : mapping of str to str
        Where each name is, relative to the package.
    """

    def load(name: str) -> Any:
        module = module_of.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module, package), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return load, names
