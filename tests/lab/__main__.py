"""The lab of links and networks as a command: ``python -m tests.lab --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tests.lab import link_command, matrix, run_command, soak
from tests.lab.namespaces import LabError

#: What each of these modules has: ``add_parser(commands)`` declares it, ``run(args)`` gives the exit status.
COMMANDS: dict[str, Any] = {
    "link": link_command,
    "run": run_command,
    "matrix": matrix,
    "soak": soak,
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        status: int = COMMANDS[args.what].run(args)
        return status
    except (LabError, ValueError) as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
