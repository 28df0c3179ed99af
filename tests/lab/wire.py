"""The process between the two namespaces: sets itself up as it is told on its control socket, then carries packets."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import resource
import sys
from multiprocessing.connection import Connection

from tests.lab._link import Link
from tests.lab._wire import Wire, enter_network, open_tun
from tests.lab.link import LabStats, LinkConfig, Setup

PRIORITY = 40  # above normal processes, below the kernel's own threads


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def hurry() -> None:
    """Let no busy machine come between the packets, as far as we are allowed to."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        return
    with contextlib.suppress(OSError):
        os.nice(-20)


def devices(ends: tuple[tuple[str, str], tuple[str, str]]) -> list[int]:
    """Descriptors of a TUN device in each namespace."""
    made = []
    for namespace, device in ends:
        fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter_network(fd)
        finally:
            os.close(fd)
        made.append(open_tun(device))
    return made


def serve(control: Connection) -> None:
    setup: Setup = control.recv()
    left, right = devices(setup.ends)
    seeds = itertools.count(2 * setup.seed)

    def links(there: LinkConfig, back: LinkConfig) -> tuple[Link, Link]:
        return Link(there, next(seeds)), Link(back, next(seeds))

    wire = Wire(left, right, control.fileno(), *links(setup.there, setup.back))
    began = cpu_s()
    gc.disable()
    hurry()
    control.send("ready")
    while True:
        wire.run()
        command = control.recv()
        if command == "stats":
            late = wire.late_ms(0.5), wire.late_ms(0.99), wire.late_ms(1.0)
            counted = wire.there.stats(), wire.back.stats()
            control.send(LabStats(*counted, wire.failed, late, cpu_s() - began))
            continue
        if command != "begin":
            wire.change(*links(*command))
        wire.begin()
        began = cpu_s()
        control.send(None)


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as connection, contextlib.suppress(EOFError):
        try:
            serve(connection)
        except OSError as error:
            connection.send(error)
