"""Candidate answers: which rows of a batch give their probabilities, what guessing gives, and a figure of it all."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainables.tasks._tokens import Encoded, Ragged

__all__ = ["Plan", "chance", "collapsed", "draw_accuracy", "majority", "spread"]


def spread(rows: np.ndarray, tasks: np.ndarray, size: int | None) -> np.ndarray:
    """The first `size` of `rows`, or all, taking turns between the tasks they belong to (tasks[row])."""
    turn = np.zeros(len(rows), np.int64)
    for task in np.unique(tasks[rows]):
        of = tasks[rows] == task
        turn[of] = np.arange(of.sum())
    return rows if size is None else rows[np.argsort(turn, kind="stable")[:size]]


class Plan:
    """Which rows (a prompt with one response behind it) give the log-probabilities of every candidate's tokens.

    A row gives those of each response that is alike but for its last token, or longer than it: a place sees only what
    is before it. So mostly one row serves all of a record's candidates.
    table: the responses, each with the end of text behind it, which is not counted.
    """

    def __init__(self, table: Ragged):
        rows = [tuple(row[:-1]) for row in table.rows()]
        self.gives = np.array([[two[: len(one) - 1] == one[:-1] for two in rows] for one in rows])

    def __call__(self, responses: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """responses (n, K), -1 behind the last; right (n,), the right ones. Returns each row's record and response, and
        the row of each candidate, (n, K). A record's first row has the right response."""
        records: list[int] = []
        which: list[int] = []
        row_of = np.zeros_like(responses)
        for record, candidates in enumerate(responses):
            begin = len(records)
            records.append(record)
            which.append(right[record])
            for k, candidate in enumerate(candidates[candidates >= 0]):
                row = next((row for row in range(begin, len(which)) if self.gives[candidate, which[row]]), len(which))
                if row == len(which):
                    records.append(record)
                    which.append(candidate)
                row_of[record, k] = row
        return np.array(records), np.array(which), row_of


def chance(records: Encoded, rows: np.ndarray) -> np.ndarray:
    """What guessing gives, for each of the rows: 1 / number of candidates."""
    return 1 / (records.responses[rows] >= 0).sum(1)


def majority(records: Encoded, rows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Whether each row's answer is the one that is right most often in the training rows with the same candidates (the
    first candidate where there are none)."""
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for candidates, answer in zip(
        records.responses[training].tolist(), records.answers[training].tolist(), strict=True
    ):
        counts[tuple(candidates)][answer] += 1
    guess = {candidates: count.most_common(1)[0][0] for candidates, count in counts.items()}
    guessed = [guess.get(tuple(candidates), 0) for candidates in records.responses[rows].tolist()]
    return np.array(guessed) == records.answers[rows]


def collapsed(candidates: np.ndarray, chosen: np.ndarray, right: np.ndarray) -> bool:
    """Whether what was chosen depends on the candidates alone and never on the question.

    True if, among records with the same candidates, the same one is always chosen although different ones are right;
    for each list of candidates of which records differ in what is right, and there is at least one. Nothing follows
    from a list that one record alone has. candidates: (n, K). chosen, right: (n,), places in the list.
    """
    lists, of = np.unique(candidates, axis=0, return_inverse=True)
    groups = [of.ravel() == i for i in range(len(lists))]
    telling = [group for group in groups if len(set(right[group].tolist())) > 1]
    return bool(telling) and all(len(set(chosen[group].tolist())) == 1 for group in telling)


def draw_accuracy(found: Mapping[str, Mapping[str, Mapping[str, Any]]], levels: Sequence[str]) -> Any:
    """split -> task -> {num, chance, majority, level: {acc, standard_error}} as bars, chance and majority as marks."""
    from matplotlib.figure import Figure

    most = max(map(len, found.values()))
    figure = Figure(figsize=(3 + 1.1 * most, 3.2 * len(found)), layout="constrained")
    for axes, (split, tasks) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        width = 0.8 / len(levels)
        for i, level in enumerate(levels):
            x = np.arange(len(tasks)) + (i - (len(levels) - 1) / 2) * width
            values = [task[level] for task in tasks.values()]
            heights, errors = ([value[name] for value in values] for name in ("acc", "standard_error"))
            axes.bar(
                x,
                heights,
                0.9 * width,
                yerr=errors,
                capsize=3,
                color=("#4477aa", "#ee6677")[i],
                label=f"sparsity {level}",
            )
        for name, style in (("chance", "-"), ("majority", ":")):
            heights = [task[name] for task in tasks.values()]
            places = np.arange(len(tasks))
            axes.hlines(heights, places - 0.45, places + 0.45, color="black", linestyle=style, label=name)
        axes.set_xticks(range(len(tasks)), [f"{name}\nn = {task['num']}" for name, task in tasks.items()])
        axes.set(ylabel="accuracy", ylim=(0, 1), title=f"{split}: accuracy ± standard error")
        axes.legend(fontsize=8, ncols=2)
    return figure
