"""What each arm was given, and whether more would have helped."""

from itertools import accumulate
from statistics import fmean

from service.records.summary import configurations_by_arm
from service.views.figures import split_arm
from service.views.report.blocks import Block, Plot, Table, Text, cells
from service.views.report.drawing import Palette, common_legend, optimizer_of, panels, penalty_of
from service.views.report.view import SweepView

__all__ = ["budget"]


def budget(view: SweepView) -> list[Block]:
    """The best mean on validation after k configurations of each arm, and the budget of each arm."""
    running = best_so_far(view)
    several = any(len(best) > 1 for best in running.values())
    figure, by_optimizer = panels(sorted(set(map(optimizer_of, view.search))), height=2.6)
    palette = Palette(map(penalty_of, view.search))
    for arm, best in running.items():
        optimizer, penalty = split_arm(arm)
        style = {"drawstyle": "steps-post", "markersize": 3, **palette(penalty)}
        by_optimizer[optimizer].plot(range(1, len(best) + 1), best, label=penalty, **style)
    common_legend(figure, by_optimizer.values())
    for axes in by_optimizer.values():
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("configurations tried", fontsize=9)
    figure.supylabel(f"best {view.objective}", fontsize=9)
    rows = [
        cells(row["arm"], str(row["num_configurations"]), str(row["num_trials"]), gain(running.get(row["arm"], [])))
        for row in view.summary["arms"]
    ]
    budgets = {row["num_configurations"] for row in view.summary["arms"]}
    equal = (
        f"Each arm had the same budget: {budgets.pop()} configurations."
        if len(budgets) == 1
        else "The arms have unequal numbers of finished configurations; see the table."
    )
    text = (
        f"{equal} A curve that still rises at its end would gain from more configurations. The values selected the "
        "configurations, so they are higher than what unseen seeds give. There are no bands: the search chooses a "
        "configuration by the results of earlier ones, and exact bands exist for random search only."
    )
    caption = f"The best {view.summary['goal']} after k configurations of each arm (mean over the search's seeds)."
    header = ["arm", "configurations", "trials", "gain in the second half"]
    blocks: list[Block] = [Text(text), Plot("budget", figure, caption)] if several else []
    return [*blocks, Table("The budget of each arm.", header, rows, folded=len(rows) > 12)]


def best_so_far(view: SweepView) -> dict[str, list[float]]:
    """For each arm, the highest mean of the goal after 1, 2, ... configurations."""
    goal = view.state.goal
    num_seeds = view.state.identity["num_search_seeds"]  # all configurations have these; finalists have more
    running = {}
    for arm, configurations in configurations_by_arm(view.search).items():
        values = [
            [value for t in trials[:num_seeds] if (value := goal.value(t)) is not None] for trials in configurations
        ]
        running[arm] = list(accumulate((fmean(found) for found in values if found), max))
    return {arm: best for arm, best in running.items() if best}


def gain(best: list[float]) -> str:
    """By how much the second half of the configurations raised the best value."""
    return f"{best[-1] - best[(len(best) - 1) // 2]:+.3f}" if len(best) > 1 else "-"
