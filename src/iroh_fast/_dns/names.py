"""Names of DNS as text, and as the uncompressed bytes that the codec takes and gives."""

from __future__ import annotations

import re

from ..errors import DnsMessageError, printable

__all__ = ["labels_of", "name_from_labels", "name_from_text", "name_to_text"]

MAX_NAME = 255
MAX_LABEL = 63

_SPECIAL = r'[^!-~]|[."();@$\\]'  # RFC 1035 §5.1
_ESCAPED = r"\\([0-9]{3})|\\(.)|(\.)|([^\\.]+)|(\\)"


def name_from_labels(labels: list[bytes]) -> bytes:
    """Put a name together.

    Raises
    ------
    DnsMessageError
        A label is empty or has more than 63 bytes, or the name more than 255.
    """
    parts = []
    for label in labels:
        if not 1 <= len(label) <= MAX_LABEL:
            raise DnsMessageError(
                f"a label of {len(label)} bytes in a DNS name: 1 to {MAX_LABEL} are allowed"
            )
        parts += [bytes((len(label),)), label]
    name = b"".join(parts) + b"\0"
    if len(name) > MAX_NAME:
        raise DnsMessageError(f"a DNS name of {len(name)} bytes: {MAX_NAME} are allowed")
    return name


def name_from_text(text: str) -> bytes:
    r"""Read a name: ``_iroh.example.com``, with or without a dot at its end; ``.`` or nothing is the root.

    ``\.`` and ``\123`` stand for single bytes (RFC 1035 §5.1).

    Raises
    ------
    DnsMessageError
        Not ASCII, an empty label, or too long.
    """
    if not text.isascii():
        raise DnsMessageError(f"not a DNS name, it is not ASCII: {printable(text, 80)!r}")
    if text in ("", "."):
        return b"\0"
    labels = [b""]
    for digits, escaped, dot, plain, bad in re.findall(_ESCAPED, text, re.S):
        if dot:
            labels.append(b"")
        elif bad or (digits and int(digits) > 255):
            raise DnsMessageError(f"not a DNS name: {printable(text, 80)!r}")
        else:
            labels[-1] += bytes((int(digits),)) if digits else (escaped or plain).encode("ascii")
    if not labels[-1]:
        del labels[-1]
    return name_from_labels(labels)


def labels_of(name: bytes) -> list[bytes]:
    """The labels of an uncompressed name, without the root."""
    labels = []
    start = 0
    while size := name[start]:
        labels.append(name[start + 1 : start + 1 + size])
        start += 1 + size
    return labels


def name_to_text(name: bytes) -> str:
    """Show an uncompressed name with a dot at its end; `name_from_text` reads it."""

    def escape(match: re.Match[str]) -> str:
        char = match[0]
        return f"\\{char}" if "!" <= char <= "~" else f"\\{ord(char):03d}"

    return (
        "".join(
            re.sub(_SPECIAL, escape, label.decode("latin-1")) + "." for label in labels_of(name)
        )
        or "."
    )
