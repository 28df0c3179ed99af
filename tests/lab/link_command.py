"""``python -m tests.lab link``: run a command at one end of an emulated link."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lab import Bursts, LabError, LabStats, LinkConfig, LinkLab, LinkStats, Policer, missing

EXPLANATION = """\
The command runs in a network of its own, whose only way out is the link. At the other end is a second network, where
--serve runs another command, from which the first one waits to have a socket. Both find in their environment

  LAB_OWN, LAB_OWN6     their own addresses
  LAB_PEER, LAB_PEER6   those of the other end

and end with it: nothing is left. What the link did is told on stderr when the command has ended.
"""
EXAMPLES = """\
examples:
  python -m tests.lab link --rate 100 --delay 20 --loss 0.005 -- bash
  python -m tests.lab link --rate 20 --delay 40 --queue 60 \\
      --serve 'python -m http.server' -- sh -c 'curl -so /dev/null http://$LAB_PEER:8000/big.iso'
  python -m tests.lab link --rate 300 --delay 2 --jitter 3 --reorder --back rate=50,loss=0.01 -- COMMAND
"""
NO_COMMAND = (
    "a command is missing: put it behind --, as in: python -m tests.lab link --rate 100 -- bash"
)
SERVER_S = 20.0  # for a server to open its socket


def pair(
    first: Callable[[str], Any], second: Callable[[str], Any], form: str
) -> Callable[[str], Any]:
    """A parser of two values with a colon between them."""

    def parse(text: str) -> tuple[Any, Any]:
        left, colon, right = text.partition(":")
        try:
            if colon:
                return first(left), second(right)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")

    return parse


OUTAGE = pair(float, float, "START:LENGTH, in seconds")
STEP = pair(float, float, "SECOND:MBITS")
BURSTS = pair(float, float, "FRACTION:LENGTH, as 0.01:20")
POLICER = pair(float, int, "MBITS:BYTES, as 10:15000")


def add_link_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the link, both directions alike")
    add = group.add_argument
    add("--rate", type=float, metavar="MBITS", help="Mbit/s of IP packets (default: no limit)")
    add("--delay", type=float, default=0.0, metavar="MS", help="one way (default: 0)")
    add("--loss", type=float, default=0.0, metavar="FRACTION", help="at random, as 0.005")
    add(
        "--burst-loss",
        type=BURSTS,
        metavar="FRACTION:LENGTH",
        help="in bursts of that many packets",
    )
    add("--jitter", type=float, default=0.0, metavar="MS", help="up to this much later")
    add("--reorder", action="store_true", help="jitter lets packets overtake each other")
    add(
        "--queue",
        type=int,
        default=1000,
        metavar="PACKETS",
        help="drops what comes then (default: 1000)",
    )
    add("--ecn", type=int, metavar="PACKETS", help="marks packets behind a longer queue")
    add("--outage", type=OUTAGE, action="append", default=[], metavar="START:LENGTH",
        help="loses all from second START on; several times")  # fmt: skip
    add("--hold", action="store_true", help="packets wait for the end of an outage")
    add("--step", type=STEP, action="append", default=[], metavar="SECOND:MBITS",
        help="changes the rate then; several times")  # fmt: skip
    add(
        "--police",
        type=POLICER,
        metavar="MBITS:BYTES",
        help="drops above this rate, without a queue",
    )
    add("--back", type=back, default={}, metavar="NAME=VALUE,...",
        help="what is different on the way back: rate, delay, loss, jitter, queue, ecn")  # fmt: skip


def back(text: str) -> dict[str, Any]:
    """Values of the way back."""
    kinds = {
        "rate": float,
        "delay": float,
        "loss": float,
        "jitter": float,
        "queue": int,
        "ecn": int,
    }
    found: dict[str, Any] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if name not in kinds or not equals:
            raise argparse.ArgumentTypeError(f"{item!r}: give {', '.join(kinds)} as NAME=VALUE")
        try:
            found[name] = kinds[name](value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{item!r}: {value!r} is no number") from None
    return found


def add_parser(commands: Any) -> None:
    """Declare the command."""
    link: argparse.ArgumentParser = commands.add_parser(
        "link",
        help="two networks with a link between them",
        description="Run a command at one end of an emulated link. Needs root.",
        usage="python -m tests.lab link [options] [--serve COMMAND] -- COMMAND [argument ...]",
        epilog=EXPLANATION + "\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_link_options(link)
    link.add_argument(
        "--serve", type=shlex.split, metavar="COMMAND", help="runs at the other end, as one word"
    )
    link.add_argument(
        "--mtu", type=int, default=1500, metavar="BYTES", help="of both ends (default: 1500)"
    )
    link.add_argument(
        "--seed", type=int, default=0, help="decides what is lost and how late (default: 0)"
    )
    link.set_defaults(fail=link.error)
    link.add_argument("command", nargs="*", metavar="COMMAND", help="behind --, with its arguments")


def configs(args: argparse.Namespace) -> tuple[LinkConfig, LinkConfig]:
    there = LinkConfig(
        rate=args.rate,
        delay=args.delay,
        loss=args.loss,
        burst_loss=Bursts(*args.burst_loss) if args.burst_loss else None,
        jitter=args.jitter,
        reorder=args.reorder,
        queue=args.queue,
        ecn=args.ecn,
        outages=tuple(sorted(args.outage)),
        outage_holds=args.hold,
        steps=tuple(sorted(args.step)),
        policer=Policer(*args.police) if args.police else None,
    )
    return there, replace(there, **args.back)


def wait_for_socket(server: subprocess.Popen[Any]) -> None:
    """Wait until a process has a socket in a network where no other process has one."""
    end = time.monotonic() + SERVER_S
    tables = [Path(f"/proc/{server.pid}/net/{name}") for name in ("tcp", "tcp6", "udp", "udp6")]
    while server.poll() is None:
        # A line of headings each. Before the process has entered the network, it sees another one.
        with contextlib.suppress(OSError):  # where the process has just ended
            if entered(server.pid) and any(len(t.read_text().splitlines()) > 1 for t in tables):
                return
        if time.monotonic() > end:
            raise LabError(f"--serve: no socket after {SERVER_S:.0f} s")
        time.sleep(0.01)
    raise LabError(f"--serve: the command has ended with status {server.returncode}")


def entered(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def run_both(args: argparse.Namespace) -> int:
    """Open the lab and run the commands; the exit status of the first."""
    there, back = configs(args)
    with LinkLab(there, back, seed=args.seed, mtu=args.mtu) as lab:
        if args.serve:
            server = lab.right.popen(
                args.serve,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**os.environ, **addresses(lab.right, lab.left)},
            )
            wait_for_socket(server)
        lab.begin()
        start = time.monotonic()
        child = lab.left.popen(args.command, env={**os.environ, **addresses(lab.left, lab.right)})
        try:
            status = child.wait()
        except KeyboardInterrupt:  # the command has got it, too
            status = 130
        print(report(lab.stats(), time.monotonic() - start), file=sys.stderr)
    return status if status >= 0 else 128 - status


def addresses(own: Any, peer: Any) -> dict[str, str]:
    return {"LAB_OWN": own.ip4, "LAB_OWN6": own.ip6, "LAB_PEER": peer.ip4, "LAB_PEER6": peer.ip6}


def report(stats: LabStats, seconds: float) -> str:
    """What happened, for people."""
    lines = [
        f"after {seconds:.1f} s:",
        direction("there", stats.there),
        direction("back", stats.back),
    ]
    half, most, worst = stats.late_ms
    lines.append(
        f"  wire   packets late by {half:.2f} ms (median), {most:.2f} ms (99 %), {worst:.2f} ms (all); "
        f"{stats.cpu_s / max(seconds, 1e-9):.0%} of a processor"
    )
    if stats.failed:
        lines.append(f"  the lab lost {stats.failed} packets by itself: do not trust this run")
    return "\n".join(lines)


def direction(name: str, stats: LinkStats) -> str:
    causes = ", ".join(f"{cause} {count}" for cause, count in stats.dropped.items() if count)
    return (
        f"  {name:<6} {stats.delivered:,} of {stats.packets:,} packets arrived, "
        f"{stats.delivered_bytes:,} bytes, at most {max(stats.rates, default=0):.1f} Mbit/s; "
        f"dropped {stats.lost:,}{f' ({causes})' if causes else ''}, marked {stats.marked:,}, "
        f"overtaking {stats.overtaken:,}; queued {stats.queue_delay_ms(0.5):.1f} ms (median), "
        f"{stats.queue_delay_ms(0.95):.1f} ms (95 %)"
    )


def run(args: argparse.Namespace) -> int:
    """Check what was given, and run; the exit status."""
    try:
        configs(args)
    except ValueError as error:
        args.fail(str(error))
    if not args.command:
        print(f"{EXPLANATION}\n{EXAMPLES}\n{NO_COMMAND}", file=sys.stderr)
        return 2
    for command in (args.command, args.serve):
        if command and shutil.which(command[0]) is None:
            print(f"no such command: {command[0]}", file=sys.stderr)
            return 127
    reason = missing()
    if reason is not None:
        print(f"no lab on this machine: {reason}", file=sys.stderr)
        return 1
    return run_both(args)
