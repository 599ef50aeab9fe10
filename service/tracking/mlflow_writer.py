"""Writing a sweep's events to MLflow."""

import contextlib
import getpass
import json
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.records.events import EventLog
from service.records.exported import exported_folder
from service.records.state import EVENTS
from service.tracking.connection import connect, first_line, is_refusal
from service.tracking.metrics import metrics_left_out, metrics_of, rounded
from service.tracking.onnx_models import log_onnx_model
from service.tracking.run_fields import description_of, name_of, params_of, sweep_params, tags_of
from service.tracking.saved_views import note, run_colour, views
from service.views.costs import COST_COLUMNS
from sparsity.import_strings import short_name
from trainables.result import Status, read_result

__all__ = ["MlflowWriter"]

PARENT = "all"  # the tag `trial` of the parent run, which stands for the whole sweep
LONGEST_PARAM, LONGEST_TAG = 6000, 5000  # characters that MLflow keeps


class MlflowWriter:
    """Writes a sweep's events to an MLflow experiment.

    The sweep is a parent run and each trial a child run. Runs are found by their tags, and MLflow keeps a metric point
    once however often it arrives with the same name, step, time and value, so writing an event twice changes nothing.

    Args:
        folder: The sweep's folder, which has at least the first event.
        tracking_uri: The tracking server or database.

    Attributes:
        parent: The id of the parent run.

    Raises:
        Exception: Whatever MLflow raises if it cannot be reached or refuses the experiment.
    """

    def __init__(self, folder: Path, tracking_uri: str):
        self.client = connect(tracking_uri)
        self.folder, self.sweep = folder, folder.name
        header = next(iter(EventLog.read(folder / EVENTS)))[0]
        identity = header["identity"]
        self.sweep_id, self.software, self.data = header["sweep_id"], header["software"], header["data"]
        self._began = milliseconds_of(header)
        self._has_views = False
        self.trial = identity["trial"] | {name: identity["pruning"][0][name] for name in ("criterion", "scope")}
        self.artifacts = (folder.parent / "mlartifacts").resolve() if tracking_uri.startswith("sqlite:") else None
        self.experiment = self._experiment()
        self._runs: dict[str, str] = {}  # run id by trial, of trials that have not ended
        self._retried: set[str] = set()  # trials whose runs have points of an earlier attempt
        self.parent = self._parent(self._began)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep)
        if found is None:
            location = (self.artifacts / self.sweep).as_uri() if self.artifacts else None
            return self.client.create_experiment(self.sweep, artifact_location=location)
        if found.lifecycle_stage != "active":  # deleted, but its name is taken until it is purged
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _parent(self, milliseconds: int) -> str:
        run = self._find(PARENT)
        if run is None:
            tags = {
                **{k: short_name(self.trial[k]) for k in ("task", "architecture", "dataset", "criterion")},
                "git_commit": self.software["git_commit"],
                "software": json.dumps(self.software),
                **self._source,
            }
            return self._create(PARENT, self.sweep, tags, milliseconds)
        if run.info.lifecycle_stage != "active":
            self.client.restore_run(run.info.run_id)
        return run.info.run_id

    @property
    def _source(self) -> dict[str, str]:
        """The tags from which MLflow fills its columns for user, source and version."""
        return {
            "mlflow.user": user(),
            "mlflow.source.name": "sparsity-sweeps",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": self.software["git_commit"].removesuffix("-dirty"),
        }

    def _find(self, trial: str) -> Any:
        """The run of a trial, even if it was deleted, or None if there is none.

        If a lost response left two runs, the one with fewer metrics is deleted.
        """
        from mlflow.entities import ViewType

        # MLflow compares a tag with those of all runs, which takes its time: one tag, and the others here.
        found = self.client.search_runs(
            [self.experiment], f"tags.trial = '{trial}'", run_view_type=ViewType.ALL, max_results=100
        )
        found = [run for run in found if self._identifying(trial).items() <= run.data.tags.items()]
        found.sort(key=lambda run: (run.info.lifecycle_stage == "active", len(run.data.metrics), run.info.run_id))
        for duplicate in found[:-1]:
            if duplicate.info.lifecycle_stage == "active":
                self.client.delete_run(duplicate.info.run_id)
        return found[-1] if found else None

    def _identifying(self, trial: str) -> dict[str, str]:
        return {"sweep": self.sweep, "trial": trial, "sweep_id": self.sweep_id}

    def _create(self, trial: str, name: str, tags: Mapping[str, str], milliseconds: int) -> str:
        tags = {**self._identifying(trial), **tags}
        return self.client.create_run(self.experiment, start_time=milliseconds, run_name=name, tags=tags).info.run_id

    # ---- trials ----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[Mapping[str, Any]], *, skip: Container[str] = ()) -> dict[str, str]:
        """Write events: those of each trial together, then those of the sweep, whose summary refers to a trial's run.

        Args:
            events: Events in the order of the log.
            skip: Trials whose events are left out; "" stands for the sweep's own events.

        Returns:
            MLflow's answers, by trial (or ""), for those whose events it refused.

        Raises:
            Exception: If MLflow cannot be reached. Some events may have been written.
        """
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for event in events:
            groups.setdefault(event.get("trial", ""), []).append(event)
        refused = {}
        for key in sorted(groups, key=lambda key: key == ""):
            if key in skip:
                continue
            try:
                if key:
                    self._write_trial(key, groups[key])
                else:
                    self._write_sweep(groups[key])
            except Exception as error:
                if not is_refusal(error) or self.client.get_run(self.parent).info.lifecycle_stage != "active":
                    raise
                refused[key] = f"{type(error).__name__}: {first_line(error)}"
        return refused

    def _write_trial(self, key: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Write a trial's events in as few calls as possible: one for each attempt."""
        attempt: list[Mapping[str, Any]] = []
        for event in events:
            attempt.append(event)
            if event["event"] in ("end", "pruned", "retry"):
                self._write_attempt(key, attempt)
                attempt = []
        if attempt:
            self._write_attempt(key, attempt)

    def _write_attempt(self, key: str, events: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        first, last = events[0], events[-1]
        run = self._run_of(key, first)
        metrics = [
            Metric(name, value, milliseconds_of(event), step)
            for event in events
            for name, value, step in metrics_of(event)
        ]
        if key in self._retried or last["event"] == "pruned":  # it reports the same steps again, at another time
            metrics = self._without_recorded(run, metrics, changed=last["event"] == "pruned")
        params = params_of(first["config"]) if first["event"] == "start" else {}
        if params:
            self._log_dataset(run, first["config"])
        self.client.log_batch(
            run,
            metrics=metrics,
            params=[Param(name, str(value)[:LONGEST_PARAM]) for name, value in params.items()],
            tags=[RunTag(name, text[:LONGEST_TAG]) for name, text in tags_of(last).items()],
        )
        if last["event"] == "retry":
            self._retried.add(key)
            self.client.update_run(run, status="RUNNING")
        if last["event"] == "pruned" and last["status"] == Status.FINISHED:
            self._write_files(run, last)
            self._runs.pop(key)
        if last["event"] == "end":
            self._write_files(run, last)
            self._save_views(last.get("objective"))
            status = "FINISHED" if last["status"] == Status.FINISHED else "FAILED"
            self.client.set_terminated(run, status, end_time=milliseconds_of(last))
            self._runs.pop(key)

    def _save_views(self, objective: str | None) -> None:
        """Save the views of the sweep once, when a finished trial tells the objective's name."""
        if objective and not self._has_views:
            for name, value in views(objective, self._began):
                self.client.set_experiment_tag(self.experiment, name, value)
            self._has_views = True

    def _without_recorded(self, run: str, metrics: list[Any], *, changed: bool = False) -> list[Any]:
        """Leave out the metrics that the run already has, at the same name and step.

        Args:
            changed: Whether to keep those whose value has changed.
        """
        names = {metric.key for metric in metrics}
        recorded = {(m.key, m.step): m.value for name in names for m in self.client.get_metric_history(run, name)}
        return [
            metric
            for metric in metrics
            if (metric.key, metric.step) not in recorded
            or (changed and recorded[metric.key, metric.step] != metric.value)
        ]

    def _run_of(self, key: str, start: Mapping[str, Any] | None = None) -> str:
        """The id of a trial's run, which is created if `start` is the trial's first event.

        Raises:
            LookupError: If the run existed and was purged.
        """
        if key in self._runs:
            return self._runs[key]
        run = self._find(key)
        if run is not None:
            self._runs[key] = run.info.run_id
            if "retried" in run.data.tags:
                self._retried.add(key)
        elif start is None or start["event"] != "start":
            raise LookupError("its run does not exist any more")
        else:
            self._runs[key] = self._create_trial(key, start)
        return self._runs[key]

    def _create_trial(self, key: str, start: Mapping[str, Any]) -> str:
        config = start["config"]
        names = ("task", "architecture", "dataset", "optimizer", "regularizer", "criterion", "seed")
        tags = {
            "mlflow.parentRunId": self.parent,
            **{name: short_name(str(config[name])) for name in names},
            "arm": start["arm"],
            "phase": start["phase"],
            "git_commit": self.software["git_commit"],
            "mlflow.runColor": run_colour(config["regularizer"]),
            "mlflow.note.content": description_of(start),
            **self._source,
        }
        return self._create(key, name_of(config), tags, milliseconds_of(start))

    def _log_dataset(self, run: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({name: config[name] for name in ("dataset", "data", "train_size", "eval_size")})
        dataset = Dataset(name=short_name(config["dataset"]), digest=self.data, source_type="code", source=source)
        self.client.log_inputs(run, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _write_files(self, run: str, end: Mapping[str, Any]) -> None:
        folder = self.folder / "trials" / end["trial"]
        result = read_result(folder) or {}
        if result.get("traceback"):
            self.client.log_text(run, result["traceback"], "traceback.txt")
        if end["status"] != Status.FINISHED:
            return
        for name in ("pruned", "figures"):
            if (folder / name).exists():
                self.client.log_artifacts(run, str(folder / name), name)
        if result:
            self.client.log_dict(run, {"layers": result["layers"]}, "layers.json")
            if metrics_left_out(end):
                self.client.log_dict(run, {"pruned": result["pruned"]}, "metrics.json")

    # ---- the sweep -------------------------------------------------------------------------------------------------

    def _write_sweep(self, events: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric, Param

        for event in events:
            if event["event"] == "sweep":
                params = sweep_params(event["identity"])
                logged = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in params.items()]
                self.client.log_batch(self.parent, params=logged[:100])  # MLflow's limit
            if event["event"] == "change":
                self.client.set_tag(self.parent, "changed", json.dumps(event["identity"])[:LONGEST_TAG])
            if event["event"] == "summary" and (winner := event["summary"]["winner"]):
                name, step = event["summary"]["objective"] + "_pruned", sum(event["summary"]["counts"].values())
                point = Metric(name, rounded(winner["value"]), milliseconds_of(event), step)
                self.client.log_batch(self.parent, metrics=self._without_recorded(self.parent, [point]))
        summaries = [event for event in events if event["event"] == "summary"]
        if summaries:
            self._write_summary(summaries[-1]["summary"], milliseconds_of(summaries[-1]))

    def _write_summary(self, summary: Mapping[str, Any], milliseconds: int) -> None:
        from service.views.figures import draw_summary  # imports matplotlib
        from service.views.tables import as_markdown, headline

        parent, winner = self.parent, summary["winner"]
        text = as_markdown(summary)
        self.client.set_tag(parent, "mlflow.note.content", text)
        result = note(self.experiment, headline(summary))
        self.client.set_experiment_tag(self.experiment, "mlflow.note.content", result[:LONGEST_TAG])
        self.client.log_text(parent, text, "summary.md")
        self.client.log_dict(parent, dict(summary), "summary.json")
        if winner:
            self.client.log_figure(parent, draw_summary(summary), "curve.png")
            run = self._run_of(winner["checkpoint_trial"])
            self.client.set_tag(parent, "best_run", run)
            if summary["complete"]:
                self._log_costs(summary, milliseconds)
                self._register(run, winner, summary)
                self._draw_trials(summary)
        self.client.set_terminated(parent, "FINISHED" if summary["complete"] else "KILLED", end_time=milliseconds)

    def _log_costs(self, summary: Mapping[str, Any], milliseconds: int) -> None:
        """Log sizes and latencies of the winner as metrics of the parent run, which has few others."""
        from mlflow.entities import Metric

        points = [
            Metric(f"{row['network']}/{name}", rounded(row[name]), milliseconds, 0)
            for row in summary.get("exported", {}).get("costs", ())
            for name in COST_COLUMNS
            if row.get(name) is not None
        ]
        if points:
            self.client.log_batch(self.parent, metrics=self._without_recorded(self.parent, points, changed=True))

    def _draw_trials(self, summary: Mapping[str, Any]) -> None:
        """Log the figures of each arm's best configuration: the confirmed one, if there is one.

        Drawing takes half a second of CPU time a trial, so the other trials have no figures. Their curves are metrics,
        and `python -m sweeps figures` draws both figures of any trial.
        """
        from service.views.figures import draw_trial  # imports matplotlib

        for row in summary["confirmed"] or summary["arms"]:
            result = read_result(self.folder / "trials" / row["trial"])
            with contextlib.suppress(LookupError):  # the run was purged
                run = self._run_of(row["trial"])
                for name, figure in draw_trial(result).items() if result else ():
                    self.client.log_figure(run, figure, name)

    def _register(self, run: str, winner: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Register the winner's pruned checkpoint as a model version, if there is none yet, with the alias "best"."""
        from mlflow.exceptions import MlflowException

        level = f"{summary['target_sparsity']:g}"
        names = [re.sub("[/:]", "-", short_name(self.trial[field])) for field in ("architecture", "dataset")]
        name = "-".join([*names, level])
        if not any(path.path == f"pruned/{level}" for path in self.client.list_artifacts(run, "pruned")):
            return  # --keep none
        logged = self._log_model(run, name, winner["checkpoint_trial"], summary["target_sparsity"])
        with contextlib.suppress(MlflowException):  # the model exists already
            self.client.create_registered_model(name)
        artifact = f"{self.client.get_run(run).info.artifact_uri}/pruned/{level}"
        if logged is not None:
            artifact = logged.artifact_location
        versions = self.client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        versions = [version for version in versions if logged is None or version.source == artifact]
        if versions:
            version = versions[0].version
        else:
            tags = {"sweep": self.sweep, "optimizer": winner["optimizer"], "regularizer": winner["regularizer"]}
            tags |= {k: f"{winner[k]:g}" for k in ("lam", "rho") if winner[k] is not None}
            more = {} if logged is None else {"model_id": logged.model_id}
            version = self.client.create_model_version(name, source=artifact, run_id=run, tags=tags, **more).version
        self.client.set_registered_model_alias(name, "best", version)

    def _log_model(self, run: str, name: str, trial: str, level: float) -> Any:
        """The exported network as a model of the run; None without one, or if the server knows no such models."""
        folder = exported_folder(self.folder, trial, level)
        try:
            return log_onnx_model(self.client, run, name, folder, {"sweep": self.sweep, "trial": trial})
        except Exception as error:
            if not is_refusal(error):
                raise
            return None


def user() -> str:
    """The name of the user; empty for a user id without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def milliseconds_of(event: Mapping[str, Any]) -> int:
    return round(event["time"] * 1000)
