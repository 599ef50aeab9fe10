"""What a sweep prints before its first trial and after its last."""

import itertools
from collections.abc import Sequence

from rich.console import Console

from service.cluster.ray_start import Resources
from service.process import sweeps_command
from service.records.passwords import hide_passwords
from service.search.phases import Phases
from service.search.reprune import Reprune
from service.search.space import Arm
from service.spec import SweepSpec
from service.views.console import make_console, print_whole, say, warn
from service.views.tables import as_tables
from sparsity.import_strings import short_name
from trainables.files import write_atomically
from trainables.network_summary import Weight, in_words
from trainables.pruning_method import PruningMethod

__all__ = ["announce", "announce_memory", "announce_network", "announce_reprune", "report"]

MANY_ARMS = 10  # from here on, a line of all names is hard to read


def announce(spec: SweepSpec, phases: Phases, tracking_uri: str, console: Console) -> None:
    """Print what is about to run and where its records are."""
    trial, done = spec.trial, phases.num_done
    num_configurations = max(number for _, number in phases.search.slots) + 1
    plural = "s" if num_configurations > 1 else ""
    seeds = f" on {spec.num_search_seeds} seeds" if spec.num_search_seeds > 1 else ""
    if spec.num_finalists > 1 and num_configurations > 1:
        seeds += f", the best {spec.num_finalists} on {spec.num_finalist_seeds} more seeds"
    say(
        console,
        f"{spec.name}: {short_name(trial.architecture)} on {short_name(trial.dataset)}, {trial.max_epochs} epochs a "
        "trial; "
        f"{phases.num_search} trials to search {len(phases.arms)} arms ({num_configurations} configuration{plural} each"
        f"{seeds}), then up to {phases.num_confirm} on unseen seeds"
        + (f"; {done} are done already" if done else "")
        + (f"; {phases.num_trained} are already trained and only need pruning" if phases.num_trained else ""),
    )
    say(console, f"arms (an optimizer with a regularizer): {in_short(phases.arms)}")
    say(console, f"records: {spec.folder}    MLflow: {hide_passwords(tracking_uri)}")
    single = [arm.name for arm in phases.arms if not arm.space]
    if single and spec.num_trials > 1:
        warn(console, f"nothing to search, so one configuration: {', '.join(single)}")


def in_short(arms: Sequence[Arm]) -> str:
    """The arms' names; what is combined, if these are many arms and all combinations."""
    pairs = [(arm.choices["optimizer"], arm.choices["regularizer"]) for arm in arms]
    optimizers, regularizers = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    if len(arms) < MANY_ARMS or set(pairs) != set(itertools.product(optimizers, regularizers)):
        return ", ".join(arm.name for arm in arms)
    return f"each of {', '.join(map(short_name, optimizers))} with each of {', '.join(map(short_name, regularizers))}"


def announce_network(network: Sequence[Weight], architecture: str, console: Console, *, hint: bool = True) -> None:
    """Print how many weights the network has, and how many of them are pruned.

    Args:
        hint: Whether to name the command that lists every weight.
    """
    for line in in_words(network, short_name(architecture), hint=hint):
        say(console, line)


def announce_memory(memory: int | None, resources: Resources, console: Console) -> None:
    """Print a trial's memory on a CPU; in yellow, with advice, if it limits the number of trials at once."""
    if not memory or "gpu" in resources.reserved:
        return
    text = f"memory: about {memory / 1e9:.1f} GB a trial, {resources.num_parallel} at once"
    advice = "for less, --accumulate 4 or a smaller --batch-size"
    reserved = resources.reserved.get("memory", memory)
    if reserved < memory:
        warn(console, f"{text}; this machine has {reserved / 1e9:.1f} GB: {advice}")
    elif resources.num_parallel < resources.num_fitting:
        warn(console, f"{text} instead of {resources.num_fitting}, as there is no more memory; {advice}")
    else:
        say(console, text)


def announce_reprune(spec: SweepSpec, queue: Reprune, methods: Sequence[PruningMethod], console: Console) -> None:
    """Print how many trials are evaluated, and which are skipped."""
    labels = ", ".join(method.label for method in methods)
    measured = f"; {queue.num_measured} already have all results" if queue.num_measured else ""
    say(
        console,
        f"{spec.name}: {queue.num_left} of {queue.num_finished} finished trials are evaluated, without training "
        f"({labels}){measured}",
    )
    if queue.not_kept:
        warn(
            console,
            f"skipped: {len(queue.not_kept)} whose trained weights were not kept (--keep) or were "
            f"removed: {', '.join(queue.not_kept[:4])}{', ...' if len(queue.not_kept) > 4 else ''}",
        )
    if queue.of_rounds:
        warn(console, f"skipped: {len(queue.of_rounds)} whose pruning schedule prunes during training")


def report(spec: SweepSpec, summary: dict, tracking_uri: str, num_waiting: int, console: Console) -> None:
    """Print the tables, draw the figure, and say where to look next."""
    console.print()
    print_whole(console, as_tables(summary))
    if console.quiet:
        print_whole(make_console(), as_tables(summary, tables=False))
    figure = spec.folder / "curve.png"
    if summary["winner"] and summary["complete"]:
        from service.views.figures import draw_summary  # imports matplotlib

        write_atomically(figure, lambda path: draw_summary(summary).savefig(path, format="png", dpi=150))
        say(console, f"Accuracy against sparsity: {figure}")
    if num_waiting:
        command = sweeps_command("sync", spec.name, runs=spec.runs)
        warn(console, f"{num_waiting} events are not in MLflow yet: {command}")
    local = tracking_uri.startswith("sqlite:")
    browse = sweeps_command("ui", runs=spec.runs) if local else hide_passwords(tracking_uri)
    say(console, f"Browse the runs: {browse}        best lam and rho: {sweeps_command('best', runs=spec.runs)}")
