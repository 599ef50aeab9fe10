import math

import pytest

import sparsity
from service.search import carrying, known
from service.search.known import Asked, Known, all_known, carried, difference, published, ranked

FIELDS = {
    **{"source": "by hand", "dataset": "digits", "architecture": "resnet18", "optimizer": "sam", "regularizer": "wcr"},
    **{"lam": 1e-5, "rho": 0.1, "lr": 0.1, "weight_decay": 1e-3, "max_epochs": 10, "target_sparsity": 0.9},
}


def asked(**fields):
    return Asked(**{"regularizer": "wcr", **fields})


def test_every_published_entry_names_what_exists_and_its_source():
    entries = published()
    assert len(entries) > 30
    for entry in entries:
        assert entry.source.startswith(("docs/", "arXiv "))
        for kind in ("optimizer", "regularizer"):
            assert getattr(entry, kind) in (None, *sparsity.names(f"sparsity.{kind}s"))
        assert entry.architecture in sparsity.names("trainables.architectures")
        assert entry.dataset in sparsity.names("trainables.datasets")
        assert (entry.lam is None) == (entry.regularizer == "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[best]]\nsource = "a"\nregularizer = "wcr"\n', "lam: must be given if"),
        ('[[best]]\nsource = "a"\nregularizer = "wcr"\nlam = 1e-5\nlamda = 1.0\n', "entry 1 (a): lamda: Extra inputs"),
        ('[[best]]\nregularizer = "wcr"\nlam = 1e-5\n', "(without a source): source: Field required"),
        ('[[best]]\nsource = "a"\nregularizer = "wcr"\nlam = "1e-5"\n', "lam: Input should be a valid number"),
        ('[[best]]\nsource = "a"\nregularizer = "wcr"\nlam = -1.0\n', "lam: Input should be greater than 0"),
        ('[[best]]\nsource = "a"\nregularizer = "wcr"\nlam = 1.0\nlam_range = [2.0, 3.0]\n', "must contain lam 1"),
        ("best = []\nrest = 1\n", "must hold [[best]] entries and nothing else, got best, rest"),
    ],
)
def test_a_wrong_entry_is_one_line(tmp_path, text, message):
    (tmp_path / "best.toml").write_text(text)
    with pytest.raises(ValueError, match=r"best\.toml") as error:
        published(tmp_path / "best.toml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_distances_by_hand():
    one = Known(**FIELDS)
    assert difference(one, asked(architecture="resnet18", lr=0.1)) == (0.0, {})
    distance, differs = difference(one, asked(lr=0.2, dataset="svhn", target_sparsity=0.95))
    assert distance == pytest.approx(2 * math.log(2) + 2.0)  # twice the lr, half the density, another dataset
    assert differs == {"lr": (0.1, 0.2), "dataset": ("digits", "svhn"), "target_sparsity": (0.9, 0.95)}
    distance, differs = difference(Known(**{**FIELDS, "weight_decay": None}), asked(weight_decay=1e-3))
    assert (distance, differs) == (0.5, {"weight_decay": (None, 1e-3)})
    assert difference(one, asked(model={"width": 8}))[1] == {"model/width": (None, 8)}
    assert difference(one, asked(recalibrate=True)) == (1.5, {"recalibrate": (False, True)})


def test_the_nearest_comes_first_and_other_regularizers_and_ways_of_pruning_do_not_come():
    near, far = Known(**FIELDS), Known(**{**FIELDS, "weight_decay": 1e-1})
    others = [Known(**{**FIELDS, "regularizer": "l1"}), Known(**{**FIELDS, "scope": "uniform"})]
    assert ranked([far, *others, near], asked(weight_decay=2e-3)) == [near, far]
    assert ranked([far, near], asked(weight_decay=5e-2)) == [far, near]


def test_lam_is_carried_over_by_the_rule_with_its_interval(monkeypatch):
    monkeypatch.setitem(carrying.RULES, "wcr", "lam / weight_decay")
    monkeypatch.setitem(carrying.DECADES, "wcr", 2.0)
    one = Known(**FIELDS, lam_range=[5e-6, 2e-5])
    same = carried(one, asked(weight_decay=1e-3))
    assert (same.lam, same.rho, same.differs) == (1e-5, 0.1, {})
    assert same.lam_interval == pytest.approx((5e-6, 2e-5))
    other = carried(one, asked(weight_decay=1e-2))
    assert other.lam == pytest.approx(1e-4)
    assert other.lam_interval == pytest.approx((5e-5 / 100, 2e-4 * 100))  # wider: it is another setting
    without = carried(Known(**FIELDS), asked())
    assert without.lam_interval == pytest.approx((1e-5 / 10**0.5, 1e-5 * 10**0.5))
    assert carried(one, asked(optimizer="s2sam")).rho is None  # another optimizer has other radii


def test_sweeps_come_before_what_is_published_and_know_which_lam_did_as_well(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(known, "published", lambda: [Known(**{**FIELDS, "source": "a paper"})])
    for lam, accuracy in ((1e-6, 0.7), (1e-5, 0.85), (1e-4, 0.855), (1e-3, 0.6)):
        toy.trial((0.9, accuracy), lam=lam)
    found = all_known(toy.folder.parent, "wcr")
    assert [one.source.partition(",")[0] for one in found] == ["sweep toy", "sweep toy", "a paper"]  # dense and 0.9
    (best,) = [one for one in found if one.target_sparsity == 0.9 and one.source != "a paper"]
    assert (best.lam, best.value, best.n) == (1e-4, 0.855, 1)
    assert ranked(found, asked())[0].target_sparsity == 0.9  # the sweep's target, not the dense network
    values = carried(best, asked(), runs=toy.folder.parent)
    assert values.lam_interval == pytest.approx((1e-5, 1e-4))  # within 0.01 of the best
    assert all_known(toy.folder.parent, "wcr", skip_sweep="toy")[0].source == "a paper"
