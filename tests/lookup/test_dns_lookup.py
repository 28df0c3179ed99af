"""Finding endpoints in the DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from services import ID

from iroh_fast import RelayUrl
from iroh_fast.errors import ConfigError, DnsNxDomain, DnsStaggered, DnsTimeout, EndpointInfoError
from iroh_fast.lookup import (
    DnsLookup,
    EndpointData,
    EndpointInfo,
    LookupFailure,
    LookupItem,
    lookup_by_domain_name,
    lookup_by_id,
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Z32 = ID.to_z32()
RECORDS = [[b"relay=https://", b"relay.example./"], [b"addr=192.0.2.1:5"], [b"user-data=a=b"]]
INFO = EndpointInfo(ID, EndpointData([RelayUrl("https://relay.example./"), "192.0.2.1:5"], "a=b"))


class Texts:
    """A resolver whose answers are known before; the last one stays."""

    def __init__(self, *answers: Any, delay: float = 0.0) -> None:
        self.answers = list(answers)
        self.delay = delay
        self.asked: list[tuple[float, str]] = []
        self.cancelled = 0

    async def lookup_txt(self, host: str, /) -> list[list[bytes]]:
        self.asked.append((round(asyncio.get_running_loop().time(), 3), host))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


class Host:
    def __init__(self, resolver: Texts) -> None:
        self.dns_resolver = resolver


async def answers(texts: Texts, origin: str | None = "dns.test.") -> list[Any]:
    host: Any = Host(texts)
    service = DnsLookup(origin).into_address_lookup(host)
    return [answer async for answer in service.resolve(ID)]


def test_records_below_the_origin_are_one_item(virtual: Run) -> None:
    texts = Texts(RECORDS)
    assert virtual(answers(texts)) == [LookupItem(INFO, "dns", None)]
    assert texts.asked == [(0.0, f"_iroh.{Z32}.dns.test.")]


def test_origin_is_used_as_it_is(virtual: Run) -> None:
    for origin in ("dns.test", "dns.test."):
        texts = Texts(RECORDS)
        virtual(answers(texts, origin))
        assert texts.asked[0][1] == f"_iroh.{Z32}.{origin}"
    texts = Texts(RECORDS)
    virtual(answers(texts, "."))
    assert texts.asked[0][1] == f"_iroh.{Z32}."


def test_id_that_appears_while_it_is_looked_for_is_found(virtual: Run) -> None:
    async def main() -> None:
        texts = Texts(DnsNxDomain("no"), DnsTimeout("no"), RECORDS)
        assert await answers(texts) == [LookupItem(INFO, "dns", None)]
        assert len(texts.asked) == 3 and 0.24 <= texts.asked[2][0] <= 0.36
        assert asyncio.get_running_loop().time() < 0.4
        assert asyncio.all_tasks() == {asyncio.current_task()} or not await asyncio.sleep(0)

    virtual(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (DnsNxDomain("there is no name"), DnsNxDomain),
        ([[b"no equals sign"]], EndpointInfoError),
        ([[]], EndpointInfoError),
    ],
)
def test_seven_failed_calls_are_one_failure_after_three_seconds(
    virtual: Run, answer: Any, error: type[Exception]
) -> None:
    async def main() -> None:
        texts = Texts(answer)
        (failure,) = await answers(texts)
        assert isinstance(failure, LookupFailure) and failure.provenance == "dns"
        assert isinstance(failure.error, DnsStaggered) and len(failure.error.errors) == 7
        assert {type(e) for e in failure.error.errors} == {error}
        assert len(texts.asked) == 7 and 2.4 <= asyncio.get_running_loop().time() <= 3.6

    virtual(main())


def test_closing_the_iterator_ends_all_calls(virtual: Run) -> None:
    async def main() -> None:
        texts = Texts(RECORDS, delay=1000.0)
        task = asyncio.create_task(answers(texts))
        await asyncio.sleep(0.45)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert texts.cancelled == len(texts.asked) == 3

    virtual(main())


def test_functions_look_up_by_id_and_by_domain_name(virtual: Run) -> None:
    texts = Texts(RECORDS)
    assert virtual(lookup_by_id(texts, ID, "dns.test.")) == INFO
    for name in (f"{Z32}.dns.test", f"_iroh.{Z32}.dns.test"):
        assert virtual(lookup_by_domain_name(texts, name)) == INFO
        assert texts.asked[-1][1] == f"_iroh.{Z32}.dns.test"
    # The key is the second label of the name, so no other name can lead to an endpoint.
    with pytest.raises(DnsStaggered, match="key"):
        virtual(lookup_by_domain_name(texts, "endpoint.example.com", delays=()))


def test_servers_of_number_0_are_the_default_and_the_environment_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookup = DnsLookup()
    monkeypatch.delenv("IROH_FORCE_STAGING_RELAYS", raising=False)
    assert lookup.origin == "dns.iroh.link."
    monkeypatch.setenv("IROH_FORCE_STAGING_RELAYS", "1")
    assert lookup.origin == "staging-dns.iroh.link."
    assert DnsLookup("a.").origin == "a."
    for wrong in ("", 7, b"a."):
        with pytest.raises(ConfigError, match="origin"):
            DnsLookup(wrong)  # type: ignore[arg-type]
