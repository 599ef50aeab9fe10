import numpy as np

from trainables.data.tokens import Ragged
from trainables.tasks._scoring import SharedRows

END = 9


def test_candidates_that_differ_in_the_last_token_share_a_row():
    rows = SharedRows(Ragged.of([[1, 2, 3, END], [1, 2, 4, END], [1, 2, 5, END]]))
    question_of, response_of, row_of = rows(np.array([[0, 1, -1], [2, 0, 1]]), np.array([1, 2]))
    assert question_of.tolist() == [0, 1]
    assert response_of.tolist() == [1, 2]  # the correct ones
    assert row_of[:, :2].tolist() == [[0, 0], [1, 1]]
    assert row_of[1, 2] == 1


def test_other_candidates_have_their_own_rows():
    # 0 and 1 differ in their first token. 2 begins with the first two tokens of 1, so its row scores 1 as well.
    rows = SharedRows(Ragged.of([[1, 2, 3, END], [4, 5, 6, END], [4, 5, 7, 8, END]]))
    question_of, response_of, row_of = rows(np.array([[0, 1, 2], [0, 2, 1]]), np.array([0, 2]))
    assert question_of.tolist() == [0, 0, 0, 1, 1]
    assert response_of.tolist() == [0, 1, 2, 2, 0]
    assert row_of.tolist() == [[0, 1, 2], [4, 3, 3]]
