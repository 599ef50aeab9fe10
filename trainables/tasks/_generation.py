"""Generated answers: the text that a language model writes after a prompt, and the answer found in it."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from trainables.data.tokens import EncodedQuestions, Tokenizer

__all__ = ["AnswerGenerator", "answer_pattern"]

NUM_BEAMS, NUM_TOKENS = 4, 32
GENERATION_BATCH = 16  # questions; each has a row per beam
PATTERNS = (
    "true|false",  # BoolQ
    "solution1|solution2",  # PIQA
    "answer1|answer2|answer3|answer4|answer5",  # SIQA, ARC, OpenBookQA
    "ending1|ending2|ending3|ending4",  # HellaSwag
    "option1|option2",  # WinoGrande
)


class AnswerGenerator:
    """Generates answers by the protocol of DoRA, which the WCR paper's numbers come from.

    The model continues the prompt by 32 tokens at most, with beam search and 4 beams, without sampling. The answer is
    the first match of the question's pattern (see `answer_pattern`) in the lower-case text. It is right if it is also
    the first match in the correct response. A text without a match is wrong.

    Prompts are not cut. Sampling and penalties that a checkpoint's generation_config.json asks for are ignored.

    Args:
        questions: The questions.
        tokenizer: The tokenizer that encoded them.
        device: Device of the model.

    Reference: Liu et al., "DoRA: Weight-decomposed low-rank adaptation", ICML 2024, arXiv 2402.09353: the file
    commonsense_evaluate.py of the authors' code, which goes back to LLM-Adapters.
    """

    def __init__(self, questions: EncodedQuestions, tokenizer: Tokenizer, device: torch.device):
        self.questions, self.tokenizer, self.device = questions, tokenizer, device
        self._prompts = questions.prompts.rows()
        self._texts = [self._decoded(row) for row in questions.responses.rows()]

    @torch.no_grad()
    def correct(self, network: Any, rows: np.ndarray, *, num_beams: int = NUM_BEAMS) -> np.ndarray:
        """Generate an answer to each question, and restore the mode of the network.

        Args:
            network: A plain network of the transformers library.
            rows: int64 (n,), the questions.
            num_beams: Width of the beam search; 1 is greedy decoding.

        Returns:
            Whether each answer is right, bool (n,).
        """
        order = np.argsort(self.questions.prompts.lengths[rows], kind="stable")  # similar lengths need little padding
        right = np.zeros(len(rows), bool)
        was_training = network.training
        network.eval()
        with generation_settings(network, self.tokenizer.end, num_beams):
            for places in np.split(order, range(GENERATION_BATCH, len(order), GENERATION_BATCH)):
                texts = self._generate(network, rows[places])
                right[places] = [self._is_right(row, text) for row, text in zip(rows[places], texts, strict=True)]
        network.train(was_training)
        return right

    def _generate(self, network: Any, rows: np.ndarray) -> list[str]:
        prompts = [self._prompts[row] for row in rows]
        length = max(map(len, prompts))
        tokens = torch.full((len(rows), length), self.tokenizer.end)
        mask = torch.zeros_like(tokens)
        for i, prompt in enumerate(prompts):  # padded on the left, so that all rows continue at the same position
            tokens[i, length - len(prompt) :] = torch.tensor(prompt)
            mask[i, length - len(prompt) :] = 1
        written = network.generate(input_ids=tokens.to(self.device), attention_mask=mask.to(self.device))
        return [self._decoded(row) for row in written[:, length:].tolist()]

    def _decoded(self, tokens: list[int]) -> str:
        return self.tokenizer.tokenizer.decode(tokens, skip_special_tokens=True).lower()

    def _is_right(self, row: int, text: str) -> bool:
        candidates = self.questions.candidates[row]
        pattern = answer_pattern([self._texts[response] for response in candidates[candidates >= 0]])
        found, correct = (re.search(pattern, t) for t in (text, self._texts[self.questions.correct[row]]))
        return found is not None and correct is not None and found[0] == correct[0]


def answer_pattern(responses: list[str]) -> str:
    """The regular expression whose first match in a text is the answer to a question.

    It is the protocol's pattern that finds a different answer in each candidate's response. If none does, it is one of
    the candidates: their responses without the words that all of them begin with.

    Args:
        responses: The responses of the candidates, in lower case.
    """
    for pattern in PATTERNS:
        found = [re.search(pattern, response) for response in responses]
        if all(found) and len({match[0] for match in found if match}) == len(responses):
            return pattern
    words = [response.split(" ") for response in responses]
    num_shared = next((i for i, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), 0)
    candidates = sorted((" ".join(text[num_shared:]) for text in words), key=len, reverse=True)
    return "|".join(map(re.escape, candidates))


@contextlib.contextmanager
def generation_settings(network: Any, end: int, num_beams: int) -> Iterator[None]:
    """Replace the network's own settings of generation, which a checkpoint may bring along, within this context."""
    from transformers import GenerationConfig  # lazy: only language models need it

    kept = network.generation_config
    network.generation_config = GenerationConfig(
        num_beams=num_beams, max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end
    )
    try:
        yield
    finally:
        network.generation_config = kept
