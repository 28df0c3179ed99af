"""DNS messages for Python code: read as a whole, and written record by record."""

from typing import Final, final

from typing_extensions import Buffer

ANSWER: Final[int]
AUTHORITY: Final[int]
ADDITIONAL: Final[int]

@final
class Question:
    name: Final[bytes]
    type: Final[int]
    klass: Final[int]

@final
class Record:
    section: Final[int]
    name: Final[bytes]
    type: Final[int]
    klass: Final[int]
    ttl: Final[int]
    offset: Final[int]
    size: Final[int]

@final
class Message:
    data: Final[bytes]
    id: Final[int]
    flags: Final[int]
    questions: Final[list[Question]]
    records: Final[list[Record]]
    complete: Final[bool]
    def rdata(self, record: Record) -> bytes: ...
    def name_in(self, record: Record, skip: int = ...) -> bytes | None: ...
    def strings(self, record: Record) -> list[bytes] | None: ...

@final
class Writer:
    def __init__(self, id: int = ..., flags: int = ...) -> None: ...
    @property
    def size(self) -> int: ...
    def question(self, name: bytes, type: int, klass: int = ...) -> None: ...
    def record(
        self,
        section: int,
        name: bytes,
        type: int,
        ttl: int,
        rdata: bytes = ...,
        *,
        target: bytes | None = ...,
        klass: int = ...,
    ) -> None: ...
    def finish(self) -> bytes: ...

def check_message(data: Buffer) -> None: ...
def read_message(data: Buffer) -> Message: ...
def txt_values(data: Buffer, owner: bytes) -> list[bytes]: ...
def txt_message(owner: bytes, values: list[bytes], ttl: int) -> bytes: ...
