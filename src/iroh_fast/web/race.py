"""Connecting to the address of a name that answers first (RFC 8305)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from ..errors import DialError
from .names import Names
from .resolver import DnsResolver
from .tcp import connect

__all__ = ["Connect", "Resolve", "connect", "race", "resolve", "resolved_by"]

DNS_TIMEOUT_S: Final = 3.0
ATTEMPT_TIMEOUT_S: Final = 1.5
STAGGER_S: Final = 0.25  # RFC 8305 §5, connection attempt delay
RESOLUTION_DELAY_S: Final = 0.05  # RFC 8305 §3
MAX_ADDRESSES: Final = 32  # per family; the rest of a longer answer is ignored

Resolve: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[Sequence[str]]]
"""``(host, port, family)`` to the text of its IP addresses; `OSError` when there are none."""
Connect: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[socket.socket]]
"""``(ip, port, family)`` to a connected non-blocking socket; closes it when cancelled."""


def resolved_by(names: Names) -> Resolve:
    """A resolver as the function that a race wants."""

    def resolve(host: str, port: int, family: socket.AddressFamily) -> Awaitable[Sequence[str]]:
        return names.lookup(host, family)

    return resolve


# Of whoever has no endpoint; a resolver belongs to one loop at a time.
_resolvers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, DnsResolver]] = WeakKeyDictionary()


async def resolve(host: str, port: int, family: socket.AddressFamily) -> Sequence[str]:
    """Ask the system's table of hosts and name servers for the addresses of one family."""
    resolver = _resolvers.setdefault(asyncio.get_running_loop(), DnsResolver())
    return await resolver.lookup(host, family)


def _discard(task: asyncio.Task[socket.socket]) -> None:
    """Close what an attempt that lost brings in late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def race(
    host: str,
    port: int,
    *,
    prefer_ipv6: bool = False,
    resolve: Resolve = resolve,
    connect: Connect = connect,
) -> socket.socket:
    """Connect to the address of `host` that answers first (RFC 8305).

    Both families are looked up at once and dialled in turn, the preferred one first: it has
    50 ms to be resolved after the other, then an attempt starts every 250 ms, or at once
    when none is under way.  Each look-up may take 3 s, each attempt 1.5 s.

    Raises
    ------
    DialError
        ``"dns"`` no address was found; ``"timeout"`` or ``"io"`` the last attempt's failure.

    Notes
    -----
    Cancel-safe: nothing stays open.
    """
    loop = asyncio.get_running_loop()
    v4, v6 = socket.AF_INET, socket.AF_INET6
    order = (v6, v4) if prefer_ipv6 else (v4, v6)
    waiting: dict[socket.AddressFamily, deque[str]] = {family: deque() for family in order}
    lookups: dict[asyncio.Task[Sequence[str]], socket.AddressFamily] = {}
    attempts: set[asyncio.Task[socket.socket]] = set()

    async def look_up(family: socket.AddressFamily) -> Sequence[str]:
        async with asyncio.timeout(DNS_TIMEOUT_S):
            return await resolve(host, port, family)

    async def attempt(ip: str, family: socket.AddressFamily) -> socket.socket:
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            return await connect(ip, port, family)

    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        lookups = {loop.create_task(look_up(family)): family for family in order}
    else:
        waiting[v4 if literal.version == 4 else v6].append(host)

    turn = order[0]
    started = False
    start_at: float | None = None
    failure: BaseException | None = None
    no_name: BaseException | None = None
    try:
        while True:
            now = loop.time()
            ready = any(waiting.values())
            if ready:
                if started:
                    at_once = not attempts
                else:
                    at_once = bool(waiting[order[0]]) or not lookups
                if at_once:
                    start_at = now
                elif start_at is None:
                    start_at = now + RESOLUTION_DELAY_S
                if start_at is not None and start_at <= now:
                    family = turn if waiting[turn] else order[1 - order.index(turn)]
                    attempts.add(loop.create_task(attempt(waiting[family].popleft(), family)))
                    turn = order[1 - order.index(family)]
                    started, start_at = True, now + STAGGER_S
                    continue
            elif not attempts and not lookups:
                raise _race_error(host, port, failure, no_name)
            delay = start_at - now if ready and start_at is not None else None
            done, _ = await asyncio.wait(
                {*lookups, *attempts}, timeout=delay, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in lookups if task in done]:
                family = lookups.pop(task)
                if error := task.exception():
                    no_name = error
                else:
                    waiting[family].extend(dict.fromkeys(task.result()[:MAX_ADDRESSES]))
            for finished in [task for task in attempts if task in done]:
                if error := finished.exception():
                    attempts.discard(finished)
                    failure = error
                elif not finished.cancelled():
                    attempts.discard(finished)
                    return finished.result()
    finally:
        for task in lookups:
            task.cancel()
        for finished in attempts:
            finished.add_done_callback(_discard)
            finished.cancel()


def _race_error(
    host: str, port: int, failure: BaseException | None, no_name: BaseException | None
) -> DialError:
    where = f"{host}:{port}"
    if failure is not None:
        if isinstance(failure, TimeoutError):
            error = DialError("timeout", f"{where} did not answer in {ATTEMPT_TIMEOUT_S} s")
        else:
            error = DialError("io", f"cannot connect to {where}: {failure}")
        error.__cause__ = failure
        return error
    what = "took too long" if isinstance(no_name, TimeoutError) else no_name or "no address"
    error = DialError("dns", f"cannot resolve {host}: {what}")
    error.__cause__ = no_name
    return error
