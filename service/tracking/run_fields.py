"""What MLflow shows of a run beside its metrics: its name, description, tags and params."""

import json
from collections.abc import Mapping
from typing import Any

from service.records.state import flatten
from sparsity.import_strings import short_name
from trainables.config import HYPERPARAMETERS, hyperparameters
from trainables.pruning_method import PruningMethod
from trainables.result import Status

__all__ = ["description_of", "name_of", "params_of", "sweep_params", "tags_of"]


def name_of(config: Mapping[str, Any]) -> str:
    """The name of a trial's run: what varies in a sweep."""
    short = {"weight_decay": "wd"}
    values = hyperparameters(config)
    searched = [f"{short.get(name, name)}={values[name]:.3g}" for name in HYPERPARAMETERS if values[name] is not None]
    return " ".join(
        [short_name(config["optimizer"]), short_name(config["regularizer"]), *searched, f"seed={config['seed']}"]
    )


def description_of(start: Mapping[str, Any]) -> str:
    config = start["config"]
    phase = "confirmation on an unseen seed" if start["phase"] == "confirm" else f"configuration {start['number']}"
    network, dataset = (short_name(config[name]) for name in ("architecture", "dataset"))
    return (
        f"{network} on {dataset}, {start['arm']}: {config['max_epochs']} epochs, pruned to "
        f"{config['target_sparsity']:g} ({phase})"
    )


def tags_of(last: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a trial's run after an event."""
    if last["event"] == "retry":
        return {"retried": "yes", "status": "", "reason": "", "notes": "", "collapsed": ""}
    if last["event"] == "pruned" and last["status"] != Status.FINISHED:
        return {"not_pruned": last["reason"]}
    if last["event"] not in ("end", "pruned"):
        return {}
    # `collapsed` is a tag because MLflow's pages slow down with the number of metric names.
    collapsed = "yes" if any(text.startswith("collapsed:") for text in last["warnings"]) else ""
    tags = {"status": last["status"], "reason": last["reason"], "notes": "\n".join(last["notes"])}
    tags["collapsed"] = collapsed
    if last["event"] == "pruned":  # what an earlier result said does not hold any more
        return tags | {"not_pruned": ""}
    return {name: text for name, text in tags.items() if text}


def sweep_params(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The params of the parent run: the trials' own names (`opt/lr`), the sweep's, and each range as one param."""
    own = {name: value for name, value in identity.items() if name not in ("trial", "search", "pruning")}
    own["pruning"] = ", ".join(PruningMethod(**method).label for method in identity["pruning"])
    space = {
        f"search/{part}/{name}": json.dumps(entry)
        for part, entries in identity["search"].items()
        for name, entry in entries.items()
    }
    return params_of(identity["trial"]) | own | space


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration by their flat names. Import strings, as names of params, are shortened."""
    sources = {short_name(name).replace(":", "."): digest for name, digest in config.get("sources", {}).items()}
    return flatten({**config, "sources": sources})
