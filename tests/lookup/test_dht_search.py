"""Searches and puts in a simulated DHT of hundreds of nodes, with liars among them."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from random import Random

import pytest
from dht_liars import (
    LIARS,
    UNWANTED,
    Crowd,
    Forger,
    Hider,
    Inventor,
    Neighbour,
    ReadOnly,
    Refuser,
    Silent,
    Slanderer,
    Squatter,
    prepare,
)
from dht_sim import CLIENT, VALUE, Making, SimNet, SimNode, distance, make_item
from nacl.signing import SigningKey

from iroh_fast.lookup.dht import core as core_module
from iroh_fast.lookup.dht.core import MAX_OPEN, DhtCore
from iroh_fast.lookup.dht.ids import secure_id, target_of
from iroh_fast.lookup.dht.krpc import Node
from iroh_fast.lookup.dht.routing import FRESH_S, K, RoutingTable
from iroh_fast.lookup.dht.search import AT_ONCE, MAX_CANDIDATES, MAX_OF_HOST, MAX_REQUESTS

KEY = SigningKey(bytes([3]) * 32)
PUBLIC = bytes(KEY.verify_key)
TARGET = target_of(PUBLIC)


def holders(net: SimNet, seq: int) -> list[SimNode]:
    return [n for n in net.nodes if (item := n.items.get(TARGET)) is not None and item.seq == seq]


# --- among honest nodes --------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 20, 100, 400])
@pytest.mark.parametrize("private", [False, True])
def test_item_is_stored_where_it_belongs_and_found_again(count: int, private: bool) -> None:
    net = SimNet(count, private=private)
    put = net.put(make_item(KEY, 5))
    assert put.stored == len(holders(net, 5)) and not put.refusals
    belongs = set(net.nearest(TARGET, K))
    assert len(belongs & set(holders(net, 5))) >= min(count, K) // 2
    if count >= 100:  # each node names eight
        assert len(belongs & set(holders(net, 5))) >= K * 3 // 4
    # Somebody else, who knows nobody yet, finds it.
    net.core = net.client()
    best = net.get(PUBLIC)
    assert best is not None and (best.timestamp, best.dns) == (5, VALUE)


def test_item_that_nobody_has_is_not_found() -> None:
    net = SimNet(200)
    search = net.search(PUBLIC)
    assert search.best is None
    assert {n.address for n in net.nearest(TARGET, 8)} <= {a for _, _, a in net.sent}


def test_second_search_begins_with_the_nodes_that_answered() -> None:
    net = SimNet(300)
    first = net.search(PUBLIC).requests
    sent = len(net.sent)
    assert not net.core.needs_bootstrap(net.now)
    second = net.search(PUBLIC).requests
    assert second < first
    asked = [a for _, _, a in net.sent[sent:]]
    assert len(asked) == len(set(asked)), "nobody is asked twice"
    assert all(b"9:find_node" not in d for _, d, _ in net.sent[sent:])


def test_bootstrap_nodes_are_asked_again_when_the_known_ones_are_old() -> None:
    net = SimNet(100)
    net.search(PUBLIC)
    net.now += FRESH_S + 1
    sent = len(net.sent)
    net.search(PUBLIC)
    assert any(b"9:find_node" in d for _, d, _ in net.sent[sent:])


def test_newest_of_the_items_is_taken() -> None:
    net = SimNet(200)
    places = net.place(make_item(KEY, 5))
    for number, node in enumerate(places):
        newer = make_item(KEY, 6 + number % 3, VALUE + bytes((number,)))
        node.items[TARGET] = newer
    best = net.get(PUBLIC)
    expected = max((n.items[TARGET] for n in places), key=lambda i: (i.seq, i.value))
    assert best is not None and (best.timestamp, best.dns) == (expected.seq, expected.value)


def test_older_item_is_refused_by_those_that_have_a_newer_one() -> None:
    net = SimNet(200)
    assert net.put(make_item(KEY, 9)).stored
    late = net.put(make_item(KEY, 8))
    assert late.stored == 0 and set(late.refusals) == {302}
    assert net.put(make_item(KEY, 9)).stored, "the same again is a refresh"


@pytest.mark.parametrize("seed", range(5))
def test_search_among_lost_datagrams_and_dead_nodes(seed: int) -> None:
    net = SimNet(300, seed=seed, loss=0.1, kinds=(SimNode, SimNode, Silent), insecure=0.3)
    net.place(make_item(KEY, 5))
    search = net.search(PUBLIC)
    assert search.best is not None and search.best.timestamp == 5


def test_answer_that_comes_late_is_still_used() -> None:
    net = SimNet(60)
    net.place(make_item(KEY, 5))
    fly = net.fly

    def slowly(source: tuple[str, int], to: tuple[str, int], data: bytes) -> None:
        net.now += 0.9 if to == CLIENT else 0.0
        fly(source, to, data)
        net.now -= 0.9 if to == CLIENT else 0.0

    net.fly = slowly  # type: ignore[method-assign]
    assert net.core.timeout == 0.5
    search = net.search(PUBLIC)
    assert search.best is not None and search.best.timestamp == 5
    # It learns how long answers take here.
    assert 0.9 < net.core.timeout <= 3
    net.fly = fly  # type: ignore[method-assign]
    for _ in range(6):
        net.search(PUBLIC)
    assert net.core.timeout == 0.5


# --- bounds --------------------------------------------------------------------------------


def test_budget_ends_a_search_with_what_was_found() -> None:
    net = SimNet(300, kinds=(SimNode, Silent))
    net.place(make_item(KEY, 5))
    began = net.now
    search = net.search(PUBLIC, budget_s=0.4)
    assert net.now - began == pytest.approx(0.4)
    assert search.best is not None
    assert net.search(PUBLIC, budget_s=0.001).best is None


def test_search_without_anybody_is_over_at_once() -> None:
    net = SimNet(1)
    search = net.core.search(PUBLIC, net.now, 10.0, ())
    assert net.core.finished == [search] and search.best is None and not net.core.outgoing
    assert net.core.deadline() is None


def test_search_waits_for_bootstrap_nodes_that_are_being_looked_up() -> None:
    net = SimNet(50)
    net.place(make_item(KEY, 5))
    search = net.core.search(PUBLIC, net.now, 10.0, None)
    assert not net.core.finished and not net.core.outgoing
    net.core.seed([net.nodes[0].address], net.now, last=False)
    assert [a for _, a in net.core.outgoing] == [net.nodes[0].address]
    net.core.seed([net.nodes[1].address], net.now, last=True)
    net.run(search)
    assert search.best is not None


def test_search_ends_when_no_bootstrap_node_is_found() -> None:
    net = SimNet(1)
    search = net.core.search(PUBLIC, net.now, 10.0, None)
    net.core.seed((), net.now, last=True)
    assert net.core.finished == [search]


def test_abandoned_search_leaves_nothing_behind() -> None:
    net = SimNet(100)
    core = net.core
    search = core.search(PUBLIC, net.now, 10.0, net.bootstrap)
    net.flush()
    assert core._requests
    core.abandon(search)
    assert not core._requests and not core._awaited and core.deadline() is None
    # Answers that come for it change nothing.
    while net.flying:
        net.now, _, source, to, data = net.flying.pop()
        net.deliver(source, to, data)
    assert not core.outgoing and not core.finished and len(core.table) == 0


def test_many_searches_at_once_share_the_open_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_OPEN", 40)
    net = SimNet(200)
    keys = [SigningKey(bytes([n]) * 32) for n in range(1, 31)]
    for key in keys:
        net.place(make_item(key, 5))
    searches = [
        net.core.search(bytes(key.verify_key), net.now, 100.0, net.bootstrap) for key in keys
    ]
    for search in searches:
        if search not in net.core.finished:
            net.run(search)
    assert all(s.best is not None and s.best.timestamp == 5 for s in searches)
    assert net.most_open == 40


def test_requests_are_bounded_however_many_searches_there_are() -> None:
    net = SimNet(30, kinds=(Silent,))
    for n in range(200):
        net.core.search(bytes((n,)) * 32, net.now, 10.0, [n.address for n in net.nodes])
    assert len(net.core._requests) <= MAX_OPEN
    net.flush()
    while (due := net.core.deadline()) is not None:
        net.now = due
        net.core.advance(net.now)
        net.flush()
    assert len(net.core.finished) == 200 and not net.core._requests


# --- liars ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("liar", LIARS, ids=lambda kind: kind.__name__)
def test_liars_among_the_nodes_hide_no_item_and_get_no_other_believed(
    liar: Making, seed: int
) -> None:
    """Half of all nodes; a third of the honest ones have ids that their addresses may not have."""
    prepare(make_item(KEY, 3))
    net = SimNet(300, seed=seed, kinds=(SimNode, liar), insecure=0.3)
    net.place(make_item(KEY, 5))
    search = net.search(PUBLIC)
    check_bounds(net, [search])
    assert search.best is not None and (search.best.timestamp, search.best.dns) == (5, VALUE)
    put = net.put(make_item(KEY, 7))
    honest = [n for n in holders(net, 7) if type(n) is SimNode]
    assert len(honest) >= 4 and put.stored >= len(honest)
    best = net.get(PUBLIC)
    assert best is not None and best.timestamp == 7
    check_bounds(net, [])


@pytest.mark.parametrize("other", [Refuser, ReadOnly], ids=lambda kind: kind.__name__)
def test_nodes_that_store_nothing_do_not_take_the_place_of_those_that_do(other: Making) -> None:
    """Half of the public DHT does not know items."""
    net = SimNet(300, kinds=(SimNode, other))
    put = net.put(make_item(KEY, 5))
    assert put.stored == len(holders(net, 5)) >= K - 2


@pytest.mark.parametrize("liar", [Hider, Slanderer], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_nodes_that_others_call_by_wrong_ids_are_found_all_the_same(
    liar: Making, seed: int
) -> None:
    """By all that the search begins with."""
    net = SimNet(300, seed=seed, kinds=(liar,) * 3 + (SimNode,) * 3)
    net.place(make_item(KEY, 5))
    search = net.search(PUBLIC)
    assert search.best is not None and search.best.timestamp == 5
    honest = {n.address for n in net.nearest(TARGET) if type(n) is SimNode}
    assert len(honest - {a for a, _ in search.holders()}) <= 1 < len(honest)


def test_neighbours_that_are_not_there_hide_nobody_and_are_bothered_little() -> None:
    net = SimNet(300, kinds=(Neighbour, SimNode))
    net.place(make_item(KEY, 5))
    search = net.search(PUBLIC)
    assert search.best is not None and search.best.timestamp == 5
    hosts = Counter(host for _, _, (host, _) in net.sent)
    assert max(hosts.values()) <= MAX_OF_HOST


@pytest.mark.parametrize("seed", range(6))
def test_liars_of_all_kinds_together(seed: int) -> None:
    prepare(make_item(KEY, 3))
    kinds = tuple(chain.from_iterable((SimNode, SimNode, liar) for liar in LIARS))
    net = SimNet(300, seed=seed, kinds=kinds, insecure=0.3, loss=0.02)
    net.place(make_item(KEY, 5))
    search = net.search(PUBLIC)
    assert search.best is not None and search.best.timestamp == 5
    check_bounds(net, [search])


@pytest.mark.parametrize("liar", [Silent, Squatter, Inventor, Crowd], ids=lambda k: k.__name__)
def test_liars_alone_end_a_search_within_its_bounds(liar: Making) -> None:
    net = SimNet(200, kinds=(liar,))
    search = net.search(PUBLIC)
    assert search.best is None
    check_bounds(net, [search])


def check_bounds(net: SimNet, searches: list) -> None:  # type: ignore[type-arg]
    for search in searches:
        assert search.requests <= MAX_REQUESTS and len(search._ranked) <= MAX_CANDIDATES
    bad = [a for _, _, a in net.sent if a[0] in UNWANTED or a == CLIENT or not a[1]]
    assert bad == []
    assert net.most_open <= MAX_REQUESTS + 2 * AT_ONCE
    assert len(net.core.table) <= 160 * K


def test_inventor_gets_few_datagrams_sent_to_those_it_names() -> None:
    """Whoever wants others to be bothered by us gets less than it has to send."""
    net = SimNet(40, kinds=(Inventor,))
    net.search(PUBLIC)
    answers = sum(node.asked for node in net.nodes)
    invented = [a for _, _, a in net.sent if a not in net.at]
    assert len(invented) <= 8 * answers
    by_host: dict[str, int] = {}
    for _, _, (host, _) in net.sent:
        by_host[host] = by_host.get(host, 0) + 1
    assert max(by_host.values()) <= 9


def test_forged_items_are_verified_no_more_often_than_nodes_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(make_item(KEY, 3))
    net = SimNet(100, kinds=(Forger,))
    tried = []
    verify = net.core._verify
    net.core._verify = lambda item: (tried.append(item), verify(item))[1]
    search = net.search(PUBLIC)
    assert all(item.key == PUBLIC for item in tried)
    assert len(tried) <= search.requests
    assert search.best is None or search.best.timestamp == 3


# --- what is no answer ---------------------------------------------------------------------


def asking() -> tuple[SimNet, DhtCore, bytes, tuple[str, int]]:
    """A client that has asked one node, and the answer of this node."""
    net = SimNet(20)
    net.core.search(PUBLIC, net.now, 10.0, [net.nodes[0].address])
    ((data, address),) = net.core.outgoing
    net.core.outgoing = []
    answer = net.nodes[0].receive(data, CLIENT)
    assert answer is not None
    return net, net.core, answer, address


def test_answer_of_another_address_or_number_is_nobodys() -> None:
    net, core, answer, address = asking()
    for other in [("1.2.3.4", address[1]), (address[0], address[1] ^ 1)]:
        assert not core.expects(other)
        core.receive(answer, other, net.now)
    (transaction,) = core._requests
    wrong = answer.replace(transaction, bytes(b ^ 1 for b in transaction))
    core.receive(wrong, address, net.now)
    core.receive(b"garbage", address, net.now)
    assert not core.outgoing and len(core.table) == 0 and list(core._requests) == [transaction]
    core.receive(answer, address, net.now)
    assert core.outgoing and len(core.table) == 1


def test_answer_counts_once() -> None:
    net, core, answer, address = asking()
    core.receive(answer, address, net.now)
    sent = len(core.outgoing)
    for _ in range(5):
        core.receive(answer, address, net.now)
    assert len(core.outgoing) == sent


def test_queries_to_us_are_not_answered() -> None:
    net, core, _, address = asking()
    query = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"
    core.receive(query, address, net.now)
    assert not core.outgoing and len(core._requests) == 1


def test_numbers_of_requests_cannot_be_guessed() -> None:
    net = SimNet(300)
    net.search(PUBLIC)
    numbers = [int.from_bytes(d[d.index(b"1:t4:") + 5 :][:4], "big") for _, d, _ in net.sent]
    assert len(set(numbers)) == len(numbers)
    steps = {b - a for a, b in zip(numbers, numbers[1:])}
    assert len(steps) == len(numbers) - 1


def test_node_that_cannot_be_sent_to_counts_as_silent_at_once() -> None:
    net = SimNet(20)
    search = net.core.search(PUBLIC, net.now, 10.0, net.bootstrap)
    for _, address in net.core.outgoing:
        net.core.unreachable(address, net.now)
    assert net.core.finished == [search] and not net.core._requests


def test_old_node_of_a_full_bucket_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Node(bytes(20), ("9.9.9.9", 99))
    failed: list[object] = []
    monkeypatch.setattr(RoutingTable, "answered", lambda self, node, now: old)
    monkeypatch.setattr(RoutingTable, "failed", lambda self, address: failed.append(address))
    net = SimNet(300)
    search = net.search(PUBLIC)
    pings = [a for _, d, a in net.sent if b"4:ping" in d]
    assert set(pings) == {old.address} and len(pings) == core_module.MAX_PINGS < search.requests
    while (due := net.core.deadline()) is not None:
        net.now = due
        net.core.advance(net.now)
    assert failed == [old.address] * len(pings)
    assert not net.core._requests and net.core._pinged == 0


# --- the routing table ---------------------------------------------------------------------


def nodes_at(distance_bits: int, own: bytes, count: int, random: Random) -> list[Node]:
    made = []
    for _ in range(count):
        far = 1 << (distance_bits - 1) | random.getrandbits(distance_bits - 1)
        id = (int.from_bytes(own, "big") ^ far).to_bytes(20, "big")
        made.append(Node(id, (f"10.{random.randrange(256)}.{random.randrange(256)}.9", 7)))
    return made


def test_bucket_holds_twenty_and_makes_room_for_those_that_failed() -> None:
    random = Random(5)
    own = random.randbytes(20)
    table = RoutingTable(own)
    nodes = nodes_at(159, own, 30, random)
    for node in nodes:
        assert table.answered(node, 0.0) is None
    assert len(table) == K
    table.failed(nodes[3].address)
    table.answered(nodes[25], 1.0)
    assert nodes[25].address in table and nodes[3].address not in table and len(table) == K
    # When nobody failed, the one that was silent for longest is worth a question.
    table.answered(nodes[0], 2.0)
    assert table.answered(nodes[27], FRESH_S + 0.5) == nodes[1]


def test_node_that_fails_twice_is_forgotten() -> None:
    random = Random(6)
    own = random.randbytes(20)
    table = RoutingTable(own)
    (node,) = nodes_at(100, own, 1, random)
    table.answered(node, 0.0)
    table.failed(node.address)
    assert node.address in table and table.fresh(1.0) == 0
    table.answered(node, 2.0)
    assert table.fresh(3.0) == 1 and table.fresh(FRESH_S + 3) == 0
    table.failed(node.address)
    table.failed(node.address)
    assert len(table) == 0 and not table._buckets and not table._places
    table.failed(node.address)


def test_table_never_holds_ourselves_and_one_node_of_an_address() -> None:
    random = Random(7)
    own = random.randbytes(20)
    table = RoutingTable(own)
    table.answered(Node(own, ("9.9.9.9", 1)), 0.0)
    assert len(table) == 0
    for port in range(1, 50):
        table.answered(Node(random.randbytes(20), ("8.8.8.8", port)), 0.0)
    assert len(table) == 1
    for port in range(50, 100):
        table.answered(Node(secure_id("8.8.8.8", random.randbytes(20)), ("8.8.8.8", port)), 0.0)
    assert len(table) <= 9


def test_node_with_a_new_id_is_a_new_node() -> None:
    random = Random(8)
    own = random.randbytes(20)
    table = RoutingTable(own)
    old, new = nodes_at(150, own, 1, random)[0], nodes_at(120, own, 1, random)[0]
    table.answered(old, 0.0)
    table.answered(Node(new.id, old.address), 1.0)
    assert [n.id for n in table.closest(own)] == [new.id] and len(table) == 1


def test_secure_nodes_replace_those_with_chosen_ids() -> None:
    random = Random(9)
    own = bytes(20)
    table = RoutingTable(own)
    public = [(f"8.8.{n}.8", 5) for n in range(1, 60)]
    for address in public[:K]:
        table.answered(Node(b"\xff" + random.randbytes(19), address), 0.0)
    before = len(table)
    added = 0
    for address in public[K:]:
        id = secure_id(address[0], random.randbytes(20))
        if id[0] >= 0x80:
            table.answered(Node(id, address), 1.0)
            added += 1
    assert before == K and added > 5
    assert sum(n.id[0] != 0xFF for n in table.closest(own, 100)) >= min(added, K) - 2


def test_closest_nodes_are_those_nearest_to_the_target() -> None:
    net = SimNet(120)
    net.search(PUBLIC)
    known = net.core.table.closest(bytes(20), 1000)
    target = Random(1).randbytes(20)
    found = net.core.table.closest(target)
    assert found == sorted(known, key=lambda n: distance(n.id, target))[:K]
