"""What the system says: its name servers, domains to search, table of hosts."""

from __future__ import annotations

import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from name_server import name_server, refuses, reply, resolver_with, says

from iroh_fast.errors import DnsNxDomain, DnsResolveFailed
from iroh_fast.web.resolver import NameserverConfig
from iroh_fast.web.resolver import system as system_module
from iroh_fast.web.resolver.hosts import Hosts
from iroh_fast.web.resolver.system import SystemConfig, parse_resolv_conf

V4, V6 = socket.AF_INET, socket.AF_INET6
NXDOMAIN = 3


@pytest.mark.parametrize(
    ("text", "servers", "search", "ndots"),
    [
        ("", [], [], 1),
        (
            "nameserver 192.0.2.1\nnameserver 2001:db8::1 # mine\n",
            ["192.0.2.1", "2001:db8::1"],
            [],
            1,
        ),
        (
            "nameserver 127.0.0.1:5353\nnameserver [::1]:5353",
            ["127.0.0.1:5353", "[::1]:5353"],
            [],
            1,
        ),
        ("nameserver fe80::1%eth0", ["fe80::1%eth0"], [], 1),
        ("nameserver not-an-ip\nnameserver 192.0.2.1", ["192.0.2.1"], [], 1),
        (
            "nameserver\nnameserver192.0.2.1\n; nameserver 192.0.2.2\n#nameserver 192.0.2.3",
            [],
            [],
            1,
        ),
        ("search a.example b.example\ndomain c.example", [], ["c.example"], 1),
        ("domain c.example\nsearch a.example b.example", [], ["a.example", "b.example"], 1),
        ("search --\n", [], [], 1),
        ("search a..b ok " + "x" * 64, [], ["ok"], 1),
        ("options edns0 ndots:3 rotate", [], [], 3),
        ("options ndots:999999 ndots:\u0663", [], [], 15),
        ("  nameserver\t192.0.2.1 \r\n", ["192.0.2.1"], [], 1),
        ("nameserver 192.0.2.1\n" * 20, ["192.0.2.1"] * 8, [], 1),
    ],
)
def test_resolv_conf_is_read_as_far_as_it_makes_sense(
    text: str, servers: list[str], search: list[str], ndots: int
) -> None:
    wanted = tuple(map(NameserverConfig.parse, servers))
    assert parse_resolv_conf(text) == SystemConfig(wanted, tuple(search), ndots)


@given(st.text())
def test_any_text_is_a_resolv_conf(text: str) -> None:
    parse_resolv_conf(text)
    parse_resolv_conf("options " + text)
    parse_resolv_conf("nameserver " + text)


