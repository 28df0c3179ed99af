"""The exception tree: built-in bases, attributes, texts, pickling."""

import asyncio
import builtins
import copy
import importlib
import inspect
import pathlib
import pickle

import pytest

import iroh_fast
from iroh_fast import errors
from iroh_fast.errors import CloseReason, IrohError

LOST = CloseReason("application", 7, b"bye!", True)

# Every class with its built-in bases and one instance that fills all attributes.
CASES = [
    (errors.IrohError("x"), []),
    (errors.KeyParsingError("x", reason="hex"), [ValueError]),
    (errors.SignatureError(), []),
    (errors.SignatureParsingError(), [ValueError]),
    (errors.RelayUrlError("x", text="y"), [ValueError]),
    (errors.CustomAddrError("x", reason="id"), [ValueError]),
    (errors.AddrError("x"), [ValueError]),
    (errors.TicketError("x"), [ValueError]),
    (errors.TicketKindError(expected="endpoint"), [errors.TicketError, ValueError]),
    (errors.TicketEncodingError("x", position=9), [errors.TicketError]),
    (errors.TicketContentError("x", offset=3), [errors.TicketError]),
    (errors.BindError("x", errno=98, address="0.0.0.0:1"), [OSError]),
    (errors.BindError(), [OSError]),
    (errors.EndpointClosed(), []),
    (errors.ConnectError("x", remote="03a107bff3", alpn=b"a"), [builtins.ConnectionError]),
    (errors.SelfConnect(), [errors.ConnectError]),
    (errors.InvalidAlpn(alpn=b""), [errors.ConnectError, ValueError]),
    (errors.NoAddress(lookup_errors=[errors.AddressLookupError("y", provenance="dns")]), [errors.ConnectError]),
    (errors.LocallyRejected(close_reason=LOST), [errors.ConnectError]),
    (errors.HandshakeFailed(alert=40), [errors.ConnectError]),
    (errors.AlpnMismatch(alert=120), [errors.HandshakeFailed]),
    (errors.WrongIdentity(alert=48), [errors.HandshakeFailed]),
    (errors.ConnectionRefused(), [errors.ConnectError]),
    (errors.NotDirect(), [errors.ConnectError, TimeoutError]),
    (errors.ConnectTimeout(), [errors.ConnectError, TimeoutError, asyncio.TimeoutError]),
    (errors.ConnectionLost(LOST), [builtins.ConnectionError]),
    (errors.ApplicationClosed(LOST), [errors.ConnectionLost]),
    (errors.PeerAborted(LOST, "other text"), [errors.ConnectionLost]),
    (errors.TransportViolation(LOST), [errors.ConnectionLost]),
    (errors.LocallyClosed(LOST), [errors.ConnectionLost]),
    (errors.TimedOut(LOST), [errors.ConnectionLost, TimeoutError]),
    (errors.StatelessReset(LOST), [errors.ConnectionLost]),
    (errors.VersionMismatch(LOST), [errors.ConnectionLost]),
    (errors.StreamError(), []),
    (errors.StreamReset(5), [errors.StreamError]),
    (errors.StreamStopped(6), [errors.StreamError]),
    (errors.StreamClosed(), [errors.StreamError]),
    (errors.ZeroRttRejected(), [errors.StreamError]),
    (errors.FinishedEarly(b"ab", 3), [errors.StreamError, asyncio.IncompleteReadError, EOFError]),
    (errors.StreamTooLong(10), [errors.StreamError]),
    (errors.DatagramError(), []),
    (errors.DatagramTooLarge(1500, 1200), [errors.DatagramError, ValueError]),
    (errors.DatagramUnsupported(), [errors.DatagramError]),
    (errors.DatagramDisabled(), [errors.DatagramError]),
    (errors.AddressLookupError("x", provenance="dns"), []),
    (errors.AddressLookupFailed("x", kind="no_service"), [errors.AddressLookupError]),
    (errors.RelayError("x", url="https://a/", status=401), []),
    (errors.RelayClientError("handshake", "x", url="https://a/", denied_reason="no"), [errors.RelayError]),
    (errors.DialError("proxy_connect_invalid_status", "x", status=407), []),
    (errors.DnsMessageError("x"), [ValueError]),
    (errors.BadQuery("x"), [ValueError]),
    (errors.EndpointInfoError("x", kind="NumLabels"), [ValueError]),
    (errors.SignedPacketError("TooShort", "x"), [ValueError]),
    (errors.RelayFrameError("x", kind="FrameTooLarge"), [errors.RelayError]),
    (errors.WsProtocolError(code=1009), [errors.RelayError]),
    (errors.RelayHandshakeError(), [errors.RelayError]),
    (errors.RelayDenied(reason="no"), [errors.RelayHandshakeError]),
    (errors.PacketStoreError("write", "x"), []),
    (errors.PortmapError("refused", "x", code=2, wait=4.0), []),
    (errors.StunError("timeout", "x"), []),
    (errors.StunDecodeError("x"), [ValueError]),
    (errors.DnsError("x", host="a."), [OSError]),
    (errors.DnsTimeout(host="a."), [errors.DnsError, TimeoutError, OSError]),
    (errors.DnsNoResponse(host="a."), [errors.DnsError]),
    (errors.DnsNxDomain(host="a."), [errors.DnsError]),
    (errors.DnsResolveBoth(host="a.", ipv4=errors.DnsNxDomain(), ipv6=errors.DnsTimeout()), [errors.DnsError]),
    (errors.DnsMissingHost(), [errors.DnsError, ValueError]),
    (errors.DnsResolveFailed(host="a."), [errors.DnsError]),
    (errors.DnsInvalidResponse(host="a."), [errors.DnsError]),
    (errors.DnsStaggered(host="a.", errors=[errors.DnsNxDomain()]), [errors.DnsError]),
    (errors.PkarrError("HttpRequest", "x", url="https://a/", status=429, retry_after=4.0), [errors.AddressLookupError]),
    (errors.HttpError("redirect", "x", url="https://a/", status=301), []),
    (errors.NotAllowed(), []),
    (errors.NotDelivered(2, 5.0), [TimeoutError]),
    (errors.WatcherEnded(), []),
    (errors.WrongThread(), [RuntimeError]),
    (errors.ConfigError("x"), [ValueError]),
    (errors.UserDataTooLong(300), [ValueError]),
]
IDS = [f"{type(error).__name__}-{i}" for i, (error, _) in enumerate(CASES)]


