"""Publishing and finding endpoints through a pkarr relay, on a clock that jumps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from services import ID, KEY, OTHER

from iroh_fast import RelayUrl
from iroh_fast.addr import RelayAddr
from iroh_fast.aio.owner import Owner
from iroh_fast.errors import ConfigError, HttpError, PkarrError
from iroh_fast.lookup import (
    EndpointData,
    EndpointInfo,
    LookupFailure,
    LookupItem,
    PkarrPublisher,
    PkarrResolver,
    SignedPacket,
)
from iroh_fast.lookup.pkarr import PkarrPublisherService
from iroh_fast.web.client import HttpAnswer

Run = Callable[[Coroutine[Any, Any, Any]], Any]
RELAY = "https://relay.example./"
DATA = EndpointData([RelayUrl(RELAY), "192.0.2.1:5"], "hello")


class Http:
    """An HTTP client whose answers are known before; the last one stays."""

    def __init__(self, *answers: HttpAnswer | HttpError | int, delay: float = 0.0) -> None:
        self.answers = list(answers) or [204]
        self.requests: list[tuple[float, str, str, bytes | None]] = []
        self.delay = delay
        self.options: dict[str, Any] = {}

    async def request(
        self, method: str, url: str, *, body: bytes | None = None, **options: Any
    ) -> HttpAnswer:
        now = round(asyncio.get_running_loop().time(), 6)
        self.requests.append((now, method, url, body))
        self.options = options
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(self.delay)
        if isinstance(answer, HttpError):
            raise answer
        return HttpAnswer(answer, {}, b"") if isinstance(answer, int) else answer

    @property
    def times(self) -> list[float]:
        return [at for at, *_ in self.requests]

    def packet(self, index: int) -> SignedPacket:
        return SignedPacket.from_relay_payload(ID, self.requests[index][3] or b"")


class Host:
    id = ID
    secret_key = KEY

    def __init__(self, http: Http) -> None:
        self.owner = Owner(asyncio.get_running_loop())
        self.http = http
        self.dns_resolver = None


def publisher(http: Http, **options: Any) -> PkarrPublisherService:
    made = PkarrPublisher("http://pkarr.test/pkarr", **options)
    return PkarrPublisherService(made, Host(http), uniform=lambda: 0.5)  # type: ignore[arg-type]


# --- publishing


def test_change_is_published_at_once_and_again_every_five_minutes(virtual: Run) -> None:
    async def main() -> None:
        http = Http()
        service = publisher(http)
        service.publish(DATA)
        await asyncio.sleep(1000)
        service.publish(EndpointData([RelayUrl("https://other.example/")]))
        await asyncio.sleep(1)
        assert http.times == [0.0, 300.0, 600.0, 900.0, 1000.0]
        await service.close()
        await asyncio.sleep(1000)
        assert len(http.requests) == 5 and service.published == 5
        assert {(method, url) for _, method, url, _ in http.requests} == {
            ("PUT", f"http://pkarr.test/pkarr/{ID.to_z32()}")
        }
        # Each is signed anew, later than the one before.
        stamps = [http.packet(n).timestamp for n in range(5)]
        assert stamps == sorted(set(stamps))

    virtual(main())


def test_equal_data_is_not_published_again(virtual: Run) -> None:
    async def main() -> None:
        http = Http()
        service = publisher(http)
        for _ in range(3):
            service.publish(DATA)
            # What the filter takes out is no difference.
            service.publish(EndpointData([RelayUrl(RELAY), "192.0.2.99:1"], "hello"))
            await asyncio.sleep(1)
        assert http.times == [0.0]
        await service.close()

    virtual(main())


def test_only_relays_are_published_unless_the_filter_says_so(virtual: Run) -> None:
    async def main() -> None:
        for option, addrs in (
            ({}, [RELAY]),
            ({"addr_filter": "ip_only"}, ["192.0.2.1:5"]),
            ({"addr_filter": "unfiltered"}, [RELAY, "192.0.2.1:5"]),
            ({"addr_filter": lambda addrs: [addrs[1], addrs[0]]}, [RELAY, "192.0.2.1:5"]),
        ):
            http = Http()
            service = publisher(http, **option)
            service.publish(DATA)
            await asyncio.sleep(1)
            info = http.packet(0).endpoint_info()
            assert info == EndpointInfo(
                ID,
                EndpointData([RelayUrl(a) if a.startswith("https") else a for a in addrs], "hello"),
            )
            await service.close()

    virtual(main())


def test_nothing_left_by_the_filter_is_published_as_an_empty_packet(virtual: Run) -> None:
    async def main() -> None:
        http = Http()
        service = publisher(http)
        service.publish(EndpointData(["192.0.2.1:5"]))
        await asyncio.sleep(1)
        assert len(http.packet(0).dns) == 12
        await service.close()

    virtual(main())


def test_failures_are_tried_again_after_one_two_three_seconds(virtual: Run) -> None:
    async def main() -> None:
        http = Http(*[500, HttpError("connect"), HttpError("dns"), 404, 429], 204, 503, 204)
        service = publisher(http)
        service.publish(DATA)
        await asyncio.sleep(320)
        # After a success the count begins anew.
        assert http.times == [0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 315.0, 316.0]
        assert (service.published, service.failed) == (2, 6)
        await service.close()

    virtual(main())


def test_pause_between_attempts_has_a_limit_and_differs(virtual: Run) -> None:
    async def main() -> None:
        http = Http(500)
        service = publisher(http)
        service._failures = 1000
        service.publish(DATA)
        await asyncio.sleep(1000)
        assert http.times == [0.0, 300.0, 600.0, 900.0]
        await service.close()
        for drawn, pause in ((0.0, 0.9), (1.0, 1.1)):
            http = Http(500)
            service = publisher(http)
            service._uniform = lambda drawn=drawn: drawn  # type: ignore[misc]
            service.publish(DATA)
            start = asyncio.get_running_loop().time()
            await asyncio.sleep(1.5)
            assert [round(at - start, 3) for at in http.times] == [0.0, pause]
            await service.close()

    virtual(main())


@pytest.mark.parametrize(
    ("text", "second"),
    [("7", 7.0), ("0", 1.0), ("99999999999", 300.0), ("soon", 1.0), ("-5", 1.0), ("\u0667", 1.0)],
)
def test_relay_that_is_asked_too_often_says_when_to_come_again(
    virtual: Run, text: str, second: float
) -> None:
    async def main() -> None:
        http = Http(HttpAnswer(429, {"retry-after": text}, b""), 204)
        service = publisher(http)
        service.publish(DATA)
        await asyncio.sleep(0.5)
        # News wait, too: they would only be refused.
        service.publish(EndpointData([RelayUrl("https://other.example/")]))
        await asyncio.sleep(400)
        assert http.times[:2] == [0.0, second if second > 1 else 0.5]
        await service.close()

    virtual(main())


def test_change_during_an_attempt_is_published_after_it(virtual: Run) -> None:
    async def main() -> None:
        http = Http(204, delay=5.0)
        service = publisher(http)
        service.publish(DATA)
        for n in range(4):
            await asyncio.sleep(1)
            service.publish(EndpointData([RelayUrl(f"https://r{n}.example/")]))
        await asyncio.sleep(20)
        assert http.times == [0.0, 5.0]
        last = http.packet(1).endpoint_info().data
        assert last.relay_urls == (RelayUrl("https://r3.example/"),)
        await service.close()

    virtual(main())


def test_change_and_change_of_the_network_end_the_pause(virtual: Run) -> None:
    async def main() -> None:
        http = Http(500)
        service = publisher(http)
        service._failures = 100
        service.publish(DATA)
        await asyncio.sleep(10)
        service.network_changed()
        await asyncio.sleep(10)
        service.publish(EndpointData([RelayUrl("https://other.example/")]))
        await asyncio.sleep(1)
        assert http.times == [0.0, 10.0, 20.0]
        http.answers = [204]
        service.network_changed()
        await asyncio.sleep(1)
        service.network_changed()  # which matters to nobody who is published
        await asyncio.sleep(100)
        assert http.times == [0.0, 10.0, 20.0, 21.0]
        await service.close()

    virtual(main())


def test_addresses_that_do_not_fit_are_left_out_and_told_once(
    virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        http = Http()
        service = publisher(http, addr_filter="unfiltered", republish_interval=10.0)
        addrs = [f"[2001:db8::{n:x}]:{40000 + n}" for n in range(1, 2001)]
        with caplog.at_level(logging.INFO, "iroh_fast.lookup.pkarr"):
            service.publish(EndpointData([*addrs, RelayUrl(RELAY)], "x" * 245))
            await asyncio.sleep(35)
        assert len(http.requests) == 4
        data = http.packet(0).endpoint_info().data
        assert data.user_data == "x" * 245 and data.relay_urls == (RelayUrl(RELAY),)
        kept = [str(addr) for addr in data.ip_addrs]
        assert kept == addrs[: len(kept)] and 10 < len(kept) < 25
        assert 1000 - 60 < len(http.packet(0).dns) <= 1000
        assert caplog.text.count("of 2001 addresses fit") == 1
        await service.close()

    virtual(main())


def test_relay_that_takes_our_packet_for_broken_is_an_error_of_ours(
    virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        http = Http(400, 400, 503, 503, 204)
        service = publisher(http)
        with caplog.at_level(logging.INFO, "iroh_fast.lookup.pkarr"):
            service.publish(DATA)
            await asyncio.sleep(20)
        await service.close()

    virtual(main())
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.ERROR, logging.INFO]
    assert "published again" in caplog.records[-1].message


def test_fault_of_ours_does_not_end_publishing(
    virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Http):
        async def request(self, method: str, url: str, **options: Any) -> HttpAnswer:
            if not self.requests:
                self.requests.append((0.0, "", "", None))
                raise ZeroDivisionError
            return await super().request(method, url, **options)

    async def main() -> None:
        http = Broken()
        service = publisher(http)
        service.publish(DATA)
        await asyncio.sleep(5)
        assert http.times == [0.0, 1.0]
        await service.close()

    virtual(main())
    assert "ZeroDivisionError" in caplog.text


def test_close_ends_an_attempt_and_nothing_is_published_then(virtual: Run) -> None:
    async def main() -> None:
        http = Http(204, delay=1000.0)
        service = publisher(http)
        service.publish(DATA)
        await asyncio.sleep(1)
        await service.close()
        assert asyncio.get_running_loop().time() == 1
        service.publish(EndpointData([RelayUrl("https://other.example/")]))
        await service.close()
        assert asyncio.all_tasks() == {asyncio.current_task()} and len(http.requests) == 1

    virtual(main())


def test_idle_publisher_does_nothing_between_its_turns(virtual: Run) -> None:
    """One timer; nothing runs while nothing changes."""

    async def main() -> None:
        http = Http()
        service = publisher(http)
        service.publish(DATA)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        turns = 0
        run_once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            run_once()

        loop._run_once = counted  # type: ignore[attr-defined]
        await asyncio.sleep(3000)
        assert len(http.requests) == 11
        assert turns < 11 * 12
        await service.close()

    virtual(main())


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://a.example/pkarr", "https://a.example/pkarr/"),
        ("https://a.example/pkarr/", "https://a.example/pkarr/"),
        ("https://a.example", "https://a.example/"),
        ("HTTPS://A.example:443/x//", "https://a.example/x/"),
        ("https://a.example/pkarr?key=1#x", "https://a.example/pkarr/"),
    ],
)
def test_key_follows_the_base_as_one_segment(virtual: Run, base: str, url: str) -> None:
    async def main() -> None:
        http = Http(404)
        host: Any = Host(http)
        async for _ in PkarrResolver(base).into_address_lookup(host).resolve(ID):
            pass
        query = "?key=1" if "?" in base else ""
        assert http.requests[0][1:3] == ("GET", f"{url}{ID.to_z32()}{query}")

    virtual(main())


@pytest.mark.parametrize(
    "url", ["", "relay.example", "mailto:a@b", "ftp://a.example/", "file:///x", 7]
)
def test_url_that_cannot_be_one_of_a_relay_is_refused(url: Any) -> None:
    for kind in (PkarrPublisher, PkarrResolver):
        with pytest.raises(PkarrError) as caught:
            kind(url)
        assert caught.value.kind == "InvalidRelayUrl"


@pytest.mark.parametrize(
    "option",
    [
        {"ttl": -1},
        {"ttl": "30"},
        {"republish_interval": 0},
        {"republish_interval": None},
        {"addr_filter": "all"},
    ],
)
def test_wrong_option_is_named(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        PkarrPublisher(**option)


def test_servers_of_number_0_are_the_default_and_the_environment_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher, resolver = PkarrPublisher(), PkarrResolver()
    monkeypatch.delenv("IROH_FORCE_STAGING_RELAYS", raising=False)
    assert publisher.url == resolver.url == "https://dns.iroh.link/pkarr"
    monkeypatch.setenv("IROH_FORCE_STAGING_RELAYS", "")
    assert publisher.url == resolver.url == "https://dns.iroh.link/pkarr"
    monkeypatch.setenv("IROH_FORCE_STAGING_RELAYS", "1")
    assert publisher.url == resolver.url == "https://staging-dns.iroh.link/pkarr"


def test_password_of_a_relay_is_not_shown(virtual: Run) -> None:
    url = "https://me:secret@a.example/pkarr"
    assert "secret" not in repr(PkarrPublisher(url)) + repr(PkarrResolver(url))

    async def main() -> None:
        host: Any = Host(Http(500))
        async for answer in PkarrResolver(url).into_address_lookup(host).resolve(ID):
            assert isinstance(answer, LookupFailure) and "secret" not in str(answer.error)

    virtual(main())


# --- resolving


def found(virtual: Run, *answers: HttpAnswer | HttpError | int) -> Any:
    async def main() -> Any:
        http = Http(*answers)
        host: Any = Host(http)
        got = [
            a
            async for a in PkarrResolver("http://pkarr.test/").into_address_lookup(host).resolve(ID)
        ]
        assert len(got) == 1 and got[0].provenance == "pkarr"
        assert http.options["max_bytes"] == 1072 and http.options["timeout"] == 10
        return got[0]

    return virtual(main())


def test_packet_of_the_endpoint_is_one_item(virtual: Run) -> None:
    packet = SignedPacket.from_endpoint_info(EndpointInfo(ID, DATA), KEY)
    item = found(virtual, HttpAnswer(200, {}, packet.relay_payload))
    assert isinstance(item, LookupItem) and item.info == EndpointInfo(ID, DATA)
    assert item.last_updated is None
    assert RelayAddr(RelayUrl(RELAY)) in item.info.data.addrs


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (404, "HttpRequest"),
        (500, "HttpRequest"),
        (204, "Verify"),
        (HttpError("connect", "x"), "HttpSend"),
        (HttpError("timeout", "x"), "HttpSend"),
        (HttpError("too_large", "x", status=200), "HttpPayload"),
        (HttpAnswer(200, {}, b"x" * 71), "Verify"),
        (HttpAnswer(200, {}, b"x" * 1072), "Verify"),
    ],
)
def test_anything_else_is_one_failure(virtual: Run, answer: Any, kind: str) -> None:
    failure = found(virtual, answer)
    assert isinstance(failure, LookupFailure) and isinstance(failure.error, PkarrError)
    assert failure.error.kind == kind
    if kind == "HttpRequest":
        assert failure.error.status == answer


def test_packet_of_somebody_else_and_changed_ones_are_refused(virtual: Run) -> None:
    from services import OTHER as other_id

    assert other_id == OTHER
    packet = SignedPacket.from_endpoint_info(EndpointInfo(ID, DATA), KEY)
    whole = bytearray(packet.relay_payload)
    for index in (0, 70, len(whole) - 1):
        changed = whole.copy()
        changed[index] ^= 1
        failure = found(virtual, HttpAnswer(200, {}, bytes(changed)))
        assert failure.error.kind == "Verify"
    odd = SignedPacket.from_txt(KEY, "_iroh", ["no equals sign"])
    assert found(virtual, HttpAnswer(200, {}, odd.relay_payload)).error.kind == "Verify"
