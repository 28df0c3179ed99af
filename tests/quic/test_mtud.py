"""MTU search and black-hole detector."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic._congestion import COMPLETE, OFF, SEARCHING, MtuDiscovery

S = 1_000_000_000
INTERVAL = 600 * S
COOLDOWN = 60 * S


class Path:
    """Drives one search over a path that carries at most `carries` bytes.

    `interface`: what the system says of the interface, 0 nothing. `hears`: it has heard from a router once a probe was lost.
    `chance`: probes that are lost whatever their size, counted from 0.
    """

    def __init__(
        self,
        m: MtuDiscovery,
        carries: int,
        now: int = 0,
        *,
        interface: int = 0,
        hears: bool = False,
        chance: tuple[int, ...] = (),
    ) -> None:
        self.m, self.carries, self.now, self.pn = m, carries, now, 0
        self.interface, self.hears, self.chance = interface, hears, chance
        self.probes: list[int] = []

    def step(self) -> int:
        if self.m.asks(self.now):
            heard = self.hears and max(self.probes, default=0) > self.carries
            self.m.set_route_limit(self.now, self.carries if heard else self.interface)
        size = self.m.poll(self.now)
        if size:
            self.probes.append(size)
            self.m.on_probe_sent(self.pn, size)
            if size <= self.carries and len(self.probes) - 1 not in self.chance:
                assert self.m.on_acked(self.now, self.pn, size)
            else:
                self.m.on_probe_lost(self.now)
            self.pn += 1
        return size

    def run(self) -> list[int]:
        for _ in range(200):
            if not self.step():
                return self.probes
        raise AssertionError("the search does not end")


def lose(m: MtuDiscovery, *bursts: tuple[int, ...], size: int = 1400, now: int = 0) -> bool:
    """Declare bursts of packet numbers lost in one batch."""
    for burst in bursts:
        for pn in burst:
            m.on_lost(pn, size)
    return m.black_hole(now)


# ---------------------------------------------------------------- search


def test_unknown_interface_is_asked_for_what_ordinary_paths_carry():
    m = MtuDiscovery()
    path = Path(m, 65535, now=7)
    assert (m.current, m.state) == (1200, SEARCHING)
    assert path.run() == [1452]
    assert (m.current, m.state, m.next_search) == (1452, COMPLETE, 7 + INTERVAL)
    assert (m.probes_sent, m.probes_lost) == (1, 0)


@pytest.mark.parametrize(
    "interface", [1250, 1372, 1452, 1472, 2000, 8972, 32_000, 65_487, 65_507, 65_535]
)
def test_size_of_the_interface_is_found_with_one_probe(interface):
    m = MtuDiscovery(upper_bound=65_487)
    assert Path(m, interface, interface=interface).run() == [min(interface, 65_487)]
    assert m.current == min(interface, 65_487) and m.probes_lost == 0


@pytest.mark.parametrize("interface", [1, 600, 1199, 1200, 1219])
def test_interface_that_takes_hardly_more_than_the_minimum_is_not_probed(interface):
    m = MtuDiscovery()
    assert Path(m, interface, interface=interface).run() == []
    assert m.current == 1200


def test_interface_that_cuts_datagrams_is_not_searched():
    m = MtuDiscovery()
    assert Path(m, 65535, now=5, interface=-1).run() == []
    assert (m.state, m.next_search, m.current) == (COMPLETE, 5 + INTERVAL, 1200)
    assert m.asks(5 + INTERVAL), "it may be another interface by then"


@pytest.mark.parametrize(
    ("interface", "carries", "probes"),
    [
        # An ordinary path behind a large interface: one large probe is lost, then small ones.
        (8972, 1472, [8972, 1452, *[1473] * 3]),
        (65_487, 1452, [65_487, 1452, *[1473] * 3]),
        (8972, 1300, [8972, 1452, 1326, 1263, 1294, 1326, 1326]),
        (1472, 1464, [1472, 1452, 1472, 1472]),
        # A large one that is smaller than the interface.
        (
            8972,
            8472,
            [8972, 1452, 1473, 8972, 5222, 7097, 8034, 8503, 8268, 8385, 8444, *[8473] * 3],
        ),
    ],
)
def test_path_smaller_than_its_interface_is_found_without_word_from_a_router(
    interface, carries, probes
):
    m = MtuDiscovery(upper_bound=65_487)
    assert Path(m, carries, interface=interface).run() == probes
    assert m.current == max(p for p in probes if p <= carries)
    assert m.probes_lost == sum(p > carries for p in probes)


@pytest.mark.parametrize("interface", [2000, 8972, 65_487])
@pytest.mark.parametrize("carries", [1252, 1372, 1452, 1464, 1472, 1800, 8472])
def test_word_from_a_router_ends_the_search(interface, carries):
    m = MtuDiscovery(upper_bound=65_487)
    carries = min(carries, interface)
    probes = Path(m, carries, interface=interface, hears=True).run()
    assert probes == ([interface, carries] if carries < interface else [interface])
    assert m.current == carries


@pytest.mark.parametrize("interface", [8972, 65_487])
@pytest.mark.parametrize("chance", [(0,), (0, 1), (0, 1, 2), (1,), (0, 2), (0, 3)])
def test_probes_lost_by_chance_do_not_hide_a_large_path(interface, chance):
    m = MtuDiscovery(upper_bound=65_487)
    path = Path(m, interface, interface=interface, chance=chance)
    probes = path.run()
    assert m.current == interface
    assert len(probes) <= 20


def test_disabled_never_probes():
    m = MtuDiscovery(initial=1400, enabled=False)
    for now in (0, INTERVAL, 2**62):
        assert not m.asks(now)
        m.set_route_limit(now, 9000)
        assert m.poll(now) == 0
    m.on_probe_sent(1, 1452)
    assert m.in_flight == 0
    assert m.on_acked(0, 1, 1452) is False
    assert (m.state, m.current, m.next_search) == (OFF, 1400, None)


def test_one_probe_in_flight_at_a_time():
    m = MtuDiscovery()
    size = m.poll(0)
    assert m.poll(0) == size == 1452  # polling moves nothing
    m.on_probe_sent(5, size)
    assert m.in_flight == 1452
    assert m.poll(0) == 0 and not m.asks(0)
    assert m.poll(INTERVAL * 2) == 0
    m.on_acked(0, 4, 1200)  # other packets do not matter
    assert m.poll(0) == 0
    assert m.on_acked(0, 5, 1452) is True
    assert m.in_flight == 0 and m.poll(0) == 0


def test_large_probe_waits_for_room_and_the_ordinary_size_does_not():
    m = MtuDiscovery(upper_bound=65_487)
    m.set_route_limit(0, 65_507)
    assert m.poll(0, 1000) == 0
    assert m.poll(0, 12_000) == 1452
    m.on_probe_sent(0, 1452)
    assert m.on_acked(0, 0, 1452)
    assert m.poll(0, 12_000) == 0 and m.state == SEARCHING
    assert m.poll(0, 65_487) == 65_487


def test_size_that_waits_for_room_does_not_stop_the_search_below_it():
    m = MtuDiscovery(upper_bound=65_487)
    m.set_route_limit(0, 65_507)
    for n, size in enumerate((1452, 1326)):
        assert m.poll(0, 12_000) == size
        m.on_probe_sent(n, size)
        m.on_probe_lost(0)
    assert m.poll(0, 12_000) == 1263
    assert m.poll(0, 70_000) == 65_487


def test_a_size_is_given_up_after_three_losses():
    m = MtuDiscovery(upper_bound=1230)
    for n in range(3):
        assert m.poll(0) == 1230
        m.on_probe_sent(n, 1230)
        m.on_probe_lost(0)
        assert m.probes_lost == n + 1
    assert m.poll(0) == 0
    assert (m.state, m.current) == (COMPLETE, 1200)


def test_size_that_was_lost_once_has_another_try_after_smaller_ones():
    m = MtuDiscovery()
    path = Path(m, 65535, chance=(0,))
    assert path.run() == [1452, 1326, 1389, 1420, 1452]
    assert m.current == 1452


@pytest.mark.parametrize(
    ("carries", "probes", "mtu"),
    [
        (1200, [1452, 1326, 1263, 1231, *[1231] * 2], 1200),
        (1280, [1452, 1326, 1263, 1294, *[1294] * 2], 1263),
        (1300, [1452, 1326, 1263, 1294, *[1326] * 2], 1294),
        (1350, [1452, 1326, 1389, 1357, *[1357] * 2], 1326),
        (1400, [1452, 1326, 1389, 1420, *[1420] * 2], 1389),
        (1451, [1452, 1326, 1389, 1420, *[1452] * 2], 1420),
        (1452, [1452], 1452),
    ],
)
def test_search_on_a_narrow_path_ends_close_below_its_limit(carries, probes, mtu):
    m = MtuDiscovery()
    assert Path(m, carries).run() == probes
    assert m.current == mtu and m.state == COMPLETE
    assert m.probes_lost == sum(p > carries for p in probes)


def test_gain_below_the_minimum_change_is_not_worth_a_probe():
    m = MtuDiscovery(upper_bound=1219)
    assert m.poll(3) == 0
    assert (m.state, m.next_search) == (COMPLETE, 3 + INTERVAL)


@pytest.mark.parametrize("bound", [1000, 1200, 1300])
def test_bound_at_or_below_the_current_mtu_means_no_search(bound):
    m = MtuDiscovery(initial=1300, upper_bound=bound)
    assert m.poll(0) == 0
    assert (m.state, m.current) == (COMPLETE, 1300)


@pytest.mark.parametrize("carries", range(1200, 1231))
def test_minimum_change_of_one_finds_the_exact_limit(carries):
    m = MtuDiscovery(upper_bound=1230, min_change=1)
    Path(m, carries).run()
    assert m.current == carries


def test_minimum_change_of_zero_still_ends():
    m = MtuDiscovery(min_change=0)
    Path(m, 1333).run()
    assert m.current == 1333


def test_search_has_a_bound_whatever_is_lost():
    m = MtuDiscovery(upper_bound=65_487, min_change=1)
    path = Path(m, 65_487, interface=65_487, chance=tuple(range(0, 400, 2)))
    assert len(path.run()) <= 48
    assert m.state == COMPLETE


def test_search_starts_again_after_the_interval():
    m = MtuDiscovery()
    path = Path(m, 1400, now=5)
    path.run()
    assert m.current == 1389
    assert m.poll(5 + INTERVAL - 1) == 0
    path.now, path.carries, path.probes = 5 + INTERVAL, 65535, []
    assert path.run() == [1452]
    assert (m.current, m.next_search) == (1452, 5 + 2 * INTERVAL)


def test_interface_that_grew_is_found_with_the_next_search():
    m = MtuDiscovery(upper_bound=65_487)
    path = Path(m, 1472, interface=1472)
    assert path.run() == [1472]
    path.now, path.carries, path.interface, path.probes = INTERVAL, 8972, 8972, []
    assert path.run() == [8972]


def test_search_again_at_the_bound_sends_nothing_and_waits_again():
    m = MtuDiscovery()
    Path(m, 65535).run()
    assert m.poll(INTERVAL) == 0
    assert m.next_search == 2 * INTERVAL


def test_completion_is_noticed_with_the_last_answer():
    m = MtuDiscovery(upper_bound=1230)
    m.on_probe_sent(0, m.poll(0))
    m.on_acked(9, 0, 1230)
    assert (m.state, m.next_search) == (COMPLETE, 9 + INTERVAL)
    m = MtuDiscovery(upper_bound=1230)
    for n in range(3):
        m.on_probe_sent(n, m.poll(0))
        m.on_probe_lost(8)
    assert (m.state, m.current, m.next_search) == (COMPLETE, 1200, 8 + INTERVAL)


def test_same_packet_number_without_a_probe_in_flight_changes_nothing():
    m = MtuDiscovery()
    m.on_probe_sent(3, m.poll(0))
    m.on_probe_lost(0)
    assert m.on_acked(0, 3, 1452) is False
    assert m.current == 1200


def test_loss_without_a_probe_in_flight_changes_nothing():
    m = MtuDiscovery()
    m.on_probe_lost(0)
    assert (m.probes_lost, m.state, m.poll(0)) == (0, SEARCHING, 1452)


# ---------------------------------------------------------------- what the system refuses


def test_refused_probe_is_answered_at_once_and_not_lost():
    m = MtuDiscovery(upper_bound=65_487)
    m.set_route_limit(0, 65_507)
    m.on_probe_sent(0, m.poll(0))
    assert m.too_big(0, 65_487, 8972) == 0
    assert (m.in_flight, m.probes_lost, m.current) == (0, 0, 1200)
    assert m.poll(0) == 8972
    assert m.on_acked(0, 0, 65_487) is False, "it never left"


def test_refused_probe_without_a_known_limit_halves():
    m = MtuDiscovery(upper_bound=65_487)
    m.set_route_limit(0, 65_507)
    refused = []
    while size := m.poll(0):
        m.on_probe_sent(m.probes_sent, size)
        if size > 8972:
            refused.append(size)
            m.too_big(0, size, 0)
        else:
            m.on_acked(0, m.probes_sent - 1, size)
    assert 8972 - 40 < m.current <= 8972
    assert len(refused) < 16 and m.probes_lost == 0


def test_refused_data_fall_to_the_minimum_and_search_what_the_interface_takes():
    m = MtuDiscovery(upper_bound=65_487)
    path = Path(m, 8972, interface=8972)
    path.run()
    assert m.too_big(9, 8972, 1372) == 1
    assert (m.current, m.next_search, m.black_holes) == (1200, 9, 0)
    path.now, path.carries, path.interface, path.probes = 9, 1372, 1372, []
    assert path.run() == [1372]


def test_refused_again_changes_nothing():
    m = MtuDiscovery(initial=8000)
    assert m.too_big(0, 8000, 1400) == 1
    assert m.too_big(0, 8000, 1400) == 0
    assert m.current == 1200


@pytest.mark.parametrize("size", [0, 60, 1199, 1200])
def test_refused_minimum_can_not_be_helped(size):
    m = MtuDiscovery()
    assert m.too_big(0, size, 1100) == -1
    assert m.current == 1200


def test_refused_data_of_a_path_without_search_fall_to_the_minimum():
    m = MtuDiscovery(initial=8000, enabled=False)
    assert m.too_big(0, 8000, 1400) == 1
    assert (m.current, m.state, m.poll(2**60)) == (1200, OFF, 0)


# ---------------------------------------------------------------- peer limit


@pytest.mark.parametrize("interface", [0, 1472, 8972, 65_507])
def test_peer_that_announces_what_iroh_does_gets_what_iroh_sends(interface):
    m = MtuDiscovery(upper_bound=65_487)
    m.set_peer_limit(1472)
    assert Path(m, 65535, interface=interface).run() == [1452]


@pytest.mark.parametrize("limit", [1220, 1400, 1473, 3000, 9000, 65_487, 65_527])
def test_peer_limit_becomes_the_top_of_the_search(limit):
    m = MtuDiscovery(upper_bound=65_527)
    m.set_peer_limit(limit)
    assert Path(m, 65535, interface=65_535).run() == [limit]
    assert m.current == limit


def test_peer_limit_clamps_the_current_mtu():
    m = MtuDiscovery(initial=1400)
    m.set_peer_limit(1300)
    assert m.current == 1300
    assert m.poll(0) == 0
    off = MtuDiscovery(initial=1400, enabled=False)
    off.set_peer_limit(1300)
    assert off.current == 1300


@pytest.mark.parametrize("limit", [0, 1, 1199])
def test_peer_limit_that_is_invalid_counts_as_1200(limit):
    m = MtuDiscovery(initial=1400)
    m.set_peer_limit(limit)
    assert m.current == 1200


def test_peer_limit_in_the_middle_of_a_search_drops_larger_sizes():
    m = MtuDiscovery()
    m.on_probe_sent(0, m.poll(0))
    m.set_peer_limit(1300)
    m.on_probe_lost(0)
    assert m.poll(0) == 1300
    m = MtuDiscovery()
    m.on_probe_sent(0, m.poll(0))
    m.set_peer_limit(1300)
    assert m.on_acked(0, 0, 1452) is True
    assert m.current == 1300


# ---------------------------------------------------------------- black holes


@pytest.mark.parametrize("enabled", [True, False])
def test_four_suspicious_bursts_are_a_black_hole(enabled):
    m = MtuDiscovery(initial=1400, enabled=enabled)
    assert lose(m, (1,), (3,), (5,), (7,), now=9) is True
    assert (m.current, m.black_holes, m.suspicious_bursts) == (1200, 1, 0)
    assert m.state == (COMPLETE if enabled else OFF)


def test_three_suspicious_bursts_are_not():
    m = MtuDiscovery(initial=1400)
    assert lose(m, (1,), (3,), (5,)) is False
    assert (m.current, m.black_holes, m.suspicious_bursts) == (1400, 0, 3)
    assert m.black_hole(0) is False  # no new loss, no new burst
    assert lose(m, (9,)) is True  # in a later batch


def test_consecutive_losses_are_one_burst():
    m = MtuDiscovery(initial=1400)
    assert lose(m, tuple(range(100))) is False
    assert m.suspicious_bursts == 1
    assert lose(m, (200, 201), (203, 204, 205)) is False
    assert m.suspicious_bursts == 3


def test_no_loss_is_no_burst():
    m = MtuDiscovery(initial=1400)
    for _ in range(10):
        assert m.black_hole(0) is False
    assert m.suspicious_bursts == 0


@pytest.mark.parametrize(("small", "suspicious"), [(900, 0), (1200, 0), (1201, 1)])
def test_burst_with_a_packet_of_minimum_size_is_not_suspicious(small, suspicious):
    m = MtuDiscovery(initial=1400)
    m.on_lost(1, 1400)
    m.on_lost(2, small)
    m.on_lost(3, 1400)
    assert m.black_hole(0) is False
    assert m.suspicious_bursts == suspicious


def test_losses_of_small_packets_alone_never_count():
    m = MtuDiscovery(initial=1400)
    assert lose(m, *((2 * n,) for n in range(50)), size=1200) is False
    assert (m.suspicious_bursts, m.current) == (0, 1400)


def test_earlier_ack_of_a_later_packet_as_large_explains_a_burst():
    m = MtuDiscovery(initial=1400)
    m.on_acked(0, 10, 1400)
    assert lose(m, (1,), (3,), (5,), (7,), (9,)) is False
    assert m.suspicious_bursts == 0


def test_ack_of_an_older_packet_explains_nothing():
    m = MtuDiscovery(initial=1400)
    m.on_acked(0, 0, 1400)
    assert lose(m, (1,), (3,), (5,), (7,)) is True


def test_ack_of_a_smaller_packet_explains_nothing():
    m = MtuDiscovery(initial=1400)
    m.on_acked(0, 10, 1399)
    assert lose(m, (1,), (3,), (5,)) is False
    m.on_acked(0, 20, 1399)
    assert m.suspicious_bursts == 3
    assert lose(m, (15,)) is True


def test_later_ack_clears_the_bursts_it_explains_and_only_those():
    m = MtuDiscovery(initial=1450)
    m.on_lost(1, 1300)
    m.on_lost(3, 1400)
    m.on_lost(5, 1450)
    m.black_hole(0)
    assert m.suspicious_bursts == 3
    m.on_acked(0, 8, 1200)
    assert m.suspicious_bursts == 3
    m.on_acked(0, 9, 1300)
    assert m.suspicious_bursts == 2
    m.on_acked(0, 4, 1450)  # sent before the last burst
    assert m.suspicious_bursts == 1
    m.on_acked(0, 10, 1450)
    assert m.suspicious_bursts == 0


def test_random_loss_of_packets_below_the_mtu_is_not_a_black_hole():
    m = MtuDiscovery(initial=1452)
    m.on_acked(0, 0, 1452)  # bulk before, then application datagrams of 1300 bytes
    for pn in range(1, 100):
        if pn % 4 or pn == 99:
            m.on_acked(0, pn, 1300 if pn % 7 else 60)
    assert lose(m, *((pn,) for pn in range(4, 97, 4)), size=1300) is False
    assert m.suspicious_bursts == 0 and m.current == 1452


def test_acks_of_many_sizes_remember_the_newest():
    m = MtuDiscovery(initial=1452)
    for n, size in enumerate((1450, 1440, 1430, 1420, 1410, 1400)):
        m.on_acked(0, 10 + n, size)
    assert lose(m, (5,), size=1421) is False
    assert m.suspicious_bursts == 0  # explained by 1430 at 12
    lose(m, (13,), size=1405)
    assert m.suspicious_bursts == 0  # explained by 1410 at 14
    lose(m, (13,), size=1411)
    assert m.suspicious_bursts == 1


def test_acks_out_of_order_explain_like_acks_in_order():
    m = MtuDiscovery(initial=1452)
    for pn, size in ((20, 1300), (18, 1400), (19, 1350), (17, 1250), (5, 1452)):
        m.on_acked(0, pn, size)
    for pn, size, explained in (
        (4, 1452, 1),
        (6, 1401, 0),
        (17, 1400, 1),
        (18, 1350, 1),
        (18, 1400, 0),
        (19, 1301, 0),
    ):
        before = m.suspicious_bursts
        lose(m, (pn,), size=size)
        assert m.suspicious_bursts == before + (not explained), (pn, size)


def test_acked_probe_clears_bursts():
    m = MtuDiscovery()
    Path(m, 1400).run()
    lose(m, (20,), (22,), (24,), size=1389)
    assert m.suspicious_bursts == 3
    size = m.poll(INTERVAL)
    m.on_probe_sent(30, size)
    assert m.on_acked(INTERVAL, 30, size)
    assert m.suspicious_bursts == 0


def test_lost_probes_are_no_burst():
    m = MtuDiscovery()
    Path(m, 1200).run()
    assert m.probes_lost == 6
    assert m.black_hole(0) is False and m.suspicious_bursts == 0


def test_black_hole_suspends_the_search_for_the_cooldown():
    m = MtuDiscovery()
    path = Path(m, 65535)
    path.run()
    assert lose(m, (10,), (12,), (14,), (16,), size=1452, now=5 * S)
    assert m.next_search == 5 * S + COOLDOWN
    assert m.poll(5 * S + COOLDOWN - 1) == 0
    path.now, path.probes, path.carries = 5 * S + COOLDOWN, [], 1300
    assert path.run() == [1452, 1326, 1263, 1294, 1326, 1326]
    assert m.current == 1294


@pytest.mark.parametrize("size", [1473, 2000, 8972, 32_000, 65_487])
def test_black_hole_for_large_packets_does_not_stay_at_the_minimum(size):
    m = MtuDiscovery(upper_bound=65_487)
    path = Path(m, size, interface=size)
    path.run()
    assert m.current == size
    assert lose(m, (10,), (12,), (14,), (16,), size=size, now=5 * S)
    assert m.current == 1200
    # What ordinary links carry comes back at once, without a probe of the size that vanished.
    path.now, path.probes, path.carries = 5 * S, [], 1472
    path.run()
    assert path.probes[0] == m.current == 1452 and max(path.probes) < size
    assert m.next_search == 5 * S + COOLDOWN
    # After the cooldown the large ones are tried again.
    path.now, path.probes, path.carries = 5 * S + COOLDOWN, [], size
    assert path.run()[0] == size
    assert m.current == size


def test_large_packets_lost_before_a_black_hole_do_not_blame_the_size_after_it():
    m = MtuDiscovery(upper_bound=65_487)
    path = Path(m, 8972, interface=8972)
    path.run()
    assert lose(m, (10,), (12,), (14,), (16,), size=8972)
    path.probes, path.carries = [], 1452
    path.run()
    assert m.current == 1452
    assert lose(m, (20,), (22,), (24,), (26,), (28,), size=8972) is False
    assert (m.current, m.black_holes) == (1452, 1)


def test_black_hole_after_a_black_hole_falls_again():
    m = MtuDiscovery(upper_bound=65_487)
    path = Path(m, 8972, interface=8972)
    path.run()
    assert lose(m, (10,), (12,), (14,), (16,), size=8972, now=1 * S)
    path.now, path.probes, path.carries = 1 * S, [], 1452
    path.run()
    assert lose(m, (30,), (32,), (34,), (36,), size=1452, now=2 * S)
    assert (m.current, m.black_holes, m.next_search) == (1200, 2, 2 * S + COOLDOWN)


def test_black_hole_forgets_the_probe_in_flight():
    m = MtuDiscovery(initial=1300)
    m.on_probe_sent(9, m.poll(0))
    assert lose(m, (1,), (3,), (5,), (7,), size=1300)
    assert m.in_flight == 0
    assert m.on_acked(0, 9, 1452) is False
    m.on_probe_lost(0)
    assert (m.current, m.state, m.probes_lost) == (1200, COMPLETE, 0)


def test_stragglers_of_a_black_hole_do_not_count_again():
    m = MtuDiscovery(initial=1400)
    assert lose(m, (1,), (3,), (5,), (7,), now=0)
    assert lose(m, (11,), (13,), (15,), (17,), now=1 * S) is False
    assert (m.black_holes, m.next_search, m.suspicious_bursts) == (1, COOLDOWN, 0)


def test_black_hole_with_a_higher_minimum_falls_to_that_minimum():
    m = MtuDiscovery(initial=1400, min_mtu=1280)
    assert lose(m, (1,), (3,), (5,), (7,), size=1280) is False
    assert lose(m, (11,), (13,), (15,), (17,), size=1281) is True
    assert m.current == 1280


def test_burst_storage_is_bounded():
    m = MtuDiscovery(initial=1400)
    for pn in range(0, 200_000, 2):
        m.on_lost(pn, 1400)
        assert m.suspicious_bursts <= 8
    assert m.black_hole(0) is True


def test_restart_begins_again_from_the_minimum():
    m = MtuDiscovery()
    path = Path(m, 65535)
    path.run()
    lose(m, (20,), (22,), (24,), size=1452)
    m.on_lost(26, 1452)
    m.restart(9)
    assert (m.current, m.state, m.suspicious_bursts) == (1200, SEARCHING, 0)
    assert m.black_hole(9) is False and m.suspicious_bursts == 0
    path.probes = []
    assert path.run() == [1452]


def test_restart_keeps_the_peer_limit_and_stays_off_when_off():
    m = MtuDiscovery()
    m.set_peer_limit(1300)
    m.restart(0)
    assert Path(m, 65535).run()[-1] == 1300
    off = MtuDiscovery(initial=1400, enabled=False)
    off.restart(0)
    assert (off.state, off.current, off.poll(0)) == (OFF, 1200, 0)


def test_restart_forgets_the_probe_in_flight():
    m = MtuDiscovery()
    m.on_probe_sent(1, m.poll(0))
    m.restart(0)
    assert m.on_acked(0, 1, 1452) is False
    assert (m.current, m.poll(0)) == (1200, 1452)


# ---------------------------------------------------------------- invariants


@settings(deadline=None)
@given(
    initial=st.integers(0, 65535),
    bound=st.integers(0, 65535),
    change=st.integers(0, 65535),
    limit=st.integers(0, 65535),
    interface=st.integers(-1, 70_000),
    carries=st.integers(1200, 65535),
    hears=st.booleans(),
)
def test_any_search_ends_with_a_size_the_path_carries(
    initial, bound, change, limit, interface, carries, hears
):
    m = MtuDiscovery(initial=initial, upper_bound=bound, min_change=change)
    m.set_peer_limit(limit)
    start = m.current
    path = Path(m, carries, interface=interface, hears=hears)
    probes = path.run()
    if interface < 0:
        assert probes == []
        return
    bound = min(bound, max(interface, 1200) if interface else 1452)
    if limit <= 1472:
        bound = min(bound, 1452)
    assert all(start < p <= min(bound, max(limit, 1200)) for p in probes)
    assert m.current == max([start, *(p for p in probes if p <= carries)])
    # Whatever is left above is smaller than two minimum changes.
    if start <= carries and len(probes) < 48:
        assert min(bound, max(limit, 1200), carries) - m.current < 2 * max(change, 1)


class Oracle:
    """The definition of a suspicious burst, with unlimited memory."""

    def __init__(self, min_mtu: int) -> None:
        self.min_mtu, self.acked, self.bursts = min_mtu, [], []

    def explained(self, end: int, smallest: int) -> bool:
        return any(pn > end and size >= smallest for pn, size in self.acked)

    def close(self, batch: list[tuple[int, int]], current: int) -> None:
        groups: list[list[tuple[int, int]]] = []
        for pn, size in batch:
            if groups and pn == groups[-1][-1][0] + 1:
                groups[-1].append((pn, size))
            else:
                groups.append([(pn, size)])
        for group in groups:
            end, smallest = group[-1][0], min(size for _, size in group)
            if self.min_mtu < smallest <= current and not self.explained(end, smallest):
                self.bursts.append((end, smallest))

    def count(self) -> int:
        self.bursts = [b for b in self.bursts if not self.explained(*b)]
        return len(self.bursts)


@settings(deadline=None)
@given(st.data())
def test_detector_agrees_with_the_definition(data):
    """Few sizes, so that the bounded memory of the detector holds all that matters."""
    m, oracle = MtuDiscovery(initial=1500, upper_bound=1500), Oracle(1200)
    sizes = st.sampled_from([1100, 1300, 1400, 1500])
    pn = 0
    for _ in range(data.draw(st.integers(1, 8))):
        flight = data.draw(st.lists(st.tuples(sizes, st.booleans()), min_size=1, max_size=12))
        sent = [(pn + i, size, lost) for i, (size, lost) in enumerate(flight)]
        pn += len(flight)
        acks = [(n, size) for n, size, lost in sent if not lost]
        for n, size in data.draw(st.permutations(acks)):
            m.on_acked(0, n, size)
            oracle.acked.append((n, size))
        losses = [(n, size) for n, size, lost in sent if lost]
        for n, size in losses:
            m.on_lost(n, size)
        before = m.current
        oracle.close(losses, before)
        fell = m.black_hole(0)
        if oracle.count() > 3:
            assert fell and before > 1200
            oracle.bursts.clear()
        else:
            assert not fell
        assert m.suspicious_bursts == len(oracle.bursts)


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("poll"), st.integers(0, 2**62), st.integers(0, 2**64 - 1)),
        st.tuples(st.just("set_route_limit"), st.integers(0, 2**62), st.integers(-1, 2**31 - 1)),
        st.tuples(
            st.just("too_big"),
            st.integers(0, 2**62),
            st.integers(0, 65535),
            st.integers(-1, 70_000),
        ),
        st.tuples(st.just("on_probe_sent"), st.integers(0, 30), st.integers(0, 65535)),
        st.tuples(
            st.just("on_acked"), st.integers(0, 2**62), st.integers(0, 30), st.integers(0, 65535)
        ),
        st.tuples(st.just("on_probe_lost"), st.integers(0, 2**62)),
        st.tuples(st.just("on_lost"), st.integers(0, 2**64 - 1), st.integers(0, 65535)),
        st.tuples(st.just("black_hole"), st.integers(0, 2**62)),
        st.tuples(st.just("set_peer_limit"), st.integers(0, 65535)),
        st.tuples(st.just("restart"), st.integers(0, 2**62)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(CALLS)
def test_any_calls_keep_the_mtu_within_its_limits(calls):
    m = MtuDiscovery(initial=1300)
    limit = 65535
    for name, *args in calls:
        getattr(m, name)(*args)
        if name == "set_peer_limit":
            limit = max(args[0], 1200)
        assert 1200 <= m.current <= limit
        assert m.suspicious_bursts <= 8
        assert m.state in (SEARCHING, COMPLETE)
