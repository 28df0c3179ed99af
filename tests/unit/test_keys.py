"""Keys, ids and signatures against the recorded vectors and on random input."""

import copy
import json
import os
import pathlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.errors import KeyParsingError, SignatureError, SignatureParsingError
from iroh_fast.keys import EndpointId, PublicKey, SecretKey, Signature

VECTORS = json.loads(
    (pathlib.Path(__file__).parent.parent / "vectors" / "identity.json").read_text("utf-8")
)
REASONS = {
    "FailedToDecodeHex": "hex",
    "FailedToDecodeBase32": "base32",
    "InvalidLength": "length",
    "InvalidKeyData": "point",
}
SEEDS = st.binary(min_size=32, max_size=32)
RANGE_KEY = SecretKey(bytes(range(32)))


def by(field):
    return lambda case: case[field] if isinstance(case, dict) else None


@pytest.mark.parametrize("case", VECTORS["keys"], ids=by("name"))
def test_keys_vector_matches(case):
    secret = SecretKey.parse(case["secret_hex"])
    public = secret.public
    assert secret.to_hex() == case["secret_hex"]
    assert secret.to_bytes() == bytes.fromhex(case["secret_hex"])
    assert str(public) == f"{public}" == case["public_hex"]
    assert bytes(public) == public.to_bytes() == bytes.fromhex(case["public_bytes_hex"])
    assert public.fmt_short() == f"{public:short}" == case["short"]
    assert f"{public:b32}" == case["public_base32_lower"]
    assert public.to_z32() == f"{public:z32}" == case["public_z32"]
    assert PublicKey.from_z32(case["public_z32"]) == public
    assert PublicKey.parse(case["public_base32_lower"]) == public
    for signed in case["signatures"]:
        message = bytes.fromhex(signed["message_hex"])
        signature = secret.sign(message)
        assert str(signature) == signed["signature_hex"]
        assert secret.sign(message) == signature
        public.verify(message, bytes.fromhex(signed["signature_hex"]))


@pytest.mark.parametrize("case", VECTORS["endpoint_id_parse"], ids=by("name"))
def test_endpoint_id_parse_vector_matches(case):
    if case["ok"]:
        assert str(EndpointId.parse(case["input"])) == case["hex"]
        assert str(EndpointId(case["input"])) == case["hex"]
        return
    with pytest.raises(KeyParsingError) as caught:
        EndpointId.parse(case["input"])
    assert caught.value.reason == REASONS[case["error"]]
    if case["error"] == "InvalidKeyData":
        SecretKey.parse(case["input"])  # any 32 bytes are a seed
    else:
        with pytest.raises(KeyParsingError) as caught:
            SecretKey.parse(case["input"])
        assert caught.value.reason == REASONS[case["error"]]


@pytest.mark.parametrize("case", VECTORS["public_key_from_bytes"], ids=by("name"))
def test_public_key_from_bytes_vector_matches(case):
    data = bytes.fromhex(case["input_hex"])
    if case["ok"]:
        assert PublicKey.from_bytes(data).to_bytes().hex() == case["to_bytes_hex"]
        return
    with pytest.raises(KeyParsingError) as caught:
        PublicKey.from_bytes(data)
    assert caught.value.reason == REASONS[case["error"]]


@pytest.mark.parametrize("case", VECTORS["verify"], ids=by("name"))
def test_verify_vector_matches(case):
    public = PublicKey(bytes.fromhex(case["public_hex"]))
    message = bytes.fromhex(case["message_hex"])
    signature = Signature(bytes.fromhex(case["signature_hex"]))
    if case["ok"]:
        assert public.verify(message, signature) is None
        return
    with pytest.raises(SignatureError, match="^Invalid signature$"):
        public.verify(message, signature)


def test_json_and_debug_forms_match():
    forms, shown = VECTORS["json_forms"], VECTORS["display_forms"]
    assert str(RANGE_KEY.public) == forms["public_key"]
    assert list(RANGE_KEY.to_bytes()) == forms["secret_key"]
    assert list(bytes(RANGE_KEY.sign(b"hello iroh"))) == forms["signature"]
    assert repr(RANGE_KEY.public) == shown["public_key_debug"]
    assert repr(RANGE_KEY) == str(RANGE_KEY) == shown["secret_key_debug"]


