"""Nodes on a link in virtual time: found, changed, gone; and a link full of hostile messages."""

from __future__ import annotations

import statistics
import struct

import pytest

from iroh_fast import SecretKey, SocketAddr
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.mdns import budget, node, peers
from iroh_fast.lookup.mdns.node import Sender
from iroh_fast.lookup.mdns.wire import Names, encode_answer, encode_query
from tests.lookup.mdns_link import Link, Place

STRANGER = Sender("10.0.9.9", 4)


def answer_of(key: SecretKey, *addrs: str, service: str = "irohv1") -> bytes:
    data = EndpointData(map(SocketAddr.parse, addrs))
    answer, _ = encode_answer(Names(service, key.public), data)
    assert answer is not None
    return answer


def queries(link: Link, since: float = 0.0) -> list[tuple[float, Place]]:
    return [
        (at, place) for at, place, _, datagram in link.datagrams if at >= since and not datagram[2]
    ]


# --- found, changed, gone ----------------------------------------------------------------------


def test_two_nodes_find_each_other_at_once() -> None:
    link = Link()
    first = link.add()
    link.run(5.0)
    began = link.now
    second = link.add()
    link.run(0.3)
    assert first.when(second.id) - began < 0.025 and second.when(first.id) - began < 0.25
    ((_, (id, info)),) = first.seen
    assert id == second.id and info is not None and info.data == second.data


def test_a_node_that_tells_only_when_asked_is_found_by_the_rounds() -> None:
    # As the real peer does it: no message out of turn.
    link = Link()
    first, second = link.add(), link.add(publish=False)
    link.run(5.0)
    began = link.now
    second.publish(link.now)
    second.node._speak_at = float("inf")
    link.run(0.7 * 1.2 + 0.1)
    assert first.when(second.id) - began < 0.7 * 1.2 + 0.1


def test_a_changed_address_replaces_the_old_one() -> None:
    link = Link()
    first, second = link.add(), link.add()
    link.run(3.0)
    changed = EndpointData([SocketAddr.parse("10.0.7.7:7")], "moved")
    link.act(second, lambda node, now: node.publish(changed, now))
    link.run(0.3)
    assert [info.data for info in first.node.peers.infos()] == [changed]
    assert len(first.seen) == 2


def test_a_node_that_falls_silent_expires() -> None:
    link = Link()
    first, second = link.add(), link.add()
    link.run(3.0)
    second.up = False
    began = link.now
    link.run(4.0)
    at, change = first.seen[-1]
    assert change == (second.id, None) and 0.5 < at - began < 2.1 + 0.9 + 0.9
    assert first.found() == set()


def test_nothing_is_told_about_an_unchanged_link() -> None:
    link = Link(loss=0.02)
    places = [link.add() for _ in range(5)]
    link.run(60.0)
    for place in places:
        assert place.found() == {other.id for other in places} - {place.id}
        assert len(place.seen) == 4


def test_listen_only_node_finds_and_is_not_found() -> None:
    link = Link()
    quiet, loud = link.add(publish=False), link.add()
    link.run(5.0)
    assert quiet.found() == {loud.id} and loud.found() == set()


def test_services_of_other_names_are_not_seen() -> None:
    link = Link()
    first, other = link.add(), link.add(service="other")
    link.run(5.0)
    assert first.found() == other.found() == set()
    assert first.node.counters.foreign > 0 and first.node.counters.refused == 0


