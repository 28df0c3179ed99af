"""Modules that load when something of them is first asked for.

What is named only as ``module.Name`` in annotations and inside of functions costs nothing when
the package is imported, and ``typing.get_type_hints`` still finds it::

    if TYPE_CHECKING:
        from . import stats as _stats
    else:
        _stats = Later("iroh_fast.stats")
"""

from __future__ import annotations

import sys
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
