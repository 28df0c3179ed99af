"""The recorded answers of the released iroh-dns-server: ours are the same but where we mean to differ."""

from __future__ import annotations

from typing import Any

import pytest
from packets import VECTORS, answers_with, recorded_packets

from iroh_fast.dns_server.answers import Answers

CASES = {case["label"]: case for case in VECTORS["dns"]}


@pytest.fixture(scope="module")
def answers() -> Answers:
    return answers_with(*recorded_packets())


def reply(answers: Answers, case: dict[str, Any]) -> bytes:
    found = answers.answer(bytes.fromhex(case["query"]), transport=case["transport"])
    assert isinstance(found, bytes)
    return found


def nodata(recorded: bytes) -> bytes:
    """What was recorded, with NOERROR instead of NXDOMAIN."""
    assert recorded[3] & 15 == 3
    return recorded[:3] + bytes((recorded[3] & 0xF0,)) + recorded[4:]


def refused(recorded: bytes) -> bytes:
    """The header and question of what was recorded, refused: not authoritative, no records."""
    end = recorded.index(b"\0", 12) + 5
    return (
        recorded[:2]
        + bytes((recorded[2] & ~4, recorded[3] & 0xF0 | 5))
        + b"\0\1"
        + bytes(6)
        + recorded[12:end]
    )


# Not only where the file has a note: for the class it is the specification that says so.
DIFFERENT = {
    "other type at existing name": nodata,
    "apex of the key, TXT": nodata,
    "empty non-terminal": nodata,
    "AXFR": refused,
    "class CH": refused,
}


@pytest.mark.parametrize(
    "label", [c["label"] for c in VECTORS["dns"] if c["label"] != "big, no EDNS"]
)
def test_released_answer_is_ours(answers: Answers, label: str) -> None:
    case = CASES[label]
    recorded = bytes.fromhex(case.get("response", ""))
    expected = DIFFERENT.get(label, bytes)(recorded)
    assert reply(answers, case).hex() == expected.hex()


def test_released_big_answer_without_edns_is_ours_whole(answers: Answers) -> None:
    """The released server cuts it at 512 bytes; what it sends over TCP fits into ours."""
    ours = reply(answers, CASES["big, no EDNS"])
    over_tcp = bytes.fromhex(CASES["big, TCP"]["response"])
    assert len(over_tcp) < 1232
    assert ours == over_tcp


def test_released_notes_are_all_known() -> None:
    noted = {case["label"] for case in VECTORS["dns"] if "note" in case}
    assert noted | {"class CH"} == {*DIFFERENT, "big, no EDNS"}
