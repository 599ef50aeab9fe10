import numpy as np

from trainables.tasks._question_batches import take_turns


def test_chooses_the_first_rows_of_each_task_in_turn():
    tasks = np.array([0, 0, 0, 0, 1, 1, 2])
    rows = np.array([3, 1, 0, 6, 2, 5, 4])
    assert take_turns(rows, tasks, None).tolist() == rows.tolist()
    assert take_turns(rows, tasks, 99).tolist() == [3, 6, 5, 1, 4, 0, 2]
    assert take_turns(rows, tasks, 3).tolist() == [3, 6, 5]
    assert take_turns(rows, tasks, 5).tolist() == [3, 6, 5, 1, 4]
