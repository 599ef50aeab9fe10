import json
import math

import pytest

from service.range_finder import Found, Point, draw, find_range, measure, write_range
from trainables.config import TrialConfig
from trainables.loop import load_task

CONFIG = TrialConfig(
    dataset="digits",
    architecture="small_resnet",
    model={"width": 2, "depth": 1},
    **{"regularizer": "wcr", "lam": 1e-5, "max_epochs": 1, "target_sparsity": 0.9, "train_size": 64, "batch_size": 16},
)
BASELINE = Point(lam=0.0, share=None, loss=0.5, norm=10.0)


def point(lam, share, loss=0.5, norm=10.0):
    return Point(lam=lam, share=share, loss=loss, norm=norm)


def test_the_range_by_hand():
    points = [point(1e-6, 1e-4), point(1e-5, 2e-3), point(1e-4, 0.02), point(1e-3, 0.2), point(1e-2, 2.0, loss=0.56)]
    found = find_range(CONFIG, BASELINE, points)
    assert (found.low, found.high, found.notes) == (1e-4, 1e-3, [])
    points[1] = point(1e-5, 2e-3, norm=10.2)  # the norm moves before the share exceeds 1%
    assert find_range(CONFIG, BASELINE, points).low == 1e-5
    points[3] = Point(lam=1e-3, share=0.2, loss=None, norm=None)  # diverged
    assert find_range(CONFIG, BASELINE, points).high == 1e-4


@pytest.mark.parametrize(
    ("points", "expected", "note"),
    [
        ([point(1e-6, 1e-4), point(1e-5, 1e-3)], (1e-6, 1e-5), "no lam up to 1e-05 moves the weights"),
        ([point(1e-6, 0.1), point(1e-5, 1.0), point(1e-4, 20.0)], (1e-6, 1e-5), "the smallest lam, 1e-06, moves"),
        ([point(1e-6, 1e-3), point(1e-5, 0.1), point(1e-4, 1.0)], (1e-5, 1e-4), "no lam up to 0.0001 hurts"),
        (
            [point(1e-6, 1e-3), point(1e-5, 0.1), point(1e-4, 20.0)],
            (1e-6, 1e-5),
            "both ends are at 1e-05, so the range begins one",
        ),
        (
            [point(1e-6, 1e-4), point(1e-5, 1e-3), point(1e-4, 20.0, loss=2.5), point(1e-3, 90.0)],
            (1e-5, 1e-4),
            "no lam moves the weights without hurting: 1e-05 does neither, 0.0001 hurts",
        ),
    ],
)
def test_an_end_that_was_not_found_is_noted(points, expected, note):
    found = find_range(CONFIG, BASELINE, points)
    assert (found.low, found.high) == pytest.approx(expected)
    assert any(note in line for line in found.notes)


def test_no_range_where_everything_hurts():
    with pytest.raises(ValueError, match="range: the smallest lam must not hurt, got 1e-06, which does: begin lower"):
        find_range(CONFIG, BASELINE, [point(1e-6, 0.1, loss=0.6), point(1e-5, 20.0)])
    with pytest.raises(ValueError, match="without a penalty must not diverge"):
        find_range(CONFIG, Point(lam=0.0, share=None, loss=None, norm=None), [point(1e-6, 0.1)])


def test_measured_shares_rise_with_lam_and_divergence_is_a_point(tmp_path):
    lines = []
    baseline, points = measure(load_task(CONFIG), CONFIG, (1e30, 1e-6, 1e-5), say=lines.append)
    assert baseline.share is None
    assert [p.lam for p in points] == [1e-6, 1e-5, 1e30]
    assert points[1].share / points[0].share == pytest.approx(10, rel=0.2)
    assert points[2].loss is None
    assert lines[0].startswith("lam 0: loss ")
    assert lines[3] == "lam 1e+30: diverged"
    found = find_range(CONFIG, baseline, points)
    write_range(found, tmp_path / "range.json")
    assert Found.model_validate(json.loads((tmp_path / "range.json").read_text())) == found
    axes = draw(found).axes
    assert axes[0].lines[0].get_xdata().tolist() == [1e-6, 1e-5, 1e30]
    assert math.isnan(axes[1].lines[0].get_ydata()[2])
