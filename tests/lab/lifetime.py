"""Ends mappings of a router when they have an age, whatever traffic there is: python -m tests.lab.lifetime SECONDS

Runs in the namespace of the router. Addresses and ports outside leave the maps of `nat` by themselves; this removes the
kernel's entries of the flows, which would go on.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

POLL_S = 0.5
STAMPS = Path("/proc/sys/net/netfilter/nf_conntrack_timestamp")
LINE = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) .*?delta-time=(\d+)")


def expired(lines: str, age: float) -> list[tuple[str, str, str, str]]:
    """Flows of a listing that are as old: source, destination and ports of their first packet."""
    found = (LINE.search(line) for line in lines.splitlines())
    return [(m[1], m[2], m[3], m[4]) for m in found if m is not None and int(m[5]) >= age]


def main(age: float) -> None:
    STAMPS.write_text("1")
    print("ready", flush=True)
    show = ["conntrack", "-L", "-p", "udp", "-o", "timestamp"]
    while True:
        time.sleep(POLL_S)
        listing = subprocess.run(show, capture_output=True, text=True, check=False).stdout
        for source, destination, sport, dport in expired(listing, age):
            subprocess.run(
                ["conntrack", "-D", "-p", "udp", "--orig-src", source, "--orig-dst", destination]
                + ["--orig-port-src", sport, "--orig-port-dst", dport],
                capture_output=True,
                check=False,
            )


if __name__ == "__main__":
    main(float(sys.argv[1]))
