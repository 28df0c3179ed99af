"""TLS handshakes per second, both sides in one process, CPU time per side.

Run: ``python bench/bench_tls.py [--seconds 2] [--json]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable

from iroh_fast.quic.parameters import TransportParameters
from iroh_fast.quic.tls import Identity, TlsSession
from iroh_fast.quic.tls.sessions import ResumptionTicket, ServerTicketStore

PARAMETERS = TransportParameters(
    max_idle_timeout_ms=30_000,
    max_udp_payload_size=1472,
    initial_max_data=(1 << 62) - 1,
    initial_max_stream_data_bidi_local=1_250_000,
    initial_max_stream_data_bidi_remote=1_250_000,
    initial_max_stream_data_uni=1_250_000,
    initial_max_streams_bidi=100,
    initial_max_streams_uni=100,
    active_connection_id_limit=5,
    initial_source_connection_id=bytes(8),
    max_datagram_frame_size=65_535,
    initial_max_path_id=7,
    min_ack_delay_us=1000,
    n0_nat_traversal=32,
)
CLIENT, SERVER = Identity(os.urandom(32)), Identity(os.urandom(32))
ALPNS = [b"bench/1"]


class Pair:
    """Runs handshakes and keeps the CPU time of each side apart."""

    def __init__(self, with_tickets: bool) -> None:
        self.store = ServerTicketStore() if with_tickets else None
        self.tickets: list[ResumptionTicket] = []
        self.on_ticket = self.tickets.append if with_tickets else None

    def run(self, resume: bool = False) -> tuple[float, float]:
        """Run one handshake with its parameter codecs; return seconds of client and server."""
        clock = time.perf_counter
        begin = clock()
        client = TlsSession.client(
            CLIENT,
            expected_peer=SERVER.public_key,
            alpns=ALPNS,
            transport_parameters=PARAMETERS.encode(False, os.urandom),
            ticket=self.tickets.pop() if resume else None,
            on_ticket=self.on_ticket,
        )
        client.start()
        ((_, hello),) = client.take_output()
        client_s = clock() - begin

        begin = clock()
        server = TlsSession.server(
            SERVER,
            alpns=ALPNS,
            transport_parameters=PARAMETERS.encode(True, os.urandom),
            ticket_store=self.store,
        )
        server.receive(0, hello)
        flight = server.take_output()
        TransportParameters.decode(server.peer_transport_parameters, from_server=False)
        server_s = clock() - begin

        begin = clock()
        for epoch, data in flight:
            client.receive(epoch, data)
        ((_, answer),) = client.take_output()
        TransportParameters.decode(client.peer_transport_parameters, from_server=True)
        client_s += clock() - begin

        begin = clock()
        server.receive(2, answer)
        tickets = server.take_output()
        server_s += clock() - begin

        begin = clock()
        for epoch, data in tickets:
            client.receive(epoch, data)
        client_s += clock() - begin
        if not (client.complete and server.complete and server.resumed is resume):
            raise RuntimeError("the handshake failed")
        del self.tickets[:-4]  # the store forgets old ones
        return client_s, server_s


def measure(run: Callable[[], tuple[float, float]], seconds: float) -> dict[str, float]:
    for _ in range(20):
        run()
    sides = []
    cpu = time.process_time()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sides.append(run())
    cpu = time.process_time() - cpu
    client, server = (sorted(side) for side in zip(*sides))
    middle = len(sides) // 2
    return {
        "pairs_per_cpu_second": round(len(sides) / cpu),
        "cpu_us_per_pair": round(cpu / len(sides) * 1e6, 1),
        "client_us_median": round(client[middle] * 1e6, 1),
        "client_us_min": round(client[0] * 1e6, 1),
        "server_us_median": round(server[middle] * 1e6, 1),
        "server_us_min": round(server[0] * 1e6, 1),
    }


def memory_per_session(count: int = 500) -> dict[str, float]:
    """Bytes a finished, released session keeps (its strings included)."""
    result = {}
    for name in ("client", "server"):
        kept = []
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            client = TlsSession.client(
                CLIENT,
                expected_peer=SERVER.public_key,
                alpns=ALPNS,
                transport_parameters=PARAMETERS.encode(False, os.urandom),
                on_ticket=print,
            )
            server = TlsSession.server(
                SERVER, alpns=ALPNS, transport_parameters=PARAMETERS.encode(True, os.urandom)
            )
            client.start()
            for source, target in ((client, server), (server, client), (client, server)):
                for epoch, data in source.take_output():
                    target.receive(epoch, data)
                source.take_secrets()
            session = client if name == "client" else server
            session.take_secrets()
            session.release_handshake_state()
            kept.append(session)
        del client, server, session, source, target, data
        result[f"{name}_bytes"] = round((tracemalloc.get_traced_memory()[0] - before) / count)
        tracemalloc.stop()
    return result


def import_time_ms(module: str) -> float:
    """CPU milliseconds a fresh interpreter needs to import `module`, best of five."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    runs = (subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(5))
    return round(min(map(float, runs)) * 1000, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per variant")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plain, ticketing = Pair(False), Pair(True)
    ticketing.run()
    results = {
        "machine": f"{platform.machine()} Python {platform.python_version()}",
        "full": measure(plain.run, options.seconds),
        "full, two tickets": measure(ticketing.run, options.seconds),
        "resumed, 0-RTT, two tickets": measure(lambda: ticketing.run(True), options.seconds),
        "memory per released session": memory_per_session(),
        "import CPU ms": {
            name: import_time_ms(name) for name in ("iroh_fast.quic.tls", "aioquic.tls")
        },
    }
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, values in results.items():
        print(name)
        for key, value in values.items() if isinstance(values, dict) else (("", values),):
            print(f"    {key:24} {value}")


if __name__ == "__main__":
    main()