async def test_changes_of_the_configuration_are_noticed(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    async with (
        name_server(says(("", "A", 0, "192.0.2.1"))) as first,
        name_server(says(("", "A", 0, "192.0.2.2"))) as second,
    ):
        conf.write_text(f"nameserver 127.0.0.1:{first.port}\n")
        async with resolver_with(conf=conf) as resolver:
            assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
            conf.write_text(f"nameserver 127.0.0.1:{second.port} # other\n")
            assert await resolver.lookup("a.example.", V4) == ["192.0.2.2"]
            assert [server.port for server in resolver.nameservers] == [second.port]


async def test_servers_of_the_system_come_before_those_given_besides(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    async with (
        name_server(refuses(2)) as own,
        name_server(says(("", "A", 0, "192.0.2.2"))) as given_,
    ):
        conf.write_text(f"nameserver 127.0.0.1:{own.port}\n")
        async with resolver_with(given_, conf=conf) as resolver:
            assert [server.port for server in resolver.nameservers] == [own.port, given_.port]
            assert await resolver.lookup("a.example.", V4) == ["192.0.2.2"]
            assert own.queries


async def test_system_without_name_server_asks_googles_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with resolver_with(conf=tmp_path / "none") as resolver:
        assert [str(server) for server in resolver.nameservers] == [
            *("8.8.8.8", "8.8.4.4"),
            *("[2001:4860:4860::8888]", "[2001:4860:4860::8844]"),
        ]
        _ = resolver.nameservers
    assert caplog.text.count("names no name server: asking those of Google") == 1
    async with resolver_with(conf=tmp_path / "none", fallback="never") as resolver:
        assert resolver.nameservers == ()
        with pytest.raises(DnsResolveFailed, match="no name server to ask"):
            await resolver.lookup_ipv4("a.example.")


@pytest.mark.parametrize(
    ("host", "ndots", "asked"),
    [
        ("box", 1, ["box.a.example.", "box.b.example.", "box."]),
        ("box.", 1, ["box."]),
        ("x.box", 1, ["x.box.", "x.box.a.example.", "x.box.b.example."]),
        ("x.box", 2, ["x.box.a.example.", "x.box.b.example.", "x.box."]),
        ("x.box", 0, ["x.box.", "x.box.a.example.", "x.box.b.example."]),
        ("_iroh.key.dns.iroh.link.", 15, ["_iroh.key.dns.iroh.link."]),
    ],
)
async def test_names_are_looked_for_in_the_domains_to_search(
    tmp_path: Path, host: str, ndots: int, asked: list[str]
) -> None:
    conf = tmp_path / "resolv.conf"
    async with name_server(refuses(NXDOMAIN)) as known:
        conf.write_text(
            f"nameserver 127.0.0.1:{known.port}\nsearch a.example b.example\noptions ndots:{ndots}"
        )
        async with resolver_with(conf=conf) as resolver:
            with pytest.raises(DnsNxDomain) as caught:
                await resolver.lookup_txt(host)
            assert known.asked == [f"udp {name} TXT" for name in asked]
            assert caught.value.host == host


async def test_search_goes_on_where_a_domain_has_nothing_or_its_server_fails(
    tmp_path: Path,
) -> None:
    conf = tmp_path / "resolv.conf"

    def answer(query: Any, _: str) -> Any:
        name = str(query.question[0].name)
        if name == "box.a.example.":
            return reply(query, rcode=2)
        if name == "box.b.example.":
            return reply(query)
        return reply(query, ("", "TXT", 60, "here"))

    async with name_server(answer) as known:
        conf.write_text(f"nameserver 127.0.0.1:{known.port}\nsearch a.example b.example c.example")
        async with resolver_with(conf=conf) as resolver:
            assert await resolver.lookup_txt("box") == [[b"here"]]
            assert known.asked[-1] == "udp box.c.example. TXT"


# --- hosts


async def test_table_of_hosts_comes_first_and_may_change(tmp_path: Path) -> None:
    table = tmp_path / "hosts"
    table.write_bytes(
        b"\xef\xbb\xbf192.0.2.7 Box box.example # mine\n# 192.0.2.8 box\n::7 box\nbad line\n"
        b"300.1.1.1 box\n127.0.0.1\0 box\n"
    )
    async with name_server(says(("", "A", 0, "192.0.2.9"), ("", "AAAA", 0, "::9"))) as known:
        async with resolver_with(known, hosts=table) as resolver:
            assert await resolver.lookup("BOX", V4) == ["192.0.2.7"]
            assert await resolver.lookup("box.example.", V4) == ["192.0.2.7"]
            assert await resolver.lookup("box", V6) == ["::7"]
            assert known.queries == []
            assert await resolver.lookup("box.example", V6) == ["::9"]  # the table has the other
            table.write_text("192.0.2.88 box")
            assert await resolver.lookup("box", V4) == ["192.0.2.88"]
            table.unlink()
            assert await resolver.lookup("box", V4) == ["192.0.2.9"]


async def test_table_of_hosts_has_names_of_domains_to_search(tmp_path: Path) -> None:
    conf, table = tmp_path / "resolv.conf", tmp_path / "hosts"
    table.write_text("192.0.2.7 box.a.example")
    async with name_server(refuses(NXDOMAIN)) as known:
        conf.write_text(f"nameserver 127.0.0.1:{known.port}\nsearch a.example")
        async with resolver_with(conf=conf, hosts=table) as resolver:
            assert await resolver.lookup("box", V4) == ["192.0.2.7"]
            with pytest.raises(DnsNxDomain):
                await resolver.lookup("box.", V4)


def test_large_table_of_hosts_is_read_in_part(tmp_path: Path) -> None:
    table = tmp_path / "hosts"
    table.write_text("".join(f"192.0.2.1 n{n}.example\n" for n in range(100_000)))
    hosts = Hosts(str(table))
    assert hosts.addresses("n0.example", V4) == ["192.0.2.1"]
    assert hosts.addresses("n99999.example", V4) == []


# --- Windows


async def test_windows_is_asked_by_dnspython_without_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Util(types.ModuleType):
        class ConfigMethod:
            Registry, WMI, Win32 = 1, 2, 3

        _config_method = ConfigMethod.WMI
        used: list[int] = []

        def set_config_method(self, method: int) -> None:
            self._config_method = method

        def get_dns_info(self) -> Any:
            self.used.append(self._config_method)
            return types.SimpleNamespace(
                domain=None,
                nameservers=["fec0:0:0:ffff::1", "192.0.2.53", "fec0:0:0:ffff::3"],
                search=["a.example."],
            )

    util = Util("dns.win32util")
    import dns

    monkeypatch.setitem(sys.modules, "dns.win32util", util)
    monkeypatch.setattr(dns, "win32util", util, raising=False)
    monkeypatch.setattr(system_module.sys, "platform", "win32")
    source = system_module.SystemSource()
    found = source.current()
    assert found == SystemConfig((NameserverConfig.udp("192.0.2.53"),), ("a.example",), 1)
    assert source.current() is found and util.used == [util.ConfigMethod.Win32]
    assert util._config_method == util.ConfigMethod.WMI
