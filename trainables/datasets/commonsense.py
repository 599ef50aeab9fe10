import json
from pathlib import Path

from trainables.data.errors import DataError
from trainables.data.questions import Question, Questions
from trainables.errors import one_line

__all__ = ["commonsense"]

TASKS = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
JOINT = "commonsense_170k.json"
PAGE = "https://github.com/AGI-Edgerunners/LLM-Adapters"
FORMAT = "Answer format:"  # the candidates follow it in an instruction: answer1/answer2/answer3
HEADER = (
    "Below is an instruction that describes a task{input}. Write a response that appropriately completes the request."
)
TEMPLATE = HEADER.format(input="") + "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
TEMPLATE_WITH_INPUT = (
    HEADER.format(input=", paired with an input that provides further context")
    + "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
MAX_VALIDATION = 2000  # questions


def commonsense(root: str | Path | None = None, *, tasks: str = "", cutoff: int = 256) -> Questions:
    """Commonsense questions from eight benchmarks, with candidate answers.

    The benchmarks are BoolQ, PIQA, SIQA, HellaSwag, WinoGrande, ARC-Easy, ARC-Challenge and OpenBookQA, in the files
    and with the prompt of LLM-Adapters, without the spaces that indent the prompt's lines there.

    A file is a list of records {instruction, input, output, answer}. The instruction lists the candidates after "Answer
    format:", and the output ends with the answer ("the correct answer is answer1"). The response of a candidate is the
    output with that candidate at its end.

    A tenth of the training questions, 2,000 at most, validates; the same ones for every seed and run. The records of
    the joint training set do not name their benchmark. It is inferred from the candidates, which look alike in
    ARC-Easy, ARC-Challenge and OpenBookQA: these three validate as one task, "science".

    Args:
        root: Folder with `TASK/train.json` and `TASK/test.json`, in it or in its `dataset/`, and, for the joint
            training set, `commonsense_170k.json`, in it or in its `ft-training_set/`. A clone of LLM-Adapters has all
            of these.
        tasks: Comma-separated benchmarks (folder names). They are trained on if they have a train.json and tested on if
            they have a test.json. The default is every benchmark in `root`; the joint training set, if it exists, then
            replaces their train.json files.
        cutoff: Maximum length of prompt and answer in training, in tokens. Longer prompts are cut; answers never are.

    Returns:
        The questions of all files.

    Raises:
        DataError: If a file is missing or is not a list of records, or a record lacks a field or has an answer that is
            no candidate. It names the file and the record, from 0.
        ValueError: If a benchmark is unknown or cutoff < 1.

    Reference: Hu et al., "LLM-Adapters: An adapter family for parameter-efficient fine-tuning of large language
    models", EMNLP 2023.
    """
    if not isinstance(cutoff, int) or cutoff < 1:
        raise ValueError(f"commonsense: cutoff must be a whole number of tokens >= 1, got {cutoff!r}")
    chosen = [name.strip() for name in str(tasks).split(",") if name.strip()]
    for name in chosen:
        if name not in TASKS:
            raise ValueError(f"commonsense: tasks must be among {', '.join(TASKS)}, got {name!r}")
    if root is None:
        raise DataError(
            f"commonsense: --data-root must name a folder with the questions, such as a clone of {PAGE}, got none"
        )
    root = Path(root).expanduser()
    train, test = _files(root, chosen, "train"), _files(root, chosen, "test")
    joint = next((file for file in (root / JOINT, root / "ft-training_set" / JOINT) if file.exists()), None)
    if joint and not chosen:
        train = [(joint, "")]
    for name, files in (("train", train), ("test", test)):
        if not files:
            what = f"{name}.json of " + (" or ".join(chosen) if chosen else "a task, such as ARC-Easy/")
            got = "none" if root.is_dir() else "no such folder"
            raise DataError(f"commonsense: {root} must hold {what} (in it or in dataset/, see {PAGE}), got {got}")
    questions = [question for file, task in train for question in _read(file, task)]
    return Questions(
        train=questions,
        test=[question for file, task in test for question in _read(file, task)],
        validation_fraction=min(0.1, MAX_VALIDATION / len(questions)),
        cutoff=cutoff,
        template=TEMPLATE,
    )


def _files(root, chosen, name):
    """Find `NAME.json` of each task: pairs (file, task)."""
    files = []
    for task in TASKS:
        places = (folder / task / f"{name}.json" for folder in (root, root / "dataset"))
        file = next((place for place in places if place.exists()), None)
        if file and (task in chosen or not chosen):
            files.append((file, task))
    return files


def _read(file, task):
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: must be readable JSON, got {one_line(error)}") from error
    if not isinstance(entries, list) or not entries:
        got = "an empty list" if entries == [] else type(entries).__name__
        raise DataError(f"{file}: must be a list of records, got {got}")
    return [_question(entry, task, where=f"{file}, record {number}") for number, entry in enumerate(entries)]


def _question(entry, task, *, where):
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must be {{instruction, input, output, answer}}, got {type(entry).__name__}")
    for name in ("instruction", "output", "answer"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise DataError(f"{where}: {name} must be non-empty text, got {entry.get(name)!r}")
    instruction, output, answer = entry["instruction"], entry["output"].strip(), entry["answer"].strip()
    _, found, listed = instruction.rpartition(FORMAT)
    candidates = tuple(candidate.strip() for candidate in listed.split("/"))
    if not found or len(set(candidates)) < max(2, len(candidates)) or not all(candidates):
        got = f"{listed.strip()!r}" if found else "none"
        raise DataError(f'{where}: instruction must end with its candidates, such as "{FORMAT} true/false", got {got}')
    if answer not in candidates:
        raise DataError(f"{where}: answer must be one of its candidates {', '.join(candidates)}, got {answer!r}")
    if not output.endswith(answer):
        raise DataError(f"{where}: output must end with the answer {answer!r}, got {output!r}")
    start = output.removesuffix(answer)
    return Question(
        prompt=(TEMPLATE_WITH_INPUT if entry.get("input") else TEMPLATE).format(**{"input": "", **entry}),
        responses=tuple(start + candidate for candidate in candidates),
        answer=candidates.index(answer),
        task=task or _infer_task(candidates),
    )


def _infer_task(candidates):
    """Infer the task of a record of the joint training set from its candidates."""
    stem = candidates[0].rstrip("0123456789")
    if stem == "answer":
        return "social_i_qa" if len(candidates) == 3 else "science"
    kinds = {"true": "boolq", "false": "boolq", "solution": "piqa", "ending": "hellaswag", "option": "winogrande"}
    return kinds.get(stem, "others")
