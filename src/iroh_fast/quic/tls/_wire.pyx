"""Messages of the TLS 1.3 handshake in the raw-key profile: built and taken apart, byte by byte.

Every function that reads takes a whole message with its header, checks all of it, and raises
`TlsAlert`; work and memory are proportional to its size, which the session bounds.
Sources: RFC 8446 §4, RFC 7250, RFC 7301, RFC 9001 §8.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memset

from .alerts import NO_ALPN, Alert, QuicViolation, TlsAlert, corrupt, incompatible, misbehaved

# Handshake types
CLIENT_HELLO = 1
SERVER_HELLO = 2
NEW_SESSION_TICKET = 4
ENCRYPTED_EXTENSIONS = 8
CERTIFICATE = 11
CERTIFICATE_REQUEST = 13
CERTIFICATE_VERIFY = 15
FINISHED = 20
MESSAGE_NAMES = {
    0: "HelloRequest",
    CLIENT_HELLO: "ClientHello",
    SERVER_HELLO: "ServerHello",
    NEW_SESSION_TICKET: "NewSessionTicket",
    5: "EndOfEarlyData",
    ENCRYPTED_EXTENSIONS: "EncryptedExtensions",
    CERTIFICATE: "Certificate",
    CERTIFICATE_REQUEST: "CertificateRequest",
    CERTIFICATE_VERIFY: "CertificateVerify",
    FINISHED: "Finished",
    24: "KeyUpdate",
    25: "CompressedCertificate",
    254: "MessageHash",
}
MAX_EARLY_DATA = 0xFFFFFFFF                        # RFC 9001 §4.6.1: the only value besides "none"
MAX_TICKET_LIFETIME_S = 604800                     # RFC 8446 §4.6.1: seven days

# Extensions. Their place in Extensions.found is the order here.
cdef enum:
    GROUPS, SCHEMES, ALPN, CLIENT_TYPE, SERVER_TYPE, PSK, EARLY_DATA, VERSIONS, PSK_MODES, KEY_SHARE, PARAMETERS, KNOWN
cdef uint16_t[11] IDS = [10, 13, 16, 19, 20, 41, 42, 43, 45, 51, 57]

cdef enum:
    TLS_1_2 = 0x0303
    X25519 = 0x001d
    ED25519 = 0x0807
    RAW_PUBLIC_KEY = 2
    PSK_DHE_KE = 1


# ------------------------------------------------------------- reading
cdef struct Span:
    const uint8_t* at             # NULL: there is none
    size_t size


cdef struct Extensions:
    Span[11] found
    uint32_t present              # bit per known one
    bint others                   # there were unknown ones
    int last                      # place of the last one, -1 unknown


cdef int truncated() except -1:
    raise TlsAlert(Alert.DECODE_ERROR, "received corrupt message of type MissingData")


cdef int take(Span* s, size_t n, Span* out) except -1:
    if n > s.size:
        truncated()
    out.at = s.at
    out.size = n
    s.at += n
    s.size -= n
    return 0


cdef int skip(Span* s, size_t n) except -1:
    cdef Span out
    return take(s, n, &out)


cdef int64_t number(Span* s, size_t n) except -1:
    """A big-endian number of up to four bytes."""
    cdef Span raw
    cdef int64_t value = 0
    cdef size_t i
    take(s, n, &raw)
    for i in range(n):
        value = value << 8 | raw.at[i]
    return value


cdef int vector(Span* s, size_t length_size, Span* out) except -1:
    return take(s, <size_t>number(s, length_size), out)


cdef bytes copy(Span* s):
    return PyBytes_FromStringAndSize(<const char*>s.at, <Py_ssize_t>s.size)


cdef int body(bytes message, Span* s) except -1:
    s.at = <const uint8_t*>PyBytes_AS_STRING(message)
    s.size = <size_t>PyBytes_GET_SIZE(message)
    return skip(s, 4)


cdef int end(Span* s, str what) except -1:
    if s.size:
        corrupt(f"TrailingData({what!r})")
    return 0


cdef int place(int64_t kind) noexcept:
    cdef int i
    for i in range(KNOWN):
        if IDS[i] == kind:
            return i
    return -1


cdef int read_extensions(Span* s, Extensions* e) except -1:
    """Read an extension block that ends the message; duplicates, also of unknown ones, are refused."""
    cdef uint8_t seen[8192]       # a bit for each of the 65,536
    cdef Span block, value
    cdef int64_t kind
    cdef int where
    memset(seen, 0, sizeof(seen))
    memset(e, 0, sizeof(Extensions))
    e.last = -1
    vector(s, 2, &block)
    while block.size:
        kind = number(&block, 2)
        if seen[kind >> 3] >> (kind & 7) & 1:
            corrupt(f"DuplicateExtension({kind})", Alert.ILLEGAL_PARAMETER)
        seen[kind >> 3] |= <uint8_t>(1 << (kind & 7))
        vector(&block, 2, &value)
        where = place(kind)
        e.last = where
        if where < 0:
            e.others = True
        else:
            e.found[where] = value
            e.present |= <uint32_t>1 << where
    return end(s, "extensions")


cdef int list8(Span* value, str what, Span* out) except -1:
    """A non-empty list of bytes that fills the extension."""
    if value.size < 2 or value.at[0] != value.size - 1:
        corrupt(what)
    out.at = value.at + 1
    out.size = value.size - 1
    return 0


cdef int list16(Span* value, str what, Span* out) except -1:
    """A non-empty list of 16-bit numbers that fills the extension."""
    if value.size < 4 or value.size & 1 or (value.at[0] << 8 | value.at[1]) != <int>value.size - 2:
        corrupt(what)
    out.at = value.at + 2
    out.size = value.size - 2
    return 0


cdef bint has8(Span* s, int wanted) noexcept:
    cdef size_t i
    for i in range(s.size):
        if s.at[i] == wanted:
            return True
    return False


cdef bint has16(Span* s, int wanted) noexcept:
    cdef size_t i
    for i in range(s.size // 2):
        if (s.at[2 * i] << 8 | s.at[2 * i + 1]) == wanted:
            return True
    return False


cdef tuple read_alpns(Span* value):
    cdef Span s = value[0], block, name
    cdef list names = []
    if value.size < 4 or (value.at[0] << 8 | value.at[1]) != <int>value.size - 2:
        corrupt("ProtocolNameList")
    vector(&s, 2, &block)
    while block.size:
        vector(&block, 1, &name)
        if name.size == 0:
            corrupt("EmptyProtocolName")
        names.append(copy(&name))
    return tuple(names)


# ------------------------------------------------------------- ClientHello
cdef class ClientHello:
    """What a server goes by.

    Attributes
    ----------
    random, session_id, share, parameters : bytes
    suite : int
        The first of the client's that is known here.
    alpn : bytes or None
        The chosen protocol.
    alpns : tuple of bytes
        Those offered.
    tickets_wanted, early_data : bool
    identity, binder : bytes or None
        Of the first PSK offered: 0-RTT belongs to it (RFC 8446 §4.2.10).
    age : int
        Its obfuscated age, ms.
    binders_size : int
        By how much the message is longer than what binders cover.
    """

    cdef readonly bytes random, session_id, share, parameters, alpn, identity, binder
    cdef readonly tuple alpns
    cdef readonly int suite
    cdef readonly bint tickets_wanted, early_data
    cdef readonly object age
    cdef readonly Py_ssize_t binders_size


def read_client_hello(bytes message, tuple accepted):
    """Read a ClientHello for a server that takes the protocols `accepted`, preferred first."""
    cdef ClientHello hello = ClientHello.__new__(ClientHello)
    cdef Span s, random, session_id, suites, compressions
    cdef Extensions e
    body(message, &s)
    skip(&s, 2)                   # legacy_version (RFC 8446 §4.1.2: not to be used)
    take(&s, 32, &random)
    vector(&s, 1, &session_id)
    vector(&s, 2, &suites)
    vector(&s, 1, &compressions)
    read_extensions(&s, &e)
    if session_id.size > 32:
        corrupt("SessionID")
    if suites.size == 0 or suites.size & 1:
        corrupt("CipherSuites")
    hello.random = copy(&random)
    hello.session_id = copy(&session_id)
    check_versions(&e, &compressions)
    check_schemes(&e)
    hello.suite = first_known_suite(&suites)
    hello.share = client_share(&e)
    check_types(&e)
    choose_alpn(hello, &e, accepted)
    if e.found[PARAMETERS].at == NULL:
        misbehaved("MissingQuicTransportParameters", Alert.MISSING_EXTENSION)
    hello.parameters = copy(&e.found[PARAMETERS])
    hello.early_data = e.found[EARLY_DATA].at != NULL
    if e.found[EARLY_DATA].size:
        corrupt("EarlyDataExtension")
    read_psks(hello, &e)
    return hello


cdef int check_versions(Extensions* e, Span* compressions) except -1:
    cdef Span versions
    if e.found[VERSIONS].at == NULL:
        incompatible("SupportedVersionsExtensionRequired", Alert.PROTOCOL_VERSION)
    list8(&e.found[VERSIONS], "SupportedVersions", &versions)
    if versions.size & 1:
        corrupt("SupportedVersions")
    if not has16(&versions, 0x0304):
        incompatible("Tls13RequiredForQuic", Alert.PROTOCOL_VERSION)
    if compressions.size != 1 or compressions.at[0] != 0:              # RFC 8446 §4.1.2
        incompatible("NullCompressionRequired", Alert.ILLEGAL_PARAMETER)
    return 0


cdef int check_schemes(Extensions* e) except -1:
    cdef Span schemes
    if e.found[SCHEMES].at == NULL:
        incompatible("SignatureAlgorithmsExtensionRequired", Alert.MISSING_EXTENSION)
    list16(&e.found[SCHEMES], "SignatureSchemes", &schemes)
    if not has16(&schemes, ED25519):
        incompatible("NoSignatureSchemesInCommon")
    return 0


cdef int first_known_suite(Span* suites) except -1:
    cdef size_t i
    cdef int suite
    for i in range(suites.size // 2):
        suite = suites.at[2 * i] << 8 | suites.at[2 * i + 1]
        if 0x1301 <= suite <= 0x1303:
            return suite
    incompatible("NoCipherSuitesInCommon")


cdef bytes client_share(Extensions* e):
    """The client's X25519 share."""
    cdef uint8_t seen[8192]
    cdef Span groups, s, shares, share
    cdef Span found
    cdef int64_t group
    found.at = NULL
    if e.found[GROUPS].at == NULL:
        incompatible("NamedGroupsExtensionRequired", Alert.MISSING_EXTENSION)
    list16(&e.found[GROUPS], "NamedGroups", &groups)
    if e.found[KEY_SHARE].at == NULL:
        incompatible("KeyShareExtensionRequired", Alert.MISSING_EXTENSION)
    s = e.found[KEY_SHARE]
    vector(&s, 2, &shares)
    if s.size:
        corrupt("KeyShareEntries")
    memset(seen, 0, sizeof(seen))
    while shares.size:
        group = number(&shares, 2)
        if seen[group >> 3] >> (group & 7) & 1:
            misbehaved("OfferedDuplicateKeyShares")
        seen[group >> 3] |= <uint8_t>(1 << (group & 7))
        vector(&shares, 2, &share)
        if group == X25519:
            found = share
    # A client that supports X25519 but sends no share for it would need a HelloRetryRequest;
    # every iroh client sends one.
    if not has16(&groups, X25519) or found.at == NULL:
        incompatible("NoKxGroupsInCommon")
    if found.size != 32:
        misbehaved("InvalidKeyShare")
    return copy(&found)


