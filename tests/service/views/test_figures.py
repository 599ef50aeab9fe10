import numpy as np
import pytest

from service.views.figures import draw_curve, draw_summary, draw_weights
from tests.service.conftest import fill, make_config

CONFIG = make_config().model_dump(mode="json")


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_summary_shows_the_test_curve_of_every_confirmed_arm(toy):
    fill(toy)
    figure = draw_summary(toy.summary())
    assert set(legend(figure)) == {"sam + wcr (test, 3 seeds)", "sgd + none (test, 3 seeds)"}
    lines = [container.lines[0] for container in figure.axes[0].containers]
    assert np.allclose(lines[0].get_xdata(), [1.0, 0.1])  # density at sparsity 0 and 0.9
    assert np.allclose(lines[0].get_ydata(), [0.95, 0.72])


def test_without_a_confirmation_it_shows_the_validation_curves_of_the_search(toy):
    toy.trial((0.99, 0.6))
    toy.trial((0.97, 0.8), optimizer="sgd", regularizer="none")
    figure = draw_summary(toy.summary(complete=False))
    assert legend(figure) == ["sam + wcr (validation, search)", "sgd + none (validation, search)"]
    colours = {line.get_color() for line in figure.axes[0].get_lines()}
    styles = {line.get_linestyle() for line in figure.axes[0].get_lines()}
    assert (len(colours), len(styles)) == (2, 2)


@pytest.mark.parametrize("test", [None, [{"sparsity": 0.0, "acc": 0.8}, {"sparsity": 0.9, "acc": 0.5}]])
def test_a_trials_curve_has_a_line_for_each_split(test):
    curve = [{"sparsity": 0.0, "acc": 0.9}, {"sparsity": 0.9, "acc": 0.7}]
    figure = draw_curve(curve, test, CONFIG, objective="acc")
    assert legend(figure) == ["validation", *(["test"] if test else [])]
    (axes,) = figure.axes
    assert np.allclose(axes.get_lines()[0].get_ydata(), [0.9, 0.7])
    assert [axes.xaxis.get_major_formatter()(density, 0) for density in axes.get_xticks()] == ["0", "0.9"]
    assert axes.get_title() == "small_resnet on digits: sam rho 0.1 + wcr lam 1e-05"


def test_the_mark_of_a_histogram_separates_the_pruned_fraction():
    """Ten bins from -8 to 2, one weight in each: half of them lie left of -3."""
    layers = [{"name": "stem.weight", "num_weights": 10, "num_kept": 5, "histogram": [1] * 10}]
    axes = draw_weights(layers, CONFIG).axes[0]
    assert list(axes.get_lines()[0].get_xdata()) == [-3.0, -3.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["stem.weight  (50.0% kept)"]


def test_each_pruning_method_has_a_panel(toy):
    for seed in (1, 2):
        toy.trial((0.9, 0.6), phase="confirm", seed=seed, test=(0.9, 0.5), others={"snip uniform": (0.8, 0.75)})
    toy.trial((0.9, 0.6), others={"snip uniform": (0.8, None)})
    figure = draw_summary(toy.summary())
    assert [axes.get_title() for axes in figure.axes] == ["pruned by magnitude global", "pruned by snip uniform"]
    curves = [axes.containers[0].lines[0].get_ydata()[-1] for axes in figure.axes]
    assert curves == [pytest.approx(0.5), pytest.approx(0.75)]
