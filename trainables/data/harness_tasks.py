"""Write the test questions of a dataset as tasks of lm-evaluation-harness.

    python -m trainables.data.harness_tasks FOLDER --data-root DATA --data tasks=ARC-Easy,openbookqa

Then `lm_eval run --include_path FOLDER --tasks commonsense` evaluates any model that the harness can load, on the same
texts as a sweep, and chooses answers by the same rule: the candidate with the highest log-probability.

FOLDER must not exist. It holds TASK.yaml and TASK.jsonl for each benchmark, and a group of all of them, whose accuracy
is the mean of theirs, as `acc` is in a sweep. The files name FOLDER: write them again to use them elsewhere.
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sparsity
from trainables.arguments import construct, parse_arguments
from trainables.data.questions import Question, Questions
from trainables.files import new_folder

__all__ = ["harness_tasks", "write_harness_tasks"]


def harness_tasks(
    folder: str | Path,
    root: str | Path | None,
    *,
    dataset: str = "commonsense",
    arguments: Mapping[str, Any] | None = None,
) -> list[str]:
    """Read a dataset of questions and write its test questions as tasks of lm-evaluation-harness.

    Args:
        folder: Folder to create.
        root: Folder of the dataset.
        dataset: Name of the dataset, which is also that of the group of all tasks.
        arguments: Further arguments of the dataset.

    Returns:
        The names of the tasks: DATASET_BENCHMARK.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If the dataset is unknown, missing or damaged, or has no questions.
    """
    questions = construct("data", sparsity.load("trainables.datasets", dataset), root, arguments=arguments or {})
    if not isinstance(questions, Questions):
        raise ValueError(f"dataset: must have questions with candidate answers (e.g. commonsense), got {dataset!r}")
    return write_harness_tasks(Path(folder).expanduser(), dataset, questions.test)


def write_harness_tasks(folder: Path, group: str, questions: list[Question]) -> list[str]:
    """Write questions as tasks of lm-evaluation-harness.

    Args:
        folder: Folder to create.
        group: Name of the group of all tasks.
        questions: The questions. Records of a task are numbered in this order.

    Returns:
        The names of the tasks: GROUP_BENCHMARK.
    """
    import yaml

    benchmarks = sorted({question.task for question in questions})
    names = {benchmark: f"{group}_{benchmark}" for benchmark in benchmarks}
    with new_folder(folder) as partial:
        for benchmark, name in names.items():
            file = f"{benchmark}.jsonl"
            records = (question for question in questions if question.task == benchmark)
            (partial / file).write_text("".join(map(record, records)), encoding="utf-8")
            task = task_file(name, folder.absolute() / file)
            (partial / f"{benchmark}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
        metrics = [{"metric": "acc", "aggregation": "mean", "weight_by_size": False}]
        content = {"group": group, "task": list(names.values()), "aggregate_metric_list": metrics}
        (partial / "group.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return list(names.values())


def record(question: Question) -> str:
    """A question as one line of JSON.

    What follows the last word of the prompt goes to the responses. The harness encodes a prompt without the white space
    at its end, where the tokenizers of Qwen2 and LLaMA 3 have one token for ":" and the line break. The model would get
    another token than in a sweep. All responses of a question get the same addition, so their order is the same.
    """
    end = re.search(r"\W*$", question.prompt)
    assert end is not None  # it matches the empty text
    cut = end.start() or len(question.prompt)
    responses = [question.prompt[cut:] + response for response in question.responses]
    content = {"prompt": question.prompt[:cut], "responses": responses, "answer": question.answer}
    return json.dumps(content, ensure_ascii=False) + "\n"


def task_file(name: str, records: Path) -> dict[str, Any]:
    """The task that reads records. Its entries are names of their fields."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(records)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "responses",
        "doc_to_target": "answer",
        "target_delimiter": "",  # responses have what lies between
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.data.harness_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="folder to write, for --include_path")
    parser.add_argument("--data-root", required=True, help="folder of the dataset")
    parser.add_argument("--dataset", default="commonsense", help="a dataset of questions [commonsense]")
    parser.add_argument(
        "--data", action="append", default=[], metavar="KEY=VALUE", help="argument of the dataset; repeatable"
    )
    chosen = parser.parse_args()
    try:
        arguments = parse_arguments("data", chosen.data)
        names = harness_tasks(chosen.folder, chosen.data_root, dataset=chosen.dataset, arguments=arguments)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{chosen.folder}: group {chosen.dataset} of the tasks {', '.join(names)}")


if __name__ == "__main__":
    main()
