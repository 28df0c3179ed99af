"""Writing qlog files: one per connection, JSON text sequences (RFC 7464).

Schemas: draft-ietf-quic-qlog-main-schema-13 and draft-ietf-quic-qlog-quic-events-12, so that qvis reads
them. Frames of extensions that the draft does not know are named by their drafts in lower case. The
tuple id of a path is its path id, and the empty text for path 0.

DIFFERS: qvis knows versions up to 0.3 alone. For it the header names version and format as those did,
events have the categories of that time instead of the namespace "quic" (`EVENTS`), and transport
parameters have an owner beside the initiator. Everything else is as the drafts have it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from iroh_fast._packet import decode_frames
from iroh_fast.errors import CloseReason
from iroh_fast.quic.parameters import TransportParameters

__all__ = ["QlogWriter"]

logger = logging.getLogger("iroh_fast.quic")

Address = tuple[str, int]
Fields = dict[str, Any]

BUFFER_BYTES: Final = 65_536
BYTES_MOST: Final = 1 << 30  # of a file; a log that nobody stops ends here
EVENT_SCHEMA: Final = "urn:ietf:params:qlog:events:quic-12"
FILE_SCHEMA: Final = "urn:ietf:params:qlog:file:sequential"

#: events with the category that qvis knows them by
EVENTS: Final = {
    "connection_started": "connectivity",
    "connection_closed": "connectivity",
    "tuple_assigned": "connectivity",
    "parameters_set": "transport",
    "parameters_restored": "transport",
    "packet_sent": "transport",
    "packet_received": "transport",
    "timer_updated": "transport",
    "key_updated": "security",
    "key_discarded": "security",
    "recovery_parameters_set": "recovery",
    "recovery_metrics_updated": "recovery",
    "congestion_state_updated": "recovery",
    "packet_lost": "recovery",
    # no draft has it; this is what other implementations call it
    "spurious_loss": "recovery",
}

# by level of packet protection
PACKET_TYPES: Final = ("initial", "0RTT", "handshake", "1RTT")
KEY_TYPES: Final = ("initial", "0rtt", "handshake", "1rtt")

# In the order in which the core gives them; the first four are times. What stands behind the pacing rate is not in the
# draft: what BBR believes of the path, in bits per second and bytes.
METRICS: Final = (
    *("min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance", "pto_count"),
    *("congestion_window", "bytes_in_flight", "ssthresh", "packets_in_flight"),
    *("pacing_rate", "bandwidth_estimate", "inflight_longterm", "inflight_shortterm"),
)
TIMES: Final = 4
NO_LIMIT: Final = 1 << 62  # what is larger means "not set"

SLACK_MS: Final = 100.0  # as much as timers of an idle path may slip
#: timers of a connection and of a path in the core's order, and the changes (ms) that are left out
CONNECTION_TIMERS: Final = (
    ("close", 1.0),
    ("handshake_timeout", SLACK_MS),
    ("idle_timeout", SLACK_MS),
    ("key_discard", 1.0),
    ("no_available_path", 1.0),
    ("keep_alive", SLACK_MS),
)
PATH_TIMERS: Final = (
    ("discard_path", 1.0),
    ("loss_timeout", 1.0),
    ("pto", 1.0),
    ("ack", 1.0),
    ("path_challenge_lost", 1.0),
    ("path_validation", 1.0),
    ("pacing", 1.0),
    ("path_idle", SLACK_MS),
    ("path_keep_alive", SLACK_MS),
    ("path_silence", SLACK_MS),
    ("mtu_discovery", 1.0),
)

# what an earlier connection's parameters are of use for
RESTORED: Final = (
    *("disable_active_migration", "max_idle_timeout_ms", "max_udp_payload_size"),
    *("active_connection_id_limit", "initial_max_data", "initial_max_stream_data_bidi_local"),
    *("initial_max_stream_data_bidi_remote", "initial_max_stream_data_uni"),
    *("initial_max_streams_bidi", "initial_max_streams_uni", "max_datagram_frame_size"),
)

TRANSPORT_ERRORS: Final = (
    *("no_error", "internal_error", "connection_refused", "flow_control_error"),
    *("stream_limit_error", "stream_state_error", "final_size_error", "frame_encoding_error"),
    *("transport_parameter_error", "connection_id_limit_error", "protocol_violation"),
    *("invalid_token", "application_error", "crypto_buffer_exceeded", "key_update_error"),
    *("aead_limit_reached", "no_viable_path"),
)

TRIGGERS: Final = {
    "application": "application",
    "locally_closed": "application",
    "transport_peer": "error",
    "transport_local": "error",
    "timed_out": "idle_timeout",
    "reset": "stateless_reset",
    "version_mismatch": "version_mismatch",
    "cids_exhausted": "aborted",
}

FRAME_NAMES: Final = {
    0x00: "padding",
    0x01: "ping",
    0x02: "ack",
    0x03: "ack",
    0x04: "reset_stream",
    0x05: "stop_sending",
    0x06: "crypto",
    0x07: "new_token",
    0x10: "max_data",
    0x11: "max_stream_data",
    0x12: "max_streams",
    0x13: "max_streams",
    0x14: "data_blocked",
    0x15: "stream_data_blocked",
    0x16: "streams_blocked",
    0x17: "streams_blocked",
    0x18: "new_connection_id",
    0x19: "retire_connection_id",
    0x1A: "path_challenge",
    0x1B: "path_response",
    0x1C: "connection_close",
    0x1D: "connection_close",
    0x1E: "handshake_done",
    0x1F: "immediate_ack",
    0x30: "datagram",
    0x31: "datagram",
    0x3E: "path_ack",
    0x3F: "path_ack",
    0xAF: "ack_frequency",
    0x3E75: "path_abandon",
    0x3E76: "path_status_backup",
    0x3E77: "path_status_available",
    0x3E78: "path_new_connection_id",
    0x3E79: "path_retire_connection_id",
    0x3E7A: "max_path_id",
    0x3E7B: "paths_blocked",
    0x3E7C: "path_cids_blocked",
    0x9F81A6: "observed_address",
    0x9F81A7: "observed_address",
    0x3D7F90: "add_address",
    0x3D7F91: "add_address",
    0x3D7F92: "reach_out",
    0x3D7F93: "reach_out",
    0x3D7F94: "remove_address",
}

# our key of a decoded frame -> qlog's
RENAMED: Final = {
    "id": "stream_id",
    "max": "maximum",
    "count": "maximum",
    "seq": "sequence_number",
    "cid": "connection_id",
    "error": "error_code",
}


class QlogWriter:
    """The qlog file of one connection.

    Times are nanoseconds of the connection's clock. No method raises: the first failure is
    logged as a warning, and from then on nothing is written.
    """

    __slots__ = (
        *("_exponents", "_file", "_metrics", "_modes", "_path"),
        *("_phase", "_side", "_size", "_start", "_timers"),
    )

    def __init__(self, file: BinaryIO, path: str, side: str, start: int) -> None:
        self._file: BinaryIO | None = file
        self._path = path
        self._side = side
        self._start = start
        self._size = 0
        self._metrics: dict[int, dict[str, float]] = {}
        self._modes: dict[int, str] = {}
        self._timers: dict[tuple[int, int], int] = {}  # (path or -1, which): due
        self._phase = 0
        self._exponents = {"local": 3, "remote": 3}  # of ack delays

    @classmethod
    def open(
        cls, directory: str, prefix: str, is_client: bool, odcid: bytes, now: int, unix_s: float
    ) -> QlogWriter | None:
        """Create ``{prefix-}{unix_ms}-{odcid}-{client|server}.qlog`` and write its header.

        Parameters
        ----------
        directory : str
            Created when missing.
        odcid : bytes
            Destination connection id of the client's first Initial; also the group id.
        now, unix_s : int, float
            The same moment on the connection's clock (ns) and on the wall clock (s).

        Returns
        -------
        QlogWriter or None
            None when the file cannot be created; a warning was logged.
        """
        side = "client" if is_client else "server"
        name = f"{prefix}-" if prefix else ""
        path = os.path.join(directory, f"{name}{int(unix_s * 1000)}-{odcid.hex()}-{side}.qlog")
        try:
            os.makedirs(directory, exist_ok=True)
            file = open(path, "xb", buffering=BUFFER_BYTES)
        except (OSError, ValueError) as e:
            logger.warning("no qlog: %s", e)
            return None
        self = cls(file, path, side, now)
        wall = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
        self._put(
            {
                "qlog_version": "0.3",
                "qlog_format": "JSON-SEQ",
                "file_schema": FILE_SCHEMA,
                "serialization_format": "application/qlog+json-seq",
                "title": "iroh_fast",
                "trace": {
                    "vantage_point": {"name": "iroh_fast", "type": side},
                    "event_schemas": [EVENT_SCHEMA],
                    "common_fields": {
                        "group_id": odcid.hex(),
                        "time_format": "relative_to_epoch",
                        "reference_time": {
                            "clock_type": "monotonic",
                            "epoch": "unknown",
                            "wall_clock_time": wall.replace("+00:00", "Z"),
                        },
                    },
                },
            }
        )
        return self

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._path

    def __del__(self) -> None:
        self.finish()

    def finish(self) -> None:
        """Close the file; later events are dropped."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except (OSError, ValueError) as e:
                logger.warning("the end of qlog %s is missing: %s", self._path, e)

    # ------------------------------------------------------------- events
    def started(
        self, now: int, remote: Address, local: Address | None, scid: bytes, dcid: bytes
    ) -> None:
        """connection_started: both ends of path 0 and the first connection ids."""
        with self._guard():
            ours = _endpoint(local) | {"connection_ids": [scid.hex()]}
            theirs = _endpoint(remote) | {"connection_ids": [dcid.hex()]}
            self._event(now, "connection_started", {"local": ours, "remote": theirs})

    def parameters(self, now: int, ours: bool, value: TransportParameters | bytes) -> None:
        """parameters_set: transport parameters of one side, `bytes` as they go to the peer."""
        with self._guard():
            if isinstance(value, bytes):
                value = TransportParameters.decode(value, self._side == "server")
            side = "local" if ours else "remote"
            self._exponents[side] = value.ack_delay_exponent
            names = [f.name for f in fields(value) if f.name != "preferred_address"]
            data: Fields = {"initiator": side, "owner": side}
            self._event(now, "parameters_set", data | _parameters(value, names))

    def restored(self, now: int, value: TransportParameters) -> None:
        """parameters_restored: those of the server's earlier connection, to begin with."""
        with self._guard():
            self._event(now, "parameters_restored", _parameters(value, RESTORED))

    def recovery(self, now: int, controller: str, window: int, values: Fields) -> None:
        """recovery_parameters_set: which controller it is, its first window (bytes), thresholds."""
        with self._guard():
            data = {"timer_granularity": 1, "initial_congestion_window": window} | values
            self._event(now, "recovery_parameters_set", {"congestion_control": controller} | data)

    def assigned(
        self, now: int, path_id: int, remote: Address | None, local: Address | None
    ) -> None:
        """tuple_assigned: the addresses of a path; `remote` None when the path is gone."""
        with self._guard():
            data: Fields = {"tuple_id": _tuple_id(path_id)}
            if remote is not None:
                data["tuple_remote"] = _endpoint(remote)
                if local is not None:
                    data["tuple_local"] = _endpoint(local)
            self._event(now, "tuple_assigned", data)

    def packet(
        self, now: int, sent: bool, level: int, path_id: int, pn: int, size: int, payload: bytes
    ) -> None:
        """packet_sent or packet_received with all frames; `size` includes header and tag."""
        with self._guard():
            exponent = self._exponents["local" if sent else "remote"] if level == 3 else 0
            data = {
                "header": _header(level, path_id, pn),
                "raw": {"length": size, "payload_length": len(payload)},
                "frames": _frames(payload, exponent),
            }
            self._event(now, "packet_sent" if sent else "packet_received", data, path_id)

    def lost(
        self, now: int, level: int, path_id: int, pn: int, by_time: bool, mtu_probe: bool
    ) -> None:
        """packet_lost."""
        with self._guard():
            data: Fields = {"header": _header(level, path_id, pn)}
            if mtu_probe:
                data["is_mtu_probe_packet"] = True
            data["trigger"] = "time_threshold" if by_time else "reordering_threshold"
            self._event(now, "packet_lost", data, path_id)

    def metrics(self, now: int, path_id: int, values: tuple[int, ...]) -> None:
        """recovery_metrics_updated with what changed on a path; `values` as in METRICS: ns, bytes, bits per second."""
        with self._guard():
            known = self._metrics.setdefault(path_id, {})
            data: Fields = {}
            for i, (name, value) in enumerate(zip(METRICS, values, strict=True)):
                shown = _ms(value) if i < TIMES else value
                if known.get(name) != shown and value < NO_LIMIT:
                    data[name] = known[name] = shown
            if data:
                data["path_id"] = path_id
                self._event(now, "recovery_metrics_updated", data, path_id)

    def mode(self, now: int, path_id: int, new: str) -> None:
        """congestion_state_updated, when the state of a path's controller is another one."""
        with self._guard():
            old = self._modes.get(path_id)
            if new == old:
                return
            self._modes[path_id] = new
            data: Fields = {"new": new} if old is None else {"old": old, "new": new}
            self._event(now, "congestion_state_updated", data | {"path_id": path_id}, path_id)

    def spurious(
        self, now: int, level: int, path_id: int, pn: int, count: int, undone: bool
    ) -> None:
        """spurious_loss: `count` packets that counted as lost, `pn` the newest, arrived; `undone`: so did the
        congestion event's others."""
        with self._guard():
            data: Fields = {"header": _header(level, path_id, pn), "packets": count}
            if undone:
                data["congestion_event_undone"] = True
            self._event(now, "spurious_loss", data, path_id)

    def timers(self, now: int, due: dict[tuple[int, int], int]) -> None:
        """timer_updated for those that were set, moved or cancelled since the last call.

        `due` has what is set: ns by path (-1: of the connection) and place in PATH_TIMERS or CONNECTION_TIMERS.
        """
        with self._guard():
            for key, at in due.items():
                known = self._timers.get(key)
                if known is None or abs(at - known) >= _timer(key)[1] * 1e6:
                    self._timers[key] = at
                    self._timer_event(now, key, "set", max(0.0, _ms(at - now)))
            for key in [key for key in self._timers if key not in due]:
                del self._timers[key]
                self._timer_event(now, key, "cancelled")

    def expired(self, now: int, path_id: int, which: int) -> None:
        """timer_updated: one was due."""
        with self._guard():
            key = (path_id, which)
            if self._timers.pop(key, None) is not None:
                self._timer_event(now, key, "expired")

    def _timer_event(
        self, now: int, key: tuple[int, int], what: str, delta: float | None = None
    ) -> None:
        path_id = max(0, key[0])
        data: Fields = {"timer_type": _timer(key)[0], "timer_id": path_id, "event_type": what}
        if delta is not None:
            data["delta"] = delta
        self._event(now, "timer_updated", data, path_id)

    def key(self, now: int, write: bool, level: int) -> None:
        """key_updated: TLS gave a key."""
        with self._guard():
            ours, theirs = self._side, "server" if self._side == "client" else "client"
            data: Fields = {"key_type": f"{ours if write else theirs}_{KEY_TYPES[level]}_secret"}
            if level == 3:
                data["key_phase"] = 0
            self._event(now, "key_updated", data | {"trigger": "tls"})

    def key_phase(self, now: int, remote: bool) -> None:
        """key_updated: both directions enter the next phase."""
        with self._guard():
            self._phase += 1
            for side in ("client", "server"):
                data = {
                    "key_type": f"{side}_1rtt_secret",
                    "key_phase": self._phase,
                    "trigger": "remote_update" if remote else "local_update",
                }
                self._event(now, "key_updated", data)

    def key_discarded(self, now: int, level: int) -> None:
        """key_discarded: keys of a level are of no use any more; of 1-RTT, those of the phase before."""
        with self._guard():
            for side in ("client",) if level == 1 else ("client", "server"):
                data: Fields = {"key_type": f"{side}_{KEY_TYPES[level]}_secret"}
                if level == 3:
                    data["key_phase"] = self._phase - 1
                self._event(now, "key_discarded", data | {"trigger": "tls"} if level < 3 else data)

    def closed(self, now: int, reason: CloseReason, code: int, application: bool) -> None:
        """connection_closed; `code` and `application` describe our own close."""
        with self._guard():
            kind = reason.kind
            data: Fields = {
                "initiator": "remote" if reason.by_peer else "local",
                "trigger": TRIGGERS.get(kind, "unspecified"),
            }
            if kind == "application" or (kind == "locally_closed" and application):
                data["application_error"] = "unknown"
                data["error_code"] = reason.code if kind == "application" else code
            elif kind in ("transport_peer", "transport_local"):
                data |= _transport_error("connection_error", reason.code)
            text = reason.text or reason.reason.decode("utf-8", "replace")
            if text:
                data["reason"] = text
            self._event(now, "connection_closed", data)
            if self._file is not None:
                self._file.flush()

    # ------------------------------------------------------------- writing
    def _guard(self) -> _Guard:
        return _Guard(self)

    def _event(self, now: int, name: str, data: Fields, path_id: int = 0) -> None:
        category = EVENTS[name]
        shown = f"{category}:{name.removeprefix('recovery_')}"
        event: Fields = {"time": _ms(now - self._start), "name": shown}
        if path_id:
            event["tuple"] = _tuple_id(path_id)
        event["data"] = data
        self._put(event)

    def _put(self, record: Fields) -> None:
        if self._file is not None:
            with self._guard():
                text = b"\x1e" + json.dumps(record, separators=(",", ":")).encode() + b"\n"
                self._size += len(text)
                if self._size > BYTES_MOST:
                    raise OSError(f"more than {BYTES_MOST} bytes")
                self._file.write(text)

    def fail(self, error: BaseException) -> None:
        """Stop writing because of an error; the first one is logged."""
        file, self._file = self._file, None
        if file is not None:
            logger.warning("qlog %s ends early: %s", self._path, error)
            with contextlib.suppress(Exception):
                file.close()


