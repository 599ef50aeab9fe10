"""What happened in a sweep, and MLflow's copy of it.

The journal is the truth. `Records` replays it and appends to it; `Shipper` copies it to MLflow from a thread of its
own, so that training never waits for a tracking server and never fails with one: what did not arrive is sent later, by
the next run of the sweep or by `python -m sweeps sync`. Each trial is one MLflow run, found by its tags, however often
it was retried; each (metric, step) arrives once.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import platform
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweeps._journal import Journal
from trainables.resumable import read_result, write_atomically

__all__ = ["Records", "Shipper", "TrialRecord", "best", "default_tracking_uri", "find_sweeps"]

PRUNED_BY = {"scheme": "one_shot", "criterion": "magnitude", "scope": "global"}  # and what it was as a rule
CHUNK = 500  # journal lines that are shipped together


@dataclass
class TrialRecord:
    """One configuration, trained once. status: running, finished, diverged, out_of_memory, error or lost."""

    key: str
    phase: str
    arm: str
    number: int
    config: dict
    status: str = "running"
    reason: str = ""
    report: dict = field(default_factory=dict)
    rungs: list[dict] = field(default_factory=list)
    curve: list[dict] = field(default_factory=list)  # validation metrics by sparsity
    test: list[dict] | None = None
    notes: list[str] = field(default_factory=list)
    objective: str = "acc"  # the metric that the search maximizes

    @property
    def done(self) -> bool:
        return self.status != "running"

    def at(self, sparsity: float, metric: str, split: str = "curve") -> float | None:
        rows = getattr(self, split) or ()
        return next((row[metric] for row in rows if row["sparsity"] == sparsity), None)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"opt": {"rho": 0.1}} as {"opt/rho": 0.1}: one spelling in Optuna, Ray and MLflow."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


class Records:
    """The records of one sweep, in its folder. Raises ValueError if the folder is another sweep's or is in use."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._hold_lock()
        self.header: dict[str, Any] = {}
        self.plan: dict[str, Any] = {}
        self.trials: dict[str, TrialRecord] = {}
        self.summary: dict | None = None
        self.journal = Journal(folder / "journal.jsonl")
        for entry, _ in Journal.read(self.journal.path):
            self._apply(entry)
        identity = json.loads(json.dumps(identity))
        if not self.header:
            self._write("sweep", sweep_id=uuid4().hex, identity=identity, software=software_versions())
        elif self.header["identity"] != identity:
            raise ValueError(f"{folder}: {explain_difference(self.header['identity'], identity)}")

    def _hold_lock(self) -> Any:
        """One process a sweep: the lock goes with the process that holds it, however it ends."""
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ValueError(
                f"{self.folder}: must be used by one process at a time, is in use by {lock.read().strip() or 'another'}"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        return lock

    @classmethod
    def replay(cls, folder: Path) -> "Records":
        """The records as they stand, to be read only: no lock, nothing written."""
        records = cls.__new__(cls)
        records.folder, records.header, records.plan, records.trials, records.summary = folder, {}, {}, {}, None
        for entry, _ in Journal.read(folder / "journal.jsonl"):
            records._apply(entry)
        return records

    def _write(self, event: str, **fields: Any) -> None:
        self._apply(self.journal.append(event, **fields))

    def _apply(self, entry: Mapping[str, Any]) -> None:
        event = entry["event"]
        if event == "sweep":
            self.header = dict(entry)
        elif event == "plan":
            self.plan = dict(entry)
        elif event == "start":
            self.trials.setdefault(
                entry["trial"],
                TrialRecord(entry["trial"], entry["phase"], entry["arm"], entry["number"], entry["config"]),
            )
        elif event == "rung":
            rungs = self.trials[entry["trial"]].rungs
            rungs.append(entry["report"])
            rungs.sort(key=lambda rung: rung["epoch"])
        elif event == "end":
            trial = self.trials[entry["trial"]]
            trial.status, trial.reason, trial.report = entry["status"], entry["reason"], entry["report"]
            trial.curve, trial.test, trial.notes = entry["curve"], entry["test"], entry["notes"]
            trial.objective = entry.get("objective", "acc")
        elif event == "summary":
            self.summary = entry["summary"]

    def start_plan(self, *, first: Mapping[str, Any], num_parallel: int) -> None:
        """What the search goes by beside its configuration: decided when it first starts, kept when it goes on."""
        self._write("plan", first=first, num_parallel=num_parallel)

    def start(self, key: str, *, phase: str, arm: str, number: int, config: Mapping[str, Any]) -> None:
        """A trial was launched; launching it again, after a kill, is the same trial."""
        if key not in self.trials:
            self._write("start", trial=key, phase=phase, arm=arm, number=number, config=config)

    def rung(self, key: str, report: Mapping[str, Any]) -> None:
        """A rung's report, once: a retried trial repeats the epochs behind its checkpoint, and computes the same."""
        if report["epoch"] not in {rung["epoch"] for rung in self.trials[key].rungs}:
            self._write("rung", trial=key, report=report)

    def end(self, key: str, *, status: str = "lost", reason: str = "", report: Mapping[str, Any] | None = None) -> None:
        """A trial ended: its result lies in its folder; one that left none is recorded with this status and reason."""
        if self.trials[key].done:
            return
        result = read_result(self.trial_folder(key)) or {
            "report": {**(report or {}), "status": status, "reason": reason},
            "notes": [],
        }
        for rung in result.get("rungs", ()):  # those that a driver was killed before it heard of
            self.rung(key, rung)
        self._write(
            "end",
            trial=key,
            status=result["report"]["status"],
            reason=result["report"]["reason"],
            report=result["report"],
            curve=result.get("curve", []),
            test=result.get("test"),
            diagnostics=result.get("diagnostics", {}),
            notes=result["notes"],
            objective=result.get("objective", "acc"),
        )

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """The sweep's result; written again only if it changed."""
        if json.loads(json.dumps(summary)) != self.summary:
            self._write("summary", summary=summary)

    def trial_folder(self, key: str) -> Path:
        return self.folder / "trials" / key

    def finished(self, phase: str) -> list[TrialRecord]:
        return [t for t in self.trials.values() if t.phase == phase and t.status == "finished"]

    def close(self) -> None:
        self.journal.close()
        self._lock.close()


def explain_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    a, b = flatten(there), flatten(here)
    changed = [f"{name}: {a.get(name)} there, {b.get(name)} here" for name in {**a, **b} if a.get(name) != b.get(name)]
    return (
        f"must be of the same sweep, holds one with another configuration ({'; '.join(changed[:4])}"
        f"{', ...' if len(changed) > 4 else ''}): choose another --name or --runs, or remove the folder"
    )


def software_versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the commit if this is a checkout."""
    from importlib.metadata import version

    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(git, capture_output=True, text=True)
        commit = done.stdout.strip() if done.returncode == 0 else ""
    packages = ("sparsity-sweeps", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "git_commit": commit or "unknown",
    }


# ---- what is known to work -----------------------------------------------------------------------------------------


def find_sweeps(runs: Path) -> list[Path]:
    """The folders of the sweeps recorded under `runs`."""
    return sorted(path.parent for path in runs.glob("*/journal.jsonl"))


def best(
    runs: str | Path = "runs",
    *,
    architecture: str | None = None,
    dataset: str | None = None,
    optimizer: str | None = None,
    regularizer: str | None = None,
    skip_sweep: str | None = None,
) -> list[dict[str, Any]]:
    """The best configuration for each architecture, dataset, optimizer, regularizer, way of pruning (scheme, criterion,
    scope) and sparsity, from the journals.

    Only trials that ran to their end count, by the objective on the validation split after pruning at that sparsity:
    the mean over the seeds a configuration was trained with, `n`, and their standard deviation, `spread` (None for 1).
    A configuration that was confirmed on unseen seeds comes before one that was tried once: the best of many single
    runs is lucky. Returns rows with lam, rho (None where there is none), value, spread, n, epochs, sweep and trial.
    """
    wanted = {"architecture": architecture, "dataset": dataset, "optimizer": optimizer, "regularizer": regularizer}
    groups: dict[str, list[tuple[str, TrialRecord]]] = {}
    for folder in find_sweeps(Path(runs)):
        if folder.name == skip_sweep:
            continue
        for trial in Records.replay(folder).trials.values():
            config = trial.config
            if trial.status == "finished" and all(v is None or config[k] == v for k, v in wanted.items()):
                same = {k: v for k, v in config.items() if k not in ("seed", "read_test")}
                groups.setdefault(json.dumps(same, sort_keys=True), []).append((folder.name, trial))
    rows: dict[tuple, dict] = {}
    for group in groups.values():
        sweep, first = min(group, key=lambda item: (item[1].phase != "search", item[1].number))
        config = first.config
        for point in first.curve:
            sparsity = point["sparsity"]
            metric = first.objective
            values = [v for _, trial in group if (v := trial.at(sparsity, metric)) is not None]
            row = {
                **{name: config[name] for name in wanted},
                **{name: config.get(name, default) for name, default in PRUNED_BY.items()},
                "sparsity": sparsity,
                "lam": None if config["regularizer"] == "none" else config["lam"],
                "rho": config["opt"].get("rho"),
                "metric": metric,
                **mean_and_spread(values),
                "epochs": config["max_epochs"],
                "sweep": sweep,
                "trial": first.key,
            }
            place = (*(row[name] for name in (*wanted, *PRUNED_BY)), sparsity)
            if place not in rows or (row["n"] > 1, row["value"]) > (rows[place]["n"] > 1, rows[place]["value"]):
                rows[place] = row
    return [rows[place] for place in sorted(rows)]


def mean_and_spread(values: list[float]) -> dict[str, Any]:
    """{"value": mean, "spread": sample standard deviation (None for fewer than two values), "n": how many}."""
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return {"value": mean, "spread": spread, "n": n}


# ---- MLflow's copy -------------------------------------------------------------------------------------------------


def default_tracking_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI where it is set, else a SQLite database in the runs folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


class Shipper(threading.Thread):
    """Copies a sweep's journal to MLflow in the background. Never raises; what it could not send stays to be sent.

    Where it stopped is kept in `shipped.json`, for each tracking server by itself.
    """

    def __init__(self, folder: Path, tracking_uri: str, warn: Any = print):
        super().__init__(name=f"ship {folder.name} to MLflow", daemon=True)
        self.folder, self.tracking_uri, self.warn = folder, tracking_uri, warn
        self.failure = ""  # the last attempt's, empty if it went well
        self._closing, self._wake = threading.Event(), threading.Event()
        self._copy: MlflowCopy | None = None

    @property
    def offset(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / "shipped.json").read_text()).get(self.tracking_uri, 0)
        return 0

    @property
    def num_waiting(self) -> int:
        """Journal lines that have not arrived."""
        return sum(1 for _ in Journal.read(self.folder / "journal.jsonl", self.offset))

    def run(self) -> None:
        pause = 1.0
        while True:
            closing = self._closing.is_set()
            try:
                while self._ship_chunk():
                    pass
                self.failure, pause = "", 1.0
                if closing:
                    return
            except Exception as error:  # a tracking server's fault is no reason to stop training
                first_line = (str(error).splitlines() or [""])[0][:200]
                if not self.failure:
                    self.warn(
                        f"MLflow at {self.tracking_uri} is not reached ({type(error).__name__}: {first_line}); "
                        "the journal keeps everything and it is tried again"
                    )
                self.failure = first_line or type(error).__name__
                if self._copy is not None:
                    self._copy.uncertain = True
                if closing:
                    return
                pause = min(2 * pause, 30.0)
            self._wake.wait(pause)
            self._wake.clear()

    def _ship_chunk(self) -> bool:
        chunk = list(Journal.read(self.folder / "journal.jsonl", self.offset, most=CHUNK))
        if not chunk:
            return False
        if self._copy is None:
            self._copy = MlflowCopy(self.folder, self.tracking_uri)
        self._copy.ship([entry for entry, _ in chunk])
        shipped = {}
        with contextlib.suppress(FileNotFoundError):
            shipped = json.loads((self.folder / "shipped.json").read_text())
        shipped[self.tracking_uri] = chunk[-1][1]
        write_atomically(self.folder / "shipped.json", lambda path: path.write_text(json.dumps(shipped)))
        return True

    def finish(self, timeout: float) -> int:
        """Send what is left, for at most `timeout` seconds; returns the number of lines still to be sent."""
        self._closing.set()
        self._wake.set()
        self.join(timeout)
        return self.num_waiting


class MlflowCopy:
    """Writes journal entries into MLflow; shipping an entry twice changes nothing."""

    def __init__(self, folder: Path, tracking_uri: str):
        # The journal keeps what a server does not take, so retries are short: the defaults block for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
        self.folder = folder
        header = next(iter(Journal.read(folder / "journal.jsonl")))[0]
        self.sweep_id, self.identity, self.software = header["sweep_id"], header["identity"], header["software"]
        self.sweep = folder.name
        self.artifacts = (folder.parent / "mlartifacts").resolve() if tracking_uri.startswith("sqlite:") else None
        self.experiment = self._experiment()
        self.runs: dict[str, str] = {}  # trial key -> run id; "" is the parent
        self.uncertain = True  # whether part of the next chunk may have arrived already

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep)
        if found is not None:
            return found.experiment_id
        place = (self.artifacts / self.sweep).as_uri() if self.artifacts else None
        return self.client.create_experiment(self.sweep, artifact_location=place)

    def ship(self, entries: list[dict]) -> None:
        from mlflow.entities import Metric

        pending: dict[str, list[Metric]] = {}
        for entry in entries:
            milliseconds = round(entry["time"] * 1000)
            if entry["event"] in ("sweep", "plan"):
                self._parent()
                continue
            if entry["event"] == "summary":
                summary = entry["summary"]
                if summary["winner"]:
                    name, step = summary["objective"] + "_pruned", sum(summary["counts"].values())
                    best = Metric(name, summary["winner"]["value"], milliseconds, step)
                    pending.setdefault(self._parent(), []).append(best)
                self._flush(pending)
                self._ship_summary(summary, milliseconds)
                continue
            run = self._child(entry["trial"], entry if entry["event"] == "start" else None)
            pending.setdefault(run, []).extend(
                Metric(name, value, milliseconds, step) for name, value, step in metrics_of(entry)
            )
            if entry["event"] == "end":
                self._flush(pending)
                self._ship_end(run, entry, milliseconds)
        self._flush(pending)
        self.uncertain = False

    def _flush(self, pending: dict[str, list]) -> None:
        for run, metrics in pending.items():
            if self.uncertain and metrics:
                names = {metric.key for metric in metrics}
                there = {(m.key, m.step) for name in names for m in self.client.get_metric_history(run, name)}
                metrics = [metric for metric in metrics if (metric.key, metric.step) not in there]
            for start in range(0, len(metrics), 1000):
                self.client.log_batch(run, metrics=metrics[start : start + 1000])
        pending.clear()

    def _find_or_create(self, trial: str, name: str, tags: Mapping[str, str], milliseconds: int | None) -> str:
        identifying = {"sweep": self.sweep, "trial": trial, "sweep_id": self.sweep_id}
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in identifying.items())
        found = self.client.search_runs([self.experiment], query, max_results=1)
        if found:
            return found[0].info.run_id
        run = self.client.create_run(
            self.experiment, start_time=milliseconds, run_name=name, tags={**identifying, **tags}
        )
        return run.info.run_id

    def _parent(self) -> str:
        if "" not in self.runs:
            tags = {
                **{k: str(self.identity[k]) for k in ("task", "architecture", "dataset", "criterion")},
                "git_commit": self.software["git_commit"],
                "software": json.dumps(self.software),
            }
            self.runs[""] = self._find_or_create("all", self.sweep, tags, None)
            flat = {name: str(value)[:6000] for name, value in flatten(self.identity).items()}
            from mlflow.entities import Param

            self.client.log_batch(self.runs[""], params=[Param(k, v) for k, v in list(flat.items())[:100]])
        return self.runs[""]

    def _child(self, key: str, start: Mapping[str, Any] | None) -> str:
        if key in self.runs:
            return self.runs[key]
        if start is None:  # begun in an earlier chunk, perhaps by an earlier process
            lines = Journal.read(self.folder / "journal.jsonl")
            start = next(e for e, _ in lines if e["event"] == "start" and e["trial"] == key)
        from mlflow.entities import Param

        config = start["config"]
        tags = {
            "mlflow.parentRunId": self._parent(),
            **{k: str(config[k]) for k in ("task", "architecture", "dataset", "optimizer", "regularizer", "criterion")},
            "seed": str(config["seed"]),
            "phase": start["phase"],
            "git_commit": self.software["git_commit"],
        }
        name = f"{start['arm']} #{start['number']}" + (f" seed {config['seed']}" if start["phase"] != "search" else "")
        run = self._find_or_create(key, name, tags, round(start["time"] * 1000))
        self.client.log_batch(run, params=[Param(k, str(v)) for k, v in flatten(config).items()])
        self.runs[key] = run
        return run

    def _ship_end(self, run: str, entry: Mapping[str, Any], milliseconds: int) -> None:
        from sweeps._figures import draw_curve, draw_weights

        folder = self.folder / "trials" / entry["trial"]
        if entry["reason"]:
            self.client.set_tag(run, "reason", entry["reason"][:5000])
        if entry["notes"]:
            self.client.set_tag(run, "notes", "\n".join(entry["notes"])[:5000])
        self.client.set_tag(run, "outcome", entry["status"])
        result = read_result(folder) or {}
        if result.get("traceback"):
            self.client.log_text(run, result["traceback"], "traceback.txt")
        if entry["status"] == "finished":
            if (folder / "pruned").exists():
                self.client.log_artifacts(run, str(folder / "pruned"), "pruned")
            if (folder / "figures").exists():
                self.client.log_artifacts(run, str(folder / "figures"), "figures")
            config = result["config"]
            self.client.log_dict(run, {"layers": result["layers"]}, "layers.json")
            figure = draw_curve(entry["curve"], entry["test"], config, objective=result.get("objective", "acc"))
            self.client.log_figure(run, figure, "curve.png")
            self.client.log_figure(run, draw_weights(result["layers"], config), "weights.png")
        status = "FINISHED" if entry["status"] == "finished" else "FAILED"
        self.client.set_terminated(run, status, end_time=milliseconds)
        self.runs.pop(entry["trial"])

    def _ship_summary(self, summary: Mapping[str, Any], milliseconds: int) -> None:
        from sweeps._figures import draw_summary
        from sweeps._report import as_markdown

        parent = self._parent()
        text = as_markdown(summary)
        self.client.set_tag(parent, "mlflow.note.content", text)
        self.client.log_text(parent, text, "summary.md")
        self.client.log_dict(parent, dict(summary), "summary.json")
        winner = summary["winner"]
        if winner:
            self.client.log_figure(parent, draw_summary(summary), "curve.png")
            run = self._child(winner["checkpoint_trial"], None)
            self.client.set_tag(parent, "best_run", run)
            if summary["complete"]:
                self._register(run, winner, summary)
        status = "FINISHED" if summary["complete"] else "KILLED"
        self.client.set_terminated(parent, status, end_time=milliseconds)

    def _register(self, run: str, winner: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """The winner's pruned checkpoint as a model version with the alias "best"; once, however often shipped."""
        from mlflow.exceptions import MlflowException

        level = f"{summary['target_sparsity']:g}"
        name = f"{self.identity['architecture']}-{self.identity['dataset']}-{level}"
        if not any(path.path == f"pruned/{level}" for path in self.client.list_artifacts(run, "pruned")):
            return  # --keep none
        with contextlib.suppress(MlflowException):  # it exists already
            self.client.create_registered_model(name)
        versions = self.client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        if versions:
            version = versions[0].version
        else:
            artifact = f"{self.client.get_run(run).info.artifact_uri}/pruned/{level}"
            tags = {"sweep": self.sweep, "optimizer": winner["optimizer"], "regularizer": winner["regularizer"]}
            tags |= {k: f"{winner[k]:g}" for k in ("lam", "rho") if winner[k] is not None}
            version = self.client.create_model_version(name, source=artifact, run_id=run, tags=tags).version
        self.client.set_registered_model_alias(name, "best", version)


def metrics_of(entry: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(name, value, step) of an entry. Steps are epochs done; lam and rho are metrics too, so that the UI can plot and
    compare them as numbers, and the curve at the end is one metric a sparsity."""
    if entry["event"] == "start":
        config = entry["config"]
        yield "lam", config["lam"], 0
        if config["lam"] > 0:
            yield "log10_lam", math.log10(config["lam"]), 0
        if "rho" in config["opt"]:
            yield "rho", config["opt"]["rho"], 0
        return
    if entry["event"] == "end" and entry["status"] != "finished":
        return  # it has its reason; its numbers are those of its last rung
    report = entry["report"]
    for name, value in report.items():
        if name != "epoch" and isinstance(value, int | float):
            yield name, value, report.get("epoch", 0)
    if entry["event"] == "end":
        for name, value in entry.get("diagnostics", {}).items():
            yield name, value, report["epoch"]
        for split, rows in (("", entry["curve"]), ("test_", entry["test"] or ())):
            for row in rows:
                for name, value in row.items():
                    if name not in ("sparsity", "loss"):
                        yield f"{split}{name}_pruned/{row['sparsity']:g}", value, report["epoch"]
