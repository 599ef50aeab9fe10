import numpy as np
import pytest

from trainables.data.tokens import EncodedQuestions, Ragged
from trainables.tasks._answer_metrics import chance, ignores_question, majority

END = 9


def questions(candidates, answers):
    return EncodedQuestions(
        Ragged.of([[1]] * len(answers)),
        Ragged.of([[1, END]]),
        np.array(candidates),
        np.array(answers),
        np.zeros(len(answers), int),
        ["a"],
    )


def test_chance_and_majority_by_hand():
    candidates = [[0, 1, -1], [0, 1, -1], [0, 1, -1], [2, 3, 4], [2, 3, 4], [0, 1, -1], [5, 6, -1], [5, 6, -1]]
    asked = questions(candidates, [1, 1, 0, 2, 0, 1, 0, 1])
    training, rows = np.array([0, 1, 2, 3]), np.array([5, 2, 4, 3, 6, 7])
    assert chance(asked, rows).tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    # [0, 1]: answer 1, correct in two of three training questions. [2, 3, 4]: answer 2. [5, 6] is not in the training
    # questions: the first answer.
    assert majority(asked, rows, training).tolist() == [True, False, False, True, True, False]


def test_ignores_question_by_hand():
    candidates = np.array([[0, 1], [0, 1], [2, 3], [2, 3], [4, 5]])
    right = np.array([0, 1, 0, 1, 1])
    assert ignores_question(candidates, np.array([1, 1, 0, 0, 0]), right)
    assert not ignores_question(candidates, np.array([1, 0, 0, 0, 0]), right)
    assert not ignores_question(candidates[::2], np.zeros(3), right[::2])  # no two questions have the same candidates
    assert not ignores_question(candidates, np.zeros(5), np.zeros(5))  # always the first, which is always correct
    assert ignores_question(candidates, np.full(5, -1), right)  # all scores are nan
