"""Metrics of answers beyond accuracy, and a figure of accuracies."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainables.data.tokens import EncodedQuestions

__all__ = ["chance", "draw_accuracy", "ignores_question", "majority"]


def chance(questions: EncodedQuestions, rows: np.ndarray) -> np.ndarray:
    """Expected accuracy of a random guess, 1 / number of candidates, float64 (n,)."""
    return 1 / (questions.candidates[rows] >= 0).sum(1)


def majority(questions: EncodedQuestions, rows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Whether the most frequent training answer is correct for each row, bool (n,).

    Frequencies are counted among training questions with the same candidates. Without any, the guess is the first one.

    Args:
        questions: The questions.
        rows: int64 (n,), questions to answer.
        training: int64, training questions.
    """
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for candidates, answer in zip(
        questions.candidates[training].tolist(), questions.answers[training].tolist(), strict=True
    ):
        counts[tuple(candidates)][answer] += 1
    guess = {candidates: count.most_common(1)[0][0] for candidates, count in counts.items()}
    guessed = [guess.get(tuple(candidates), 0) for candidates in questions.candidates[rows].tolist()]
    return np.array(guessed) == questions.answers[rows]


def ignores_question(candidates: np.ndarray, chosen: np.ndarray, correct: np.ndarray) -> bool:
    """Whether the choices depend on the candidates only, never on the question.

    This is so if, for every list of candidates whose questions have different correct answers, the same candidate is
    always chosen, and there is at least one such list. A list that only one question has shows nothing.

    Args:
        candidates: int64 (n, K), the candidates of each question.
        chosen: int64 (n,), index of the chosen candidate.
        correct: int64 (n,), index of the correct candidate.
    """
    lists, list_of = np.unique(candidates, axis=0, return_inverse=True)
    groups = [list_of.ravel() == i for i in range(len(lists))]
    telling = [group for group in groups if len(set(correct[group].tolist())) > 1]
    return bool(telling) and all(len(set(chosen[group].tolist())) == 1 for group in telling)


def draw_accuracy(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], levels: Sequence[str]) -> Any:
    """Draw accuracies with standard errors as bars, chance and majority as lines.

    Args:
        metrics: {split: {task: {"num", "chance", "majority", level: {"acc", "standard_error"}}}}.
        levels: One or two sparsities, as in `metrics`.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure  # lazy: only needed at the end of a trial

    most = max(map(len, metrics.values()))
    figure = Figure(figsize=(3 + 1.1 * most, 3.2 * len(metrics)), layout="constrained")
    for axes, (split, tasks) in zip(figure.subplots(len(metrics), squeeze=False)[:, 0], metrics.items(), strict=True):
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
