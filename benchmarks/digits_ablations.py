"""`python -m benchmarks.digits_ablations`: ablations of the study's configurations on digits.

a. Global pruning can remove whole layers: the same networks pruned with and without that possibility.
b. The penalty inside and outside the perturbation of SAM and CrAM+.
c. The variance of weight magnitudes against lam and the weight decay, with WCR.
d. The curvature of the dense networks.
e. Logistic regression with relaxed masks and with l1, on two digits.

Every job writes its result as a line of benchmarks/results/digits-ablations.jsonl. Jobs with a line are not repeated,
so the same command continues after an interruption. --write makes the ablation tables of docs/methods-on-digits.md
from these lines.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import digits_methods
from benchmarks._ablation_jobs import ARMS, initial_config, training_jobs
from benchmarks._ablation_tables import section
from benchmarks._jobs import append, run
from benchmarks._logistic import logistic_jobs
from benchmarks._markdown import replace_section
from benchmarks._measure import RESULTS
from service.records.events import EventLog
from service.records.state import EVENTS
from trainables.config import TrialConfig

RESULTS_FILE = RESULTS / "digits-ablations.jsonl"
PAGE = digits_methods.PAGE
START = "<!-- ablations: written by python -m benchmarks.digits_ablations --write -->"
END = "<!-- ablations end -->"
FIRST_SEED = 100  # the study searches on seeds 0 and 1 and confirms on 2 to 13
NUM_SEEDS = 12

Arms = dict[tuple[str, str], TrialConfig]


# ---- which configurations ------------------------------------------------------------------------------------------


def studied_configs(runs: Path) -> Arms:
    """The configurations that the study confirmed, from its folder in `runs` or, without one, its committed records."""
    with tempfile.TemporaryDirectory() as scratch:
        recorded = (runs / digits_methods.SWEEP.name / EVENTS).exists()
        study = digits_methods.study(runs if recorded else Path(scratch))
        study.restore()
        confirmed = study.found().arms
    return {arm: TrialConfig.model_validate(trials[0].config) for arm, trials in confirmed.items()}


def choose_arms(results: Path, runs: Path, epochs: int | None) -> Arms:
    """Every arm's configuration: the one that the study confirmed or, without one, the arm's initial point.

    The choice is recorded in `results` the first time and does not change afterwards.

    Raises:
        ValueError: If the study has since confirmed another configuration.
    """
    recorded = {
        (entry["optimizer"], entry["regularizer"]): TrialConfig.model_validate(entry["config"])
        for entry, _ in EventLog.read(results)
        if entry["event"] == "arm"
    }
    studied = studied_configs(runs)
    arms: Arms = {}
    for arm in ARMS:
        source = "study" if arm in studied else "initial point"
        config = studied[arm] if arm in studied else initial_config(*arm)
        config = config.model_copy(update={"seed": 0, "read_test": False})
        if epochs is not None:
            config = config.model_copy(update={"max_epochs": epochs})
        arms[arm] = config
        if arm not in recorded:
            print(f"{' + '.join(arm)}: {source}, lam {config.lam:g}, {dict(config.opt)}")
            settings = config.model_dump(mode="json", exclude_defaults=True)
            append(results, "arm", optimizer=arm[0], regularizer=arm[1], source=source, config=settings)
        elif source == "study" and config.key != recorded[arm].key:
            raise ValueError(
                f"{results}: must hold the configurations that the study selects (jobs of others do not compare), got "
                f"another one for {' + '.join(arm)}; remove the file to train all jobs anew"
            )
        else:
            arms[arm] = recorded[arm]
    return arms


# ---- the page ------------------------------------------------------------------------------------------------------


def write(results: Path, page: Path) -> None:
    """Write the tables between the page's markers."""
    replace_section(page, START, END, section([entry for entry, _ in EventLog.read(results)]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="jobs at once, with one thread each (default: 2)")
    parser.add_argument(
        "--seeds", type=int, default=NUM_SEEDS, help=f"number of seeds, from {FIRST_SEED} on (default: {NUM_SEEDS})"
    )
    parser.add_argument("--epochs", type=int, help="epochs of a training (default: the study's)")
    parser.add_argument("--results", type=Path, default=RESULTS_FILE, help="file with a line for each job")
    parser.add_argument("--runs", type=Path, default=digits_methods.SWEEP.runs, help="folder with the study's records")
    parser.add_argument("--write", action="store_true", help="write the tables from the existing lines; run nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="page that --write writes to")
    args = parser.parse_args(arguments)
    if args.write:
        write(args.results, args.page)
        return 0
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    arms = choose_arms(args.results, args.runs, args.epochs)
    jobs = itertools.chain(training_jobs(arms, seeds), logistic_jobs(seeds))
    failures = run(jobs, args.results, num_processes=args.processes)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
