"""``iroh-fast doctor``: why endpoints reach each other, or do not."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from importlib import import_module

from ...errors import IrohError, printable
from .show import Failed, Out

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit status."""
    level = os.environ.get("IROH_FAST_LOG", "ERROR").upper()
    if level in logging.getLevelNamesMapping():
        logging.basicConfig(level=level, stream=sys.stderr)
    module, _, name = args.work.partition(".")
    work = getattr(import_module(f"{__name__}.{module}"), name)
    out = Out(args.json)
    try:
        return int(asyncio.run(work(args, out)))
    except (Failed, IrohError, OSError, ExceptionGroup) as error:
        leaves = _leaves(error)
        if not all(isinstance(leaf, (Failed, IrohError, OSError)) for leaf in leaves):
            raise
        text = "; ".join(printable(str(leaf) or type(leaf).__name__) for leaf in leaves)
    if args.json:
        out.tell("error", text, error=text)
    print(f"error: {text}", file=sys.stderr)
    return 1


def _leaves(error: BaseException) -> list[BaseException]:
    """What is in a group of errors, or the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in _leaves(part)]
