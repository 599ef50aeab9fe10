import json
from pathlib import Path

from trainables.data.images import DataError
from trainables.data.records import Record, Records
from trainables.errors import one_line

__all__ = ["commonsense"]

TASKS = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
JOINT = "commonsense_170k.json"
PAGE = "https://github.com/AGI-Edgerunners/LLM-Adapters"
FORMAT = "Answer format:"  # behind it an instruction has its candidates, as answer1/answer2/answer3
HEADER = (
    "Below is an instruction that describes a task{input}. Write a response that appropriately completes the request."
)
TEMPLATE = HEADER.format(input="") + "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
TEMPLATE_WITH_INPUT = (
    HEADER.format(input=", paired with an input that provides further context")
    + "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
MAX_VALIDATION = 2000  # records


def commonsense(root=None, *, tasks="", cutoff=256):
    """Commonsense questions: BoolQ, PIQA, SIQA, HellaSwag, WinoGrande, ARC-Easy, ARC-Challenge and OpenBookQA.

    Source: Hu et al., "LLM-Adapters: An adapter family for parameter-efficient fine-tuning of large language models",
    EMNLP 2023, whose files these are and whose prompt it is, without the spaces that indent its lines there. A record
    is {instruction, input, output, answer}: the candidates stand behind "Answer format:" in the instruction, the
    output ends with the answer ("the correct answer is answer1"), and a candidate's response is the output with that
    candidate there.
    root: a folder with `TASK/train.json` and `TASK/test.json`, there or in `dataset/`, and, for the joint training set,
        `commonsense_170k.json`, there or in `ft-training_set/`: a clone of LLM-Adapters has all of that.
    tasks: names of folders, with commas between them; all that are there by default. Those given are trained on, where
        they have a train.json, and tested on, where they have a test.json. By default commonsense_170k.json is trained
        on where it is there. Its records do not say their task; they are told apart by their candidates, which are
        alike in ARC-Easy, ARC-Challenge and OpenBookQA: together they validate as one task, "science".
    cutoff: tokens of prompt and answer in training; what is beyond is cut from the prompt, never from the answer.
    Validation: a tenth of the training records, 2,000 at most, the same for every seed and run.
    DataError, one line, naming file and record (from 0): where there is no data, for a file that is not a list of
    records, a record that lacks something, an answer that is no candidate. ValueError for an unknown task or a cutoff
    below 1.
    """
    if not isinstance(cutoff, int) or cutoff < 1:
        raise ValueError(f"commonsense: cutoff must be a whole number of tokens >= 1, got {cutoff!r}")
    chosen = [name.strip() for name in str(tasks).split(",") if name.strip()]
    for name in chosen:
        if name not in TASKS:
            raise ValueError(f"commonsense: tasks must be among {', '.join(TASKS)}, got {name!r}")
    if root is None:
        raise DataError(f"commonsense: --data-root must name a folder with the records, such as a clone of {PAGE}")
    root = Path(root).expanduser()
    train, test = _files(root, chosen, "train"), _files(root, chosen, "test")
    joint = next((file for file in (root / JOINT, root / "ft-training_set" / JOINT) if file.exists()), None)
    if joint and not chosen:
        train = [(joint, "")]
    for name, files in (("train", train), ("test", test)):
        if not files:
            what = f"{name}.json of " + (" or ".join(chosen) if chosen else "a task, as ARC-Easy/")
            got = "none" if root.is_dir() else "no such folder"
            raise DataError(f"commonsense: {root} must hold {what} (there or in dataset/, see {PAGE}), got {got}")
    records = [record for file, task in train for record in _read(file, task)]
    return Records(
        train=records,
        test=[record for file, task in test for record in _read(file, task)],
        validation_fraction=min(0.1, MAX_VALIDATION / len(records)),
        cutoff=cutoff,
        template=TEMPLATE,
    )


def _files(root, chosen, name):
    """(file, task) for each of the tasks that has one."""
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
        got = "an empty one" if entries == [] else type(entries).__name__
        raise DataError(f"{file}: must be a list of records, got {got}")
    return [_record(entry, task, where=f"{file}, record {number}") for number, entry in enumerate(entries)]


def _record(entry, task, *, where):
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must be {{instruction, input, output, answer}}, got {type(entry).__name__}")
    for name in ("instruction", "output", "answer"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise DataError(f"{where}: {name} must be text, got {entry.get(name)!r}")
    instruction, output, answer = entry["instruction"], entry["output"].strip(), entry["answer"].strip()
    _, found, listed = instruction.rpartition(FORMAT)
    candidates = tuple(candidate.strip() for candidate in listed.split("/"))
    if not found or len(set(candidates)) < max(2, len(candidates)) or not all(candidates):
        got = f"{listed.strip()!r}" if found else "none"
        raise DataError(f'{where}: instruction must end with its candidates, as "{FORMAT} true/false", got {got}')
    if answer not in candidates:
        raise DataError(f"{where}: answer must be one of its candidates {', '.join(candidates)}, got {answer!r}")
    if not output.endswith(answer):
        raise DataError(f"{where}: output must end with the answer {answer!r}, got {output!r}")
    start = output.removesuffix(answer)
    return Record(
        prompt=(TEMPLATE_WITH_INPUT if entry.get("input") else TEMPLATE).format(**{"input": "", **entry}),
        responses=tuple(start + candidate for candidate in candidates),
        answer=candidates.index(answer),
        task=task or _kind(candidates),
    )


def _kind(candidates):
    """The task of a record of the joint file, as far as its candidates tell."""
    stem = candidates[0].rstrip("0123456789")
    if stem == "answer":
        return "social_i_qa" if len(candidates) == 3 else "science"
    kinds = {"true": "boolq", "false": "boolq", "solution": "piqa", "ending": "hellaswag", "option": "winogrande"}
    return kinds.get(stem, "others")