@given(SEEDS, st.binary(max_size=300))
def test_sign_verify_round_trip(seed, message):
    secret = SecretKey(seed)
    signature = secret.sign(message)
    secret.public.verify(message, signature)
    with pytest.raises(SignatureError):
        secret.public.verify(message + b"x", signature)


@given(SEEDS)
def test_text_forms_round_trip(seed):
    secret = SecretKey(seed)
    public = secret.public
    assert SecretKey.parse(secret.to_hex()) == secret
    for text in (str(public), f"{public:b32}", f"{public:b32}".upper()):
        assert PublicKey.parse(text) == public
    assert PublicKey.from_z32(public.to_z32()) == public
    assert PublicKey(bytes(public)) == public  # derived keys pass the point check
    assert pickle.loads(pickle.dumps(public)) == public


@given(st.text(max_size=70) | st.text("0123456789abcdefABCDEF", min_size=63, max_size=65))
def test_parse_random_text_raises_only_key_errors(text):
    for parse in (PublicKey.parse, PublicKey.from_z32, SecretKey.parse):
        try:
            key = parse(text)
        except KeyParsingError as error:
            assert error.reason in REASONS.values()
        else:
            assert len(key.to_bytes()) == 32


@given(st.binary(min_size=32, max_size=32))
def test_point_check_agrees_with_a_square_root(data):
    p = 2**255 - 19
    y = (int.from_bytes(data, "little") & (2**255 - 1)) % p
    d = -121665 * pow(121666, -1, p)
    ratio = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    root = pow(ratio, (p + 3) // 8, p)
    has_root = root * root % p in (ratio, -ratio % p)
    try:
        PublicKey(data)
        accepted = True
    except KeyParsingError:
        accepted = False
    assert accepted == has_root


def test_lone_surrogates_are_a_key_error():
    for text in ("\ud800" * 64, "\ud800" + "a" * 61, "\ud800" + "a" * 49):
        with pytest.raises(KeyParsingError):
            PublicKey.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "point"),
        ("yy", "point"),
        ("y", "base32"),  # no length a whole number of bytes gives
        ("y" * 51, "base32"),
        ("y" * 53, "point"),
        ("yqooxx9u3aemh8mo5wcqq16yufu6jitouq1o4za751dger1igghy".upper(), "base32"),
        ("yqooxx9u3aemh8mo5wcqq16yufu6jitouq1o4za751dger1igghb", "base32"),
        ("l" * 52, "base32"),
        ("ye" + "y" * 50, "point"),  # y = 2
    ],
)
def test_from_z32_rejects(text, reason):
    with pytest.raises(KeyParsingError) as caught:
        PublicKey.from_z32(text)
    assert caught.value.reason == reason


def test_z32_is_not_parsed_as_base32():
    with pytest.raises(KeyParsingError):
        PublicKey.parse(RANGE_KEY.public.to_z32())


def test_upper_case_hex_message_says_why():
    with pytest.raises(KeyParsingError, match="lower-case"):
        PublicKey.parse(str(RANGE_KEY.public).upper())


def test_small_order_key_and_nonce_rejected_for_all_fourteen_encodings():
    p = 2**255 - 19
    eights = (
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    )
    good = RANGE_KEY.sign(b"m").to_bytes()
    for y in (0, 1, p - 1, p, p + 1, *eights):
        for sign in (0, 1 << 255):
            point = (y | sign).to_bytes(32, "little")
            with pytest.raises(SignatureError):
                PublicKey(point).verify(b"m", point + bytes(32))
            with pytest.raises(SignatureError):
                RANGE_KEY.public.verify(b"m", point + good[32:])
            with pytest.raises(SignatureError):
                PublicKey(point).verify(b"m", good)


def test_public_key_is_ordered_and_hashed_by_bytes():
    keys = [SecretKey(bytes([i]) * 32).public for i in range(20)]
    assert [bytes(k) for k in sorted(keys)] == sorted(bytes(k) for k in keys)
    low, high = sorted(keys)[:2]
    assert low < high and low <= high and high > low and high >= low and low != high
    assert len({*keys, *(PublicKey(bytes(k)) for k in keys)}) == 20
    assert low != bytes(low)
    with pytest.raises(TypeError):
        low < bytes(high)
    # Two encodings of one point are two keys.
    assert PublicKey(bytes(32)) != PublicKey((2**255 - 19).to_bytes(32, "little"))


