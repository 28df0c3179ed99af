"""What STUN servers and gateways send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iroh_fast._probe import KINDS, parse
from iroh_fast.errors import StunDecodeError

VECTORS = Path(__file__).parent.parent / "vectors"


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


def stun_seeds() -> list[bytes]:
    found = vectors("stun.json")
    messages = [*found["rfc5769"], *found["constructed"]]
    return [bytes.fromhex(message["message_hex"]) for message in messages]


def run_stun(data: bytes) -> None:
    try:
        message = parse(data)
    except StunDecodeError:
        return
    assert message.data == data and message.transaction == data[8:20]
    assert message.kind in KINDS and 0 <= message.method < 4096
    # The attributes fill the message, without gap or overlap.
    end = 20
    for type, at, value in message.attributes:
        assert at == end and data[at : at + 2] == type.to_bytes(2, "big")
        assert data[at + 4 : at + 4 + len(value)] == value
        end = at + 4 + (len(value) + 3) // 4 * 4
    assert end == len(data)
    for found in (message.mapped, message.alternate):
        assert found is None or (len(found[0]) in (4, 16) and 0 <= found[1] < 65536)
    assert message.error is None or 300 <= message.error[0] < 700
    assert message.check_integrity(b"key") in (None, False)
    assert all(type < 0x8000 for type in message.unknown)
