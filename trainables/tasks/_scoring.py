"""Scores of candidate answers: the log-probabilities of their tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.data.tokens import EncodedQuestions, Ragged
from trainables.tasks._question_batches import Batch, Batcher

__all__ = ["CandidateScorer", "Predictions", "Scores", "SharedRows"]

EVALUATION_BATCH = 64  # questions


class SharedRows:
    """Chooses the rows of a batch that give the scores of all candidates.

    A row is a prompt with one response. A position depends only on the tokens before it. The row with response S
    therefore scores every response whose tokens, without the last one, are the beginning of S. Mostly one row per
    question suffices.

    Args:
        responses: All responses, each with the end-of-text token, which is not scored.
    """

    def __init__(self, responses: Ragged):
        self._texts = [tuple(row[:-1]) for row in responses.rows()]

    def _scores(self, response: int, other: int) -> bool:
        """Whether the row of another response gives the score of this one."""
        beginning = self._texts[response][:-1]
        return self._texts[other][: len(beginning)] == beginning

    def __call__(self, candidates: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose the rows for some questions.

        Args:
            candidates: int64 (n, K), the responses of each question, padded with -1.
            correct: int64 (n,), the correct response of each question.

        Returns:
            The question and the response of each row, int64 (number of rows,), and the row that scores each candidate,
            int64 (n, K). The first row of a question has its correct response.
        """
        question_of: list[int] = []
        response_of: list[int] = []
        row_of = np.zeros_like(candidates)
        for question, responses in enumerate(candidates):
            begin = len(question_of)
            question_of.append(question)
            response_of.append(correct[question])
            for k, response in enumerate(responses[responses >= 0]):
                sharing = (row for row in range(begin, len(response_of)) if self._scores(response, response_of[row]))
                row = next(sharing, len(response_of))
                if row == len(response_of):
                    question_of.append(question)
                    response_of.append(response)
                row_of[question, k] = row
        return np.array(question_of), np.array(response_of), row_of


class Scores(NamedTuple):
    """Scores of the K candidates of n questions.

    Attributes:
        log_probability: float (n, K), sum over the candidate's tokens without the end of text; -inf for padding.
        greedy: bool (n, K), whether greedy decoding gives the candidate.
        loss: float64 scalar, cross-entropy in nats summed over the tokens of the correct responses, end of text
            included.
    """

    log_probability: Tensor
    greedy: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model answers to n questions.

    Attributes:
        chosen: int64 (n,), index of the candidate with the highest log-probability, -1 if one of them is nan.
        correct: bool (n,), whether it is the correct one.
        greedy: bool (n,), whether greedy decoding gives it.
        loss: Nats per token of the correct responses.
    """

    chosen: np.ndarray
    correct: np.ndarray
    greedy: np.ndarray
    loss: float


class CandidateScorer:
    """Scores the candidates of questions.

    Args:
        questions: The questions.
        batcher: Assembles their batches.
        forward: Called with a model and a batch; returns the logits (N, P, vocabulary) at the batch's positions.
    """

    def __init__(
        self, questions: EncodedQuestions, batcher: Batcher, forward: Callable[[nn.Module, Batch], Tensor]
    ) -> None:
        self.questions, self.batcher, self.forward = questions, batcher, forward
        self.rows = SharedRows(questions.responses)

    def score(self, model: nn.Module, rows: np.ndarray) -> Scores:
        """Score the candidates of some questions in one forward pass."""
        questions, table, device = self.questions, self.batcher.responses, self.batcher.device
        candidates = questions.candidates[rows]
        question_of, response_of, row_of = self.rows(candidates, questions.correct[rows])
        batch = self.batcher.batch(rows[question_of], response_of, np.zeros_like(response_of))
        logits = self.forward(model, batch)
        norm = logits.logsumexp(-1)
        row, starts, lengths = (
            torch.from_numpy(numbers).to(device)[..., None]
            for numbers in (row_of, questions.responses.starts[candidates], questions.responses.lengths[candidates])
        )
        k = torch.arange(logits.shape[1], device=device)
        tokens = table[(starts + k).clamp_(max=len(table) - 1)].long()
        outside = k >= lengths - 1  # the end of text does not count
        summed = (logits[row, k, tokens] - norm[row, k]).masked_fill_(outside, 0).sum(-1)
        greedy = ((logits.argmax(-1)[row, k] == tokens) | outside).all(-1)
        first = torch.from_numpy(row_of[np.arange(len(rows)), questions.answers[rows]]).to(device)
        loss = F.cross_entropy(logits[first].flatten(0, 1), batch.labels[first].flatten(), reduction="sum")
        exists = torch.from_numpy(candidates >= 0).to(device)
        return Scores(summed.masked_fill_(~exists, -torch.inf), greedy & exists, loss.double())

    @torch.no_grad()
    def predict(self, model: nn.Module, rows: np.ndarray) -> Predictions:
        """Choose an answer for each question, and restore the mode of the model."""
        was_training = model.training
        model.eval()
        questions, device = self.questions, self.batcher.device
        order = np.argsort(questions.prompts.lengths[rows], kind="stable")  # similar lengths need little padding
        chosen, correct, greedy = [], [], []
        loss = torch.zeros((), dtype=torch.float64, device=device)
        for chunk in np.split(rows[order], range(EVALUATION_BATCH, len(order), EVALUATION_BATCH)):
            scores = self.score(model, chunk)
            best = scores.log_probability.argmax(1)
            invalid = scores.log_probability.isnan().any(1)  # argmax treats nan as the largest value
            correct.append((best == torch.from_numpy(questions.answers[chunk]).to(device)) & ~invalid)
            greedy.append(scores.greedy.gather(1, best[:, None])[:, 0] & ~invalid)
            chosen.append(best.masked_fill(invalid, -1))
            loss += scores.loss
        model.train(was_training)
        back, num_tokens = np.argsort(order), questions.responses.lengths[questions.correct[rows]].sum()
        # A pruned network can overflow, but metrics must be finite.
        mean = min(torch.nan_to_num(loss, nan=torch.inf).item() / int(num_tokens), 1e9)
        columns = [torch.cat(parts).cpu().numpy()[back] for parts in (chosen, correct, greedy)]
        return Predictions(columns[0], columns[1], columns[2], mean)
