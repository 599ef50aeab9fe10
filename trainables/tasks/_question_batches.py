"""Batches of prompts with responses, assembled on the device."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.data.tokens import EncodedQuestions

__all__ = ["IGNORED", "Batch", "Batcher", "take_turns"]

IGNORED = -100  # label that the loss ignores


class Batch(NamedTuple):
    """N prompts, each followed by a response.

    Attributes:
        tokens: int64 (N, T), prompt and response without the end-of-text token, padded with 0.
        positions: int64 (N, P), the positions whose next token has a loss: those of the response, or all of them.
        labels: int64 (N, P), these next tokens, padded with IGNORED.
        lengths: int64 (N,), number of tokens of each row. Like `num_labels` a NumPy array on the host, so that using it
            does not wait for the device.
        num_labels: int64 (N,), number of labels of each row.
    """

    tokens: Tensor
    positions: Tensor
    labels: Tensor
    lengths: np.ndarray
    num_labels: np.ndarray


class Batcher:
    """Assembles batches from questions whose tokens are on the device.

    Args:
        questions: The questions.
        cutoff: Maximum length of prompt and response in training, in tokens.
        device: Device of the batches.
    """

    def __init__(self, questions: EncodedQuestions, cutoff: int, device: torch.device):
        self.questions, self.cutoff, self.device = questions, cutoff, device
        # Copies: the arrays are read-only memory that all trials of a node share.
        self.prompts = torch.tensor(questions.prompts.values, device=device)
        self.responses = torch.tensor(questions.responses.values, device=device)

    def num_cut(self, rows: np.ndarray) -> np.ndarray:
        """Tokens by which prompt and correct response exceed the cutoff, int64 (n,)."""
        questions = self.questions
        lengths = questions.prompts.lengths[rows] + questions.responses.lengths[questions.correct[rows]]
        return np.maximum(lengths - self.cutoff, 0)

    def batch(
        self, rows: np.ndarray, responses: np.ndarray, num_cut: np.ndarray, *, label_prompts: bool = False
    ) -> Batch:
        """Assemble a batch.

        Only positions and lengths are copied to the device, where the tokens already are.

        Args:
            rows: int64 (N,), the questions whose prompts to use.
            responses: int64 (N,), the response that follows each prompt.
            num_cut: int64 (N,), number of tokens to remove from each prompt, after its first one.
            label_prompts: Whether the prompts' tokens, except the first one, are labels too.
        """
        questions, device = self.questions, self.device
        prompt, response = questions.prompts.lengths[rows] - num_cut, questions.responses.lengths[responses]
        numbers = np.stack(
            [questions.prompts.starts[rows], questions.responses.starts[responses], prompt, response, num_cut]
        )
        start, place, p, r, skipped = torch.from_numpy(numbers).to(device)[:, :, None].unbind()
        lengths = prompt + response - 1  # the end of text is predicted but predicts nothing

        def tokens_at(t: Tensor) -> Tensor:
            of_prompt = self.prompts[(start + t + skipped * (t > 0)).clamp_(max=len(self.prompts) - 1)]
            of_response = self.responses[(place + t - p).clamp_(0, len(self.responses) - 1)]
            return torch.where(t < p, of_prompt, of_response).long()

        t = torch.arange(int(lengths.max()), device=device)
        inside = t < p + r - 1
        tokens = tokens_at(t) * inside
        if label_prompts:
            return Batch(tokens, t.minimum(p + r - 2), tokens_at(t + 1).where(inside, IGNORED), lengths, lengths)
        k = torch.arange(int(response.max()), device=device)
        labels = torch.where(k < r, self.responses[(place + k).clamp_(max=len(self.responses) - 1)].long(), IGNORED)
        return Batch(tokens, (p - 1 + k).minimum(p + r - 2), labels, lengths, response)

    def parts(self, batch: Batch, num: int) -> list[tuple[float, Batch]]:
        """Divide a batch into at most `num` parts, each padded to its longest row.

        Returns:
            The parts, each with its fraction of the batch's labels, which the loss is the mean over.
        """
        total, parts = batch.num_labels.sum(), []
        for rows in np.array_split(np.arange(len(batch.lengths)), min(num, len(batch.lengths))):
            inside = slice(rows[0], rows[-1] + 1)
            lengths, num_labels = batch.lengths[inside], batch.num_labels[inside]
            length, num_positions = int(lengths.max()), int(num_labels.max())
            tokens, positions = batch.tokens[inside, :length], batch.positions[inside, :num_positions]
            part = Batch(tokens, positions, batch.labels[inside, :num_positions], lengths, num_labels)
            parts.append((float(num_labels.sum() / total), part))
        return parts


def take_turns(rows: np.ndarray, tasks: np.ndarray, size: int | None) -> np.ndarray:
    """Choose `size` rows, the first ones of each task in turn.

    Args:
        rows: int64 (n,).
        tasks: The task of every row of the dataset.
        size: Number of rows to choose. None returns all rows in their order.
    """
    if size is None:
        return rows
    turn = np.zeros(len(rows), np.int64)
    for task in np.unique(tasks[rows]):
        of_task = tasks[rows] == task
        turn[of_task] = np.arange(of_task.sum())
    return rows[np.argsort(turn, kind="stable")[:size]]
