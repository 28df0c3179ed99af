"""What a scenario told, as text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.lab.timeline import MAX_LINES, PLOT, Timeline, timeline

RELAY, DIRECT = "relay:https://relay.test/", "203.0.113.5:4000"
SVG = "{http://www.w3.org/2000/svg}"


def path(t: float, what: str, remote: str, kind: str, conn: int = 1) -> dict[str, object]:
    return {"event": "path", "t": t, "conn": conn, "what": what, "id": "0", "remote": remote, "kind": kind}  # fmt: skip


CLIENT = [
    {"event": "ready", "t": 100.0, "kind": "ours"},
    {"event": "addr", "t": 100.5, "ips": ["10.0.0.2:5"], "relays": []},
    {"event": "connected", "t": 101.0, "conn": 1, "remote": "ab" * 32},
    path(101.0, "opened", RELAY, "relay"),
    path(101.0, "selected", RELAY, "relay"),
    path(103.0, "selected", DIRECT, "ip4"),
    {"event": "closed", "t": 109.0, "conn": 1, "kind": "TimedOut", "reason": "<idle> & gone"},
]
SERVER = [
    {"event": "accepted", "t": 101.1, "conn": 1, "remote": "cd" * 32},
    path(101.2, "selected", RELAY, "relay"),
    {"event": "home", "t": 110.0, "relay": None, "state": None},
]


def made() -> Timeline:
    return timeline(
        "P0 <ours/ours>",
        [("client", CLIENT), ("server", SERVER)],
        marks=[(105.0, "the link goes down")],
        gaps={("client", 1): [(105.0, 2.0)]},
    )


def test_lanes_have_the_selected_paths_and_the_silences_of_each_end() -> None:
    told = made()
    assert told.length == 10.0 and told.marks == [(5.0, "the link goes down")]
    client, server = told.lanes
    assert (client.name, client.begin, client.end) == ("client 1", 1.0, 9.0)
    assert client.spans == [(1.0, 3.0, "relay", RELAY), (3.0, 9.0, "ip4", DIRECT)]
    assert client.gaps == [(5.0, 7.0)]
    ((start, end, kind, _),) = server.spans
    assert (round(start, 6), end, kind) == (1.2, 10.0, "relay")


def test_text_tells_everything_in_order_and_draws_bars() -> None:
    text = made().text()
    lines = text.splitlines()
    times = [
        float(line.split()[0])
        for line in lines
        if " s  " in line and line[:9].strip()[:1].isdigit()
    ]
    assert times[: len(CLIENT)] == sorted(times[: len(CLIENT)])
    assert "    5.000 s  scenario  the link goes down" in lines
    assert "    5.000 s  client    1: no echo for 2.000 s" in lines
    assert "    0.500 s  client    own addresses: 10.0.0.2:5" in lines
    assert any(line.endswith("home relay None: None") for line in lines)
    (bar,) = (line for line in lines if line.startswith("client 1"))
    bar = bar.removeprefix("client 1  ")
    # The letters in their order: before it there is nothing, then relay, direct, silence, direct.
    assert "".join(dict.fromkeys(bar.strip())) == "r4!" and bar.strip()[-1] == "4"
    assert bar.index("r") == 7 and 14 <= bar.count("r") <= 15 and 14 <= bar.count("!") <= 16


def test_picture_is_svg_with_bars_to_scale_and_texts_that_cannot_break_it() -> None:
    root = ET.fromstring(made().svg())
    boxes = {box.find(f"{SVG}title").text: float(box.get("width", "")) for box in root.iter(f"{SVG}rect") if box.find(f"{SVG}title") is not None}  # type: ignore[union-attr]  # fmt: skip
    assert boxes[f"{RELAY}, 2.000 s"] == 2.0 * PLOT / 10
    assert boxes[f"{DIRECT}, 6.000 s"] == 6.0 * PLOT / 10
    assert boxes["no echo for 2.000 s"] == 2.0 * PLOT / 10
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "P0 <ours/ours>" in texts and "the link goes down" in texts and "client 1" in texts


def test_nothing_and_very_much_are_told_too() -> None:
    empty = timeline("nothing", [("client", [])])
    assert empty.length == 0 and "nothing" in empty.text()
    ET.fromstring(empty.svg())
    many = [path(float(i), "selected", f"{'x' * 500}{i}", "odd") for i in range(MAX_LINES + 5)]
    told = timeline("much", [("client", many)])
    assert "... and 5 more" in told.text()
    assert told.lanes[0].spans[0][2] == ""
    assert all(len(text.text or "") <= 90 for text in ET.fromstring(told.svg()).iter(f"{SVG}text"))
