"""``doctor ping``, ``doctor path``, ``doctor lookup``: one other endpoint."""

from __future__ import annotations

import argparse
import asyncio
import time

from ... import Connection, Endpoint, EndpointAddr
from ...errors import AddressLookupFailed, AlpnMismatch, IrohError
from ...lookup import LookupItem
from ...lookup.services import LookupAnswer
from .binding import bind, settled, target_of
from .paths_shown import Follower, facts_of, table, used
from .show import Failed, Out, milliseconds
from .wire import PING_ALPN

__all__ = ["lookup", "path", "ping"]

ATTEMPT_S = 30.0


async def ask(conn: Connection) -> float:
    """One ping over a connection; seconds until the answer.

    Raises
    ------
    Failed : the answer is another one.
    """
    began = time.perf_counter()
    send, recv = await conn.open_bi()
    await send.write_all(b"PING")
    send.finish()
    if await recv.read_to_end(4) != b"PONG":
        raise Failed("the other side answered something that is no pong")
    return time.perf_counter() - began


async def _connect(ep: Endpoint, target: EndpointAddr) -> tuple[Connection, float]:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(ATTEMPT_S):
            conn = await ep.connect(target, PING_ALPN)
    except AlpnMismatch as error:
        seconds = time.perf_counter() - began
        raise Failed(
            f"{target.id} is there ({milliseconds(seconds)}), and does not speak iroh-ping: "
            "run `iroh-fast doctor accept` on that machine"
        ) from error
    except TimeoutError:
        raise Failed(f"no connection within {ATTEMPT_S:g} s") from None
    return conn, time.perf_counter() - began


async def ping(args: argparse.Namespace, out: Out) -> int:
    """Ask some times, each over a connection of its own; exit status 1 where nothing came back."""
    if args.count < 1 or args.interval < 0:
        raise Failed("--count is at least 1, --interval at least 0")
    answers = 0
    target = target_of(args)
    async with bind(args, alpns=[]) as ep:
        await settled(ep, args, out)
        for number in range(args.count):
            if number:
                await asyncio.sleep(args.interval)
            try:
                conn, connecting = await _connect(ep, target)
                seconds = await ask(conn)
            except (IrohError, OSError) as error:
                out.tell("no_answer", f"{number + 1}: {error}", number=number + 1, error=str(error))
                continue
            answers += 1
            over = used(conn)
            where = f" over {over.remote_addr}" if over else ""
            text = f"{number + 1}: {milliseconds(seconds)}{where} (connected in {milliseconds(connecting)})"
            out.tell(
                "answer",
                text,
                number=number + 1,
                seconds=seconds,
                connect_seconds=connecting,
                path=facts_of(over) if over else None,
            )
            conn.close(0, b"bye!")
    text = f"{answers} of {args.count} answered"
    out.tell("summary", text, answers=answers, count=args.count)
    return 0 if answers else 1


async def path(args: argparse.Namespace, out: Out) -> int:
    """Connect, wait for a direct path, and tell what there is."""
    target = target_of(args)
    async with bind(args, alpns=[]) as ep:
        await settled(ep, args, out)
        conn, seconds = await _connect(ep, target)
        text = f"connected to {conn.remote_id} in {milliseconds(seconds)}"
        out.tell("connected", text, id=str(conn.remote_id), seconds=seconds)
        async with Follower(conn, out):
            await ask(conn)
            began = time.perf_counter()
            try:
                async with asyncio.timeout(args.seconds):
                    await conn.direct()
                waited: float | None = time.perf_counter() - began
            except (TimeoutError, IrohError):  # or there never will be one
                waited = None
        paths, why = conn.paths, conn.why_relayed()
        direct = waited is not None
        end = "direct" if direct else f"relayed: {why}"
        out.tell(
            "paths",
            [*table(paths), end],
            direct=direct,
            why_relayed=why,
            paths=[facts_of(one) for one in paths],
        )
        conn.close(0, b"bye!")
    return 1 if args.require_direct and not direct else 0


async def lookup(args: argparse.Namespace, out: Out) -> int:
    """Ask every service; exit status 1 where none knows the endpoint."""
    id = target_of(args).id
    found = 0
    async with bind(args, alpns=[], portmapper=False) as ep:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(args.seconds), ep.address_lookup.resolve(id) as answers:
                async for answer in answers:
                    found += _told(answer, time.perf_counter() - began, out)
        except AddressLookupFailed as error:  # each failure was told already
            if error.kind == "no_service":
                raise
        except TimeoutError:
            out.tell("timeout", f"after {args.seconds:g} s some services did not answer")
    if not found:
        out.tell("summary", f"no service knows {id}", found=0)
    return 0 if found else 1


def _told(answer: LookupAnswer, seconds: float, out: Out) -> bool:
    """Tell what a service said; whether it knows the endpoint."""
    service = answer.provenance
    if not isinstance(answer, LookupItem):
        text = f"{service}: {answer.error} ({milliseconds(seconds)})"
        out.tell("failure", text, service=service, error=str(answer.error), seconds=seconds)
        return False
    data = answer.info.data
    addrs = [str(addr) for addr in data.addrs]
    lines = [f"{service}: ({milliseconds(seconds)})"]
    lines += [f"  {addr}" for addr in addrs] or ["  no address"]
    if data.user_data is not None:
        lines.append(f"  user data: {data.user_data}")
    known = {"addrs": addrs, "user_data": data.user_data}
    out.tell("found", lines, service=service, seconds=seconds, **known)
    return True
