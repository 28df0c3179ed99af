"""A path that was down, and somebody who knows that it works again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sim import MS, SECOND, Transfer, calm

MakePair = Callable[..., Any]
OUTAGE = 20 * SECOND


def after_an_outage(make_pair: MakePair, writer: str) -> tuple[Any, Any, Any, Transfer]:
    """Both directions were silent for long, in the middle of a transfer; now they work again."""
    p = make_pair(transport=calm(max_idle_timeout=120.0))
    c, s = p.connect()
    sender, receiver = (c, s) if writer == "client" else (s, c)
    t = Transfer(p, sender, receiver, bytes(400_000))
    p.to_server.rate = p.to_client.rate = 1_000_000
    p.run_for(100 * MS)
    t.poll()
    p.filters.append(lambda d: True)
    p.run_for(OUTAGE)
    p.filters.clear()
    return p, sender, receiver, t


@pytest.mark.parametrize("writer", ["client", "server"])
def test_data_flows_at_once(make_pair: MakePair, writer: str) -> None:
    p, sender, receiver, t = after_an_outage(make_pair, writer)
    ids = {d.data[1:9] for d in p.client.sent + p.server.sent if not d.data[0] & 0x80}
    sender.path_works_again()
    assert p.run_until(t.poll) < SECOND
    assert bytes(t.received) == bytes(400_000)
    assert sender.close_reason is None and receiver.close_reason is None
    after = {d.data[1:9] for d in p.client.sent + p.server.sent if not d.data[0] & 0x80}
    assert after == ids, "no id was spent"


def test_without_it_the_probe_timeout_decides(make_pair: MakePair) -> None:
    p, _, _, t = after_an_outage(make_pair, "client")
    assert p.run_until(t.poll) > 100 * MS


def test_only_the_named_path_is_probed(make_pair: MakePair) -> None:
    p = make_pair(client_addresses=[("10.0.0.1", 1111), ("10.0.0.3", 3333)])
    c, _ = p.connect()
    second = c.open_path(p.server.addresses[0], p.client.addresses[1])
    p.drive()
    before = {i: c.path_info(i)["stats"]["frame_tx"]["ping"] for i in (0, second)}
    c.path_works_again(second)
    c.path_works_again(77)
    p.flush()
    after = {i: c.path_info(i)["stats"]["frame_tx"]["ping"] for i in (0, second)}
    assert after == {0: before[0], second: before[second] + 1}


def test_dial_is_tried_again_at_once(make_pair: MakePair) -> None:
    p = make_pair()
    p.filters.append(lambda d: True)
    c = p.dial()
    p.run_for(5 * SECOND)
    p.filters.clear()
    c.path_works_again()
    assert p.run_until(lambda: c.handshake_confirmed) < SECOND