cdef int check_types(Extensions* e) except -1:
    cdef Span types
    cdef int kind
    for kind in range(CLIENT_TYPE, SERVER_TYPE + 1):
        if e.found[kind].at == NULL:
            incompatible("IncorrectCertificateTypeExtension")
        list8(&e.found[kind], "CertificateTypes", &types)
        if not has8(&types, RAW_PUBLIC_KEY):
            incompatible("IncorrectCertificateTypeExtension")
    return 0


cdef int choose_alpn(ClientHello hello, Extensions* e, tuple accepted) except -1:
    hello.alpns = read_alpns(&e.found[ALPN]) if e.found[ALPN].at != NULL else ()
    if len(accepted) == 1 and len(hello.alpns) == 1:
        hello.alpn = accepted[0] if accepted[0] == hello.alpns[0] else None
    else:
        offered = frozenset(hello.alpns)           # both lists may be long: no product of their lengths
        for name in accepted:
            if name in offered:
                hello.alpn = name
                break
    if hello.alpn is None and (accepted or hello.alpns):
        raise TlsAlert(Alert.NO_APPLICATION_PROTOCOL, NO_ALPN)
    return 0


cdef int read_psks(ClientHello hello, Extensions* e) except -1:
    cdef Span s, modes, identities, binders, item
    cdef Py_ssize_t count = 0
    cdef int64_t age
    if e.found[PSK_MODES].at != NULL:
        list8(&e.found[PSK_MODES], "PskModes", &modes)
        hello.tickets_wanted = has8(&modes, PSK_DHE_KE)
    if e.found[PSK].at == NULL:
        return 0
    if e.last != PSK:
        corrupt("PreSharedKeyIsNotFinalExtension", Alert.ILLEGAL_PARAMETER)
    s = e.found[PSK]
    vector(&s, 2, &identities)
    while identities.size:
        vector(&identities, 2, &item)
        if item.size == 0:
            corrupt("EmptyTicketValue")
        age = number(&identities, 4)
        if count == 0:
            hello.identity = copy(&item)
            hello.age = age
        count += 1
    hello.binders_size = <Py_ssize_t>s.size
    vector(&s, 2, &binders)
    if s.size:
        corrupt("PresharedKeyBinder")
    if count == 0:
        misbehaved("PskWithMismatchedBinder")
    while binders.size:
        vector(&binders, 1, &item)
        if item.size < 32:
            corrupt("PresharedKeyBinder")
        if hello.binder is None:
            hello.binder = copy(&item)
        count -= 1
    if count:
        misbehaved("PskWithMismatchedBinder")
    if e.found[PSK_MODES].at == NULL:
        misbehaved("MissingPskModesExtension", Alert.MISSING_EXTENSION)
    return 0


