import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import SearchSpace, by_regularizer
from service.search.adoption import changes
from service.search.space import make_arms, make_config
from service.spec import SweepSpec
from sparsity.import_strings import source_of
from tests.service._sweeps import SPACE, SWEEPS, load_sweep, make
from trainables.config import TrialConfig
from trainables.own_code import OwnCode, WithOwnCode, criterion_sources, sources_of, use_sources, write_sources
from trainables.pruning_method import PruningMethod

OWN = {"architecture": "own_nets.py:build", "dataset": "own_nets.py:load", "criterion": "own_nets.py:score"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    text = (
        "import own_helper\nfrom sparsity.regularizer import Regularizer\nfrom sparsity.ranges import Range\n"
        "def build(): ...\ndef load(): ...\ndef score(weights): ...\nclass Data: ...\n"
        "class Mine(Regularizer):\n    lam_range = Range(1e-5, 1e-3, 1e-4)\n"
        "    def penalty(self, w): return w.abs().sum()\n"
        "class Unranged(Regularizer):\n    def penalty(self, w): return w.abs().sum()\n"
    )
    (tmp_path / "own_nets.py").write_text(text)
    (tmp_path / "own_helper.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_nets", "own_helper"):
        sys.modules.pop(name, None)


def config(**fields):
    return TrialConfig.model_validate({**OWN, "max_epochs": 1, "target_sparsity": 0.9, **fields})


def test_names_of_this_project_keep_their_keys():
    """The first and last arm of each sweep, at the low ends of its ranges, with the keys that version 0.2 gave them."""
    keys = json.loads((Path(__file__).parents[1] / "baselines" / "keys.json").read_text())
    assert set(keys) == set(SWEEPS)
    for name, recorded in keys.items():
        sweep = load_sweep(name)
        arms = make_arms(sweep)
        for arm, key in zip((arms[0], arms[-1]), recorded, strict=True):
            params = {name: getattr(distribution, "low", None) for name, distribution in arm.space.items()}
            found = make_config(sweep, arm.choices, params, seed=3)
            assert found.key == key
            assert "sources" not in found.model_dump(exclude_defaults=True)
        identity = sweep.identity()
        assert "sources" not in identity["trial"]
        assert not {"prunable", "criterion_source"} & identity["pruning"][0].keys()


def test_a_changed_file_is_another_trial(own):
    before = config()
    assert config().key == before.key
    (own / "own_helper.py").write_text("CHANGED = 1\n")
    after = config()
    assert after.key != before.key
    assert after.training_key != before.training_key
    assert TrialConfig.model_validate(before.model_dump(mode="json")).key == before.key  # a recorded one stays


def test_the_key_depends_on_neither_the_folder_nor_the_spelling(own, tmp_path_factory, monkeypatch):
    before = config(architecture=f"{own}/own_nets.py:build")
    assert config().key == before.key
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("own_nets.py", "own_helper.py"):
        (elsewhere / name).write_text((own / name).read_text())
    monkeypatch.chdir(elsewhere)
    assert config().key == before.key
    assert config(architecture="own_nets.py:other").key != before.key


def test_a_changed_criterion_is_another_method_and_the_same_training(own):
    before = config()
    assert before.label.startswith("own_nets:score@")
    (own / "own_nets.py").write_text((own / "own_nets.py").read_text() + "# changed\n")
    kept = {"architecture": "resnet18", "dataset": "digits"}
    after = config(**kept)
    assert after.key == config(**kept, criterion="magnitude").key
    assert after.label != before.label
    assert criterion_sources([after]) == {f"{own}/own_nets.py:score": after.criterion_source}
    assert PruningMethod(**dict(after.pruning[0])) == after.pruning[0]


def test_arms_have_short_names_and_the_ranges_of_their_classes(own):
    sweep = make(regularizer=("none", "own_nets.py:Mine"), optimizer=("sgd",), architecture="own_nets.py:build")
    none, mine = make_arms(sweep)
    assert [none.name, mine.name] == ["sgd + none", "sgd + own_nets:Mine"]
    assert (mine.space["lam"].low, mine.space["lam"].high, mine.initial_point["lam"]) == (1e-5, 1e-3, 1e-4)
    bounded = sweep.changed(bounds=["own_nets:Mine.lam=1e-6:1e-5"])
    assert make_arms(bounded)[1].space["lam"].high == 1e-5
    ranges = {**SPACE, "lam": by_regularizer(**{"own_nets:Mine": SPACE["lam"]["regularizer"]["wcr"]})}
    declared = sweep.changed(search=SearchSpace(ranges=ranges))
    assert make_arms(declared)[1].space["lam"].low == 1e-6
    made = make_config(sweep, mine.choices, {"lam": 1e-4})
    assert set(made.sources) == {f"{own}/own_nets.py:Mine", f"{own}/own_nets.py:build"}
    with pytest.raises(
        ValueError, match=r"lam: must be given, as --lam, for own_nets:Unranged \(it has no range; a cla"
    ):
        make_arms(sweep.changed(regularizer=("own_nets.py:Unranged",)))
    (own / "a").mkdir()
    (own / "a" / "own_nets.py").write_text((own / "own_nets.py").read_text())
    with pytest.raises(ValueError, match=r"arms: names must differ, got sgd \+ own_nets:Mine twice .*rename a file"):
        make_arms(sweep.changed(regularizer=("own_nets.py:Mine", "a/own_nets.py:Mine")))


def test_the_identity_says_which_source_has_changed(own):
    fields = {"regularizer": ("own_nets.py:Mine",), "architecture": "own_nets.py:build"}
    before = make(**fields).identity()
    same = SweepSpec.from_identity(before, name="mine", runs=own).identity()
    assert same == before
    (own / "own_helper.py").write_text("CHANGED = 1\n")
    assert changes(before, make(**fields).identity()) == [
        "the source of own_nets:build has changed",
        "the source of own_nets:Mine has changed",
    ]


def test_a_sweep_of_an_own_dataset_has_a_legal_name():
    from service.spec import folder_name

    assert folder_name("lab.data:load") == "data.load"
    assert folder_name("/a/b-c.py:Data.load") == "b-c.Data.load"


def test_another_process_takes_the_copies(own, tmp_path_factory):
    """A host that has no such file unpickles the data and loads the network."""
    sweep = tmp_path_factory.mktemp("sweep")
    names = sources_of(config())
    assert len(names) == 3
    write_sources(names, sweep)
    own_nets = importlib.import_module("own_nets") if str(own) in sys.path else None
    if own_nets is None:
        sys.path.append(str(own))
        own_nets = importlib.import_module("own_nets")
    pickled = pickle.dumps(WithOwnCode(OwnCode(names, sweep), own_nets.Data()))
    (sweep / "pickled").write_bytes(pickled)
    for name in ("own_nets.py", "own_helper.py"):
        (own / name).unlink()
    code = f"""if True:
        import pickle, sparsity
        data = pickle.load(open({str(sweep / "pickled")!r}, "rb"))
        print(type(data).__module__, sparsity.load("trainables.architectures", {f"{own}/own_nets.py:build"!r}).__name__)
    """
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path_factory.mktemp("x")
    )
    assert out.stdout.split() == ["own_nets", "build"]


def test_sources_that_are_nowhere(own, tmp_path):
    digest = source_of(f"{own}/own_nets.py:build").digest
    use_sources({f"{own}/own_nets.py:build": digest}, tmp_path)  # its own files are there
    with pytest.raises(ValueError, match="own_nets:build: must be the code that the trial was trained with"):
        use_sources({f"{own}/own_nets.py:build": "0" * 16}, tmp_path)