def facts(error):
    """Everything a caller can read off an error, comparable after a copy."""
    # hasattr: some attributes of OSError exist only when set.
    names = [n for n in dir(error) if not n.startswith("_") and hasattr(error, n)]
    return {n: repr(getattr(error, n)) for n in names if not callable(getattr(error, n))}


def test_tree_every_class_has_a_case():
    classes = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, IrohError) and not value.__name__.startswith("_")
    }
    assert classes == {type(error) for error, _ in CASES}
    assert {c.__name__ for c in classes} <= set(errors.__all__)
    assert sorted(errors.__all__) == errors.__all__


@pytest.mark.parametrize(("error", "bases"), CASES, ids=IDS)
def test_error_has_docstring_text_and_bases(error, bases):
    cls = type(error)
    assert "__doc__" in vars(cls) and cls.__doc__
    assert isinstance(error, IrohError)
    for base in bases:
        assert isinstance(error, base)
    text = str(error)
    assert text and "\n" not in text
    assert text == error.message
    assert repr(error).startswith(cls.__name__ + "(")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("error", "bases"), CASES, ids=IDS)
def test_error_pickled_keeps_everything(error, bases, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert again.args == error.args or isinstance(error, errors.NoAddress)
    assert (str(again), repr(again)) == (str(error), repr(error))
    assert facts(again) == facts(error)
    assert facts(copy.copy(error)) == facts(error)


def test_error_pickled_keeps_notes():
    error = errors.StreamReset(5)
    error.add_note("while reading")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while reading"]


def test_bind_error_keeps_errno_but_prints_the_sentence():
    error = errors.BindError("cannot bind 0.0.0.0:1: in use", errno=98)
    assert error.errno == 98
    assert str(error) == "cannot bind 0.0.0.0:1: in use"


def test_attributes_carry_the_facts():
    assert (errors.StreamReset(5).code, errors.StreamStopped(6).code) == (5, 6)
    early = errors.FinishedEarly(b"ab", 3)
    assert (early.partial, early.expected) == (b"ab", 3)
    large = errors.DatagramTooLarge(1500, 1200)
    assert (large.size, large.max_size) == (1500, 1200)
    assert errors.StreamTooLong(10).limit == 10
    assert str(errors.TicketKindError(expected="endpoint")) == "wrong prefix, expected endpoint"
    assert errors.UserDataTooLong(300).limit == 245
    cause = errors.IrohError("y")
    assert errors.NoAddress(lookup_errors=[cause]).lookup_errors == (cause,)


@pytest.mark.parametrize(
    ("reason", "text", "cls"),
    [
        (CloseReason("version_mismatch"), "peer doesn't implement any supported version", errors.VersionMismatch),
        (CloseReason("transport_local", 0x0A), "PROTOCOL_VIOLATION", errors.TransportViolation),
        (CloseReason("transport_local", 0x0A, frame=6, text="gap"), "PROTOCOL_VIOLATION in CRYPTO: gap", errors.TransportViolation),
        (CloseReason("transport_local", 0x07, frame=0x0F), "FRAME_ENCODING_ERROR in STREAM", errors.TransportViolation),
        (CloseReason("transport_local", 0x07, frame=0x3E), "FRAME_ENCODING_ERROR in frame 0x3e", errors.TransportViolation),
        (CloseReason("transport_peer", 0x02, b"", True), "aborted by peer: CONNECTION_REFUSED", errors.PeerAborted),
        (CloseReason("transport_peer", 0x01, b"oops", True, 6), "aborted by peer: INTERNAL_ERROR: oops", errors.PeerAborted),
        (
            CloseReason("transport_peer", 0x178, b"no alpn", True),
            "aborted by peer: the cryptographic handshake failed: error 120: no alpn",
            errors.PeerAborted,
        ),
        (CloseReason("transport_peer", 0x1FF, b"", True), "aborted by peer: the cryptographic handshake failed: error 255", errors.PeerAborted),
        (CloseReason("transport_peer", 0x200, b"", True), "aborted by peer: unknown error 0x200", errors.PeerAborted),
        (CloseReason("application", 7, b"bye!", True), "closed by peer: bye! (code 7)", errors.ApplicationClosed),
        (CloseReason("application", 7, b"", True), "closed by peer: 7", errors.ApplicationClosed),
        (CloseReason("application", 7, b"\xff", True), "closed by peer: \ufffd (code 7)", errors.ApplicationClosed),
        (CloseReason("reset", by_peer=True), "reset by peer", errors.StatelessReset),
        (CloseReason("timed_out"), "timed out", errors.TimedOut),
        (CloseReason("locally_closed"), "closed", errors.LocallyClosed),
        (CloseReason("cids_exhausted"), "CIDs exhausted", errors.ConnectionLost),
    ],
)
def test_close_reason_text_and_error(reason, text, cls):
    assert str(reason) == text
    error = reason.to_error()
    assert type(error) is cls
    assert error.close_reason is reason
    assert str(error) == text
    again = pickle.loads(pickle.dumps(error))
    assert again.close_reason == reason


def test_close_reason_attributes_reach_the_error():
    closed = CloseReason("application", 7, b"bye!", True).to_error()
    assert (closed.code, closed.reason) == (7, b"bye!")
    aborted = CloseReason("transport_peer", 10, b"why", True, 6).to_error()
    assert (aborted.code, aborted.frame, aborted.text) == (10, 6, "why")


def test_close_reason_equality_compares_content():
    assert CloseReason("reset") == CloseReason("reset")
    assert CloseReason("application", 1) != CloseReason("application", 2)
    assert len({CloseReason("reset"), CloseReason("reset")}) == 1
    with pytest.raises(AttributeError):
        CloseReason("reset").code = 5


@pytest.mark.parametrize(
    "reason",
    [
        CloseReason("application", 5, b"bye\r\nERROR root: forged\x1b[31m"),
        CloseReason("transport_peer", 10, b"\x00\x07\x7f\xc2\x9b31m"),
        CloseReason("application", 5, "left\u202eright\u2028line".encode()),
        CloseReason("transport_local", 10, text="frame\n"),
    ],
)
def test_text_of_a_peer_is_shown_escaped_and_kept_as_it_was(reason):
    for text in (str(reason), str(reason.to_error()), repr(reason.to_error())):
        assert text.isprintable(), repr(text)
    assert reason.to_error().close_reason.reason == reason.reason


def test_printable_leaves_ordinary_text_alone():
    assert errors.printable("déjà vu, 漢字 ✓") == "déjà vu, 漢字 ✓"
    assert errors.printable("a\tb\x1b[0m") == r"a\tb\x1b[0m"


def test_every_error_of_the_package_is_in_errors():
    package = pathlib.Path(iroh_fast.__file__).parent
    for path in package.rglob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            importlib.import_module(".".join(["iroh_fast", *path.relative_to(package).with_suffix("").parts]))

    def below(cls):
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    for cls in below(IrohError):
        if cls.__module__.startswith("iroh_fast") and not cls.__name__.startswith("_"):
            assert getattr(errors, cls.__name__) is cls
            assert cls.__module__ == "iroh_fast.errors"