# ------------------------------------------------------------- what a client reads
cdef int check_places(Extensions* e, uint32_t allowed, str what) except -1:
    """RFC 8446 §4.2: an answer to nothing is unsupported, one that we know in the wrong message illegal."""
    if e.others:
        misbehaved(what, Alert.UNSUPPORTED_EXTENSION)
    if e.present & ~allowed:
        misbehaved(what, Alert.ILLEGAL_PARAMETER)
    return 0


def read_server_hello(bytes message, bytes retry_random, tuple suites, bint psk_offered):
    """Read a ServerHello; (suite, share, whether the PSK was chosen)."""
    cdef Span s, random, session_id
    cdef Extensions e
    cdef Span* share
    cdef Span* chosen
    cdef int64_t suite, compression
    body(message, &s)
    if number(&s, 2) != TLS_1_2:
        incompatible("ServerDoesNotSupportTls12Or13", Alert.PROTOCOL_VERSION)
    take(&s, 32, &random)
    if memcmp(random.at, PyBytes_AS_STRING(retry_random), 32) == 0:
        # We offer one group and its share: a retry could not change anything.
        incompatible("HelloRetryRequest is not supported")
    vector(&s, 1, &session_id)
    suite = number(&s, 2)
    compression = number(&s, 1)
    read_extensions(&s, &e)
    if session_id.size:
        misbehaved("IncorrectSessionId")
    if compression != 0:
        misbehaved("SelectedUnofferedCompression")
    check_places(&e, 1 << KEY_SHARE | 1 << PSK | 1 << VERSIONS, "UnsolicitedServerHelloExtension")
    if e.found[VERSIONS].size != 2 or e.found[VERSIONS].at[0] != 3 or e.found[VERSIONS].at[1] != 4:
        incompatible("ServerDoesNotSupportTls12Or13", Alert.PROTOCOL_VERSION)
    if suite not in suites:
        misbehaved("SelectedUnofferedCipherSuite")
    share = &e.found[KEY_SHARE]
    if share.at == NULL:
        misbehaved("MissingKeyShare", Alert.MISSING_EXTENSION)
    if share.size != 36 or memcmp(share.at, b"\x00\x1d\x00\x20", 4) != 0:
        misbehaved("WrongGroupForKeyShare")
    chosen = &e.found[PSK]
    if chosen.at != NULL:
        if not psk_offered:
            misbehaved("UnsolicitedServerHelloExtension", Alert.UNSUPPORTED_EXTENSION)
        if chosen.size != 2 or chosen.at[0] or chosen.at[1]:
            misbehaved("SelectedInvalidPsk")
    return suite, PyBytes_FromStringAndSize(<const char*>share.at + 4, 32), chosen.at != NULL