@pytest.mark.parametrize(
    ("left", "right"), [((4,), (4, 6)), ((6,), (4, 6)), ((6,), (6,)), ((4,), (4,))]
)
def test_nodes_with_one_ip_version_find_each_other(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    link = Link()
    first, second = link.add(families=left), link.add(families=right)
    link.run(5.0)
    assert first.found() == {second.id} and second.found() == {first.id}
    link.run(60.0)
    assert first.found() == {second.id} and second.found() == {first.id}


def test_nodes_without_a_common_ip_version_do_not_find_each_other() -> None:
    link = Link()
    first, second = link.add(families=(4,)), link.add(families=(6,))
    link.run(5.0)
    assert first.found() == second.found() == set()


def test_slow_cadence_asks_less_and_finds_newcomers_at_once() -> None:
    link = Link()
    first = link.add(cadence=30.0)
    link.run(3.0)
    asked = first.node.counters.asked
    link.run(300.0)
    assert 9 <= first.node.counters.asked - asked <= 11
    second = link.add(cadence=30.0)
    link.run(0.5)
    assert first.found() == {second.id}
    link.run(120.0)
    second.up = False
    link.run(50.0)
    assert first.found() == {second.id}
    link.run(90.0)
    assert first.found() == set()


# --- many --------------------------------------------------------------------------------------


def test_fifty_nodes_share_a_few_messages() -> None:
    link = Link(seed=7)
    places = [link.add() for _ in range(50)]
    link.run(30.0)
    for place in places:
        assert len(place.found()) == 49
    began, before = link.now, len(link.datagrams)
    link.run(60.0)
    assert link.now - began == pytest.approx(60.0)
    sent = len(link.datagrams) - before
    # A round takes about one cadence, and has one question and two answers, with a few too many.
    assert 60 / 1.8 * 3 < sent < 60 / 0.7 * 4
    for place in places:
        assert len(place.found()) == 49
    shares = [place.node.counters.answered for place in places]
    assert max(shares) < 4 * statistics.fmean(shares)


def test_fifty_nodes_that_start_together_all_find_each_other_within_a_second() -> None:
    link = Link(seed=3)
    places = [link.add() for _ in range(50)]
    link.run(1.0)
    assert all(len(place.found()) == 49 for place in places)
    assert len(link.datagrams) < 50 * 5


def test_a_peer_among_many_that_is_waited_for_is_found_at_once() -> None:
    link = Link(seed=5)
    places = [link.add() for _ in range(50)]
    late = link.add(publish=False)
    link.run(60.0)
    late.node.peers._by_label.clear()
    late.node.peers._from_sender.clear()
    before = len(link.datagrams)
    wanted = places[17]
    link.act(late, lambda node, now: node.want(wanted.id, now))
    link.run(0.1)
    assert wanted.id in late.found()
    late.node.unwant(wanted.id)
    assert len(link.datagrams) - before <= 6


def test_waiting_for_somebody_who_is_not_there_asks_a_few_times() -> None:
    link = Link()
    place = link.add()
    link.run(5.0)
    before = place.node.counters.asked
    nobody = SecretKey.generate().public
    link.act(place, lambda node, now: node.want(nobody, now))
    link.run(9.9)
    regular = 9.9 / 0.7
    assert place.node.counters.asked - before <= regular + 5
    place.node.unwant(nobody)
    assert not place.node._wanted


def test_waiting_for_thousands_does_not_flood_the_link() -> None:
    link = Link()
    place = link.add()
    link.run(1.0)
    before, began = len(link.datagrams), link.now
    for number in range(400):
        nobody = SecretKey((10_000 + number).to_bytes(32, "big")).public
        link.act(place, lambda node, now, nobody=nobody: node.want(nobody, now))
        link.run(0.01)
    assert len(link.datagrams) - before <= (link.now - began) / node.GAP_S * 2 + 4
    assert all(len(datagram) < 600 for *_, datagram in link.datagrams)


def test_addresses_that_change_all_the_time_do_not_flood_the_link() -> None:
    link = Link()
    place = link.add()
    link.run(1.0)
    before = len(link.datagrams)
    for port in range(1, 401):
        data = EndpointData([SocketAddr.parse(f"10.0.0.1:{port}")])
        link.act(place, lambda node, now, data=data: node.publish(data, now))
        link.run(0.01)
    assert len(link.datagrams) - before <= 2 * (4.0 / node.GAP_S + 1) + 4.0 / 0.7 * 2 + 2


def test_a_node_alone_wakes_up_twice_a_round() -> None:
    link = Link()
    place = link.add()
    link.run(10.0)
    before, sent = place.ticks, place.sent
    link.run(70.0)
    assert place.sent - sent <= 70 / 0.7 * 2
    assert place.ticks - before <= 70 / 0.7 * 2 + 5


# --- hostile -----------------------------------------------------------------------------------


def test_forged_messages_about_us_change_nothing() -> None:
    link = Link()
    first, second = link.add(), link.add()
    link.run(3.0)
    seen = list(first.seen)
    for _ in range(20):
        link.forge(answer_of(first.key, "10.0.9.9:9"), STRANGER, [first])
    assert first.seen == seen and first.found() == {second.id}


def test_forged_messages_about_others_hide_no_true_address() -> None:
    link = Link()
    first, second = link.add(), link.add()
    link.run(3.0)
    for step in range(200):
        link.forge(answer_of(second.key, f"10.0.9.9:{step + 1}"), STRANGER, [first])
        link.run(0.01)
        (info,) = first.node.peers.infos()
        assert set(second.data.ip_addrs) <= set(info.data.ip_addrs)
    link.run(5.0)
    assert [info.data for info in first.node.peers.infos()] == [second.data]


def test_a_flood_of_one_sender_costs_a_bounded_number_of_messages_and_hides_nobody() -> None:
    link = Link()
    first = link.add()
    link.run(1.0)
    heard = first.node.counters.heard
    flood = encode_query(Names("irohv1", SecretKey.generate().public))
    for _ in range(500):
        for _ in range(20):
            link.forge(flood, STRANGER, [first])
        link.run(0.01)
    assert first.node.counters.heard - heard < budget.SENDER_BURST + 5 * budget.SENDER_PER_S + 50
    assert first.node.counters.refused > 9000
    second = link.add()
    link.run(0.2)
    assert first.found() == {second.id} and second.found() == {first.id}


def test_a_flood_of_forged_senders_costs_a_bounded_number_of_messages() -> None:
    link = Link()
    first = link.add()
    link.run(1.0)
    heard = first.node.counters.heard
    flood = encode_query(Names("irohv1", SecretKey.generate().public))
    for step in range(200):
        for number in range(50):
            link.forge(flood, Sender(f"10.1.{step}.{number}", 4), [first])
        link.run(0.01)
    assert first.node.counters.heard - heard <= budget.BURST + 2 * budget.PER_S + 1
    assert len(first.node._budget._senders) == budget.MAX_SENDERS


def test_a_flood_of_invented_peers_is_bounded_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []

    def counting(label: bytes) -> object:
        looked_at.append(label)
        return parse_label(label)

    parse_label = peers.parse_label
    monkeypatch.setattr(peers, "parse_label", counting)
    link = Link()
    first, second = link.add(), link.add()
    link.run(3.0)
    looked_at.clear()
    labels = (
        struct.pack("!I", number).hex().encode().translate(bytes.maketrans(b"0189", b"wxyz"))
        for number in range(10**6)
    )
    template = answer_of(second.key, "10.0.9.9:9")
    known = Names("irohv1", second.id).peer
    began = link.now
    for step in range(300):
        for _ in range(20):
            invented = next(labels).ljust(52, b"a")
            message = template.replace(known, invented)
            link.forge(message, Sender(f"10.1.{step % 250}.9", 4), [first])
        link.run(0.01)
    assert len(looked_at) <= budget.NEW_BURST + (link.now - began) * budget.NEW_PER_S + 1
    assert second.id in first.found()
    # Somebody new is found as soon as there is room for looking, at once when waited for.
    third = link.add()
    link.act(first, lambda node, now: node.want(third.id, now))
    link.run(1.0)
    assert third.id in first.found()
    # Answers still come in seconds, though the link seems to be large.
    assert first.node.deadline - link.now < 0.7 + 0.07 * 64 + 0.001


def test_messages_that_are_too_large_are_not_read() -> None:
    link = Link()
    first = link.add()
    whole = answer_of(SecretKey.generate(), "10.0.9.9:9")
    link.forge(whole.ljust(1473, b"\0"), STRANGER)
    assert first.found() == set() and first.node.counters.refused == 1
    link.forge(whole.ljust(1472, b"\0"), STRANGER)
    assert len(first.found()) == 1


def test_asking_for_us_by_name_again_and_again_is_answered_a_few_times_a_second() -> None:
    link = Link()
    first = link.add()
    link.run(3.0)
    names = Names("irohv1", SecretKey.generate().public)
    query = encode_query(names, [Names("irohv1", first.id).peer])
    before = first.node.counters.answered
    for step in range(400):
        link.forge(query, Sender(f"10.1.0.{step % 250}", 4), [first])
        link.run(0.01)
    assert first.node.counters.answered - before <= 4.0 / node.GAP_S + 2
