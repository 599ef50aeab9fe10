from pathlib import Path


def test_figures_of_finished_trials_are_drawn_on_demand(toy, sweeps):
    finished, diverged = toy.trial((0.9, 0.8)), toy.trial(None, status="diverged", lam=0.1)
    shown, code = sweeps("figures", "toy", finished)
    assert code == 0
    drawn = [Path(line) for line in shown.splitlines()]
    assert drawn == [toy.state.trial_folder(finished) / name for name in ("curve.png", "weights.png")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    for key in (diverged, "other"):
        assert sweeps("figures", "toy", key) == (f"figures: trials must be finished ones of toy, got {key!r}\n", 2)
