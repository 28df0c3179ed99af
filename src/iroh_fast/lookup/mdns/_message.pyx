"""Reading what others send on the link: what they ask for, and what they tell of peers.

Called for each message that names our service, whoever sent it: reads no byte outside of it, and
makes objects for at most MAX_PEERS peers and MAX_ADDRS addresses of each.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from iroh_fast._dns._names cimport MAX_NAME, get_u16, lower_name, read_name
from iroh_fast._dns._records cimport (
    CACHE_FLUSH,
    CLASS_IN,
    FLAG_QR,
    HEADER_SIZE,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    TYPE_PTR,
    TYPE_SRV,
    TYPE_TXT,
    Header,
    Question,
    Record,
    check_rdata,
    read_header,
    read_question,
    read_record,
)

cdef enum:
    ID_SIZE = 52                  # of the label of a peer: its id in base32
    MAX_PEERS = 4                 # of one message; senders tell of themselves alone
    MAX_WANTED = 16               # names that one message asks for
    MAX_ADDRS = 64                # of each peer
    MAX_STRINGS = 16
    MAX_TARGETS = 16              # ports that a message tells of
    FLAGS_NOT_OURS = 0x780F       # another operation than asking, or an error


def read(bytes message, bytes service):
    """Read a message, which is bad or for others when there is nothing in the result.

    Parameters
    ----------
    message : a datagram.
    service : name of the service as on the wire, lower-case, without pointers.

    Returns
    -------
    tuple
        Whether it asks who is there; the labels of the peers it asks for; for each peer that it
        tells of its label, its addresses as (packed IP, port), and its strings.
    """
    cdef const uint8_t* msg = message
    cdef size_t end = <size_t>len(message)
    cdef Header header
    if read_header(msg, end, &header) < 0 or header.flags & FLAGS_NOT_OURS:
        return False, [], []
    if header.flags & FLAG_QR:
        return False, [], _read_peers(msg, end, &header, service)
    return _read_questions(msg, end, &header, service)


cdef tuple _read_questions(const uint8_t* msg, size_t end, Header* header, bytes service):
    cdef Question question
    cdef Py_ssize_t pos = HEADER_SIZE
    cdef uint8_t name[MAX_NAME]
    cdef size_t size = 0
    cdef bint everybody = False
    cdef uint16_t i
    wanted = []
    for i in range(header.counts[0]):
        pos = read_question(msg, end, <size_t>pos, &question)
        if pos < 0:
            return False, [], []
        # The top bit asks for an answer to the sender alone, which nobody gives here.
        if question.klass & ~CACHE_FLUSH != CLASS_IN:
            continue
        if read_name(msg, end, question.name, name, &size) < 0:
            return False, [], []
        lower_name(name, size)
        if question.type == TYPE_PTR:
            everybody = everybody or _is(name, size, service)
        elif question.type in (TYPE_SRV, TYPE_ANY) and _is_peer(name, size, service):
            if len(wanted) < MAX_WANTED:
                wanted.append((<const char*>name)[1:1 + ID_SIZE])
    return everybody, wanted, []


cdef inline bint _is(const uint8_t* name, size_t size, bytes wanted) noexcept:
    return size == <size_t>len(wanted) and memcmp(name, <const char*>wanted, size) == 0


cdef inline bint _is_peer(const uint8_t* name, size_t size, bytes service) noexcept:
    """Whether a name is the service's with one label before, which can be an id."""
    return name[0] == ID_SIZE and _is(name + 1 + ID_SIZE, size - 1 - ID_SIZE, service)


cdef list _read_peers(const uint8_t* msg, size_t end, Header* header, bytes service):
    cdef Record record
    cdef Py_ssize_t pos = HEADER_SIZE
    cdef Question question
    cdef uint32_t i
    peers = {}                    # label: (addresses, strings)
    targets = {}                  # name of a host: [(port, label)]
    for i in range(header.counts[0]):
        pos = read_question(msg, end, <size_t>pos, &question)
        if pos < 0:
            return []
    for i in range(<uint32_t>header.counts[1] + header.counts[2] + header.counts[3]):
        pos = read_record(msg, end, <size_t>pos, &record)
        if pos < 0:
            return []
        if record.klass & ~CACHE_FLUSH != CLASS_IN or check_rdata(msg, &record) < 0:
            continue
        if i < header.counts[1]:
            _read_answer(msg, end, &record, service, peers, targets)
        elif i >= <uint32_t>header.counts[1] + header.counts[2]:
            _read_address(msg, end, &record, peers, targets)
    return [(label, addrs, strings) for label, (addrs, strings) in peers.items() if addrs]


cdef int _read_answer(
    const uint8_t* msg, size_t end, Record* record, bytes service, dict peers, dict targets
) except -1:
    """Take a port or the strings of a peer."""
    cdef uint8_t name[MAX_NAME]
    cdef size_t size = 0
    if record.type != TYPE_SRV and record.type != TYPE_TXT or record.rdata_size == 0:
        return 0
    if read_name(msg, end, record.name, name, &size) < 0:
        return 0
    lower_name(name, size)
    if not _is_peer(name, size, service):
        return 0
    label = (<const char*>name)[1:1 + ID_SIZE]
    peer = peers.get(label)
    if peer is None:
        if len(peers) >= MAX_PEERS:
            return 0
        peer = peers[label] = ([], [])
    if record.type == TYPE_TXT:
        _read_strings(msg, record, peer[1])
        return 0
    if read_name(msg, record.rdata + record.rdata_size, record.rdata + 6, name, &size) < 0:
        return 0
    lower_name(name, size)
    host = (<const char*>name)[:size]
    found = targets.get(host)
    if found is None:
        if len(targets) >= MAX_TARGETS:
            return 0
        found = targets[host] = []
    if len(found) < MAX_TARGETS:
        found.append((get_u16(msg + record.rdata + 4), label))
    return 0


cdef int _read_strings(const uint8_t* msg, Record* record, list strings) except -1:
    cdef size_t pos = record.rdata, end = record.rdata + record.rdata_size
    while pos < end and len(strings) < MAX_STRINGS:
        if msg[pos]:
            strings.append((<const char*>msg)[pos + 1:pos + 1 + msg[pos]])
        pos += 1 + <size_t>msg[pos]
    return 0


cdef int _read_address(const uint8_t* msg, size_t end, Record* record, dict peers, dict targets) except -1:
    """Give an address to the peers whose ports are at this host."""
    cdef uint8_t name[MAX_NAME]
    cdef size_t size = 0, wanted
    if record.type == TYPE_A:
        wanted = 4
    elif record.type == TYPE_AAAA:
        wanted = 16
    else:
        return 0
    if record.rdata_size < wanted or read_name(msg, end, record.name, name, &size) < 0:
        return 0
    lower_name(name, size)
    if size < 2 or size - 1 - name[0] != 7 or memcmp(name + 1 + name[0], b"\x05local\x00", 7) != 0:
        return 0
    for port, label in targets.get((<const char*>name)[:size], ()):
        addrs = peers[label][0]
        if len(addrs) < MAX_ADDRS:
            addrs.append(((<const char*>msg)[record.rdata:record.rdata + wanted], port))
    return 0
