"""Packet protection against RFC 9001 appendix A, recorded iroh traffic and `cryptography`."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast import _crypto
from iroh_fast._crypto import PacketProtection

VECTORS = Path(__file__).parents[1] / "vectors"
AES128, AES256, CHACHA = 0x1301, 0x1302, 0x1303
SECRET_LEN = {AES128: 32, AES256: 48, CHACHA: 32}
KEY_LEN = {AES128: 16, AES256: 32, CHACHA: 32}
AVAILABLE = _crypto.backend()["available"]
# every (suite, backend) that exists on this machine
COMBINATIONS = [
    pytest.param(suite, backend, id=f"{suite:04x}-{backend}")
    for suite in (AES128, AES256, CHACHA)
    for backend in AVAILABLE
    if not (suite == CHACHA and backend == "ipsec-mb")
]
AES_BACKENDS = pytest.mark.parametrize("backend", AVAILABLE)

H = bytes.fromhex

# RFC 9001 appendix A
A_DCID = H("8394c8f03e515708")
A2_HEADER = H("c300000001088394c8f03e5157080000449e00000002")
A2_CRYPTO = H(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c"
    "00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006"
    "001d0017001800100007000504616c706e000500050100000000003300260024001d00209370b2c9caa4"
    "7fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e040305"
    "0306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ff"
    "ff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
)
A2_PACKET_START = H("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9b")
A2_PACKET_END = H("8b4c8d169a44e55c88d4a9a7f9474241e221af44860018ab0856972e194cd934")
A3_HEADER = H("c1000000010008f067a5502a4262b50040750001")
A3_PAYLOAD = H(
    "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc543"
    "0b9a045a1200130100002e00330024001d00209d3c940d89690b84d08a60993c144eca684d1081287c83"
    "4d5311bcf32bb9da1a002b00020304"
)
A3_PACKET = H(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69"
    "797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73"
    "cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456"
    "cbc42158407dd074ee"
)
A4_RETRY = H("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
A5_SECRET = H("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")


def mask_header(keys: PacketProtection, header: bytes, sample: bytes) -> bytes:
    """Apply header protection (RFC 9001 §5.4.1); `header` ends with the packet number."""
    mask = keys.header_mask(sample)
    pn_len = (header[0] & 3) + 1
    out = bytearray(header)
    out[0] ^= mask[0] & (0x0F if header[0] & 0x80 else 0x1F)
    for i in range(pn_len):
        out[len(header) - pn_len + i] ^= mask[1 + i]
    return bytes(out)


def unmask(keys: PacketProtection, packet: bytes, pn_offset: int) -> bytes:
    """Return the unprotected header of `packet`."""
    mask = keys.header_mask(packet[pn_offset + 4 : pn_offset + 20])
    first = packet[0] ^ mask[0] & (0x0F if packet[0] & 0x80 else 0x1F)
    pn_len = (first & 3) + 1
    pn = bytes(a ^ b for a, b in zip(packet[pn_offset : pn_offset + pn_len], mask[1:], strict=False))
    return bytes([first]) + packet[1:pn_offset] + pn


def protect(keys: PacketProtection, header: bytes, pn: int, payload: bytes, path_id: int = 0) -> bytes:
    sealed = keys.seal(path_id, pn, header, payload)
    skip = 4 - ((header[0] & 3) + 1)
    return mask_header(keys, header, sealed[skip : skip + 16]) + sealed


# ---------------------------------------------------------------- RFC 9001 appendix A


def test_initial_secrets_rfc9001_a1_match() -> None:
    client, server = _crypto.initial_secrets(A_DCID)
    assert client == H("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea")
    assert server == H("3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b")


@pytest.mark.parametrize(
    ("side", "key", "iv", "hp"),
    [
        (0, "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"),
        (1, "cf3a5331653c364c88f0f379b6067e37", "0ac1493ca1905853b0bba03e", "c206b8d9b9f0f37644430b490eeaa314"),
    ],
)
def test_expand_label_rfc9001_a1_keys_match(side: int, key: str, iv: str, hp: str) -> None:
    secret = _crypto.initial_secrets(A_DCID)[side]
    assert _crypto.hkdf_expand_label(AES128, secret, b"quic key", 16).hex() == key
    assert _crypto.hkdf_expand_label("sha256", secret, b"quic iv", 12).hex() == iv
    assert _crypto.hkdf_expand_label(CHACHA, secret, b"quic hp", 16).hex() == hp


@AES_BACKENDS
def test_seal_rfc9001_a2_client_initial_matches(backend: str) -> None:
    keys = PacketProtection(AES128, _crypto.initial_secrets(A_DCID)[0], backend=backend)
    assert keys.backend == backend
    assert keys.header_mask(H("d1b1c98dd7689fb8ec11d242b123dc9b")) == H("437b9aec36")
    packet = protect(keys, A2_HEADER, 2, A2_CRYPTO.ljust(1162, b"\0"))
    assert len(packet) == 1200
    assert packet.startswith(A2_PACKET_START)
    assert packet.endswith(A2_PACKET_END)  # holds the tag, which covers all of the packet
    assert unmask(keys, packet, 18) == A2_HEADER
    assert keys.open(0, 2, A2_HEADER, packet[22:]) == A2_CRYPTO.ljust(1162, b"\0")


@AES_BACKENDS
def test_seal_rfc9001_a3_server_initial_matches(backend: str) -> None:
    keys = PacketProtection(AES128, _crypto.initial_secrets(A_DCID)[1], backend=backend)
    assert keys.header_mask(H("2cd0991cd25b0aac406a5816b6394100")) == H("2ec0d8356a")
    assert protect(keys, A3_HEADER, 1, A3_PAYLOAD) == A3_PACKET
    assert keys.open(0, 1, A3_HEADER, A3_PACKET[20:]) == A3_PAYLOAD


def test_retry_integrity_tag_rfc9001_a4_matches() -> None:
    assert _crypto.retry_integrity_tag(A_DCID, A4_RETRY[:-16]) == A4_RETRY[-16:]
    assert _crypto.retry_integrity_tag(A_DCID[:-1], A4_RETRY[:-16]) != A4_RETRY[-16:]
    with pytest.raises(ValueError, match="21 bytes"):
        _crypto.retry_integrity_tag(bytes(21), A4_RETRY[:-16])


def test_chacha_rfc9001_a5_matches() -> None:
    expand = _crypto.hkdf_expand_label
    assert expand(CHACHA, A5_SECRET, b"quic key", 32) == H(
        "c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8"
    )
    assert expand(CHACHA, A5_SECRET, b"quic iv", 12) == H("e0459b3474bdd0e44a41c144")
    assert expand(CHACHA, A5_SECRET, b"quic hp", 32) == H(
        "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4"
    )
    assert _crypto.next_secret(CHACHA, A5_SECRET) == H(
        "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9"
    )
    keys = PacketProtection(CHACHA, A5_SECRET)
    header, pn = H("4200bff4"), 654360564
    assert keys.seal(0, pn, header, b"\x01") == H("655e5cd55c41f69080575d7999c25a5bfb")
    assert keys.header_mask(H("5e5cd55c41f69080575d7999c25a5bfb")) == H("aefefe7d03")
    packet = H("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")
    assert protect(keys, header, pn, b"\x01") == packet
    assert unmask(keys, packet, 1) == header
    assert keys.open(0, pn, header, packet[4:]) == b"\x01"


# ---------------------------------------------------------------- recorded traffic of a real peer

HANDSHAKE = json.loads((VECTORS / "quic_server_handshake.json").read_text())
MULTIPATH = json.loads((VECTORS / "quic_multipath_1rtt.json").read_text())
RECORDED = [
    *HANDSHAKE["handshake_datagrams"],
    *MULTIPATH["datagrams"],
]


def recorded_keys(backend: str) -> dict[tuple[str, str], PacketProtection]:
    client, server = _crypto.initial_secrets(H(HANDSHAKE["client_original_dcid"]))
    secrets = HANDSHAKE["traffic_secrets"]
    keys = {
        ("client->server", "I"): PacketProtection(AES128, client, backend=backend),
        ("server->client", "I"): PacketProtection(AES128, server, backend=backend),
    }
    for side in ("client", "server"):
        direction = "client->server" if side == "client" else "server->client"
        for space, name in (("H", "HANDSHAKE"), ("1", "ONE_RTT")):
            secret = H(secrets[f"{side}_{name}"])
            keys[direction, space] = PacketProtection(AES256, secret, backend=backend)
    return keys


def varint(data: bytes, at: int) -> tuple[int, int]:
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


def split(datagram: bytes) -> list[tuple[bytes, int]]:
    """Packets of a datagram with the offset of their packet number (8-byte ids in short headers)."""
    packets = []
    while datagram:
        if not datagram[0] & 0x80:
            packets.append((datagram, 9))
            break
        at = 6 + datagram[5]
        at += 1 + datagram[at]
        if datagram[0] & 0x30 == 0:
            token_len, at = varint(datagram, at)
            at += token_len
        length, at = varint(datagram, at)
        packets.append((datagram[: at + length], at))
        datagram = datagram[at + length :]
    return packets


@AES_BACKENDS
def test_open_recorded_iroh_traffic_matches(backend: str) -> None:
    keys = recorded_keys(backend)
    seen: set[tuple[str, str, int]] = set()
    for entry in RECORDED:
        packets = split(H(entry["datagram"]))
        assert len(packets) == len(entry["packets"])
        for (packet, pn_offset), known in zip(packets, entry["packets"], strict=True):
            key = keys[entry["dir"], known["space"]]
            path_id = known["path_id"]
            header = unmask(key, packet, pn_offset)
            pn = int.from_bytes(header[pn_offset:], "big")
            payload = key.open(path_id, pn, header, packet[len(header) :])
            if "payload" in known:
                assert header.hex() == known["unprotected_header"]
                assert payload.hex() == known["payload"]
            else:
                assert pn == known["pn"]
                assert payload.rstrip(b"\0") == H(known["payload_without_padding"]).rstrip(b"\0")
            assert protect(key, header, pn, payload, path_id) == packet
            seen.add((entry["dir"], known["space"], path_id))
    assert seen == {
        (d, space, path)
        for d in ("client->server", "server->client")
        for space, path in (("I", 0), ("H", 0), ("1", 0), ("1", 1))
    }


@AES_BACKENDS
def test_open_recorded_packet_on_other_path_fails(backend: str) -> None:
    keys = recorded_keys(backend)["server->client", "1"]
    opened = 0
    for entry in MULTIPATH["datagrams"]:
        for known in entry["packets"]:
            if entry["dir"] == "server->client" and known["path_id"] == 1:
                packet = H(entry["datagram"])
                header = unmask(keys, packet, 9)
                pn = int.from_bytes(header[9:], "big")
                with pytest.raises(ValueError, match="authentication"):
                    keys.open(0, pn, header, packet[len(header) :])
                opened += len(keys.open(1, pn, header, packet[len(header) :])) > 0
    assert opened == 13


def test_recorded_derived_keys_match() -> None:
    for name, derived in HANDSHAKE["derived"].items():
        secret = H(HANDSHAKE["traffic_secrets"][name])
        for field, length in (("key", 32), ("iv", 12), ("hp", 32)):
            label = b"quic " + field.encode()
            assert _crypto.hkdf_expand_label(AES256, secret, label, length).hex() == derived[field]


# ---------------------------------------------------------------- tampering


@pytest.mark.parametrize(("suite", "backend"), COMBINATIONS)
def test_open_any_changed_byte_fails(suite: int, backend: str) -> None:
    keys = PacketProtection(suite, bytes(range(SECRET_LEN[suite])), backend=backend)
    header, payload = H("41") + bytes(range(8)) + H("0102"), bytes(range(256)) * 3
    sealed = keys.seal(5, 0x0102, header, payload)
    for at in range(len(header)):  # flags, connection id, packet number
        changed = bytearray(header)
        changed[at] ^= 0x80
        with pytest.raises(ValueError, match="authentication"):
            keys.open(5, 0x0102, changed, sealed)
    spots = [0, 1, 15, 16, 127, 128, 255, 256, 511, 512, 767, *range(768, 784)]
    for at in spots:  # ciphertext across block and stride borders, every byte of the tag
        for bit in (0x01, 0x80):
            changed = bytearray(sealed)
            changed[at] ^= bit
            with pytest.raises(ValueError, match="authentication"):
                keys.open(5, 0x0102, header, changed)
    for path_id, pn in ((4, 0x0102), (5, 0x0103), (5, 0x0102 | 1 << 40), (5 | 1 << 31, 0x0102)):
        with pytest.raises(ValueError, match="authentication"):
            keys.open(path_id, pn, header, sealed)
    for wrong in (sealed[:-1], sealed[1:], sealed + b"\0"):
        with pytest.raises(ValueError, match="authentication"):
            keys.open(5, 0x0102, header, wrong)
    for aad in (header[:-1], header + b"\0", b""):
        with pytest.raises(ValueError, match="authentication"):
            keys.open(5, 0x0102, aad, sealed)
    # a failure leaves the key usable
    assert keys.open(5, 0x0102, header, sealed) == payload
    assert keys.seal(5, 0x0102, header, payload) == sealed


@pytest.mark.parametrize(("suite", "backend"), COMBINATIONS)
def test_open_shorter_than_tag_fails(suite: int, backend: str) -> None:
    keys = PacketProtection(suite, bytes(SECRET_LEN[suite]), backend=backend)
    for n in range(16):
        with pytest.raises(ValueError, match="shorter"):
            keys.open(0, 0, b"h", bytes(n))
    with pytest.raises(ValueError, match="authentication"):
        keys.open(0, 0, b"h", bytes(16))
    assert keys.open(0, 0, b"h", keys.seal(0, 0, b"h", b"")) == b""


# ---------------------------------------------------------------- against `cryptography`


def reference(suite: int, secret: bytes, path_id: int, pn: int) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
    """AEAD and nonce made without any of our code."""
    algorithm = SHA384() if suite == AES256 else SHA256()

    def expand(label: bytes, n: int) -> bytes:
        info = n.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return HKDFExpand(algorithm, n, info).derive(secret)

    key = expand(b"quic key", KEY_LEN[suite])
    nonce = int.from_bytes(expand(b"quic iv", 12), "big") ^ (path_id << 64 | pn)
    aead = ChaCha20Poly1305(key) if suite == CHACHA else AESGCM(key)
    return aead, nonce.to_bytes(12, "big")


@pytest.mark.parametrize(("suite", "backend"), COMBINATIONS)
@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    path_id=st.integers(0, 2**32 - 1),
    pn=st.integers(0, 2**62 - 1),
    header=st.binary(max_size=80),
    size=st.integers(0, 1600),
    seed=st.binary(min_size=1, max_size=8),
)
def test_seal_random_input_equals_cryptography(
    suite: int, backend: str, data: st.DataObject, path_id: int, pn: int, header: bytes, size: int, seed: bytes
) -> None:
    secret = data.draw(st.binary(min_size=SECRET_LEN[suite], max_size=SECRET_LEN[suite]))
    payload = hashlib.shake_128(seed).digest(size)
    aead, nonce = reference(suite, secret, path_id, pn)
    keys = PacketProtection(suite, secret, backend=backend)
    sealed = aead.encrypt(nonce, payload, header)
    # the first use of a key prepares it: exercise both orders
    if size % 2:
        assert keys.open(path_id, pn, header, sealed) == payload
    assert keys.seal(path_id, pn, header, payload) == sealed
    assert keys.open(path_id, pn, header, memoryview(sealed)) == payload
    garbage = hashlib.shake_128(seed + b"x").digest(size + 16)
    with pytest.raises(InvalidTag):
        aead.decrypt(nonce, garbage, header)
    with pytest.raises(ValueError, match="authentication"):
        keys.open(path_id, pn, header, garbage)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["sha256", "sha384"]),
    secret=st.binary(max_size=200),
    label=st.binary(max_size=249),
    length=st.integers(0, 400),
)
def test_expand_label_random_input_equals_cryptography(name: str, secret: bytes, label: bytes, length: int) -> None:
    algorithm = SHA256() if name == "sha256" else SHA384()
    info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    ours = _crypto.hkdf_expand_label(name, secret, label, length)
    assert ours == (HKDFExpand(algorithm, length, info).derive(secret) if length else b"")


@given(key=st.binary(max_size=200), data=st.binary(max_size=300))
def test_hmac_random_input_equals_stdlib(key: bytes, data: bytes) -> None:
    assert _crypto.hmac_sha256(key, data) == hmac.digest(key, data, "sha256")


@given(a=st.binary(max_size=40), b=st.binary(max_size=40))
def test_constant_time_equal_random_input_equals_operator(a: bytes, b: bytes) -> None:
    assert _crypto.constant_time_equal(a, b) is (a == b)
    assert _crypto.constant_time_equal(a, bytearray(a)) is True


@pytest.mark.parametrize("suite", [AES128, AES256, CHACHA])
def test_header_masks_batch_equals_single(suite: int) -> None:
    keys = PacketProtection(suite, bytes(SECRET_LEN[suite]))
    samples = [hashlib.shake_128(bytes([i])).digest(16) for i in range(64)]
    single = [keys.header_mask(sample) for sample in samples]
    assert len(set(single)) == 64
    for n in (0, 1, 2, 15, 16, 17, 64):
        assert keys.header_masks(samples[:n]) == single[:n]


@pytest.mark.parametrize("suite", [AES128, AES256, CHACHA])
def test_key_update_chain_is_expand_label(suite: int) -> None:
    secret = bytes(range(SECRET_LEN[suite]))
    for _ in range(3):
        following = _crypto.hkdf_expand_label(suite, secret, b"quic ku", SECRET_LEN[suite])
        assert _crypto.next_secret(suite, secret) == following
        assert following != secret
        secret = following


# ---------------------------------------------------------------- arguments and selection


def test_arguments_out_of_range_raise_value_error() -> None:
    keys = PacketProtection(AES128, bytes(32))
    for path_id, pn in ((-1, 0), (2**32, 0), (0, -1), (0, 2**62)):
        with pytest.raises(ValueError, match="path id|packet number"):
            keys.seal(path_id, pn, b"", b"")
        with pytest.raises(ValueError, match="path id|packet number"):
            keys.open(path_id, pn, b"", bytes(32))
    for n in (0, 15, 17):
        with pytest.raises(ValueError, match="sample"):
            keys.header_mask(bytes(n))
    with pytest.raises(ValueError, match="64"):
        keys.header_masks([bytes(16)] * 65)
    for suite in (0, 0x1300, 0x1304, -1):
        with pytest.raises(ValueError, match="suite"):
            PacketProtection(suite, bytes(32))
        with pytest.raises(ValueError, match="suite"):
            _crypto.next_secret(suite, bytes(32))
    for suite, length in SECRET_LEN.items():
        for wrong in (0, length - 1, length + 1, 48 if length == 32 else 32):
            with pytest.raises(ValueError, match="secret has"):
                PacketProtection(suite, bytes(wrong))
            with pytest.raises(ValueError, match="secret has"):
                _crypto.next_secret(suite, bytes(wrong))
    with pytest.raises(ValueError, match="backend"):
        PacketProtection(AES128, bytes(32), backend="rot13")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="cannot do"):
        PacketProtection(CHACHA, bytes(32), backend="ipsec-mb")
    with pytest.raises(ValueError, match="hash"):
        _crypto.hkdf_expand_label("md5", bytes(32), b"x", 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label"):
        _crypto.hkdf_expand_label("sha256", bytes(32), bytes(250), 16)
    for length in (-1, 255 * 32 + 1):
        with pytest.raises(ValueError, match="length"):
            _crypto.hkdf_expand_label("sha256", bytes(32), b"x", length)
    assert len(_crypto.hkdf_expand_label("sha256", bytes(32), b"x", 255 * 32)) == 255 * 32


def test_failed_argument_check_leaves_views_released() -> None:
    data = bytearray(10)
    keys = PacketProtection(AES128, bytes(32))
    with pytest.raises(ValueError, match="shorter"):
        keys.open(0, 0, data, data)
    data.append(0)  # BufferError if a view were still held


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )


SHOW = (
    "from iroh_fast import _crypto; print(*_crypto.backend()['suites'].values(), "
    "_crypto.PacketProtection(0x1302, bytes(48)).backend)"
)


def test_environment_openssl_forces_openssl() -> None:
    result = run_python(SHOW, IROH_FAST_CRYPTO="openssl")
    assert result.stdout.split() == ["openssl"] * 4, result.stderr


def test_environment_ipsec_mb_forces_it_or_refuses() -> None:
    result = run_python(SHOW, IROH_FAST_CRYPTO="ipsec-mb")
    if "ipsec-mb" in AVAILABLE:
        assert result.stdout.split() == ["ipsec-mb", "ipsec-mb", "openssl", "ipsec-mb"], result.stderr
    else:
        assert result.stderr.strip().splitlines()[-1].startswith("ImportError: IROH_FAST_CRYPTO=ipsec-mb")


def test_environment_unknown_backend_is_import_error() -> None:
    result = run_python(SHOW, IROH_FAST_CRYPTO="best")
    assert result.returncode == 1
    assert "ImportError: IROH_FAST_CRYPTO='best': must be 'openssl' or 'ipsec-mb'" in result.stderr


def test_backend_default_is_fastest_available() -> None:
    result = run_python(SHOW, IROH_FAST_CRYPTO="")
    assert result.stdout.split() == [AVAILABLE[-1], AVAILABLE[-1], "openssl", AVAILABLE[-1]], result.stderr


def test_build_switches_describe_the_build() -> None:
    switches = _crypto.build_switches()
    assert switches["compiler"]
    assert switches["flags"]
    assert ("ipsec-mb" in AVAILABLE) <= switches["ipsec_mb"]
    assert (_crypto.backend()["libraries"]["ipsec-mb"] is not None) is switches["ipsec_mb"]
    assert _crypto.backend()["libraries"]["openssl"].startswith("OpenSSL ")


def test_exported_functions_have_plain_names_and_signatures() -> None:
    for name in ("hkdf_expand_label", "initial_secrets", "next_secret", "retry_integrity_tag", "hmac_sha256"):
        function = getattr(_crypto, name)
        assert function.__name__ == name
        assert inspect.signature(function).parameters
        assert "_py_" not in function.__doc__
    assert not [name for name in vars(_crypto) if name.startswith("_py_")]
