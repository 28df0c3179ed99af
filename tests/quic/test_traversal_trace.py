"""A released iroh's side of a hole punch, played against ours: each frame of it draws what it drew there.

The vector holds every 1-RTT packet of two endpoints of iroh 1.4.1. The frames that one of them sent are sealed and delivered
in its order; what ours answers has to be what the other one answered, by kind, way and size.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sim import MS, Address, Datagram

from iroh_fast._packet import encode_frame

TRACE = json.loads(
    (Path(__file__).parent.parent / "vectors" / "nat_traversal_trace_released.json").read_text()
)
C_ADDR, S_ADDR = ("192.0.2.2", 35596), ("192.0.2.2", 54600)
CHALLENGE, RESPONSE = 0x1A, 0x1B
BACKUP, AVAILABLE = 0x3E76, 0x3E77
NAT = re.compile(r"(PATH_CHALLENGE|PATH_RESPONSE)\((\w+)\)")
REACH = re.compile(r"REACH_OUT round: (\d+) local_addr: ([\d.]+):(\d+)")
ADD = re.compile(r"ADD_IPV_4_ADDRESS seq_no: (\d+) addr: ([\d.]+):(\d+)")
STATUS = re.compile(r"PATH_STATUS_(BACKUP|AVAILABLE) path_id: (\d+) seq_no: (\d+)")


class Replay:
    """What one released side sent, against ours on the other."""

    def __init__(self, hostile: Any, role: str) -> None:
        self.role = role
        self.pair, self.ours, self.peer = hostile(as_client=role == "client")
        self.own, self.theirs = (S_ADDR, C_ADDR) if role == "client" else (C_ADDR, S_ADDR)
        self.ours.set_nat_addresses([self.own])
        self.pair.flush()
        self.seen = 0
        #: ours by the way they went: off the path, or on path 1
        self.asked: dict[str, bytes] = {}

    def frame(self, text: str, way: str) -> bytes | None:
        if text.startswith("PING"):
            return b"\x01"
        if text.startswith("IMMEDIATE_ACK"):
            return b"\x1f"
        if padding := re.match(r"PADDING \* (\d+)", text):
            return bytes(int(padding[1]))
        if found := REACH.match(text):
            addr = (found[2], int(found[3]))
            return encode_frame({"type": 0x3D7F92, "round": int(found[1]), "addr": addr})
        if found := ADD.match(text):
            addr = (found[2], int(found[3]))
            return encode_frame({"type": 0x3D7F90, "seq": int(found[1]), "addr": addr})
        if found := STATUS.match(text):
            kind = {"BACKUP": BACKUP, "AVAILABLE": AVAILABLE}[found[1]]
            return encode_frame({"type": kind, "path_id": int(found[2]), "seq": int(found[3])})
        if found := NAT.match(text):
            if found[1] == "PATH_CHALLENGE":
                return bytes((CHALLENGE,)) + bytes.fromhex(found[2])
            # It answers what ours asked this way last; there it was another value.
            return bytes((RESPONSE,)) + self.asked[way]
        return None

    def play(self) -> list[tuple[str, list[str], list[tuple[str, set[int], int]]]]:
        """Of each packet: its way, its frames, and what ours said to that: way, frames, size."""
        done = []
        for entry in TRACE[self.role]:
            if entry.get("dir") != "send" or "MTUD" in entry["frames"][0]:
                continue
            way = "off" if entry.get("off_path") else str(entry["path"])
            frames = [f for text in entry["frames"] if (f := self.frame(text, way)) is not None]
            if not frames:
                continue
            self.peer.send(
                b"".join(frames), entry["path"], src=None if entry["to"] == "relay" else self.theirs
            )
            self.after(entry["frames"])
            self.pair.run_for(MS)
            done.append((way, entry["frames"], self.answers()))
        return done

    def after(self, frames: list[str]) -> None:
        # What iroh's socket layer does: new candidates begin a round.
        if any(ADD.match(text) for text in frames):
            assert self.ours.start_nat_round()
            self.pair.flush()

    def answers(self) -> list[tuple[str, set[int], int]]:
        found = []
        for d in self.peer.received[self.seen :]:
            for path in (0, 1):
                if frames := list(self.peer.frames([d], path)):
                    found.append(self.answer(d, path, frames))
        self.seen = len(self.peer.received)
        return found

    def answer(
        self, d: Datagram, path: int, frames: list[dict[str, Any]]
    ) -> tuple[str, set[int], int]:
        way = "off" if path == 0 and d.dst == self.theirs else str(path)
        for frame in frames:
            if frame["type"] == CHALLENGE:
                self.asked[way] = frame["data"]
        return way, {frame["type"] for frame in frames}, len(d.data)


def said(answers: list[tuple[str, set[int], int]], way: str, *kinds: int) -> list[int]:
    """Sizes of the answers that went this way and held these frames, among others."""
    return [size for at, frames, size in answers if at == way and frames >= set(kinds)]


def packet(played: list[Any], text: str) -> Any:
    return next(item for item in played if any(text in frame for frame in item[1]))


def test_our_server_follows_a_released_client(hostile):
    r = Replay(hostile, "client")
    played = r.play()
    # Each round draws a probe off the path, of the size and with the one frame that the real server's has.
    for number in (1, 2):
        answers = packet(played, f"REACH_OUT round: {number}")[2]
        assert [(at, size) for at, frames, size in answers if frames == {CHALLENGE}] == [
            ("off", 35)
        ]
    # The client's probe is answered off the path, without a question of ours.
    answers = packet(played, "bf28860c2fca8c69")[2]
    assert said(answers, "off", RESPONSE) and not said(answers, "off", RESPONSE, CHALLENGE)
    # The path's first packet is answered on the path, in full size, with a question.
    assert said(packet(played, "27c91182f9b0b180")[2], "1", RESPONSE, CHALLENGE) == [1200]
    assert said(packet(played, "a724efe2e7e17892")[2], "off", RESPONSE)
    states = {id: (remote, validated) for id, remote, validated, *_ in r.ours.path_states()}
    assert states[1] == (C_ADDR, True)
    assert states[0][0] != C_ADDR  # nothing has migrated
    assert ("status", 0, "backup") in r.ours.path_events()
    assert r.ours.nat_state()["candidates"][0]["answered"]
    assert r.ours.close_reason is None


def test_our_client_follows_a_released_server(hostile):
    r = Replay(hostile, "server")
    assert r.ours.start_nat_round()
    r.pair.flush()
    played = r.play()
    # Its probe of the first round is answered with a question of ours beside the answer.
    assert said(packet(played, "99ad5b78e60cd3fe")[2], "off", RESPONSE, CHALLENGE)
    # Its address draws a probe at once, and the next round over the relay.
    answers = packet(played, "ADD_IPV_4_ADDRESS")[2]
    assert said(answers, "off", CHALLENGE) == [35]
    assert said(answers, "0", 0x3D7F92)
    # The answer to it opens the path: a full packet on a new path.
    assert said(packet(played, "PATH_RESPONSE(bf28860c2fca8c69)")[2], "1", CHALLENGE) == [1200]
    # Its question on the path is answered there, in full size.
    assert said(packet(played, "163fa1947c749dc7")[2], "1", RESPONSE) == [1200]
    assert [(id, remote, ok) for id, remote, ok, *_ in r.ours.path_states()][1] == (1, S_ADDR, True)
    assert ("status", 1, "available") in r.ours.path_events()
    assert r.ours.close_reason is None


@pytest.mark.parametrize("role", ["client", "server"])
def test_trace_holds_what_is_played(role):
    texts = [text for entry in TRACE[role] for text in entry.get("frames", ())]
    assert sum(bool(NAT.match(text)) for text in texts) > 6
    assert any(STATUS.match(text) for text in texts)
    addr: Address = C_ADDR if role == "client" else S_ADDR
    assert any(f"{addr[0]}:{addr[1]}" in text for text in texts)