def read_encrypted_extensions(bytes message, tuple offered, bint early_offered):
    """Read EncryptedExtensions; (protocol, transport parameters, whether 0-RTT was accepted)."""
    cdef Span s
    cdef Extensions e
    cdef tuple names
    cdef int kind
    body(message, &s)
    read_extensions(&s, &e)
    # A server may list its groups (RFC 8446 §4.2.7); they are ignored.
    check_places(&e, 1 << GROUPS | 1 << ALPN | 1 << CLIENT_TYPE | 1 << SERVER_TYPE | 1 << EARLY_DATA | 1 << PARAMETERS,
                 "UnsolicitedEncryptedExtension")
    if e.found[ALPN].at == NULL:
        raise TlsAlert(Alert.NO_APPLICATION_PROTOCOL, NO_ALPN)
    names = read_alpns(&e.found[ALPN])
    if len(names) != 1:
        corrupt("ProtocolNameList")
    if names[0] not in offered:
        misbehaved("SelectedUnofferedApplicationProtocol")
    for kind in range(CLIENT_TYPE, SERVER_TYPE + 1):
        # A single byte here, not a list (RFC 7250 §3)
        if e.found[kind].size != 1 or e.found[kind].at[0] != RAW_PUBLIC_KEY:
            incompatible("IncorrectCertificateTypeExtension")
    if e.found[PARAMETERS].at == NULL:
        misbehaved("MissingQuicTransportParameters", Alert.MISSING_EXTENSION)
    if e.found[EARLY_DATA].at != NULL:
        if e.found[EARLY_DATA].size:
            corrupt("EarlyDataExtension")
        if not early_offered:
            misbehaved("UnsolicitedEncryptedExtension", Alert.UNSUPPORTED_EXTENSION)
    return names[0], copy(&e.found[PARAMETERS]), e.found[EARLY_DATA].at != NULL