class _Guard:
    """Turns an exception of the block into the end of the log: a connection outlives its qlog."""

    __slots__ = ("writer",)

    def __init__(self, writer: QlogWriter) -> None:
        self.writer = writer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.writer.fail(error)
        return True


def _ms(ns: int) -> float:
    """Milliseconds with three digits behind the point."""
    return round(ns / 1e6, 3)


def _tuple_id(path_id: int) -> str:
    return str(path_id) if path_id else ""


def _endpoint(address: Address | None) -> Fields:
    if address is None:
        return {}
    family = "v6" if ":" in address[0] else "v4"
    return {f"ip_{family}": address[0], f"port_{family}": address[1]}


def _header(level: int, path_id: int, pn: int) -> Fields:
    header: Fields = {"packet_type": PACKET_TYPES[level], "packet_number": pn}
    if path_id:
        header["path_id"] = path_id
    return header


def _timer(key: tuple[int, int]) -> tuple[str, float]:
    """Name of a timer, and how far it may move unnoticed (ms)."""
    return (CONNECTION_TIMERS if key[0] < 0 else PATH_TIMERS)[key[1]]


def _parameters(value: TransportParameters, names: Iterable[str]) -> Fields:
    """Transport parameters that were given, as qlog names them."""
    data: Fields = {}
    for name in names:
        v = getattr(value, name)
        if v is not None:
            shown = (
                name.removesuffix("_ms")
                if name in ("max_idle_timeout_ms", "max_ack_delay_ms")
                else name
            )
            data[shown] = v.hex() if isinstance(v, bytes) else v
    return data


