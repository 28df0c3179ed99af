"""Arguments of compiled functions that take any bytes: what they borrow they give back."""

from __future__ import annotations

import array
import copy
import pickle
from collections.abc import Callable

import pytest

from iroh_fast._crypto import PacketProtection, hmac_sha256
from iroh_fast._relay import build_message, is_valid_key
from iroh_fast._relay._client import ClientWriter
from iroh_fast._relay._websocket import WsReader

TAKERS: dict[str, Callable[[object], object]] = {
    "feed": lambda data: WsReader("client").feed(data),  # type: ignore[arg-type]
    "build_message": lambda data: build_message(2, data),  # type: ignore[arg-type]
    "is_valid_key": is_valid_key,  # type: ignore[dict-item]
    "add_message": lambda data: ClientWriter().add_message(2, data),  # type: ignore[arg-type]
    "hmac": lambda data: hmac_sha256(b"key", data),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", TAKERS)
def test_borrowed_bytes_can_be_resized_again_afterwards(name: str) -> None:
    data = bytearray(32)
    TAKERS[name](data)
    data += b"more"  # BufferError while somebody looks at it


@pytest.mark.parametrize("name", TAKERS)
def test_same_bytes_in_any_form_give_the_same(name: str) -> None:
    take = TAKERS[name]
    for data in (b"", bytes(range(32))):
        forms = [bytearray(data), memoryview(data), memoryview(b"x" + data + b"x")[1:-1]]
        if len(data) % 4 == 0:
            forms.append(array.array("I", data))  # of items larger than a byte, but in one piece
        assert [take(form) for form in forms] == [take(data)] * len(forms)


@pytest.mark.parametrize("name", TAKERS)
def test_what_is_not_bytes_in_one_piece_is_refused(name: str) -> None:
    for wrong in (None, "text", 5, [1]):
        with pytest.raises(TypeError):
            TAKERS[name](wrong)
    with pytest.raises(BufferError):
        TAKERS[name](memoryview(bytes(64))[::2])


def test_compiled_objects_say_that_they_are_not_pickled() -> None:
    for thing in (WsReader("client"), PacketProtection(0x1301, bytes(32))):
        for act in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match="cannot pickle"):
                act(thing)