def check_certificate_request(bytes message):
    """Check a CertificateRequest of the handshake."""
    cdef Span s, schemes
    cdef Extensions e
    body(message, &s)
    if number(&s, 1) != 0:
        corrupt("InvalidCertRequest")
    read_extensions(&s, &e)
    if e.found[SCHEMES].at == NULL:
        misbehaved("MissingSignatureAlgorithmsExtension", Alert.MISSING_EXTENSION)
    list16(&e.found[SCHEMES], "SignatureSchemes", &schemes)
    if not has16(&schemes, ED25519):
        incompatible("NoCertificateRequestSignatureSchemesInCommon")


def read_ticket(bytes message):
    """Read a NewSessionTicket; (lifetime in s, age_add, nonce, identity, bytes of early data)."""
    cdef Span s, nonce, identity
    cdef Span* early
    cdef Extensions e
    cdef int64_t lifetime, age_add, allowed = 0
    body(message, &s)
    lifetime = number(&s, 4)
    age_add = number(&s, 4)
    vector(&s, 1, &nonce)
    vector(&s, 2, &identity)
    read_extensions(&s, &e)
    if identity.size == 0:
        corrupt("EmptyTicketValue")
    if lifetime > MAX_TICKET_LIFETIME_S:
        misbehaved("TicketLifetimeTooLong")
    early = &e.found[EARLY_DATA]
    if early.at != NULL:
        if early.size != 4:
            corrupt("EarlyDataExtension")
        allowed = number(early, 4)
        if allowed != MAX_EARLY_DATA:              # RFC 9001 §4.6.1
            raise QuicViolation(Alert.ILLEGAL_PARAMETER, "peer misbehaved: InvalidMaxEarlyDataSize")
    return lifetime, age_add, copy(&nonce), copy(&identity), allowed


# ------------------------------------------------------------- what both read
def read_certificate(bytes message):
    """Read a Certificate message; its entries, of which extensions are refused."""
    cdef Span s, entries, entry, extensions
    cdef list found = []
    body(message, &s)
    if number(&s, 1) != 0:        # the request context we use is empty
        corrupt("CertificateRequestContext")
    vector(&s, 3, &entries)
    if s.size:
        corrupt("CertificatePayload")
    while entries.size:
        vector(&entries, 3, &entry)
        vector(&entries, 2, &extensions)
        if extensions.size:
            # No extension that goes here was offered (RFC 8446 §4.4.2).
            misbehaved("UnsolicitedCertExtension", Alert.UNSUPPORTED_EXTENSION)
        found.append(copy(&entry))
    return found


def read_certificate_verify(bytes message):
    """Read a CertificateVerify; the signature."""
    cdef Span s, signature
    cdef int64_t scheme
    body(message, &s)
    scheme = number(&s, 2)
    vector(&s, 2, &signature)
    end(&s, "CertificateVerify")
    if scheme != ED25519:
        misbehaved("SignedHandshakeWithUnadvertisedSigScheme")
    return copy(&signature)


