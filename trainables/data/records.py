"""What data sets of questions with candidate answers share: the value they return."""

from dataclasses import dataclass
from typing import NamedTuple

from trainables.data.images import split

__all__ = ["Record", "Records"]


class Record(NamedTuple):
    """A question as text for a language model.

    prompt: what the model is given. responses: what it may go on with, one for each candidate answer, all different.
    answer: the index of the right one. task: the name of the benchmark that the record belongs to.
    """

    prompt: str
    responses: tuple[str, ...]
    answer: int
    task: str


@dataclass(frozen=True, eq=False)
class Records:
    """A data set of such questions.

    validation_fraction: the share of the training records that `split` holds out.
    cutoff: tokens that prompt and answer may have together in training.
    template: how a prompt is made, for the record of a run.
    """

    train: list[Record]
    test: list[Record]
    validation_fraction: float
    cutoff: int
    template: str

    def split(self, train_size=None):
        """The indices (training, validation) into `train`, in shuffled order: see `_images.split`."""
        return split(len(self.train), self.validation_fraction, train_size)
