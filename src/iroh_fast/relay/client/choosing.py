"""When the policy is asked for the home relay, and what it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ...addr import RelayUrl
from ..map import RelayMap
from .active import ActiveRelay
from .home import PATIENCE_S, Candidate, HomePolicy, Nearest

if TYPE_CHECKING:
    from ...net_report.report import NetReport

__all__ = ["HomeChoice"]

FIRST_REPORT_S: Final = 1.5
"""How long the choice among several relays waits for the first report, at most."""
REFUSED_S: Final = 300.0
"""How long a relay that never took us stays one of which a failure is known."""

log = logging.getLogger("iroh_fast.relay.client")


class HomeChoice:
    """Asks the policy whenever the map, a report or the state of a relay has changed.

    Parameters
    ----------
    active : the relays in use, as they change.
    home : gives the URL of the home relay.
    chosen : gets what the policy chose.
    policy : None for `Nearest`, which waits for the first report among several relays.
    report_due : whether there will be one.
    """

    def __init__(
        self,
        relay_map: RelayMap,
        active: Mapping[RelayUrl, ActiveRelay],
        home: Callable[[], RelayUrl | None],
        chosen: Callable[[RelayUrl | None], object],
        *,
        policy: HomePolicy | None,
        report_due: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._relay_map = relay_map
        self._active = active
        self._home = home
        self._chosen = chosen
        self._given = policy
        self._policy = policy or Nearest()
        self._report_due = report_due
        self._loop = loop
        self._report: NetReport | None = None
        self._tokens: dict[RelayUrl, str | None] = {}
        self._refused: dict[RelayUrl, float] = {}  # until when that counts
        self._unsubscribe: Callable[[], None] | None = None
        self._waiting: asyncio.TimerHandle | None = None  # for the first report
        self._patience: asyncio.TimerHandle | None = None

    @property
    def begun(self) -> bool:
        """Whether the home is chosen from the map."""
        return self._unsubscribe is not None

    @property
    def prefer_ipv6(self) -> bool:
        """Whether relays were heard over IPv6."""
        return self._report is not None and self._report.udp_v6

    def begin(self) -> None:
        """Choose now and at each change; a second time does nothing."""
        if self.begun:
            return
        if self._given is None and self._report_due and len(self._relay_map) > 1:
            self._waiting = self._loop.call_later(FIRST_REPORT_S, self.reported, None)
        self._unsubscribe = self._relay_map.subscribe(self._map_changed)
        self._map_changed()

    def end(self) -> None:
        """Choose no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for timer in (self._patience, self._waiting):
            if timer is not None:
                timer.cancel()

    # --- what changed

    def _map_changed(self) -> None:
        tokens = {config.url: config.auth_token for config in self._relay_map.relays()}
        for url, token in tokens.items():
            if self._tokens.get(url, token) == token:
                continue
            self._refused.pop(url, None)
            if (active := self._active.get(url)) is not None:
                active.retry_now()
        self._tokens = tokens
        self.again()

    def reported(self, report: NetReport | None) -> None:
        """Go by what was measured; None: nothing was, and is not waited for any more."""
        if report is not None:
            self._report = report
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self.again()

    def network_changed(self) -> None:
        """What failed may work now."""
        self._refused.clear()

    def unused(self, active: ActiveRelay) -> None:
        """A relay is not used any more; if it never took us that is remembered for a while."""
        if active.url in self._relay_map and active.error is not None and not active.was_connected:
            self._refused[active.url] = self._loop.time() + REFUSED_S

    # --- the choice

    def again(self) -> None:
        """Ask the policy; once more when somebody's patience may be over."""
        if not self.begun or self._waiting is not None:
            return
        try:
            self._chosen(self._asked())
        except Exception:
            log.exception("the home policy %r failed; the home relay stays as it is", self._policy)
        url = self._home()
        home = self._active.get(url) if url is not None else None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if home is not None and home.state != "connected":
            left = home.since + PATIENCE_S - self._loop.time()
            if left > 0:
                self._patience = self._loop.call_later(left + 0.001, self.again)

    def _states(self) -> dict[RelayUrl, Candidate]:
        now = self._loop.time()
        self._refused = {
            url: until
            for url, until in self._refused.items()
            if until > now and url in self._relay_map
        }
        refused = Candidate("disconnected", False, PATIENCE_S, True, False)
        states = dict.fromkeys(self._refused, refused)
        return states | {url: active.candidate() for url, active in self._active.items()}

    def _asked(self) -> RelayUrl | None:
        chosen = self._policy.choose(self._relay_map, self._report, self._states())
        if chosen is None:
            return None
        if not isinstance(chosen, str):
            raise TypeError(f"choose() gives the URL of a relay or None, not {chosen!r}")
        config = self._relay_map.get(chosen)
        if config is None:
            raise ValueError(f"choose() gave {chosen!r}, which is none of the relays")
        return config.url
