import json
import re

import pyarrow as pa
import pytest

import sparsity
from tests.trainables._tiny_tasks import tiny_config
from trainables.data.errors import DataError
from trainables.data.splits import split_indices
from trainables.datasets.commonsense import TEMPLATE
from trainables.datasets.huggingface_questions import huggingface_questions

TEXTS = ["a stone", "a bird", "a cloud"]


def rows(first, last):
    return {
        "question": [f"Which one flies {i} times?" for i in range(first, last)],
        "choices": [TEXTS] * (last - first),
        "answer": [i % 3 for i in range(first, last)],
    }


@pytest.fixture
def save(tmp_path, save_to_disk):
    """A function: columns -> the folder in which they are saved as a `Dataset`."""

    def write(**columns):
        save_to_disk(tmp_path / "saved", pa.table(rows(0, 10) | columns))
        return tmp_path / "saved"

    return write


def test_a_question_by_hand(question_folder):
    data = huggingface_questions(question_folder)
    first = data.train[0]
    instruction = (
        "Which one flies 0 times?\n\nAnswer1: a stone Answer2: a bird Answer3: a cloud\n\n"
        "Answer format: answer1/answer2/answer3"
    )
    assert first.prompt == TEMPLATE.format(instruction=instruction)
    assert first.responses == tuple(f"the correct answer is answer{i}" for i in (1, 2, 3))
    assert [question.answer for question in data.train[:5]] == [0, 1, 2, 0, 1]


def test_the_splits_of_the_dataset_are_kept(question_folder):
    data = huggingface_questions(question_folder)
    training, validation = data.split()
    assert (sorted(training), sorted(validation)) == (list(range(8)), [8, 9])
    assert [question.prompt.count(f"flies {i} times") for i, question in zip((10, 11), data.test, strict=True)] == [
        1,
        1,
    ]
    assert [len(part) for part in data.split(3)] == [3, 2]


def test_a_dataset_without_splits(save):
    data = huggingface_questions(save(), validation_fraction=0.25)
    train, test = split_indices(10, 0.2)
    assert [question.answer for question in data.train] == [i % 3 for i in train]
    assert [question.answer for question in data.test] == [i % 3 for i in test]
    assert [len(part) for part in data.split()] == [6, 2]


def answers(data):
    return [question.answer for question in (*data.train, *data.test)]


def test_kinds_of_choices_and_answers(save):
    order = [*split_indices(10, 0.2)[0], *split_indices(10, 0.2)[1]]
    expected = [i % 3 for i in order]
    labelled = [{"text": TEXTS, "label": ["A", "B", "C"]}] * 10
    assert answers(huggingface_questions(save(choices=labelled, answer=["ABC"[i % 3] for i in range(10)]))) == expected
    assert answers(huggingface_questions(save(answer=[TEXTS[i % 3] for i in range(10)]))) == expected
    named = {"q": rows(0, 10)["question"], "given": [i % 3 for i in range(10)]}
    assert answers(huggingface_questions(save(**named), question="q", answer="given")) == expected
    numbered = [{"text": TEXTS, "label": ["1", "2", "3"]}] * 10  # as in some questions of ARC
    assert (
        answers(huggingface_questions(save(choices=numbered, answer=[str(i % 3 + 1) for i in range(10)]))) == expected
    )


def test_names_of_ten_choices_are_of_one_length(save):
    """So that no candidate is the beginning of another one."""
    data = huggingface_questions(save(choices=[[f"choice {i}" for i in range(10)]] * 10))
    responses = data.train[0].responses
    assert (responses[0], responses[9]) == ("the correct answer is answer01", "the correct answer is answer10")
    assert "Answer01: choice 0 Answer02: choice 1" in data.train[0].prompt


def test_a_language_model_reads_them(question_folder):
    config = tiny_config("causal_lm", dataset="huggingface_questions", train_size=6)
    loaded = sparsity.load("trainables.tasks", "lora").load(config, str(question_folder))
    assert (len(loaded.training), len(loaded.validation), len(loaded.test)) == (6, 2, 2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": [3] * 10}, "row 0: answer must be the text of one choice, or its index from 0 to 2, got 3"),
        ({"answer": ["a"] * 10}, "row 0: answer must be the text of one choice, or its index from 0 to 2, got 'a'"),
        ({"answer": [0, None] * 5}, "row 1: answer must be the text of one choice, or its index from 0 to 2, got None"),
        (
            {"choices": [{"text": TEXTS, "label": ["A", "B", "C"]}] * 10, "answer": ["D"] * 10},
            "row 0: answer must be one of A, B, C, or the text of one choice, or its index from 0 to 2, got 'D'",
        ),
        ({"choices": [["one"]] * 10}, "row 0: choices must be two or more texts, got ['one']"),
        ({"choices": ["a, b"] * 10}, "row 0: choices must be two or more texts, got 'a, b'"),
        ({"question": [" "] * 10}, "row 0: question must be non-empty text, got ' '"),
    ],
)
def test_bad_rows_are_refused(save, columns, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        huggingface_questions(save(**columns))
    assert "\n" not in str(caught.value)


def test_bad_arguments_and_folders(question_folder, tmp_path):
    for arguments, message in (
        ({"cutoff": 0}, "cutoff must be a whole number of tokens >= 1, got 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be in (0, 1), got 1.0"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"huggingface_questions: {message}")):
            huggingface_questions(question_folder, **arguments)
    with pytest.raises(DataError, match=r"must have the column stem \(--data question=NAME .*, got question"):
        huggingface_questions(question_folder, question="stem")
    with pytest.raises(DataError, match="huggingface_questions: --data-root must name the folder with the saved"):
        huggingface_questions()
    (question_folder / "dataset_dict.json").write_text(json.dumps({"splits": ["test"]}))
    with pytest.raises(DataError, match="must have the split train, got test"):
        huggingface_questions(question_folder)


@pytest.mark.extras
def test_what_the_library_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "choices": datasets.Sequence({"text": datasets.Value("string"), "label": datasets.Value("string")}),
            "answerKey": datasets.Value("string"),
        }
    )
    choices = [{"text": TEXTS, "label": ["A", "B", "C"]}] * 10
    columns = {"question": rows(0, 10)["question"], "choices": choices, "answerKey": ["ABC"[i % 3] for i in range(10)]}
    saved = datasets.Dataset.from_dict(columns, features=features)
    saved.shuffle(seed=0).save_to_disk(tmp_path / "one", num_shards=2)
    data = huggingface_questions(tmp_path / "one")
    assert sorted(answers(data)) == sorted(i % 3 for i in range(10))
    mmlu = datasets.Features(
        {
            "question": datasets.Value("string"),
            "choices": datasets.Sequence(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=["A", "B", "C"]),
        }
    )
    datasets.Dataset.from_dict(rows(0, 10), features=mmlu).save_to_disk(tmp_path / "two")
    order = [*split_indices(10, 0.2)[0], *split_indices(10, 0.2)[1]]
    assert answers(huggingface_questions(tmp_path / "two")) == [i % 3 for i in order]
