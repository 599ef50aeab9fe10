"""Questions as tokens: read or train a tokenizer, and encode questions with it."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.questions import Question
from trainables.errors import one_line

__all__ = [
    "TRAINED_END",
    "EncodedQuestions",
    "Ragged",
    "Tokenizer",
    "encode_questions",
    "parse_tokenizer",
    "read_tokenizer",
    "train_tokenizer",
]

TRAINED_END = 0  # end-of-text token of a tokenizer that is trained here
TRAINED_END_TEXT = "<|endoftext|>"
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths in one array.

    Attributes:
        values: int32, all rows one after the other.
        starts: int64 (N + 1,); row i is values[starts[i] : starts[i + 1]].
    """

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        """Pack rows."""
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        return cls(np.fromiter((token for row in rows for token in row), np.int32, count=starts[-1]), starts)

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row, int64 (N,)."""
        return np.diff(self.starts)

    def rows(self) -> list[list[int]]:
        """Unpack the rows."""
        return [row.tolist() for row in np.split(self.values, self.starts[1:-1])]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the `tokenizers` library and its end-of-text token."""

    tokenizer: Any
    end: int


@dataclass(frozen=True, eq=False)
class EncodedQuestions:
    """N questions as tokens.

    Attributes:
        prompts: The prompt of each question, N rows.
        responses: All different responses of the dataset, one per row, each with the end-of-text token at its end.
        candidates: int64 (N, K), the rows of `responses` that are a question's candidates, padded with -1.
        answers: int64 (N,), index of the correct candidate.
        tasks: int64 (N,), index into `task_names`.
        task_names: Names of the benchmarks.
    """

    prompts: Ragged
    responses: Ragged
    candidates: np.ndarray
    answers: np.ndarray
    tasks: np.ndarray
    task_names: list[str]

    @property
    def correct(self) -> np.ndarray:
        """The row of `responses` that is correct for each question, int64 (N,)."""
        return self.candidates[np.arange(len(self.answers)), self.answers]


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint.

    The end-of-text token is the one that tokenizer_config.json or else config.json names.

    Args:
        folder: Folder with the checkpoint's tokenizer.json.

    Raises:
        ValueError: If there is no readable tokenizer or no end-of-text token.
    """
    from tokenizers import Tokenizer as Fast  # lazy: only language models need it

    try:
        tokenizer = Fast.from_file(str(folder / "tokenizer.json"))
        described, config = (_json(folder / name) for name in ("tokenizer_config.json", "config.json"))
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(f"model: base must have a tokenizer.json, got {folder} ({one_line(error)})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    named = described.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    end = tokenizer.token_to_id(named) if named else config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    if not isinstance(end, int):
        raise ValueError(f"model: base must name its end-of-text token (eos_token), got none in {folder}")
    return Tokenizer(tokenizer, end)


def parse_tokenizer(text: str, end: int) -> Tokenizer:
    """Return the tokenizer whose `tokenizer.to_str()` is `text`."""
    from tokenizers import Tokenizer as Fast

    return Tokenizer(Fast.from_str(text), end)


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def train_tokenizer(texts: Iterable[str], vocab_size: Any) -> Tokenizer:
    """Train a byte-level BPE tokenizer. The same texts give the same tokenizer.

    Texts are normalized (NFC) and divided as by the tokenizer of Qwen2: for a model of this type, transformers'
    AutoTokenizer does both by itself and ignores what tokenizer.json says.

    Args:
        texts: Texts to train on.
        vocab_size: Number of tokens, at least 257 (each byte, and the end of text). The tokenizer has fewer if the
            texts have no more pairs to merge.

    Raises:
        ValueError: If vocab_size is below 257.

    Reference: Sennrich, Haddow & Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016; on
    bytes as in GPT-2.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Fast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if not isinstance(vocab_size, int) or vocab_size <= len(alphabet):
        raise ValueError(
            f"model: vocab_size must be a whole number above {len(alphabet)} (each byte is a token), got {vocab_size!r}"
        )
    tokenizer = Fast(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[TRAINED_END_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.token_to_id(TRAINED_END_TEXT) == TRAINED_END  # special tokens are numbered first
    return Tokenizer(tokenizer, TRAINED_END)


def encode_questions(tokenizer: Tokenizer, questions: Sequence[Question]) -> EncodedQuestions:
    """Encode prompts and responses.

    They are encoded separately, so that all responses of a question begin at the same position. Tokens that the
    tokenizer puts before a text (LLaMA's begin-of-text) are put before the prompt only.

    Args:
        tokenizer: The tokenizer.
        questions: At least one question.

    Raises:
        ValueError: If the tokens of one candidate are the beginning of those of another one of the same question: its
            log-probability would always be at least as high.
    """
    texts = list(dict.fromkeys(response for question in questions for response in question.responses))
    index = {text: i for i, text in enumerate(texts)}
    encoded = [encoding.ids for encoding in tokenizer.tokenizer.encode_batch(texts, add_special_tokens=False)]
    for responses in dict.fromkeys(question.responses for question in questions):
        for one, other in itertools.permutations(responses, 2):
            if encoded[index[other]][: len(encoded[index[one]])] == encoded[index[one]]:
                raise ValueError(
                    f"answers: no candidate may begin with another of its question, got {other!r} and {one!r}"
                )
    candidates = np.full((len(questions), max(len(question.responses) for question in questions)), -1)
    for row, question in zip(candidates, questions, strict=True):
        row[: len(question.responses)] = [index[response] for response in question.responses]
    task_names = sorted({question.task for question in questions})
    prompts = tokenizer.tokenizer.encode_batch([question.prompt for question in questions])
    return EncodedQuestions(
        prompts=Ragged.of([encoding.ids for encoding in prompts]),
        responses=Ragged.of([[*row, tokenizer.end] for row in encoded]),
        candidates=candidates,
        answers=np.array([question.answer for question in questions]),
        tasks=np.array([task_names.index(question.task) for question in questions]),
        task_names=task_names,
    )
