import numpy as np
import pytest

from trainables.tasks._answers import Plan, chance, collapsed, majority, spread
from trainables.tasks._tokens import Encoded, Ragged

END = 9


def records(responses, answers, tasks=None):
    return Encoded(
        Ragged.of([[1]] * len(answers)),
        Ragged.of([[1, END]]),
        np.array(responses),
        np.array(answers),
        np.zeros(len(answers), int) if tasks is None else np.array(tasks),
        ["a", "b", "c"],
    )


def test_spread_takes_turns_between_tasks():
    tasks = np.array([0, 0, 0, 0, 1, 1, 2])
    rows = np.array([3, 1, 0, 6, 2, 5, 4])
    assert spread(rows, tasks, None).tolist() == rows.tolist()
    assert spread(rows, tasks, 99).tolist() == [3, 6, 5, 1, 4, 0, 2]
    assert spread(rows, tasks, 3).tolist() == [3, 6, 5]
    assert spread(rows, tasks, 5).tolist() == [3, 6, 5, 1, 4]


def test_one_row_serves_candidates_that_differ_in_their_last_token():
    plan = Plan(Ragged.of([[1, 2, 3, END], [1, 2, 4, END], [1, 2, 5, END]]))
    record, which, row_of = plan(np.array([[0, 1, -1], [2, 0, 1]]), np.array([1, 2]))
    assert record.tolist() == [0, 1]
    assert which.tolist() == [1, 2]  # the right ones
    assert row_of[:, :2].tolist() == [[0, 0], [1, 1]]
    assert row_of[1, 2] == 1


def test_other_candidates_have_rows_of_their_own():
    # 0 and 1 differ early; 2 is 1 with more behind it, so that it gives all of 1's too
    plan = Plan(Ragged.of([[1, 2, 3, END], [4, 5, 6, END], [4, 5, 7, 8, END]]))
    record, which, row_of = plan(np.array([[0, 1, 2], [0, 2, 1]]), np.array([0, 2]))
    assert record.tolist() == [0, 0, 0, 1, 1]
    assert which.tolist() == [0, 1, 2, 2, 0]
    assert row_of.tolist() == [[0, 1, 2], [4, 3, 3]]


def test_chance_and_majority_by_hand():
    responses = [[0, 1, -1], [0, 1, -1], [0, 1, -1], [2, 3, 4], [2, 3, 4], [0, 1, -1], [5, 6, -1], [5, 6, -1]]
    asked = records(responses, [1, 1, 0, 2, 0, 1, 0, 1])
    training, rows = np.array([0, 1, 2, 3]), np.array([5, 2, 4, 3, 6, 7])
    assert chance(asked, rows).tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    # true/false: index 1, twice of three; the three answers: index 2; the last two's candidates never came: the first
    assert majority(asked, rows, training).tolist() == [True, False, False, True, True, False]


def test_collapsed_by_hand():
    candidates = np.array([[0, 1], [0, 1], [2, 3], [2, 3], [4, 5]])
    right = np.array([0, 1, 0, 1, 1])
    assert collapsed(candidates, np.array([1, 1, 0, 0, 0]), right)
    assert not collapsed(candidates, np.array([1, 0, 0, 0, 0]), right)
    assert not collapsed(candidates[::2], np.zeros(3), right[::2])  # no two questions share their candidates
    assert not collapsed(candidates, np.zeros(5), np.zeros(5))  # always the first, and always right
    assert collapsed(candidates, np.full(5, -1), right)  # no number anywhere