def test_public_key_formats_like_text():
    public = RANGE_KEY.public
    assert f"{public:>70}" == str(public).rjust(70)
    with pytest.raises(ValueError):
        f"{public:nonsense}"


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_like_input_is_taken(wrap):
    raw, message = RANGE_KEY.to_bytes(), b"hello"
    assert SecretKey.from_bytes(wrap(raw)) == RANGE_KEY
    assert PublicKey(wrap(bytes(RANGE_KEY.public))) == RANGE_KEY.public
    signature = RANGE_KEY.sign(wrap(message))
    assert Signature.from_bytes(wrap(bytes(signature))) == signature
    RANGE_KEY.public.verify(wrap(message), wrap(bytes(signature)))


@pytest.mark.parametrize("bad", [32, None, 1.5, ["a"]])
def test_other_types_are_a_type_error(bad):
    for make in (SecretKey, SecretKey.parse, PublicKey, PublicKey.parse, PublicKey.from_z32, Signature):
        with pytest.raises(TypeError):
            make(bad)


def test_str_and_bytes_are_not_mixed_up():
    with pytest.raises(TypeError):
        PublicKey.from_bytes(str(RANGE_KEY.public))
    with pytest.raises(TypeError):
        SecretKey(RANGE_KEY.to_hex())
    with pytest.raises(TypeError):
        PublicKey.parse(bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_secret_key_wrong_length_rejected(size):
    with pytest.raises(KeyParsingError) as caught:
        SecretKey.from_bytes(bytes(size))
    assert caught.value.reason == "length"


@pytest.mark.parametrize("size", [0, 63, 65])
def test_signature_wrong_length_rejected(size):
    with pytest.raises(SignatureParsingError):
        Signature(bytes(size))
    with pytest.raises(SignatureParsingError):
        RANGE_KEY.public.verify(b"", bytes(size))


def test_signature_compares_and_pickles():
    signature = RANGE_KEY.sign(b"m")
    assert pickle.loads(pickle.dumps(signature)) == signature
    assert signature != bytes(signature)
    assert len({signature, Signature(bytes(signature))}) == 1
    assert repr(signature) == f"Signature({signature})"


def test_secret_key_does_not_leak():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(RANGE_KEY, protocol)
    assert RANGE_KEY.to_hex() not in f"{RANGE_KEY} {RANGE_KEY!r}"
    assert copy.deepcopy(RANGE_KEY) is RANGE_KEY is copy.copy(RANGE_KEY)
    with pytest.raises(KeyParsingError) as caught:
        SecretKey.parse(RANGE_KEY.to_hex().upper())
    assert RANGE_KEY.to_hex().upper() not in str(caught.value)


def test_generate_gives_fresh_keys():
    keys = {SecretKey.generate() for _ in range(20)}
    assert len(keys) == 20


def test_secret_key_load_or_create_keeps_one_key_in_a_private_file(tmp_path):
    path = tmp_path / "key"
    key = SecretKey.load_or_create(path)
    assert SecretKey.load_or_create(str(path)) == key
    assert path.read_text() == key.to_hex() + "\n"
    assert list(tmp_path.iterdir()) == [path]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(key.to_bytes())
    assert SecretKey.load_or_create(path) == key


def test_secret_key_load_or_create_gives_racing_callers_the_same_key(tmp_path):
    path = tmp_path / "key"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(SecretKey.load_or_create, [path] * 32))
    assert len({key.to_hex() for key in keys}) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 31, b"ab" * 33])
def test_secret_key_load_or_create_refuses_a_file_of_something_else(tmp_path, data):
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(KeyParsingError, match="holds no secret key"):
        SecretKey.load_or_create(path)
    assert path.read_bytes() == data
    with pytest.raises(OSError):
        SecretKey.load_or_create(tmp_path / "no" / "key")


def test_secret_key_load_or_create_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "no" / "my.key"
    with pytest.raises(FileNotFoundError, match="no directory .*no; make it first") as caught:
        SecretKey.load_or_create(path)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(IsADirectoryError) as caught:
        SecretKey.load_or_create(tmp_path)
    assert caught.value.filename == str(tmp_path)
    for wrong in (b"my.key", 5, None):
        with pytest.raises(TypeError, match="path is text or a Path"):
            SecretKey.load_or_create(wrong)
