"""The rhythm of a link, in virtual time."""

from __future__ import annotations

import pytest

from iroh_fast.lookup.mdns.rounds import MAX_SWARM, Rounds, cutoff_of, grace_s


def rounds(random: float = 0.5, cadence: float = 0.7) -> Rounds:
    made = Rounds(0.0, cadence=cadence, random=lambda: random, first=0.0)
    assert made.due(0.0) == "ask"
    made.rest(0.0, 1)
    return made


@pytest.mark.parametrize(
    ("cadence", "cutoff"), [(0.1, 1), (0.4, 1), (0.7, 2), (1.0, 3), (30.0, 75)]
)
def test_cutoff_follows_the_cadence(cadence: float, cutoff: int) -> None:
    assert cutoff_of(cadence) == cutoff


def test_grace_is_2_1_s_for_two_and_1_05_s_for_each_of_many() -> None:
    assert grace_s(0.7, 1) == pytest.approx(2.1)
    assert grace_s(0.7, 2) == pytest.approx(2.1)
    assert grace_s(0.7, 10) == pytest.approx(10.5)


@pytest.mark.parametrize(
    ("random", "swarm", "wait"), [(0.0, 1, 0.7), (1.0, 1, 0.77), (0.5, 10, 1.05), (1.0, 20, 2.1)]
)
def test_wait_for_a_question_grows_with_the_swarm(random: float, swarm: int, wait: float) -> None:
    node = Rounds(0.0, cadence=0.7, random=lambda: random)
    node.rest(10.0, swarm)
    assert node.deadline - 10.0 == pytest.approx(wait)
    assert node.due(10.0 + wait - 1e-9) is None
    assert node.due(10.0 + wait + 1e-9) == "ask" and node.families == ()


@pytest.mark.parametrize(
    ("random", "swarm", "wait"), [(0.0, 9, 0.0), (1.0, 1, 0.05), (1.0, 2, 0.1), (0.5, 40, 1.0)]
)
def test_answers_are_spread_over_the_swarm(random: float, swarm: int, wait: float) -> None:
    node = rounds(random)
    node.asked(5.0, swarm, 6)
    assert node.deadline - 5.0 == pytest.approx(wait)
    assert node.due(5.0 + wait) == "answer" and node.families == (6,)


def test_enough_answers_of_others_end_a_round() -> None:
    node = rounds()
    node.asked(5.0, 10, 4)
    node.heard(5.01, 10, 1, 4)
    assert node.deadline < 5.5
    node.heard(5.02, 10, 1, 4)
    assert node.deadline == pytest.approx(5.02 + 0.7 + 0.35)
    node.asked(6.0, 10, 4)
    node.heard(6.0, 10, 2, 4)  # one message about two peers
    assert node.deadline > 6.7


def test_answers_outside_of_a_round_do_not_count() -> None:
    node = rounds()
    before = node.deadline
    node.heard(0.1, 2, 5, 4)
    assert node.deadline == before
    node.asked(0.2, 2, 4)
    assert node.due(node.deadline) == "answer"


def test_a_second_question_in_a_round_is_answered_together_with_the_first() -> None:
    node = rounds()
    node.asked(5.0, 2, 4)
    due = node.deadline
    node.asked(5.01, 2, 6)
    node.asked(5.02, 2, 4)
    assert node.deadline == due and node.families == (4, 6)


def test_enough_answers_over_one_ip_version_end_the_round_there_alone() -> None:
    node = rounds()
    node.asked(5.0, 10, 4)
    node.asked(5.0, 10, 6)
    due = node.deadline
    node.heard(5.01, 10, 2, 4)
    assert node.deadline == due and node.families == (6,)
    node.heard(5.02, 10, 2, 6)
    assert node.deadline > 5.7 and node.families == ()


def test_an_answer_waits_where_one_was_given_just_before() -> None:
    node = rounds(0.0)
    node.asked(5.0, 2, 4, not_before=5.2)
    assert node.deadline == 5.2


def test_who_answered_lets_others_go_first_and_then_less_and_less() -> None:
    node = rounds(0.0)

    def delay(at: float, swarm: int = 8) -> float:
        node.asked(at, swarm, 4)
        return node.deadline - at

    assert delay(10.0) == 0.0
    node.answered(10.0, 8)
    waits = []
    for at in (20.0, 30.0, 40.0, 50.0, 60.0):
        waits.append(delay(at))
        node.heard(at, 8, 2, 4)  # others answered
    assert waits == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert delay(70.0) == 0.0
    node.answered(70.0, 8)
    assert delay(80.0, 1000) == pytest.approx(1.0)  # ten steps at most


def test_a_forged_swarm_slows_nobody_down_beyond_the_limit() -> None:
    node = rounds(1.0)
    node.asked(5.0, 10**6, 4)
    assert node.deadline - 5.0 == pytest.approx(0.05 * MAX_SWARM)
    node.rest(10.0, 10**6)
    assert node.deadline - 10.0 == pytest.approx(0.7 + 0.07 * MAX_SWARM)
