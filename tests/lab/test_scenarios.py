"""Scenarios of the lab, a few short ones; all of them run by ``python -m tests.lab run``, with everything in between."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

import tests.lab.scenarios as scenarios
from tests.lab import matrix
from tests.lab.__main__ import main
from tests.lab.matrix import Cell
from tests.lab.stage import SCENARIOS, Failed, Pairing, Result, Scenario, Stage, play
from tests.lab.test_world_nodes import needs
from tests.lab.world import lacking

in_lab = pytest.mark.skipif(lacking() is not None, reason=f"no lab: {lacking()}")


async def passes(name: str, pairing: str) -> Result:
    chosen = Pairing.parse(pairing)
    needs(chosen.client, chosen.server, chosen.relay)
    result = await play(name, chosen)
    assert result.error is None, f"{name} {chosen}: {result.error} {result.figures}"
    return result


@pytest.mark.lab
@in_lab
@pytest.mark.parametrize("pairing", ["ours/ours", "ours/rust/iroh-relay", "rust/ours"])
async def test_two_homes_become_direct(pairing: str) -> None:
    result = await passes("P1", pairing)
    assert result.figures["direct_s"] > 0


@pytest.mark.lab
@in_lab
@pytest.mark.parametrize("pairing", ["ours/ours", "ours/rust/iroh-relay", "rust/ours"])
async def test_connection_outlives_its_relay(pairing: str) -> None:
    await passes("P15", pairing)


@pytest.mark.lab
@in_lab
@pytest.mark.parametrize("name", ["P20-client", "P20-server"])
async def test_connection_becomes_direct_when_one_end_moves_to_a_network_that_allows_it(
    name: str,
) -> None:
    await passes(name, "ours/ours")


@pytest.mark.lab
@in_lab
async def test_a_check_that_does_not_hold_is_the_result_and_all_processes_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(stage: Stage) -> None:
        await stage.client(stage.home(), relays=[])
        stage.note("seconds", 1 / 3)
        stage.check(False, "nothing came")

    monkeypatch.setitem(SCENARIOS, "fails", Scenario("fails", "", 30, fails, ("ours",)))
    result = await play("fails", Pairing())
    assert result.error == "Failed: nothing came" and result.figures == {"seconds": 0.3333}
    (node,) = result.nodes
    assert not Path("/proc", str(node.pid)).exists()


@pytest.mark.lab
@in_lab
def test_command_tells_the_timeline_and_keeps_what_a_failed_scenario_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(stage: Stage) -> None:
        """Nothing."""
        node = await stage.client(stage.home(), relays=[])
        stage.mark("the network goes")
        node.host.unplug()
        stage.check(False, "nothing came")

    monkeypatch.setitem(SCENARIOS, "P0", Scenario("P0", "", 30, fails, ("ours",)))
    kept, pictures = tmp_path / "kept", tmp_path / "pictures"
    options = ["--svg", str(pictures), "--keep", str(kept), "--json", str(tmp_path / "all.json")]
    assert (
        main(["run", "P0", "--pair", "ours/ours", "--pair", "rust/ours", "--capture", *options])
        == 1
    )
    told = capsys.readouterr().out
    assert "P0, ours/ours" in told and "FAILED: Failed: nothing came" in told
    assert "scenario  the network goes" in told and "client    started (ours)" in told
    assert "P0, rust/ours: only of ours" in told and "0 of 1 scenarios" in told
    assert (pictures / "P0-ours-ours.svg").read_text().startswith("<svg")
    names = {path.name for path in (kept / "P0-ours-ours").iterdir()}
    assert {"client.node.log", "host1.pcap"} <= names and not any("key" in name for name in names)
    (facts,) = json.loads((tmp_path / "all.json").read_text())
    assert facts["error"] and facts["events"]["client"][0]["event"] == "ready"


# ---------------------------------------------------------------- without a lab
def test_command_names_the_scenarios_and_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(SCENARIOS)
    assert main(["run", "P0"]) == 1
    assert "no such scenario: P0" in capsys.readouterr().err


def test_every_scenario_says_what_it_is_about() -> None:
    assert scenarios.__all__
    assert all(s.about for s in SCENARIOS.values()), [
        n for n, s in SCENARIOS.items() if not s.about
    ]


@pytest.mark.parametrize("text", ["ours", "ours/theirs", "ours/ours/theirs", "a/b/c/d", ""])
def test_pairing_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="none of|form"):
        Pairing.parse(text)


def test_pairing_reads_as_it_is_written() -> None:
    assert Pairing.parse("ours/rust") == Pairing("ours", "rust", "ours")
    assert str(Pairing.parse("rust/ours/iroh-relay")) == "rust/ours over iroh-relay"


@pytest.mark.parametrize(
    ("values", "part", "wanted"),
    [([3, 1, 2], 0.5, 2), ([1, 2], 0.5, 1), (range(1, 21), 0.95, 19), ([7], 0.95, 7)],
)
def test_quantile_is_a_value_that_was_measured(
    values: list[float], part: float, wanted: float
) -> None:
    assert matrix.quantile(values, part) == wanted


def test_quantile_of_nothing_is_no_number() -> None:
    assert math.isnan(matrix.quantile([], 0.5))


def test_matrix_expects_what_no_side_can_guess_to_stay_relayed() -> None:
    relayed = {(c, s) for c in matrix.CORE for s in matrix.CORE if not matrix.punchable(c, s)}
    assert relayed == {("moderate", "strict"), ("strict", "moderate"), ("strict", "strict")}


def cells() -> list[Cell]:
    return [
        Cell("open", "open", "ours/ours", True, 2, 2, [0.1, 0.3], [0.2, 0.2]),
        Cell("open", "strict", "ours/ours", True, 2, 1, [0.5], [0.4], ["Failed: nothing came"]),
        Cell("strict", "open", "ours/ours", True, 1, 1, [0.2], [0.2]),
        Cell("strict", "strict", "ours/ours", False, 3, 3),
    ]


def test_table_shows_every_cell_and_what_failed() -> None:
    text = matrix.tabulate(cells(), ("open", "strict"))
    assert "2/2   200 ms" in text and "!1/2   500 ms" in text and "3/3 relayed" in text
    assert "! ours/ours: open to strict: Failed: nothing came" in text
    (row,) = matrix.summary(cells())
    assert (row["punched"], row["of"], row["relayed"], row["of_relayed"]) == (4, 5, 3, 3)
    assert (row["client_s_p50"], row["client_s_p95"]) == (0.2, 0.5)


def test_matrix_with_a_failed_try_is_none() -> None:
    with pytest.raises(Failed, match="open to strict"):
        matrix.expect(cells())
    matrix.expect(cells()[2:])


def test_matrix_knows_its_kinds() -> None:
    parser = argparse.ArgumentParser()
    matrix.add_parser(parser.add_subparsers())
    with pytest.raises(ValueError, match="no such NAT: mild"):
        matrix.run(parser.parse_args(["matrix", "--nats", "open,mild"]))
