"""The options of an endpoint as keyword arguments, with their types."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ForwardRef, ParamSpec, TypeVar

from . import config, presets
from .config import EndpointConfig, Preset

__all__ = ["BindOptions", "takes_options"]


@dataclass(slots=True, kw_only=True, repr=False, eq=False)  # as EndpointConfig has them
class BindOptions(EndpointConfig):
    """What :meth:`Endpoint.bind` takes: the options of an endpoint, and where to start from."""

    preset: Preset = presets.n0


P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")


def takes_options(
    options: Callable[P, BindOptions],
) -> Callable[[Callable[Concatenate[type[C], ...], R]], Callable[Concatenate[type[C], P], R]]:
    """Give a function the keyword arguments, and their types, of a class of options."""

    def decorate(function: Callable[Concatenate[type[C], ...], R]) -> Any:
        fields = dataclasses.fields(BindOptions)
        parameters = [inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)]
        parameters += [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=item.default,
                annotation=item.type,
            )
            for item in fields
        ]
        returns = function.__annotations__["return"]
        signature = inspect.Signature(parameters, return_annotation=returns)
        function.__signature__ = signature  # type: ignore[attr-defined]
        hints = {item.name: ForwardRef(str(item.type), module=config.__name__) for item in fields}
        function.__annotations__ = {**hints, "return": returns}
        return function

    return decorate
