"""Who is known: bounded, and no forged message hides a true one."""

from __future__ import annotations

import pytest

from iroh_fast import RelayUrl, SecretKey, SocketAddr
from iroh_fast.lookup.mdns import peers as module
from iroh_fast.lookup.mdns.peers import Peers
from iroh_fast.lookup.mdns.wire import Told, label_of

KEYS = [SecretKey(i.to_bytes(32, "big")) for i in range(1, 12)]
OWN, A, B = (label_of(key.public) for key in KEYS[:3])
ID_A, ID_B = KEYS[1].public, KEYS[2].public


def told(*addrs: str, relay: str | None = None, user_data: str | None = None) -> Told:
    return Told(tuple(map(SocketAddr.parse, addrs)), RelayUrl(relay) if relay else None, user_data)


def addrs(peers: Peers, label: bytes = A) -> list[str]:
    info = peers.info(label)
    return [] if info is None else [str(addr) for addr in info.data.ip_addrs]


def test_news_are_told_once_and_changes_again() -> None:
    peers = Peers(OWN, 0.7)
    ((id, info),) = peers.put(A, "10.0.0.2", told("10.0.0.2:1", user_data="x"), 0.0)
    assert id == ID_A and info is not None and info.data.user_data == "x"
    assert peers.put(A, "10.0.0.2", told("10.0.0.2:1", user_data="x"), 1.0) == []
    ((_, info),) = peers.put(A, "10.0.0.2", told("10.0.0.2:2", relay="https://r.example"), 2.0)
    assert info is not None and info.data.relay_urls == (RelayUrl("https://r.example/"),)
    assert addrs(peers) == ["10.0.0.2:2"] and info.data.user_data is None


def test_own_answers_count_in_the_swarm_and_are_no_peer() -> None:
    peers = Peers(OWN, 0.7)
    assert peers.put(OWN, "10.0.0.66", told("10.0.0.66:1"), 0.0) == []
    assert len(peers) == 1 and peers.infos() == ()
    assert peers.expire(2.2) == [] and len(peers) == 0


def test_a_peer_without_an_address_is_none() -> None:
    peers = Peers(OWN, 0.7)
    assert peers.put(A, "10.0.0.2", told(user_data="x"), 0.0) == []
    assert peers.put(b"1" * 52, "10.0.0.2", told("10.0.0.2:1"), 0.0) == []
    assert len(peers) == 0 and not peers._from_sender


def test_unheard_peers_expire_after_the_time_of_their_number() -> None:
    peers = Peers(OWN, 0.7)
    for key in KEYS[1:]:
        peers.put(label_of(key.public), "10.0.0.2", told("10.0.0.2:1"), 0.0)
    assert peers.expire(10.4) == []  # ten: 10.5 s
    peers.put(A, "10.0.0.2", told("10.0.0.2:1"), 10.4)
    gone = peers.expire(10.5)
    assert {id for id, info in gone if info is None} == {key.public for key in KEYS[2:]}
    assert len(peers) == 1 and peers.expire(12.4) == [] and peers.expire(12.5) == [(ID_A, None)]
    assert not peers._from_sender


def test_a_forged_message_stands_beside_the_true_one() -> None:
    peers = Peers(OWN, 0.7)
    peers.put(A, "10.0.0.2", told("10.0.0.2:1", user_data="true"), 0.0)
    ((_, info),) = peers.put(A, "10.0.0.66", told("10.0.0.66:9", user_data="forged"), 0.1)
    assert info is not None and info.data.user_data == "true"
    assert addrs(peers) == ["10.0.0.2:1", "10.0.0.66:9"]
    # Not refreshed, it goes; the true one stays, and that is told.
    peers.put(A, "10.0.0.2", told("10.0.0.2:1", user_data="true"), 2.0)
    ((_, info),) = peers.expire(2.2)
    assert info is not None and addrs(peers) == ["10.0.0.2:1"]


def test_a_forger_with_many_addresses_leaves_room_for_the_true_ones() -> None:
    peers = Peers(OWN, 0.7)
    for forger in range(module.MAX_SENDERS - 1):
        false = told(*(f"10.{forger + 1}.0.{i}:9" for i in range(1, 33)))
        peers.put(A, f"10.0.1.{forger}", false, 0.0)
    peers.put(A, "10.0.0.2", told("10.0.0.2:1", "10.0.0.3:1"), 0.1)
    found = addrs(peers)
    assert len(found) == module.MAX_ADDRS and "10.0.0.2:1" in found and "10.0.0.3:1" in found


def test_senders_of_one_peer_are_bounded_and_the_true_one_comes_back() -> None:
    peers = Peers(OWN, 0.7)
    peers.put(A, "10.0.0.2", told("10.0.0.2:1"), 0.0)
    for forger in range(100):
        peers.put(
            A,
            f"10.0.1.{forger}",
            told("10.0.0.66:9", relay=f"https://r{forger}.example"),
            0.1 + forger / 1000,
        )
    info = peers.info(A)
    assert info is not None and len(info.data.relay_urls) == module.MAX_RELAYS
    assert len(peers._by_label[A].stories) == module.MAX_SENDERS
    ((_, info),) = peers.put(A, "10.0.0.2", told("10.0.0.2:1"), 0.7)
    assert "10.0.0.2:1" in addrs(peers)


def test_one_sender_introduces_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS_OF_SENDER", 3)
    peers = Peers(OWN, 0.7)
    for key in KEYS[1:]:
        peers.put(label_of(key.public), "10.0.0.66", told("10.0.0.66:1"), 0.0)
    assert len(peers) == 3
    assert peers.put(label_of(KEYS[9].public), "10.0.0.2", told("10.0.0.2:1"), 0.0) != []


def test_a_full_table_keeps_those_known_but_takes_who_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 3)
    peers = Peers(OWN, 0.7)
    for at, key in enumerate(KEYS[1:4]):
        peers.put(label_of(key.public), "10.0.0.2", told("10.0.0.2:1"), at / 10)
    wanted = label_of(KEYS[5].public)
    assert peers.put(wanted, "10.0.0.3", told("10.0.0.3:1"), 0.5) == []
    dropped, found = peers.put(wanted, "10.0.0.3", told("10.0.0.3:1"), 0.5, wanted=True)
    assert dropped == (KEYS[1].public, None) and found[0] == KEYS[5].public
    assert len(peers) == 3 and not peers.knows(A) and peers.knows(B)


def test_peers_that_will_expire_soon_are_named_those_first_that_are_longest_unheard() -> None:
    peers = Peers(OWN, 0.7)
    labels = [label_of(key.public) for key in KEYS[1:]]  # ten: they expire after 10.5 s
    for at, label in enumerate(labels):
        peers.put(label, "10.0.0.2", told("10.0.0.2:1"), at / 10)
    assert peers.fading(6.9) == []
    assert peers.fading(7.15) == labels[:2]
    assert peers.fading(9.0) == labels[: module.MAX_FADING]
    peers.put(labels[0], "10.0.0.2", told("10.0.0.2:1"), 9.0)
    assert peers.fading(9.0) == labels[1 : 1 + module.MAX_FADING]
