from iroh_fast._packet._dicts import (
    FrameDecodeError,
    bench_decode,
    bench_put,
    decode_frames,
    encode_frame,
)
from iroh_fast._packet._numbers import (
    decode_pn,
    decode_varint,
    encode_pn,
    encode_varint,
    parse_header,
)

__all__ = [
    "FrameDecodeError",
    "bench_decode",
    "bench_put",
    "decode_frames",
    "decode_pn",
    "decode_varint",
    "encode_frame",
    "encode_pn",
    "encode_varint",
    "parse_header",
]
