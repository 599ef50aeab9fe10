import json
from pathlib import Path

import numpy as np
import pytest

from trainables.data.errors import DataError
from trainables.datasets.commonsense import commonsense

REAL = Path(__file__).parents[4] / "shared" / "data" / "commonsense"
QUESTION = "Please choose the correct answer to the question: Which one is {}?\n\nAnswer1: a Answer2: b Answer3: c"


def record(instruction, answer, **other):
    return {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
        **other,
    }


def arc(number, answer="answer2"):
    return record(QUESTION.format(number) + " Answer4: d\n\nAnswer format: answer1/answer2/answer3/answer4", answer)


def write(folder, **files):
    """Write records: ARC_Easy__train=[...] becomes ARC-Easy/train.json."""
    for name, records in files.items():
        file = folder / (name.replace("__", "/").replace("_", "-").replace("social-i-qa", "social_i_qa") + ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(records))


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path,
        ARC_Easy__train=[arc(i) for i in range(20)],
        ARC_Easy__test=[arc(i) for i in range(5)],
        boolq__train=[record(f"is {i} even?\n\nAnswer format: true/false", "true") for i in range(10)],
        boolq__test=[record("is it?\n\nAnswer format: true/false", "false")],
        social_i_qa__test=[record(QUESTION.format(0) + "\n\nAnswer format: answer1/answer2/answer3", "answer3")],
    )
    return tmp_path


def test_a_record_becomes_the_prompt_of_llm_adapters(folder):
    data = commonsense(folder, tasks="boolq")
    assert data.test == [
        (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nis it?\n\nAnswer format: true/false\n\n### Response:\n",
            ("the correct answer is true", "the correct answer is false"),
            1,
            "boolq",
        )
    ]
    assert data.cutoff == 256
    assert data.template.format(instruction="is it?\n\nAnswer format: true/false") == data.test[0].prompt


def test_an_input_stands_in_the_prompt(folder):
    write(folder, boolq__test=[record("is it?\n\nAnswer format: true/false", "true", input="a {text} of its own")])
    assert commonsense(folder, tasks="boolq").test[0].prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nis it?\n\nAnswer format: true/false"
        "\n\n### Input:\na {text} of its own\n\n### Response:\n"
    )


@pytest.mark.parametrize("where", [".", "dataset"])
def test_all_tasks_there_or_those_asked_for(folder, where):
    root = folder
    if where != ".":
        root = folder.parent / "clone"
        (root / where).parent.mkdir()
        folder.rename(root / where)
    everything = commonsense(root, cutoff=100)
    assert [len(everything.train), len(everything.test), everything.cutoff] == [30, 7, 100]
    assert {r.task for r in everything.test} == {"boolq", "social_i_qa", "ARC-Easy"}
    some = commonsense(str(root), tasks="ARC-Easy, social_i_qa")
    assert [len(some.train), len(some.test)] == [20, 6]
    assert {r.task for r in some.train} == {"ARC-Easy"}


def test_the_joint_training_set_is_used_where_it_is_and_told_apart_by_its_candidates(folder):
    forms = {  # the last lines of the five kinds in the published files
        "boolq": "question: is it?\n\nAnswer format: true/false",
        "piqa": "Solution1: a\n\nSolution2: b\n\nAnswer format: solution1/solution2",
        "hellaswag": "Ending4: d\n\nAnswer format: ending1/ending2/ending3/ending4",
        "winogrande": "Option1: jeans Option2: shirt Answer format: option1/option2",
        "social_i_qa": "Answer3: c\n\nAnswer format: answer1/answer2/answer3",
        "science": "Answer4: d\n\nAnswer format: answer1/answer2/answer3/answer4",
    }
    answers = ["false", "solution1", "ending4", "option2", "answer1", "answer4"]
    joint = [record(form, answer) for form, answer in zip(forms.values(), answers, strict=True)]
    (folder / "ft-training_set").mkdir()
    (folder / "ft-training_set" / "commonsense_170k.json").write_text(json.dumps(joint))
    data = commonsense(folder)
    assert [r.task for r in data.train] == list(forms)
    assert [len(r.responses) for r in data.train] == [2, 2, 4, 2, 3, 4]
    assert [r.responses[r.answer] for r in data.train] == [f"the correct answer is {answer}" for answer in answers]
    assert {r.task for r in data.test} == {"boolq", "social_i_qa", "ARC-Easy"}
    assert len(commonsense(folder, tasks="ARC-Easy").train) == 20  # not the joint training set


