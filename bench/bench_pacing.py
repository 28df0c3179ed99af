"""What the pacer and the timers of the event loop make of a rate, on the loopback device.

``python bench/bench_pacing.py`` sends at fixed rates from one process to another while a third one takes the time of each
packet on the device (needs root, Linux).  Columns: the rate asked for and the one that was sent (payload of QUIC), looks of
the timer per second, bursts (packets less than 100 us apart) and their size: the median, the largest of a hundred and the
largest, in packets and in ms of the rate; CPU of the sender.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RATES = {"1M": 1e6, "10M": 1e7, "100M": 1e8, "1G": 1e9, "10G": 1e10}
GAP_NS = 100_000
OVERHEAD = 42  # Ethernet, IPv4, UDP of what a packet socket sees
SO_TIMESTAMPNS = 35


def config() -> Any:
    from iroh_fast.config import QuicTransportConfig

    return QuicTransportConfig(
        initial_mtu=1452,
        mtu_discovery=None,
        max_stream_receive_window=1 << 28,
        max_send_window=1 << 28,
        stream_receive_window=1 << 26,
    )


def run(main: Any, loop: str) -> Any:
    if loop == "uvloop":
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


async def serve() -> None:
    import iroh_fast

    ep = await iroh_fast.Endpoint.bind(
        preset=iroh_fast.presets.minimal,
        alpns=[b"pace"],
        transport=config(),
        bind_addrs=["127.0.0.1:0"],
    )
    print(json.dumps({"id": str(ep.id), "port": ep.bound_sockets[0].port}), flush=True)
    conn = await (await ep.accept()).accept()
    stream = await conn.accept_uni()
    buffer = bytearray(1 << 20)
    with contextlib.suppress(iroh_fast.IrohError):
        while await stream.readinto(buffer):
            pass


async def send(peer: str, port: int, rate: float, seconds: float) -> None:
    import iroh_fast

    sys.path.insert(0, str(Path(__file__).parent / "rivals"))
    from _build import load_pyx

    fixed = load_pyx(Path(__file__).with_name("fixed_rate.pyx"))
    ep = await iroh_fast.Endpoint.bind(
        preset=iroh_fast.presets.minimal, transport=config(), bind_addrs=["127.0.0.1:0"]
    )
    conn = await ep.connect(
        iroh_fast.EndpointAddr(iroh_fast.EndpointId(peer), [f"127.0.0.1:{port}"]), b"pace"
    )
    fixed.fix_rate(conn._q, rate / 8)
    stream = await conn.open_uni()
    data = bytes(1 << 20)
    begin, cpu = time.monotonic(), time.process_time()
    wakes = ep._driver._core.counters()["timer_wakes"]
    while time.monotonic() - begin < seconds:
        await stream.write(data)
    took = time.monotonic() - begin
    wakes = ep._driver._core.counters()["timer_wakes"] - wakes
    print(
        json.dumps({"wakes": wakes / took, "cpu": (time.process_time() - cpu) / took}), flush=True
    )
    conn.close()
    await ep.close()


def watch(port: int, seconds: float) -> None:
    """(time, size) of what goes to the port, as the device sees it."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    sock.bind(("lo", 0x0800))
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
    sock.settimeout(1.0)
    print("ready", flush=True)
    seen: list[tuple[int, int]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            data, ancillary, _, address = sock.recvmsg(64, 64, socket.MSG_TRUNC)
        except TimeoutError:
            continue
        # Once, as it comes in.
        if (
            address[2] == socket.PACKET_OUTGOING
            or data[23] != 17
            or data[36:38] != port.to_bytes(2, "big")
        ):
            continue
        length = int.from_bytes(data[38:40], "big") - 8
        s, ns = struct.unpack("qq", ancillary[0][2])
        seen.append((s * 10**9 + ns, length))
    print(json.dumps(seen))


def child(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *args], stdout=subprocess.PIPE, text=True)


def measure(name: str, rate: float, seconds: float, loop: str) -> dict[str, Any]:
    server = child("--serve", "--loop", loop)
    where = json.loads(server.stdout.readline())
    watcher = child("--watch", str(where["port"]), "--seconds", str(seconds + 1.5))
    watcher.stdout.readline()
    sender = child(
        "--send",
        where["id"],
        str(where["port"]),
        str(rate),
        "--seconds",
        str(seconds),
        "--loop",
        loop,
    )
    said = json.loads(sender.stdout.readline())
    seen = json.loads(watcher.stdout.read())
    for process in (sender, server, watcher):
        process.kill()
        process.wait()
    # Without the handshake and the opening of the path.
    start = seen[0][0] + int(0.25 * 10**9) if rate > 5e6 else seen[0][0] + 10**9
    seen = [(at, size) for at, size in seen if start < at < start + (seconds - 1.2) * 1e9]
    bursts: list[list[int]] = []  # end, bytes
    for at, size in seen:
        if bursts and at - bursts[-1][0] < GAP_NS:
            bursts[-1][0] = at
            bursts[-1][1] += size
        else:
            bursts.append([at, size])
    sizes = sorted(size for _, size in bursts)
    first, last = seen[0][0], seen[-1][0]
    return {
        "name": name, "asked": rate,
        "sent": sum(size for _, size in seen[:-1]) * 8e9 / max(1, last - first),
        "bursts": len(bursts) * 1e9 / max(1, last - first),
        "median": statistics.median(sizes), "p99": sizes[int(0.99 * (len(sizes) - 1))], "most": sizes[-1], **said,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default=",".join(RATES))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--watch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run(serve(), options.loop)
    elif options.send:
        peer, port, rate = options.send
        run(send(peer, int(port), float(rate), options.seconds), options.loop)
    elif options.watch:
        watch(options.watch, options.seconds)
    else:
        print(
            f"{'rate':>5} {'sent/asked':>10} {'wakes/s':>8} {'bursts/s':>8} {'median':>8} {'p99':>8} {'most':>8}  ms of rate: median, p99, most   cpu"
        )
        for name in options.rates.split(","):
            r = measure(name, RATES[name], options.seconds, options.loop)
            ms = [r[key] * 8e3 / r["asked"] for key in ("median", "p99", "most")]
            print(f"{name:>5} {r['sent'] / r['asked']:10.4f} {r['wakes']:8.0f} {r['bursts']:8.0f} "
                  + " ".join(f"{r[k] / 1452:8.1f}" for k in ("median", "p99", "most"))
                  + f"  {ms[0]:8.2f} {ms[1]:8.2f} {ms[2]:8.2f}            {r['cpu']:4.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
