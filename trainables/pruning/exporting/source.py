"""The pruned checkpoint of a trial at any sparsity: the one that was kept, or the trained network pruned again."""

from collections.abc import Callable
from pathlib import Path

from trainables.config import TrialConfig
from trainables.pruning.checkpoint import save_pruned
from trainables.pruning.trained import load_trained
from trainables.pruning_method import check_sparsity
from trainables.task import Task

__all__ = ["find_checkpoint"]


def find_checkpoint(
    folder: Path, config: TrialConfig, level: float, make_task: Callable[[TrialConfig], Task], scratch: Path
) -> Path:
    """The folder of a trial's network pruned to a sparsity by its first method.

    Args:
        folder: The trial's folder.
        config: The trial's configuration.
        level: The sparsity.
        make_task: Called only if the trained network is pruned again, which needs the data.
        scratch: An existing folder, in which a network that is pruned again is written.

    Raises:
        ValueError: If the trial kept neither, or the data are missing.
    """
    check_sparsity(level)
    kept = folder / "pruned" / f"{level:g}"
    if kept.is_dir():
        return kept
    if not (folder / "trained").is_dir():
        levels = sorted(
            float(path.name) for path in folder.glob("pruned/*") if (path / "config.json").exists() and is_level(path)
        )
        if not levels:
            raise ValueError(
                f"export: trial must have kept its networks, got {folder.name}, which kept none: run the sweep with "
                "--keep target"
            )
        raise ValueError(
            f"export: level must be one of {', '.join(f'{one:g}' for one in levels)} (trial {folder.name} kept no "
            f"trained network to prune again), got {level:g}"
        )
    fields = {**dict(config), "target_sparsity": level, "sparsities": (), "more_pruning": ()}
    config = TrialConfig.model_validate(fields)
    task = make_task(config)
    loaded = load_trained(folder / "trained", task, config)
    assert loaded is not None
    trained = loaded[0]
    evaluation = trained.evaluate((level,), config=config)
    description = {
        "target_sparsity": level,
        "pruning": config.pruning[0].model_dump(mode="json"),
        "validation": evaluation.metrics[level],
        "trial": folder.name,
        "trial_config": config.model_dump(mode="json"),
    }
    made, masks, shifted = scratch / f"{level:g}", evaluation.masks[level], evaluation.shifted[level]
    save_pruned(made, task, trained.network, masks, description, shifted=shifted)
    return made


def is_level(path: Path) -> bool:
    try:
        return 0 <= float(path.name) < 1
    except ValueError:  # the folder of another method, named by its label
        return False
