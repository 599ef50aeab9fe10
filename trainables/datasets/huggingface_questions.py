from pathlib import Path

from trainables.data.errors import DataError
from trainables.data.labelled import TEST_FRACTION
from trainables.data.questions import Question, Questions, SplitQuestions
from trainables.data.saved_datasets import find_column, read_table, split_folders
from trainables.data.splits import split_indices
from trainables.datasets.commonsense import TEMPLATE

__all__ = ["huggingface_questions"]

QUESTION = ("question", "question_stem")  # names of the columns; the first one that exists is taken
CHOICES, ANSWER = ("choices", "options"), ("answer", "answerKey", "label")


def huggingface_questions(
    root: str | Path | None = None,
    *,
    question: str = "",
    choices: str = "",
    answer: str = "",
    cutoff: int = 256,
    validation_fraction: float = 0.1,
) -> Questions:
    """Your own multiple-choice questions as a dataset of Hugging Face's library `datasets`, saved with `save_to_disk`.

    The library is not needed to read them. The columns are those of ARC, CommonsenseQA, OpenBookQA and MMLU: a
    question, its choices, and the answer. The choices are a list of texts, or `{"text": [...], "label": [...]}`. The
    answer is the index of a choice (from 0), the label of a choice, or the text of a choice. The number of choices may
    differ between questions.

    The prompt is that of `commonsense`. It lists the choices as "Answer1: ... Answer2: ...", and the response is "the
    correct answer is answer1" (of ten choices or more, "answer01"), so that the length of a choice does not influence
    its probability.

    A saved `DatasetDict` has the split `train` and perhaps `validation` (or `valid` or `val`) and `test`. With one of
    them only, that is the test split. Without any, and for a saved `Dataset`, a fixed random 20% of the questions are
    the test split.

    Args:
        root: The folder.
        question: Column of the questions; default: `question` or `question_stem`.
        choices: Column of the choices; default: `choices` or `options`.
        answer: Column of the answers; default: `answer`, `answerKey` or `label`.
        cutoff: Maximum length of prompt and answer in training, in tokens. Longer prompts are cut; answers never are.
        validation_fraction: Fraction of the training questions held out for validation, in (0, 1), if there is no
            validation split.

    Returns:
        The questions.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If the folder is not such a dataset, a file is unreadable, or a column is missing or wrong. It names
            the folder and the row, from 0.
    """
    if not isinstance(cutoff, int) or cutoff < 1:
        raise ValueError(f"huggingface_questions: cutoff must be a whole number of tokens >= 1, got {cutoff!r}")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"huggingface_questions: validation_fraction must be in (0, 1), got {validation_fraction!r}")
    names = {"question": question, "choices": choices, "answer": answer}
    folders = split_folders("huggingface_questions", root)
    parts = {split: _questions(folder, names) for split, folder in folders.items()}
    train = parts["train"]
    if "test" in parts:
        test = parts["test"]
    else:
        kept, held_out = split_indices(len(train), TEST_FRACTION)
        train, test = [train[i] for i in kept], [train[i] for i in held_out]
    make = Questions
    if held_out_questions := parts.get("validation"):
        make = SplitQuestions
        train = train + held_out_questions
        validation_fraction = len(held_out_questions) / len(train)
    num_validation = round(len(train) * validation_fraction)
    if not (0 < num_validation < len(train) and test):
        got = f"{len(train) - num_validation}, {num_validation} and {len(test)}"
        raise DataError(f"{root}: must have questions for training, validation and testing, got {got}")
    return make(train=train, test=test, validation_fraction=validation_fraction, cutoff=cutoff, template=TEMPLATE)


def _questions(folder, names):
    table = read_table(folder)
    usual = {"question": QUESTION, "choices": CHOICES, "answer": ANSWER}
    columns = [find_column(folder, table, names[what], usual[what], what).to_pylist() for what in usual]
    return [_question(f"{folder}, row {row}", *values) for row, values in enumerate(zip(*columns, strict=True))]


def _question(where, question, choices, answer):
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: question must be non-empty text, got {question!r}")
    labels = choices.get("label") if isinstance(choices, dict) else None
    texts = choices.get("text") if isinstance(choices, dict) else choices
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{where}: choices must be two or more texts, got {choices!r}")
    digits = len(str(len(texts)))  # as many in each name, because "answer1" is the beginning of "answer10"
    names = [f"answer{number:0{digits}}" for number in range(1, len(texts) + 1)]
    listed = " ".join(f"{name.capitalize()}: {text.strip()}" for name, text in zip(names, texts, strict=True))
    instruction = f"{question.strip()}\n\n{listed}\n\nAnswer format: {'/'.join(names)}"
    return Question(
        prompt=TEMPLATE.format(instruction=instruction),
        responses=tuple(f"the correct answer is {name}" for name in names),
        answer=_index(where, texts, labels or [], answer),
        task="questions",
    )


def _index(where, texts, labels, answer):
    """The index of the correct choice."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return answer
    for known in (labels, texts):
        if isinstance(answer, str) and known.count(answer) == 1 and len(known) == len(texts):
            return known.index(answer)
    labelled = f"one of {', '.join(map(str, labels))}, or " if labels else ""
    raise DataError(
        f"{where}: answer must be {labelled}the text of one choice, or its index from 0 to {len(texts) - 1}, got "
        f"{answer!r}"
    )
