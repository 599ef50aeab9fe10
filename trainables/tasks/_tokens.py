"""Records as the numbers that a language model is given: read or train a tokenizer, and encode with it."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.architectures.causal_lm import END
from trainables.data.records import Record
from trainables.errors import one_line

__all__ = ["Encoded", "Ragged", "Tokenizer", "encode", "read_tokenizer", "train_tokenizer"]

END_TEXT = "<|endoftext|>"  # of a tokenizer trained here


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths in one array: row i is values[starts[i] : starts[i + 1]] (int32 and int64)."""

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        return cls(np.fromiter((token for row in rows for token in row), np.int32, count=starts[-1]), starts)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def rows(self) -> list[list[int]]:
        return [row.tolist() for row in np.split(self.values, self.starts[1:-1])]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the `tokenizers` library and the number of its end-of-text token."""

    tokenizer: Any
    end: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """Records as numbers.

    prompts: a row a record. table: all responses there are, a row each, with the end-of-text token behind it.
    responses: int64 (N, K), the rows of the table that are a record's candidates, -1 behind the last.
    answers: int64 (N,), the index of the right one. tasks: int64 (N,), which of `task_names`.
    """

    prompts: Ragged
    table: Ragged
    responses: np.ndarray
    answers: np.ndarray
    tasks: np.ndarray
    task_names: list[str]

    @property
    def correct(self) -> np.ndarray:
        """Of each record, the right response: its row of the table."""
        return self.responses[np.arange(len(self.answers)), self.answers]


def read_tokenizer(folder: Path) -> Tokenizer:
    """That of a checkpoint, its tokenizer.json, and its end-of-text token: what tokenizer_config.json or else
    config.json say. ValueError, one line, where it lacks them."""
    from tokenizers import Tokenizer as Fast

    try:
        tokenizer = Fast.from_file(str(folder / "tokenizer.json"))
        described, config = (_json(folder / name) for name in ("tokenizer_config.json", "config.json"))
    except Exception as error:  # the library raises Exception itself
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


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def train_tokenizer(texts: Iterable[str], vocab_size: Any) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; over bytes as in GPT-2), trained on the texts: the same for the same texts.

    vocab_size: at least 257, the bytes and the end-of-text token; fewer come of it where the texts have no more pairs.
    ValueError below that.
    """
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if not isinstance(vocab_size, int) or vocab_size <= len(alphabet):
        raise ValueError(
            f"model: vocab_size must be a whole number above {len(alphabet)} (each byte is a token), got {vocab_size!r}"
        )
    tokenizer = Fast(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.token_to_id(END_TEXT) == END  # special tokens are numbered first
    return Tokenizer(tokenizer, END)


def encode(tokenizer: Tokenizer, records: Sequence[Record]) -> Encoded:
    """Prompts and responses are encoded apart, so that a response begins at the same place whichever it is; what the
    tokenizer puts before a text (LLaMA's begin-of-text) comes before the prompt.

    ValueError where a candidate's tokens are the beginning of another's: it could not lose against it.
    """
    texts = list(dict.fromkeys(response for record in records for response in record.responses))
    index = {text: i for i, text in enumerate(texts)}
    table = [encoding.ids for encoding in tokenizer.tokenizer.encode_batch(texts, add_special_tokens=False)]
    for candidates in dict.fromkeys(record.responses for record in records):
        for one, other in itertools.permutations(candidates, 2):
            if table[index[other]][: len(table[index[one]])] == table[index[one]]:
                raise ValueError(f"answers: none may begin with another of its question, got {other!r} and {one!r}")
    responses = np.full((len(records), max(len(record.responses) for record in records)), -1)
    for row, record in zip(responses, records, strict=True):
        row[: len(record.responses)] = [index[response] for response in record.responses]
    task_names = sorted({record.task for record in records})
    encodings = tokenizer.tokenizer.encode_batch([record.prompt for record in records])
    return Encoded(
        prompts=Ragged.of([encoding.ids for encoding in encodings]),
        table=Ragged.of([[*row, tokenizer.end] for row in table]),
        responses=responses,
        answers=np.array([record.answer for record in records]),
        tasks=np.array([task_names.index(record.task) for record in records]),
        task_names=task_names,
    )
