"""What QuicConnection.send_datagram takes: any contiguous bytes, copied at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest
from sim import Pair, calm

from iroh_fast.errors import DatagramTooLarge

MakePair = Callable[..., Pair]


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        b"",
        bytearray(b"bytearray"),
        memoryview(b"a view of something")[2:6],
        memoryview(array("I", [1, 2, 3])),
        array("H", [1, 2]),
    ],
    ids=["bytes", "empty", "bytearray", "slice", "wide-view", "array"],
)
def test_send_datagram_takes_contiguous_bytes(make_pair: MakePair, data: object) -> None:
    pair = make_pair(3)
    client, server = pair.connect()
    assert client.send_datagram(data) is True
    pair.drive()
    assert server.read_datagram() == bytes(data)  # type: ignore[call-overload]


def test_send_datagram_copies_and_lets_go_of_the_buffer(make_pair: MakePair) -> None:
    pair = make_pair(3)
    client, server = pair.connect()
    data = bytearray(b"before")
    client.send_datagram(data)
    data[:] = b"after, and longer"  # a held buffer could not be resized
    pair.drive()
    assert server.read_datagram() == b"before"


def test_send_datagram_too_large_lets_go_of_the_buffer(make_pair: MakePair) -> None:
    pair = make_pair(3)
    client, _ = pair.connect()
    data = bytearray(5000)
    with pytest.raises(DatagramTooLarge):
        client.send_datagram(data)
    data.clear()


@pytest.mark.parametrize(
    ("data", "error"),
    [(memoryview(b"abcdef")[::2], BufferError), ("text", TypeError), (None, TypeError)],
    ids=["strided", "text", "none"],
)
def test_send_datagram_refuses_other_things(
    make_pair: MakePair, data: object, error: type[Exception]
) -> None:
    pair = make_pair(3)
    client, server = pair.connect()
    with pytest.raises(error):
        client.send_datagram(data)
    pair.drive()
    assert server.read_datagram() is None


def test_send_datagram_without_room_says_so(make_pair: MakePair) -> None:
    pair = make_pair(3, transport=calm(datagram_send_buffer_size=2000))
    client, server = pair.connect()
    assert client.send_datagram(bytearray(1000), False) is True
    assert client.send_datagram(bytes([1]) * 1000, False) is True
    assert client.send_datagram(bytes([2]) * 1000, False) is False
    pair.drive()
    assert server.read_datagram() == bytes(1000)
    assert server.read_datagram() == bytes([1]) * 1000
    assert server.read_datagram() is None
