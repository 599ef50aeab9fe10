"""`sweeps recommend`: which lam and rho to start with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands._shared import (
    DEFAULT_RUNS,
    AsJson,
    Runs,
    mention_unreadable,
    one_line_errors,
    print_json,
    stdout_for_json,
)

__all__ = ["recommend"]

NUM_OTHERS = 3  # further sources that are shown
RULE_TEXTS = {"lam": "lam stays the same"}


def recommend(
    architecture: Annotated[str, typer.Argument(help="a network: a name such as resnet18, or your own MODULE:NAME")],
    regularizer: Annotated[str, typer.Option(help="the regularizer whose lam is sought")],
    dataset: Annotated[str | None, typer.Option(help="the dataset, a name or your own MODULE:NAME")] = None,
    optimizer: Annotated[str | None, typer.Option(help="the optimizer")] = None,
    lr: Annotated[float | None, typer.Option(help="the learning rate")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="the weight decay")] = None,
    epochs: Annotated[int | None, typer.Option(help="epochs of a training", min=1)] = None,
    target_sparsity: Annotated[float | None, typer.Option(help="fraction of weights to remove, in [0, 1)")] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="you estimate BatchNorm's statistics again after pruning")
    ] = False,
    model: Annotated[
        list[str] | None, typer.Option(help="argument of the network, e.g. width=16; repeatable", metavar="KEY=VALUE")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Recommend lam and rho from the nearest settings that sweeps recorded or papers state; nothing is searched."""
    import sparsity
    from service.search.known import Asked, all_known, ranked
    from trainables.arguments import parse_arguments

    mention_unreadable(runs)
    with one_line_errors(), stdout_for_json(as_json):
        asked = Asked(
            architecture=sparsity.check("trainables.architectures", architecture, "architecture"),
            regularizer=sparsity.check("sparsity.regularizers", regularizer, "regularizer"),
            dataset=dataset,
            optimizer=optimizer and sparsity.check("sparsity.optimizers", optimizer, "optimizer"),
            model=parse_arguments("model", model or ()),
            lr=lr,
            weight_decay=weight_decay,
            max_epochs=epochs,
            target_sparsity=target_sparsity,
            recalibrate=recalibrate,
        )
        found = ranked(all_known(runs, asked.regularizer), asked)
        if asked.regularizer == "none" or not found:
            raise ValueError(
                f"recommend: nothing is known about {regularizer} (neither in {runs} nor in search_spaces/best.toml); "
                "`sweeps range` finds a range of lam for your network"
                if asked.regularizer != "none"
                else "regularizer: must have a lam to recommend, got none"
            )
        entry = recommendation(found, asked, runs)
    if as_json:
        print_json(entry)
    else:
        show(entry)


def recommendation(found: list[Any], asked: Any, runs: Path) -> dict[str, Any]:
    """What is printed: the values of the nearest known setting, and the next ones."""
    from service.search.known import carried

    nearest = carried(found[0], asked, runs=runs)
    others = [carried(known, asked) for known in found[1 : 1 + NUM_OTHERS]]
    return {
        "lam": nearest.lam,
        "lam_interval": nearest.lam_interval,
        "rho": nearest.rho,
        "rule": nearest.rule,
        "source": nearest.known.model_dump(exclude_none=True),
        "distance": round(nearest.distance, 3),
        "differs": {name: {"there": there, "here": here} for name, (there, here) in nearest.differs.items()},
        "others": [
            {"lam": one.lam, "rho": one.rho, "source": one.known.source, "distance": round(one.distance, 3)}
            for one in others
        ],
    }


def show(entry: dict[str, Any]) -> None:
    low, high = entry["lam_interval"]
    rho = f"   rho {entry['rho']:.3g}" if entry["rho"] else ""
    typer.echo(f"lam {entry['lam']:.3g}   ({low:.2g} to {high:.2g}){rho}")
    typer.echo(f"rule: {RULE_TEXTS.get(entry['rule'], entry['rule'] + ' stays the same')} (docs/transfer.md)")
    known = entry["source"]
    reached = f", {known['value']:.3f} at sparsity {known['target_sparsity']:g}" if "value" in known else ""
    seeds = f" (n = {known['n']})" if "n" in known else ""
    method = " + ".join(known[name] for name in ("optimizer", "regularizer") if name in known)
    typer.echo(f"source: {known['source']}: {method}, lam {known['lam']:.3g}{reached}{seeds}")
    parts = [f"{name} {say(pair['there'])} there, {say(pair['here'])} here" for name, pair in entry["differs"].items()]
    typer.echo(f"differs in: {'; '.join(parts) or 'nothing that you gave'}")
    typer.echo(f"distance: {entry['distance']:.2g} (0: the same setting)")
    for one in entry["others"]:
        rho = f"   rho {one['rho']:.3g}" if one["rho"] else ""
        typer.echo(f"next: lam {one['lam']:.3g}{rho}   {one['source']}, distance {one['distance']:.2g}")


def say(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not stated" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)
