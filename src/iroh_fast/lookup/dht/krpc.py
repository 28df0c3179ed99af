"""KRPC, the messages of BitTorrent's DHT: bencoded dictionaries in UDP datagrams over IPv4.

Only what a read-only client says and hears (BEP 5, 43 and 44): queries are written, answers are read.
"""

from __future__ import annotations

from socket import inet_aton, inet_ntoa
from typing import Any, Final, NamedTuple, TypeAlias

from bencode2 import bdecode, bencode

__all__ = [
    "Address",
    "Item",
    "KrpcError",
    "Node",
    "Refusal",
    "Reply",
    "find_node_query",
    "get_query",
    "pack_nodes",
    "parse_answer",
    "ping_query",
    "put_query",
]

ID_BYTES: Final = 20
TRANSACTION_BYTES: Final = 4  # INTEROP: n0-mainline answers a number of two bytes with one of four
MAX_DATAGRAM: Final = 2048  # an item of 1000 bytes with 20 nodes has about 1700
MAX_NODES: Final = 20  # of one answer; the rest is not read
MAX_TOKEN_BYTES: Final = 128  # real ones have 4 to 20
MAX_VALUE_BYTES: Final = 1000
MAX_SEQ: Final = 2**63 - 1
_NODE_BYTES: Final = ID_BYTES + 6

Address: TypeAlias = tuple[str, int]
"""IPv4 address and port, as sockets have them."""


class KrpcError(ValueError):
    """Not an answer of a DHT node."""


class Node(NamedTuple):
    """A node as others name it: nothing of this is proven until it answers."""

    id: bytes
    address: Address


class Item(NamedTuple):
    """A mutable item of BEP 44 without salt, not verified."""

    key: bytes
    seq: int
    signature: bytes
    value: bytes


class Reply(NamedTuple):
    """A node answers.

    Attributes
    ----------
    transaction : bytes
        What it says it answers.
    id : bytes
        Its own id, as it claims.
    nodes : tuple of Node
        Others, at most `MAX_NODES`; anything can stand there.
    token : bytes or None
        To put something at this node.
    item : Item or None
    read_only : bool
        It asks not to be asked (BEP 43).
    """

    transaction: bytes
    id: bytes
    nodes: tuple[Node, ...]
    token: bytes | None
    item: Item | None
    read_only: bool


class Refusal(NamedTuple):
    """A node answers with an error."""

    transaction: bytes
    code: int
    text: str


def parse_answer(data: bytes) -> Reply | Refusal | None:
    """Read an answer; None for a query, which a read-only node leaves alone.

    Raises
    ------
    KrpcError : it is not one.

    Notes
    -----
    Bencode is read strictly, so a message has one form: keys in order, no key twice, no leading
    zeros, nothing behind it.
    """
    if len(data) > MAX_DATAGRAM:
        raise KrpcError("too long")
    try:
        message = bdecode(data)
    except (ValueError, RecursionError) as error:
        raise KrpcError("not bencoded") from error
    if not isinstance(message, dict):
        raise KrpcError("not a dictionary")
    kind, transaction = message.get(b"y"), message.get(b"t")
    if kind == b"q":
        return None
    if not isinstance(transaction, bytes) or len(transaction) != TRANSACTION_BYTES:
        raise KrpcError("no transaction of ours")
    if kind == b"r":
        return _reply(transaction, message)
    if kind == b"e":
        return _refusal(transaction, message.get(b"e"))
    raise KrpcError("neither answer nor error")


def _reply(transaction: bytes, message: dict[bytes, Any]) -> Reply:
    values = message.get(b"r")
    if not isinstance(values, dict):
        raise KrpcError("an answer without values")
    id, token = values.get(b"id"), values.get(b"token")
    if not isinstance(id, bytes) or len(id) != ID_BYTES:
        raise KrpcError("an answer without the id of its node")
    if not isinstance(token, bytes) or not 0 < len(token) <= MAX_TOKEN_BYTES:
        token = None
    nodes = _nodes(values.get(b"nodes", b""))
    return Reply(transaction, id, nodes, token, _item(values), bool(message.get(b"ro")))


def _nodes(data: Any) -> tuple[Node, ...]:
    if not isinstance(data, bytes) or len(data) % _NODE_BYTES:
        raise KrpcError("a broken list of nodes")
    nodes = []
    for at in range(0, min(len(data), MAX_NODES * _NODE_BYTES), _NODE_BYTES):
        id, host = data[at : at + ID_BYTES], data[at + ID_BYTES : at + ID_BYTES + 4]
        port = int.from_bytes(data[at + ID_BYTES + 4 : at + _NODE_BYTES], "big")
        if port:
            nodes.append(Node(id, (inet_ntoa(host), port)))
    return tuple(nodes)


def _item(values: dict[bytes, Any]) -> Item | None:
    """The mutable item in an answer; what is none counts as no item."""
    key, seq = values.get(b"k"), values.get(b"seq")
    signature, value = values.get(b"sig"), values.get(b"v")
    if (
        isinstance(key, bytes)
        and len(key) == 32
        and isinstance(signature, bytes)
        and len(signature) == 64
        and isinstance(seq, int)
        and 0 <= seq <= MAX_SEQ
        and isinstance(value, bytes)
        and len(value) <= MAX_VALUE_BYTES
    ):
        return Item(key, seq, signature, value)
    return None


def _refusal(transaction: bytes, what: Any) -> Refusal:
    code, text = 0, ""
    if isinstance(what, list):
        if what and isinstance(what[0], int) and 0 <= what[0] < 10_000:
            code = what[0]
        if len(what) > 1 and isinstance(what[1], bytes):
            text = what[1][:200].decode("utf-8", "replace")
    return Refusal(transaction, code, text)


def pack_nodes(nodes: tuple[Node, ...] | list[Node]) -> bytes:
    """The compact form of nodes, as they stand in answers."""
    return b"".join(id + inet_aton(host) + port.to_bytes(2, "big") for id, (host, port) in nodes)


def _query(transaction: bytes, method: bytes, **arguments: bytes | int) -> bytes:
    # ro=1 (BEP 43): nodes that hear from us must not take us for one that answers.
    return bencode({"a": arguments, "q": method, "ro": 1, "t": transaction, "y": b"q"})


def ping_query(transaction: bytes, own: bytes) -> bytes:
    """Ask a node whether it is there."""
    return _query(transaction, b"ping", id=own)


def find_node_query(transaction: bytes, own: bytes, target: bytes) -> bytes:
    """Ask a node for others near to a target."""
    return _query(transaction, b"find_node", id=own, target=target)


def get_query(transaction: bytes, own: bytes, target: bytes) -> bytes:
    """Ask a node for an item, and for nodes near to it."""
    return _query(transaction, b"get", id=own, target=target)


def put_query(transaction: bytes, own: bytes, token: bytes, target: bytes, item: Item) -> bytes:
    """Ask a node to store an item, with the token it gave; without CAS, as iroh does."""
    return _query(
        transaction,
        b"put",
        id=own,
        k=item.key,
        seq=item.seq,
        sig=item.signature,
        target=target,
        token=token,
        v=item.value,
    )
