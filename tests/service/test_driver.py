from service.driver import record_summary
from service.search.reprune import Reprune


def test_the_costs_of_the_winner_are_recorded_again_after_it_was_pruned_in_other_ways(toy):
    exported = {"trial": toy.trial((0.9, 0.8)), "costs": [{"network": "dense", "bytes": 7}]}
    toy.recorder.summarized(toy.summary() | {"exported": exported})
    record_summary(toy.recorder, Reprune(toy.recorder, [], []), objective="acc", complete=True)
    assert toy.state.summary["exported"] == exported
