"""``python -m tests.lab run``: play scenarios and show what happened and when."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.lab.namespaces import LabError
from tests.lab.timeline import Timeline, timeline
from tests.lab.world import lacking

__all__ = ["add_parser", "run"]

EXAMPLES = """\
examples:
  python -m tests.lab run                          # which there are
  python -m tests.lab run P1                       # ours with ours, over our relay
  python -m tests.lab run P1 P12 --pair ours/rust/iroh-relay --svg .
  IROH_FAST_LOG=DEBUG python -m tests.lab run P18-v4-v6-client --keep /tmp/kept
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="a scenario, with its timeline",
        description="Play scenarios and print what happened and when. Status 1 where one failed. Needs root.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="SCENARIO", help="without one, all are listed")
    add("--pair", action="append", metavar="CLIENT/SERVER[/RELAY]",
        help="of ours and rust; the relay is ours or iroh-relay; several times (default: ours/ours)")  # fmt: skip
    add("--svg", type=Path, metavar="FOLDER", help="a picture of each, too")
    add("--json", type=Path, metavar="FILE", help="results and all events, too")
    add(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="logs, configuration and captures of those that fail",
    )
    add(
        "--capture",
        action="store_true",
        help="the packets of each node's host (with --keep; costs time)",
    )
    add("--quiet", action="store_true", help="one line each, the timeline only of those that fail")


def listing() -> str:
    """All scenarios with what they are about."""
    from tests.lab.stage import SCENARIOS

    wide = max(map(len, SCENARIOS))
    return "\n".join(f"{name:<{wide}}  {one.about}" for name, one in sorted(SCENARIOS.items()))


def drawn(result: Any) -> Timeline:
    """The timeline of a result."""
    how = "ok" if result.error is None else f"FAILED: {result.error}"
    title = f"{result.name}, {result.pairing}, {result.seconds:.1f} s: {how}"
    events = [(node.label, node.events) for node in result.nodes]
    gaps = {
        (node.label, conn): silences
        for node in result.nodes
        for conn, silences in node.silences.items()
    }
    return timeline(title, events, result.marks, gaps)


def keep(stage: Any, error: str | None, folder: Path) -> None:
    """Copy what a world has written, before it goes."""
    if error is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in stage.world.folder.iterdir():
            if path.suffix != ".key":
                with contextlib.suppress(OSError):
                    shutil.copy(path, folder)


async def play_all(args: argparse.Namespace) -> list[Any]:
    from tests.lab.stage import SCENARIOS, Pairing, play

    results = []
    for name in args.names:
        for pairing in [Pairing.parse(text) for text in args.pair or ["ours/ours"]]:
            stem = f"{name}-{str(pairing).replace('/', '-').replace(' ', '-')}"
            if not {pairing.client, pairing.server} <= set(SCENARIOS[name].only):
                print(f"{name}, {pairing}: only of {', '.join(SCENARIOS[name].only)}")
                continue

            def ended(stage: Any, error: str | None, stem: str = stem) -> None:
                if args.keep is not None:
                    keep(stage, error, args.keep / stem)

            result = await play(name, pairing, ended=ended, capture=args.capture)
            results.append(result)
            show(result, args, stem)
    return results


def show(result: Any, args: argparse.Namespace, stem: str) -> None:
    """Print it, and draw it where that was asked for."""
    story = drawn(result)
    print(story.text() if result.error or not args.quiet else story.title)
    for name, figure in result.figures.items():
        print(f"  {name}: {figure}")
    if args.svg is not None:
        args.svg.mkdir(parents=True, exist_ok=True)
        path = args.svg / f"{stem}.svg"
        path.write_text(story.svg())
        print(f"  picture: {path}")
    sys.stdout.flush()


def facts(result: Any) -> dict[str, Any]:
    return {
        "name": result.name,
        "pairing": str(result.pairing),
        "seconds": round(result.seconds, 3),
        "error": result.error,
        "figures": result.figures,
        "marks": result.marks,
        "events": {node.label: node.events for node in result.nodes},
    }


def run(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    import tests.lab.scenarios  # noqa: F401  # enters them
    from tests.lab.stage import SCENARIOS

    if not args.names:
        print(listing())
        return 0
    unknown = [name for name in args.names if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"no such scenario: {', '.join(unknown)}; `run` without a name lists them")
    reason = lacking()
    if reason is not None:
        raise LabError(reason)
    results = asyncio.run(play_all(args))
    if args.json is not None:
        args.json.write_text(json.dumps([facts(result) for result in results], indent=1))
    failed = [result for result in results if result.error is not None]
    print(f"{len(results) - len(failed)} of {len(results)} scenarios as they have to be")
    return 1 if failed else 0
