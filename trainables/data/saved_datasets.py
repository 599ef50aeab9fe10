"""Datasets of Hugging Face's library `datasets` in the folders that `save_to_disk` writes, read without the library."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.data.errors import DataError
from trainables.errors import one_line

__all__ = ["find_column", "read_table", "split_folders"]

VALIDATION = ("validation", "valid", "val")  # names of the validation split; the first one that exists is taken
ADVICE = "dataset.save_to_disk(folder) of the library `datasets` writes such a folder"


def split_folders(where: str, root: str | Path | None) -> dict[str, Path]:
    """The folder of each split of a saved dataset: "train", and "validation" and "test" if there are any.

    With only one of "validation" and "test", that is "test".

    Args:
        where: The dataset's name, for error messages.
        root: The folder of a saved `Dataset` or `DatasetDict`.

    Raises:
        DataError: If it is no such folder, or lacks the split "train".
    """
    if root is None:
        raise DataError(f"{where}: --data-root must name the folder with the saved dataset, got none")
    root = Path(root).expanduser()
    if (root / "state.json").is_file():
        return {"train": root}
    if not (root / "dataset_dict.json").is_file():
        got = "a folder without them" if root.is_dir() else "no such folder"
        raise DataError(f"{where}: {root} must hold dataset_dict.json or state.json, got {got}: {ADVICE}")
    names = _json(root / "dataset_dict.json", "splits", list)
    if "train" not in names:
        raise DataError(f"{root}: must have the split train, got {', '.join(map(str, names)) or 'none'}")
    validation = next((name for name in VALIDATION if name in names), None)
    found = {"train": "train", "validation": validation, "test": "test" if "test" in names else None}
    if found["test"] is None:
        found["validation"], found["test"] = None, validation
    return {split: root / name for split, name in found.items() if name}


def read_table(folder: Path) -> Any:
    """The rows of a split as a pyarrow.Table.

    Raises:
        DataError: If a file is missing or damaged, or there are no rows.
    """
    import pyarrow as pa  # lazy: most datasets do not need it

    state = folder / "state.json"
    files = _json(state, "_data_files", list)
    if _json(state, "_indices_files", list, default=[]):
        raise DataError(f"{folder}: must be saved without a mapping of its rows, got one: call flatten_indices() first")
    tables = []
    for entry in files:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{state}: _data_files must name files of the folder, got {entry!r}")
        try:
            with pa.memory_map(str(folder / name)) as file, pa.ipc.open_stream(file) as stream:
                tables.append(stream.read_all())
            tables[-1].validate(full=True)  # a damaged file can point outside of its memory
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{folder / name}: must be a readable arrow file, got {one_line(error)}") from error
        except UnicodeDecodeError as error:  # pyarrow decodes the names of columns when they are first used
            raise DataError(f"{folder}: must have readable names of columns, got {one_line(error)}") from error
    if not tables:
        raise DataError(f"{folder}: must have at least one file of data, got none: {ADVICE}")
    table = pa.concat_tables(tables)
    if table.num_rows == 0:
        raise DataError(f"{folder}: must have at least one row, got none")
    return table


def find_column(folder: Path, table: Any, given: str, usual: Sequence[str], what: str) -> Any:
    """A column of a table as a pyarrow.ChunkedArray.

    Args:
        folder: The folder of the table, for error messages.
        table: The table.
        given: The name that the user gave, or "".
        usual: The names to try otherwise; the first one that exists is taken.
        what: The option that names the column.

    Raises:
        DataError: If there is no such column.
    """
    wanted = (given,) if given else tuple(usual)
    for name in wanted:
        if name in table.column_names:
            return table[name]
    raise DataError(
        f"{folder}: must have the column {' or '.join(wanted)} (--data {what}=NAME names another one), got "
        f"{', '.join(table.column_names)}"
    )


def _json(file: Path, key: str, kind: type, default: Any = None) -> Any:
    """A value of a JSON file. It must be there unless there is a default."""
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: must be a readable JSON object, got {one_line(error)}") from error
    if value is None:
        value = default
    if not isinstance(value, kind):
        raise DataError(f"{file}: {key} must be a {kind.__name__}, got {type(value).__name__}")
    return value
