"""Questions with candidate answers for language models."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainables.data.splits import check_validation, split_indices, split_last

__all__ = ["Question", "Questions", "SplitQuestions"]


class Question(NamedTuple):
    """A question with candidate answers, as text.

    Attributes:
        prompt: The text that the model is given.
        responses: A text to continue the prompt with for each candidate answer; all different.
        answer: Index of the correct response.
        task: Name of the benchmark that the question belongs to.
    """

    prompt: str
    responses: tuple[str, ...]
    answer: int
    task: str


@dataclass(frozen=True, eq=False)
class Questions:
    """A dataset of questions.

    Attributes:
        train: Questions to train and validate on.
        test: Questions to test on.
        validation_fraction: Fraction of the training questions that `split` holds out for validation.
        cutoff: Maximum length of prompt and answer together in training, in tokens.
        template: The template that prompts are made from, for the record of a run.
    """

    train: list[Question]
    test: list[Question]
    validation_fraction: float
    cutoff: int
    template: str

    def __post_init__(self) -> None:
        """Raise ValueError if a split has no question."""
        check_validation("Questions", "questions", len(self.train), self.validation_fraction)
        if not self.test:
            raise ValueError("Questions: test must hold at least one question, got none")

    def split(self, train_size: int | None = None, *, subset: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices (training, validation) into `train`; see `split_indices`."""
        return split_indices(len(self.train), self.validation_fraction, train_size)


class SplitQuestions(Questions):
    """Questions with a validation split of their own: the last `validation_fraction` of the training questions."""

    def split(self, train_size: int | None = None, *, subset: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices (training, validation) into `train`; see `split_last`."""
        return split_last(len(self.train), self.validation_fraction, train_size, subset=subset)