# ------------------------------------------------------------- writing
cpdef bytes message(int kind, bytes content):
    return (<object>kind).to_bytes(1, "big") + vector24(content)


cpdef bytes vector8(bytes value):
    return len(value).to_bytes(1, "big") + value


cpdef bytes vector16(bytes value):
    return len(value).to_bytes(2, "big") + value


cpdef bytes vector24(bytes value):
    return len(value).to_bytes(3, "big") + value


cpdef bytes extension(int kind, bytes value):
    return (<object>kind).to_bytes(2, "big") + vector16(value)


def alpn_extension(names):
    return extension(16, vector16(b"".join([vector8(name) for name in names])))


cdef tuple CLIENT_CONSTANTS = (
    extension(10, b"\x00\x02\x00\x1d"),
    extension(13, b"\x00\x02\x08\x07"),
    extension(43, b"\x02\x03\x04"),
    extension(19, b"\x01\x02"),
    extension(20, b"\x01\x02"),
)
cdef bytes PSK_MODES_EXTENSION = extension(45, b"\x01\x01")
cdef bytes EARLY_EXTENSION = extension(42, b"")
cdef bytes SELECTED_TYPES = extension(19, b"\x02") + extension(20, b"\x02")
cdef bytes TICKET_EXTENSIONS = vector16(extension(42, MAX_EARLY_DATA.to_bytes(4, "big")))
CERTIFICATE_REQUEST_MESSAGE = bytes.fromhex("0d00000b000008000d000400020807")


def write_client_hello(bytes random, bytes share, bytes suites, bytes alpns, bytes parameters, bint tickets,
                       bint early, bytes noise, bytes psk=b""):
    """Write a ClientHello.

    Parameters
    ----------
    suites, alpns : bytes
        Encoded suites without their length; the ALPN extension.
    tickets, early : bool
        Whether to send psk_key_exchange_modes and early_data.
    noise : bytes
        12 random bytes for the order.
    psk : bytes
        Content of pre_shared_key, which comes last (RFC 8446 §4.2.11); b"" for none.
    """
    cdef list extensions = list(CLIENT_CONSTANTS)
    cdef const uint8_t* bits = <const uint8_t*>PyBytes_AS_STRING(noise)
    cdef Py_ssize_t i, j
    extensions.append(alpns)
    extensions.append(b"\x00\x33\x00\x26\x00\x24\x00\x1d\x00\x20" + share)
    extensions.append(extension(57, parameters))
    if tickets:
        extensions.append(PSK_MODES_EXTENSION)
    if early:
        extensions.append(EARLY_EXTENSION)
    # INTEROP: rustls shuffles its extensions on every connection, so a fixed order would give
    # us away (Fisher-Yates, one byte per step; the slight bias does not matter).
    for i in range(len(extensions) - 1, 0, -1):
        j = bits[i] % (i + 1)
        extensions[i], extensions[j] = extensions[j], extensions[i]
    if psk:
        extensions.append(extension(41, psk))
    return message(1, b"".join([b"\x03\x03", random, b"\x00", vector16(suites), b"\x01\x00",
                                vector16(b"".join(extensions))]))


def write_server_hello(bytes random, bytes session_id, int suite, bytes share, bint resumed):
    return message(2, b"".join([
        b"\x03\x03", random, vector8(session_id), (<object>suite).to_bytes(2, "big"), b"\x00",
        vector16(b"".join([b"\x00\x33\x00\x24\x00\x1d\x00\x20", share, b"\x00\x29\x00\x02\x00\x00" if resumed else b"",
                           b"\x00\x2b\x00\x02\x03\x04"]))]))


def write_encrypted_extensions(bytes alpn, bytes parameters, bint early):
    return message(8, vector16(b"".join([
        b"" if alpn is None else alpn_extension((alpn,)), SELECTED_TYPES, extension(57, parameters),
        EARLY_EXTENSION if early else b""])))


def write_certificate_verify(bytes signature):
    return b"\x0f\x00\x00\x44\x08\x07\x00\x40" + signature


def write_ticket(int lifetime, bytes age_add, bytes nonce, bytes identity):
    return message(4, b"".join([(<object>lifetime).to_bytes(4, "big"), age_add, vector8(nonce), vector16(identity),
                                TICKET_EXTENSIONS]))
