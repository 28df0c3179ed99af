"""A home behind a gateway that maps ports: miniupnpd, which speaks PCP, NAT-PMP and UPnP."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.lab.namespaces import LabError, Namespace, missing, remove_leftovers

__all__ = ["Home", "missing_for_gateway"]

DAEMON: Final = "/usr/sbin/miniupnpd"
# A gateway believes in addresses that are not reserved alone; nobody out there hears of this one.
WAN, OUTSIDE = "5.5.5.1", "5.5.5.2"
LAN, HOST = "10.77.0.1", "10.77.0.2"
FAR_LAN, FAR = "10.78.0.1", "10.78.0.2"
# Another port for each destination, and nobody gets in who was not asked.
STRICT: Final = """
table inet nat {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "far" accept
    }
    chain postrouting { type nat hook postrouting priority 100; oifname "eth0" masquerade random; }
}
"""
RULES: Final = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" accept
        jump miniupnpd
    }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        jump postrouting_miniupnpd
        oifname "wan" masquerade random
    }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""


def missing_for_gateway() -> str | None:
    """What this machine lacks for a home with a gateway, or None."""
    if (reason := missing()) is not None:
        return reason
    if not Path(DAEMON).exists():
        return "no miniupnpd (package of that name)"
    return None if shutil.which("nft") else "no nft command (package nftables)"


class Home:
    """A host behind a gateway with address translation, somebody outside, and a host behind another NAT there.

    Parameters
    ----------
    settings : of miniupnpd, beside those that it needs here.

    Attributes
    ----------
    host, gateway, outside, far : their networks; `outside` is the strict NAT of `far`, too.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = {"enable_natpmp": "yes", "enable_upnp": "yes", **settings}
        self._stack = contextlib.ExitStack()
        self._daemon: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        if (reason := missing_for_gateway()) is not None:
            raise LabError(reason)
        remove_leftovers()
        with self._stack as stack:
            self._folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="iroh-lab-gateway-"))
            )
            self.host, self.gateway, self.outside, self.far = (
                self._namespace(stack, role) for role in ("home", "gateway", "outside", "far")
            )
            self._plug(self.gateway, "lan", LAN, self.host, HOST)
            self._plug(self.gateway, "wan", WAN, self.outside, OUTSIDE)
            self._plug(self.outside, "far", FAR_LAN, self.far, FAR)
            self.host.ip("route", "add", "default", "via", LAN)
            self.far.ip("route", "add", "default", "via", FAR_LAN)
            for router, rules in ((self.gateway, RULES), (self.outside, STRICT)):
                router.set({"ipv4.ip_forward": "1"})
                done = router.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True)
                if done.returncode:
                    raise LabError(f"nft: {done.stderr.strip()}")
            self.start()
            self._stack = stack.pop_all()
        return self

    def _namespace(self, stack: contextlib.ExitStack, role: str) -> Namespace:
        made = Namespace(role)
        stack.callback(made.close)
        return made

    def _plug(self, router: Namespace, name: str, ip: str, other: Namespace, other_ip: str) -> None:
        """A cable between a router and another machine."""
        peer = ("peer", "name", "eth0", "netns", other.name)
        router.ip("link", "add", name, "type", "veth", *peer)
        for network, device, address in ((router, name, ip), (other, "eth0", other_ip)):
            network.ip("addr", "add", f"{address}/24", "dev", device)
            network.ip("link", "set", device, "up")

    def start(self) -> None:
        """Start miniupnpd, and wait until it serves."""
        config = self._folder / "miniupnpd.conf"
        settings = {
            "ext_ifname": "wan",
            "listening_ip": "lan",
            "http_port": "5000",
            "secure_mode": "yes",
            "uuid": "00000000-0000-0000-0000-000000000001",
            "lease_file": str(self._folder / "leases"),
            **self._settings,
        }
        rules = ["allow 1024-65535 10.77.0.0/24 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
        lines = [*(f"{name}={value}" for name, value in settings.items()), *rules, ""]
        config.write_text("\n".join(lines))
        log = self._folder / "log"
        argv = [DAEMON, "-d", "-f", config, "-P", self._folder / "pid"]
        with log.open("wb") as file:
            self._daemon = self.gateway.popen(argv, stdout=file, stderr=file)
        until = time.monotonic() + 20
        while "listening on" not in log.read_text(errors="replace"):
            if self._daemon.poll() is not None or time.monotonic() > until:
                raise LabError(f"miniupnpd does not start: {log.read_text(errors='replace')}")
            time.sleep(0.02)

    def lose_power(self) -> None:
        """End miniupnpd, and with it all mappings."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
            self.gateway.run(["nft", "flush", "chain", "inet", "filter", chain], check=True)

    def mappings(self) -> list[str]:
        """The rules by which ports are mapped now."""
        listed = self.gateway.run(
            ["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"],
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.strip() for line in listed.stdout.splitlines() if "dnat" in line]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