def _transport_error(key: str, code: int) -> Fields:
    if code < len(TRANSPORT_ERRORS):
        return {key: TRANSPORT_ERRORS[code]}
    if 0x100 <= code <= 0x1FF:
        return {key: f"crypto_error_{code:#x}"}
    return {key: "unknown", "error_code": code}


def _frames(payload: bytes, ack_delay_exponent: int) -> list[Fields]:
    """The frames of a packet as qlog wants them; user data is only counted."""
    return [_frame(f, ack_delay_exponent) for f in decode_frames(payload)]


def _frame(frame: Fields, exponent: int) -> Fields:
    kind = frame["type"]
    if 0x08 <= kind <= 0x0F:
        out: Fields = {"frame_type": "stream", "stream_id": frame["id"], "offset": frame["offset"]}
        if frame["fin"]:
            out["fin"] = True
        out["raw"] = {"payload_length": len(frame["data"])}
        return out
    name = FRAME_NAMES.get(kind)
    if name is None:
        return {"frame_type": "unknown", "frame_type_bytes": kind}
    out = {"frame_type": name}
    if name == "padding":
        out["raw"] = {"payload_length": frame["length"]}
    elif name in ("crypto", "datagram"):
        if name == "crypto":
            out["offset"] = frame["offset"]
        out["raw"] = {"payload_length": len(frame["data"])}
    elif name in ("ack", "path_ack"):
        if name == "path_ack":
            out["path_id"] = frame["path_id"]
        out["ack_delay"] = (frame["delay"] << exponent) / 1000
        out["acked_ranges"] = [[lo] if lo == hi else [lo, hi] for lo, hi in frame["ranges"]]
        if "ecn" in frame:
            out["ect0"], out["ect1"], out["ce"] = frame["ecn"]
    elif name == "connection_close":
        reason = frame["reason"].decode("utf-8", "replace")
        if kind == 0x1D:
            out |= {"error_space": "application", "error": "unknown", "error_code": frame["code"]}
        else:
            out |= {"error_space": "transport"} | _transport_error("error", frame["code"])
            if frame["frame_type"]:
                out["trigger_frame_type"] = frame["frame_type"]
        out["reason"] = reason
    elif name == "new_token":
        out["token"] = {"raw": {"length": len(frame["token"]), "data": frame["token"].hex()}}
    else:
        if name in ("max_streams", "streams_blocked"):
            out["stream_type"] = "unidirectional" if kind & 1 else "bidirectional"
        for key, value in frame.items():
            if key == "type":
                continue
            if key == "addr":
                out |= _endpoint(value)
            elif key == "token":
                out["stateless_reset_token"] = value.hex()
            else:
                out[RENAMED.get(key, key)] = value.hex() if isinstance(value, bytes) else value
        if name in ("reset_stream", "stop_sending"):
            out["error"] = "unknown"
    return out
