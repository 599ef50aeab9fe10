"""MLflow's copy of a sweep's records; mlflow is imported here only.

`Shipper` copies the journal to MLflow from a thread of its own, so that training never waits for a tracking server and
never fails with one: what did not arrive is sent later, by the next run of the sweep or by `python -m sweeps sync`.
Each trial is one MLflow run, found by its tags, however often it was retried; each (metric, step) arrives once.
"""

import contextlib
import fcntl
import itertools
import json
import logging
import math
import os
import re
import threading
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from service.records.events import EventLog
from service.records.state import flatten, without_password
from trainables.files import write_atomically
from trainables.result import read_result

__all__ = ["MlflowCopy", "Shipper", "default_tracking_uri", "metrics_of", "warm_up"]

CHUNK = 500  # journal lines that are shipped together
NO_TELEMETRY = ("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody's use is reported anywhere
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between tries: doubled as long as nothing arrives


def default_tracking_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI where it is set, else a SQLite database in the runs folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url((runs / "mlflow.db").resolve())


def sqlite_url(path: Path) -> str:
    """The URL of a database file. ValueError if this SQLAlchemy cannot open such a file."""
    if not set("%?") & set(str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy.engine import make_url

    # The slashes too: MLflow makes the folder that it reads in the URL, which it does not decode.
    url = f"sqlite:///{quote(str(path), safe='')}"
    if make_url(url).database != str(path):  # before SQLAlchemy 2.1
        raise ValueError(f"runs: must be a folder without % and ? (SQLAlchemy 2.1 takes them), got {path.parent}")
    return url


@dataclass
class Shipped:
    """What of a journal a tracking server has got."""

    parent: str = ""  # the sweep's run there; a server without it was emptied, and gets everything anew
    offset: int = 0  # the journal's bytes that were sent
    refused: dict[str, str] = field(default_factory=dict)  # trial ("": the sweep itself) -> what the server said


class Shipper(threading.Thread):
    """Copies a sweep's journal to MLflow in the background. Never raises; what it could not send stays to be sent.

    `shipped.json` holds what was sent, for each tracking server by itself. Trials that a server refuses are told of and
    passed over, and tried once more by each new Shipper.
    """

    def __init__(self, folder: Path, tracking_uri: str, warn: Any = print):
        super().__init__(name=f"ship {folder.name} to MLflow", daemon=True)
        self.folder, self.tracking_uri, self.warn = folder, tracking_uri, warn
        self.server = without_password(tracking_uri)
        self.failure = ""  # why something is not sent, empty if all is
        self.num_sent = 0  # journal lines, by this Shipper
        self._away = False  # whether the server was not reached when last tried
        self._closing, self._wake = threading.Event(), threading.Event()
        self._copy: MlflowCopy | None = None
        self._most = CHUNK
        self._try_refused = True

    @property
    def shipped(self) -> Shipped:
        try:
            return Shipped(**self._read()[self.server])
        except (KeyError, TypeError):  # never sent anything, or noted by an older version
            return Shipped()

    def _read(self) -> dict[str, Any]:
        try:
            noted = json.loads((self.folder / "shipped.json").read_text())
        except (FileNotFoundError, ValueError):  # where it was damaged all is sent once more, and nothing is doubled
            return {}
        return noted if isinstance(noted, dict) else {}

    def _note(self, shipped: Shipped) -> None:
        text = json.dumps(self._read() | {self.server: asdict(shipped)})
        write_atomically(self.folder / "shipped.json", lambda path: path.write_text(text))

    @property
    def num_waiting(self) -> int:
        """EventLog lines that have not arrived."""
        shipped = self.shipped
        journal = EventLog.read(self.folder / "events.jsonl", 0 if shipped.refused else shipped.offset)
        return sum(end > shipped.offset or entry.get("trial", "") in shipped.refused for entry, end in journal)

    def run(self) -> None:
        in_vain = 0  # tries in a row that sent nothing
        while True:
            closing, before = self._closing.is_set(), self.num_sent
            try:
                with self._alone():
                    self._ship()
                in_vain = 0
                if closing:
                    return
            except Exception as error:  # a tracking server's fault is no reason to stop training
                if not self._away:
                    self.warn(
                        f"MLflow at {self.server} is not reached ({type(error).__name__}: {first_line(error)}); "
                        "the journal keeps everything and it is tried again"
                    )
                self._away, self.failure, self._copy = True, first_line(error), None
                self._most = max(1, self._most // 2)  # on a shaky line little by little arrives as well
                in_vain = in_vain + 1 if self.num_sent == before else 1
                if closing and in_vain >= 2:
                    return
            self._wake.wait(min(PAUSE * 2**in_vain, LONGEST_PAUSE))
            self._wake.clear()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time sends a sweep's records: not `sync` while the sweep does."""
        with (self.folder / "shipped.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _ship(self) -> None:
        """All that waits, chunk by chunk. Raises if the server is away."""
        if self._copy is None:
            self._copy = MlflowCopy(self.folder, self.tracking_uri)
        shipped = self.shipped
        if shipped.parent != self._copy.parent:
            shipped = Shipped(self._copy.parent)
        if self._try_refused:
            self._ship_refused(shipped)
            self._try_refused = False
        while chunk := list(EventLog.read(self.folder / "events.jsonl", shipped.offset, most=self._most)):
            self._send([entry for entry, _ in chunk], shipped)
            shipped.offset = chunk[-1][1]
            self._note(shipped)
            self._most = min(2 * self._most, CHUNK)
        self._away, self.failure = False, next(iter(shipped.refused.values()), "")

    def _ship_refused(self, shipped: Shipped) -> None:
        again, shipped.refused = shipped.refused, {}
        entries = (
            entry
            for entry, end in EventLog.read(self.folder / "events.jsonl")
            if end <= shipped.offset and entry.get("trial", "") in again
        )
        while chunk := list(itertools.islice(entries, CHUNK)):
            self._send(chunk, shipped)
        self._note(shipped)

    def _send(self, entries: list[dict], shipped: Shipped) -> None:
        assert self._copy is not None
        refused = self._copy.ship(entries, skip=shipped.refused)
        for key, said in refused.items():
            if len(shipped.refused) < 5:  # where it refuses all, the count at the end says so
                what = f"trial {key}" if key else "the sweep's summary"
                self.warn(f"MLflow at {self.server} refuses {what} ({said}); the others are sent without it")
            shipped.refused[key] = said
        self.num_sent += sum(entry.get("trial", "") not in shipped.refused for entry in entries)

    def finish(self, timeout: float) -> int:
        """Send what is left, for at most `timeout` seconds; returns the number of lines still to be sent."""
        self._closing.set()
        self._wake.set()
        self.join(timeout)
        if self.is_alive() and not self.failure:
            self.failure = f"not done after {timeout:g} seconds"
        return self.num_waiting


def first_line(error: Exception) -> str:
    return without_password((str(error).splitlines() or [""])[0])[:200] or type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Whether what was sent is at fault, and would be each time. Otherwise the server is: no answer, no access, nothing
    there (an address of something else), too much at once, or an error of its own."""
    from mlflow.exceptions import MlflowException

    status = getattr(getattr(error, "response", None), "status_code", None)  # requests', of an artifact
    if isinstance(error, MlflowException):  # which knows few statuses, but quotes the one of an answer that is no JSON
        quoted = re.search(r"failed with error code (\d{3})", str(error))
        status = int(quoted[1]) if quoted else error.get_http_status_code()
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (401, 403, 404, 408, 425, 429)
    # Without an answer: a file or figure that cannot be made. The errors of connections and disks are OSErrors.
    return isinstance(error, ValueError | TypeError | LookupError | ArithmeticError) and not isinstance(error, OSError)


def connect(tracking_uri: str) -> Any:
    """MLflow's client, which says nothing and sends nothing that is not asked for."""
    # The journal keeps what a server does not take, so that nothing is tried again below it: the defaults block for
    # minutes, and a run whose creation is repeated there is two runs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault(*NO_TELEMETRY)
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what fails is said by the Shipper, in a line
    return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def warm_up(tracking_uri: str) -> None:
    """Import mlflow and make a new database, in a thread: seconds of work that fit in while Ray starts. Leaves nothing
    behind but an empty database, and what fails is told once it is needed."""

    def work() -> None:
        with contextlib.suppress(Exception):
            client = connect(tracking_uri)
            if tracking_uri.startswith("sqlite:"):
                client.search_experiments(max_results=1)

    threading.Thread(target=work, name="import mlflow", daemon=True).start()


class MlflowCopy:
    """Writes journal entries into MLflow; shipping an entry twice changes nothing.

    Runs are found by their tags, and MLflow's databases keep a point once, however often it arrives with the same
    metric, step, time and value: the journal's.
    """

    def __init__(self, folder: Path, tracking_uri: str):
        self.client = connect(tracking_uri)
        self.folder = folder
        header = next(iter(EventLog.read(folder / "events.jsonl")))[0]
        self.sweep_id, self.identity, self.software = header["sweep_id"], header["identity"], header["software"]
        self.sweep = folder.name
        self.artifacts = (folder.parent / "mlartifacts").resolve() if tracking_uri.startswith("sqlite:") else None
        self.experiment = self._experiment()
        self.runs: dict[str, str] = {}  # trial key -> run id, of trials that are not done
        self.retried: set[str] = set()
        self.parent = self._parent(milliseconds_of(header))

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep)
        if found is not None:
            if found.lifecycle_stage != "active":  # its name is taken until it is purged
                self.client.restore_experiment(found.experiment_id)
            return found.experiment_id
        place = (self.artifacts / self.sweep).as_uri() if self.artifacts else None
        return self.client.create_experiment(self.sweep, artifact_location=place)

    def _parent(self, milliseconds: int) -> str:
        run = self._find("all")
        if run is None:
            tags = {
                **{k: str(self.identity[k]) for k in ("task", "architecture", "dataset", "criterion")},
                "git_commit": self.software["git_commit"],
                "software": json.dumps(self.software),
            }
            return self._create("all", self.sweep, tags, milliseconds)
        if run.info.lifecycle_stage != "active":
            self.client.restore_run(run.info.run_id)
        return run.info.run_id

    def _find(self, trial: str) -> Any:
        """The trial's run, deleted or not, or None. Of two, as the answer to a creation was lost, the emptier goes."""
        from mlflow.entities import ViewType

        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in self._identifying(trial).items())
        found = self.client.search_runs([self.experiment], query, run_view_type=ViewType.ALL, max_results=10)
        found.sort(key=lambda run: (run.info.lifecycle_stage == "active", len(run.data.metrics), run.info.run_id))
        for double in found[:-1]:
            if double.info.lifecycle_stage == "active":
                self.client.delete_run(double.info.run_id)
        return found[-1] if found else None

    def _identifying(self, trial: str) -> dict[str, str]:
        return {"sweep": self.sweep, "trial": trial, "sweep_id": self.sweep_id}

    def _create(self, trial: str, name: str, tags: Mapping[str, str], milliseconds: int) -> str:
        tags = {**self._identifying(trial), **tags}
        return self.client.create_run(self.experiment, start_time=milliseconds, run_name=name, tags=tags).info.run_id

    def ship(self, entries: list[dict], *, skip: Container[str] = ()) -> dict[str, str]:
        """Sends the entries of all trials that are not in `skip`, then those of the sweep itself, whose key is "": its
        summary names a trial. Returns the refused ones, with what the server said."""
        groups: dict[str, list[dict]] = {}
        for entry in entries:
            groups.setdefault(entry.get("trial", ""), []).append(entry)
        refused = {}
        for key in sorted(groups, key=lambda key: key == ""):
            if key in skip:
                continue
            try:
                if key:
                    self._ship_trial(key, groups[key])
                else:
                    self._ship_sweep(groups[key])
            except Exception as error:
                if not is_refusal(error) or self.client.get_run(self.parent).info.lifecycle_stage != "active":
                    raise
                refused[key] = f"{type(error).__name__}: {first_line(error)}"
        return refused

    def _ship_trial(self, key: str, entries: list[dict]) -> None:
        """What is to be logged between two ends is logged at once."""
        part: list[dict] = []
        for entry in entries:
            part.append(entry)
            if entry["event"] in ("end", "retry"):
                self._ship_part(key, part)
                part = []
        if part:
            self._ship_part(key, part)

    def _ship_part(self, key: str, entries: list[dict]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        first, last = entries[0], entries[-1]
        run = self._run_of(key, first)
        metrics = [
            Metric(name, value, milliseconds_of(entry), step)
            for entry in entries
            for name, value, step in metrics_of(entry)
        ]
        if key in self.retried:  # it computes again, at another time, what it reported before it failed
            metrics = self._new(run, metrics)
        params = flatten(first["config"]) if first["event"] == "start" else {}
        tags = {}
        if last["event"] == "end":
            texts = {"outcome": last["status"], "reason": last["reason"], "notes": "\n".join(last["notes"])}
            texts["collapsed"] = "yes" if last.get("collapsed") else ""  # a tag: the UI slows down with metric names
            tags = {name: text[:5000] for name, text in texts.items() if text}
        elif last["event"] == "retry":
            tags = {"retried": "yes", "outcome": "", "reason": "", "notes": "", "collapsed": ""}
            self.retried.add(key)
        self.client.log_batch(
            run,
            metrics=metrics,
            params=[Param(name, str(value)[:6000]) for name, value in params.items()],
            tags=[RunTag(name, text) for name, text in tags.items()],
        )
        if last["event"] == "retry":
            self.client.update_run(run, status="RUNNING")
        if last["event"] == "end":
            self._ship_files(run, last)
            status = "FINISHED" if last["status"] == "finished" else "FAILED"
            self.client.set_terminated(run, status, end_time=milliseconds_of(last))
            self.runs.pop(key)

    def _new(self, run: str, metrics: list) -> list:
        """Those of which the run has no point of that name and step."""
        names = {metric.key for metric in metrics}
        there = {(m.key, m.step) for name in names for m in self.client.get_metric_history(run, name)}
        return [metric for metric in metrics if (metric.key, metric.step) not in there]

    def _run_of(self, key: str, start: Mapping[str, Any] | None = None) -> str:
        """The trial's run; made at its first entry. LookupError if it was there and is not any more."""
        if key not in self.runs:
            run = self._find(key)
            if run is not None:
                self.runs[key] = run.info.run_id
                if "retried" in run.data.tags:
                    self.retried.add(key)
            elif start is None or start["event"] != "start":
                raise LookupError("its run is not there any more")
            else:
                config = start["config"]
                names = ("task", "architecture", "dataset", "optimizer", "regularizer", "criterion", "seed")
                tags = {
                    "mlflow.parentRunId": self.parent,
                    **{name: str(config[name]) for name in names},
                    "phase": start["phase"],
                    "git_commit": self.software["git_commit"],
                }
                seed = f" seed {config['seed']}" if start["phase"] != "search" else ""
                name = f"{start['arm']} #{start['number']}{seed}"
                self.runs[key] = self._create(key, name, tags, milliseconds_of(start))
        return self.runs[key]

    def _ship_files(self, run: str, end: Mapping[str, Any]) -> None:
        from service.views.figures import draw_curve, draw_weights

        folder = self.folder / "trials" / end["trial"]
        result = read_result(folder) or {}
        if result.get("traceback"):
            self.client.log_text(run, result["traceback"], "traceback.txt")
        if end["status"] != "finished":
            return
        for name in ("pruned", "figures"):
            if (folder / name).exists():
                self.client.log_artifacts(run, str(folder / name), name)
        if result:
            config, layers = result["config"], result["layers"]
            self.client.log_dict(run, {"layers": layers}, "layers.json")
            figure = draw_curve(end["curve"], end["test"], config, objective=end.get("objective", "acc"))
            self.client.log_figure(run, figure, "curve.png")
            self.client.log_figure(run, draw_weights(layers, config), "weights.png")

    def _ship_sweep(self, entries: list[dict]) -> None:
        from mlflow.entities import Metric, Param

        for entry in entries:
            if entry["event"] == "sweep":
                params = [Param(name, str(value)[:6000]) for name, value in flatten(entry["identity"]).items()]
                self.client.log_batch(self.parent, params=params[:100])
            if entry["event"] == "summary" and (winner := entry["summary"]["winner"]):
                name, step = entry["summary"]["objective"] + "_pruned", sum(entry["summary"]["counts"].values())
                point = Metric(name, winner["value"], milliseconds_of(entry), step)
                self.client.log_batch(self.parent, metrics=self._new(self.parent, [point]))
        summaries = [entry for entry in entries if entry["event"] == "summary"]
        if summaries:
            self._ship_summary(summaries[-1]["summary"], milliseconds_of(summaries[-1]))

    def _ship_summary(self, summary: Mapping[str, Any], milliseconds: int) -> None:
        from service.views.figures import draw_summary
        from service.views.tables import as_markdown

        parent = self.parent
        text = as_markdown(summary)
        self.client.set_tag(parent, "mlflow.note.content", text)
        self.client.log_text(parent, text, "summary.md")
        self.client.log_dict(parent, dict(summary), "summary.json")
        winner = summary["winner"]
        if winner:
            self.client.log_figure(parent, draw_summary(summary), "curve.png")
            run = self._run_of(winner["checkpoint_trial"])
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


def milliseconds_of(entry: Mapping[str, Any]) -> int:
    return round(entry["time"] * 1000)


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
    if entry["event"] == "retry" or (entry["event"] == "end" and entry["status"] != "finished"):
        return  # it has its reason; its numbers are those of its last evaluation
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
                    if name not in ("sparsity", "loss", "collapsed"):
                        yield f"{split}{name}_pruned/{row['sparsity']:g}", value, report["epoch"]
