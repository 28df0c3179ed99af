"""``bench/links.py``: how it judges, and that it measures a link."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import missing

BENCH = Path(__file__).parents[2] / "bench"
pytestmark = pytest.mark.source_tree
if not BENCH.is_dir():
    pytest.skip("bench/ is not part of what is installed", allow_module_level=True)
sys.path.append(str(BENCH))

import links_stats as figures  # noqa: E402
from links_cells import CELLS, bdp_packets  # noqa: E402

STEADY = [(ms, 12_500) for ms in range(8000)]  # 100 Mbit/s
WHY_NOT = missing()


def with_pause(start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    return [(ms, size) for ms, size in STEADY if not start_ms <= ms < end_ms]


def test_a_transfer_is_what_arrives_within_its_seconds_of_dialing() -> None:
    early, late = (999_000, 10**9), (1_005_000, 10**9)
    arrivals = [early, *((1_000_000 + ms, size) for ms, size in STEADY), late]
    sent = {"started": 1000.0, "sent": 200, "again": 5, "cpu_s": 0.5}
    found = figures.transfer(sent, {"arrivals": arrivals, "cpu_s": 1.5}, 5.0)
    assert found["goodput_mbit_s"] == pytest.approx(100)
    assert found["first_second_mb"] == pytest.approx(12.5)
    assert found["again_share"] == pytest.approx(0.025)
    assert found["cpu_s_per_gib"] == pytest.approx(2 / (62.5e6 / 2**30))


def test_a_transfer_of_which_nothing_arrives_has_figures() -> None:
    sent = {"started": 1000.0, "sent": 0, "again": 0, "cpu_s": 0.5}
    found = figures.transfer(sent, {"arrivals": [], "cpu_s": 0.0}, 5.0)
    assert found["goodput_mbit_s"] == found["first_second_mb"] == found["again_share"] == 0
    assert json.loads(json.dumps(found))["cpu_s_per_gib"] == float("inf")


@pytest.mark.parametrize(("back_ms", "expected"), [(5000, 0.0), (5800, 0.75), (7900, float("inf"))])
def test_an_outage_is_over_when_half_a_second_is_full(back_ms: int, expected: float) -> None:
    series = with_pause(3000, back_ms)
    assert figures.recovery(series, 5.0, 8.0, 100.0) == pytest.approx(expected)


def test_shares_add_up_and_nothing_has_no_share() -> None:
    assert figures.shares([30, 10]) == [0.75, 0.25]
    assert figures.shares([0, 0]) == [0, 0]


def test_medians_are_taken_per_figure() -> None:
    rounds = [{"a": 3.0, "b": 1.0}, {"a": 1.0}, {"a": 2.0, "b": 5.0}]
    assert figures.medians(rounds) == {"a": 2.0, "b": 3.0}


def test_a_cell_is_judged_by_tcp_and_by_iroh() -> None:
    def found(goodput: float, first: float) -> dict[str, float]:
        return {"goodput_mbit_s": goodput, "first_second_mb": first, "queue_p95_ms": 61.0}

    rivals = {"tcp-bbr": found(100, 10), "iroh+memmove": found(80, 9), "iroh_fast": found(94, 9)}
    verdicts = figures.judge_transfer("wan", rivals, 40, deep=True)
    assert [(v.what, v.reached) for v in verdicts] == [
        ("goodput / TCP BBR", False),
        ("first second / TCP BBR", True),
        ("goodput / real iroh", True),
        ("queueing delay p95 / base RTT", False),
    ]
    assert "MISS" in str(verdicts[0]) and "0.94" in str(verdicts[0])
    del rivals["iroh_fast"]
    assert figures.judge_transfer("wan", rivals, 40, deep=True) == []


def test_an_outage_is_judged_by_what_follows_it() -> None:
    own = {"goodput_mbit_s": 1.0, "first_second_mb": 1.0, "recovery_s": float("inf")}
    [verdict] = figures.judge_transfer("outage", {"iroh_fast": own}, 40, deep=False)
    assert not verdict.reached
    [verdict] = figures.judge_transfer(
        "outage", {"iroh_fast": own | {"recovery_s": 1.9}}, 40, False
    )
    assert verdict.reached


@pytest.mark.parametrize(
    ("other", "share", "reached"),
    [
        ("iroh_fast", 0.41, True),
        ("iroh_fast", 0.39, False),
        ("tcp-cubic", 0.25, True),
        ("tcp-cubic", 0.76, False),
        ("tcp-bbr", 0.36, True),
        ("tcp-bbr", 0.34, False),
    ],
)
def test_two_flows_are_judged_by_the_smaller_share(other: str, share: float, reached: bool) -> None:
    found = {"share_0": share, "share_1": 1 - share}
    [verdict] = figures.judge_fair("fair", ["iroh_fast", other], found)
    assert verdict.reached is reached


def test_the_links_are_many_and_their_transfers_see_several_round_trips() -> None:
    assert len(CELLS) >= 16
    for cell in CELLS.values():
        assert cell.seconds * 1e3 >= 15 * cell.base_rtt_ms, cell.name
    assert bdp_packets(100, 20) == 333
    assert sum(cell.deep for cell in CELLS.values()) == 1
    assert CELLS["outage"].outage_end_s == 5


@pytest.mark.lab
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_transfer_and_two_flows_are_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "links.py"), "--cells", "mobile,fair-cubic", "--quick",
         "--rivals", "iroh_fast,tcp-bbr", "--seconds", "0.5",
         "--json", str(tmp_path / "links.json"), "--chart", str(tmp_path / "links.svg")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    data = json.loads((tmp_path / "links.json").read_text())
    assert data["failures"] == [], done.stdout + done.stderr
    for rival in ("iroh_fast", "tcp-bbr"):
        found = data["results"]["mobile"][rival]["median"]
        assert 0 < found["goodput_mbit_s"] < 21
    both = data["results"]["fair-cubic"]["iroh_fast+tcp-cubic"]["median"]
    assert both["share_0"] + both["share_1"] == pytest.approx(1)
    assert "goodput / TCP BBR" in done.stdout
    assert "20 Mbit/s, 10 ms, 3 % loss" in (tmp_path / "links.svg").read_text()


@pytest.mark.skipif(WHY_NOT is None, reason="links can be emulated here")
def test_where_links_cannot_be_emulated_the_reason_is_told() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "links.py"), "--quick"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert str(WHY_NOT) in done.stderr
