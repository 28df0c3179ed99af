"""The compiled codec of DNS messages, shared by signed packets, the resolver, mDNS and the server.

A name is its uncompressed bytes, ``b"\\x05_iroh\\x00"``: lengths of labels are below ``A``, so `bytes.lower`
makes it comparable. Python code uses what stands here; compiled rooms use `_names`, `_records` and `_put`
without an object per record.
"""

from __future__ import annotations

from ._messages import (
    ADDITIONAL,
    ANSWER,
    AUTHORITY,
    Message,
    Question,
    Record,
    Writer,
    check_message,
    read_message,
    txt_message,
    txt_values,
)
from .names import labels_of, name_from_labels, name_from_text, name_to_text

__all__ = [
    "ADDITIONAL",
    "ANSWER",
    "AUTHORITY",
    "Message",
    "Question",
    "Record",
    "Writer",
    "check_message",
    "labels_of",
    "name_from_labels",
    "name_from_text",
    "name_to_text",
    "read_message",
    "txt_message",
    "txt_values",
]
