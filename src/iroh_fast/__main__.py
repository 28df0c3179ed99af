"""``python -m iroh_fast``: small tools to see the library at work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        try:
            return _main(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # of the output: commands tell their own
        if not isinstance(error, BrokenPipeError):
            print(f"cannot write the output: {error.strerror or error}", file=sys.stderr)
        if sys.stdout is not None:  # otherwise Python tries again at its end, and complains
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(argv: Sequence[str] | None) -> int:
    import argparse
    from pathlib import Path

    from . import __version__

    script = Path(sys.argv[0]).stem == "iroh-fast"
    parser = argparse.ArgumentParser(
        prog="iroh-fast" if script else "python -m iroh_fast",
        description="Small tools to see the library at work.",
    )
    parser.add_argument("--version", action="version", version=f"iroh_fast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command_parser(name: str, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog
        )

    demo = command_parser(
        "demo", "connect two processes on this machine, echo a line, transfer a file"
    )
    demo.add_argument(
        "--size", type=int, default=512, metavar="MIB", help="size of the file (default: 512)"
    )
    demo.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    command_parser("info", "print version, build switches and features as JSON")

    from .cli import dns_server, relay
    from .cli.doctor import arguments as doctor

    relay.add_arguments(command_parser("relay", "run a relay server", relay.EPILOG))
    dns_server.add_arguments(
        command_parser(
            "dns-server", "run the server that endpoints are found by", dns_server.EPILOG
        )
    )

    doctor.add_arguments(
        command_parser(
            "doctor", "find out why endpoints reach each other, or do not", doctor.EPILOG
        )
    )

    args = parser.parse_args(argv)
    if args.command == "relay":
        return relay.run(args)
    if args.command == "dns-server":
        return dns_server.run(args)
    if args.command == "doctor":
        from .cli.doctor import run

        return run(args)
    if args.command == "info":
        import json

        from . import build_info

        print(json.dumps(build_info(), indent=2))
        return 0
    if args.size < 1:
        parser.error("--size must be at least 1")
    from .cli import demo as command

    return command.serve() if args.serve else command.run(args.size)


if __name__ == "__main__":
    sys.exit(main())