def test_validation_is_a_tenth_and_2000_at_most(tmp_path):
    write(tmp_path, ARC_Easy__train=[arc(i) for i in range(50)], ARC_Easy__test=[arc(0)])
    data = commonsense(tmp_path)
    training, validation = data.split()
    assert sorted([*training, *validation]) == list(range(50))
    assert len(validation) == 5
    np.testing.assert_array_equal(data.split(7)[1], validation)
    write(tmp_path, ARC_Easy__train=[arc(i) for i in range(30_000)])
    assert len(commonsense(tmp_path).split()[1]) == 2000


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, r"instruction must be non-empty text, got None"),
        ([], r"must be \{instruction, input, output, answer\}, got list"),
        (record("", "true"), r"instruction must be non-empty text, got ''"),
        (record("is it?\n\nAnswer format: true/false", 1), r"answer must be non-empty text, got 1"),
        (record("is it?\n\nAnswer format: true/false", "true", output=" "), r"output must be non-empty text, got ' '"),
        (
            record("is it?\n\nAnswer format: true/false", "maybe"),
            r"answer must be one of its candidates true, false, got 'maybe'",
        ),
        (
            record("is it?", "true"),
            r'instruction must end with its candidates, such as "Answer format: true/false", got none',
        ),
        (
            record("is it?\n\nAnswer format: true/", "true"),
            r"instruction must end with its candidates, .*, got 'true/'",
        ),
        (record("is it?\n\nAnswer format: true", "true"), r"instruction must end with its candidates, .*, got 'true'"),
        (record("is it?\n\nAnswer format: a/b/a", "a"), r"instruction must end with its candidates, .*, got 'a/b/a'"),
        (
            record("is it?\n\nAnswer format: true/false", "true", output="the correct answer is false"),
            r"output must end with the answer 'true', got 'the correct answer is false'",
        ),
    ],
)
def test_a_record_that_is_none_is_named(folder, entry, message):
    write(folder, boolq__train=[record("is it?\n\nAnswer format: true/false", "true"), entry])
    file = folder / "boolq" / "train.json"
    with pytest.raises(DataError, match=f"^{file}, record 1: {message}$"):
        commonsense(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a list of records, got an empty list"),
        ("{}", "must be a list of records, got dict"),
        ('[{"instruction": ', r"must be readable JSON, got JSONDecodeError: .*"),
        ("[" * 100_000, r"must be readable JSON, got RecursionError: .*"),
        ('["\xff"]'.encode("latin-1"), r"must be readable JSON, got UnicodeDecodeError: .*"),
    ],
)
def test_a_file_that_is_none_is_named(folder, text, message):
    file = folder / "ARC-Easy" / "test.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=f"^{file}: {message}$"):
        commonsense(folder)


def test_without_data(folder, tmp_path):
    with pytest.raises(DataError, match=r"^commonsense: --data-root must name a folder .*LLM-Adapters, got none$"):
        commonsense()
    with pytest.raises(DataError, match=r"^commonsense: .* must hold train.json of a task, .*, got no such folder$"):
        commonsense(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"must hold train.json of social_i_qa \(in it or in dataset/, see .*\), got none$"
    ):
        commonsense(folder, tasks="social_i_qa")
    (folder / "boolq" / "test.json").unlink()
    with pytest.raises(DataError, match=r"must hold test.json of boolq "):
        commonsense(folder, tasks="boolq")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "boolq,copa"}, "tasks must be among boolq, piqa, .*, openbookqa, got 'copa'"),
        ({"cutoff": 0}, "cutoff must be a whole number of tokens >= 1, got 0"),
    ],
)
def test_refuses(folder, arguments, message):
    with pytest.raises(ValueError, match=f"^commonsense: {message}$"):
        commonsense(folder, **arguments)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL.name} records at {REAL}")
def test_the_published_files():
    data = commonsense(REAL)
    count = {
        task: (sum(r.task == task for r in data.train), sum(r.task == task for r in data.test))
        for task in sorted({r.task for r in data.test})
    }
    assert count == {  # test sizes as in the papers of the benchmarks
        "ARC-Challenge": (1119, 1172),
        "ARC-Easy": (2251, 2376),
        "boolq": (9427, 3270),
        "openbookqa": (4957, 500),
        "social_i_qa": (0, 1954),
    }
    chance = {task: np.mean([1 / len(r.responses) for r in data.test if r.task == task]) for task in count}
    assert chance == pytest.approx(
        {"ARC-Challenge": 0.25, "ARC-Easy": 0.25, "boolq": 0.5, "openbookqa": 0.25, "social_i_qa": 1 / 3}, abs=1e-3
    )
