"""What was found, in a sentence, and whether it is significant."""

from service.statistics import MIN_SEEDS
from service.views import tables
from service.views.report.blocks import Block, Items, Text
from service.views.report.view import SweepView

__all__ = ["headline"]


def headline(view: SweepView) -> list[Block]:
    summary, trial = view.summary, view.state.identity["trial"]
    schedule, epochs = trial["pruning_schedule"], trial["max_epochs"]
    duration = f"{epochs} epoch{'s' * (epochs != 1)} per"
    how = f"{duration} trial; pruned once after training by {view.label}"
    if schedule != "one_shot":
        how = f"{duration} round; pruned by {schedule}"
    facts = [
        f"{view.subject}, {how}",
        f"{len(summary['arms'])} arms (an optimizer with a regularizer), "
        f"{sum(summary['counts'].values())} trials, searched for the highest {summary['goal']}",
    ]
    if not summary["complete"]:
        facts.append("The sweep is not complete: these are the results so far")
    if not summary["confirmed"]:
        facts.append("No configuration has been confirmed on unseen seeds yet, so the best values are too high")
    return [Text(tables.headline(summary), strong=True), Text(verdict(view)), Items(facts)]


def verdict(view: SweepView) -> str:
    """Whether the winner's lead over the best arm without a regularizer is significant."""
    winner = view.summary["winner"]
    lead = (winner or {}).get("against_baseline")
    if not view.summary["confirmed"]:
        return "Nothing is tested yet: that takes a confirmation on unseen seeds."
    if winner["regularizer"] == "none":
        return "The winner has no regularizer: none of them came out ahead of it on validation."
    if lead is None:
        return "There is no confirmed arm without a regularizer to compare with."
    if lead["n"] < MIN_SEEDS:
        seeds = "1 paired seed" if lead["n"] == 1 else f"{lead['n']} paired seeds"
        return (
            f"Whether the regularizer helps is open: {seeds} cannot show it, whatever the values "
            f"({MIN_SEEDS} are needed)."
        )
    if lead["interval"][0] <= 0 <= lead["interval"][1]:
        return f"The difference is not significant: its 95% interval includes 0 (n = {lead['n']})."
    direction = "better" if lead["difference"] > 0 else "worse"
    return (
        f"The winner is {direction} than the best arm without a regularizer on the test split: 95% interval "
        f"{tables.interval(lead)}, p = {lead['p']:.2g}, {lead['n']} paired seeds. This is one planned comparison; all "
        "others are corrected below."
    )
