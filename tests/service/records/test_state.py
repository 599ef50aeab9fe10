import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from service.records.state import Records, best, commit_of, flatten, mean_and_spread, software_versions


def test_one_spelling_goes_all_the_way():
    assert flatten({"lam": 1e-5, "opt": {"rho": 0.1, "lr": 1}}) == {"lam": 1e-5, "opt/rho": 0.1, "opt/lr": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], {"value": 0.5, "spread": None, "n": 1}),
        ([1.0, 2.0, 3.0, 4.0], {"value": 2.5, "spread": pytest.approx((5 / 3) ** 0.5), "n": 4}),  # sum of squares 5
    ],
)
def test_spread_is_the_sample_standard_deviation(values, expected):
    assert mean_and_spread(values) == expected


def test_records_are_the_same_after_they_are_opened_again(recorder):
    key = recorder.trial((0.9, 0.7), evaluations=2)
    again = Records.replay(recorder.records.folder)
    assert again.trials == recorder.records.trials
    assert again.trials[key].at(0.9, "acc") == 0.7
    assert [evaluation["epoch"] for evaluation in again.trials[key].evaluations] == [1, 2]


def test_a_repeated_start_evaluations_or_end_is_recorded_once(recorder):
    key = recorder.trial((0.9, 0.7), evaluations=2)
    before = recorder.records.journal.path.read_bytes()
    recorder.records.start(key, phase="search", arm="sam + wcr", number=0, config={})
    recorder.records.evaluation(key, {"epoch": 2, "loss": 0.0})
    recorder.records.end(key, lost="late news of a host that was parted")
    assert recorder.records.journal.path.read_bytes() == before


def test_a_trial_without_a_result_is_recorded_as_lost(recorder):
    config = {"optimizer": "sgd", "max_epochs": 1}
    recorder.records.start("abc", phase="search", arm="sgd + none", number=0, config=config)
    recorder.records.end("abc", lost="its worker died")
    trial = recorder.records.trials["abc"]
    assert (trial.status, trial.reason) == ("lost", "its worker died")


def test_a_result_that_is_seen_late_is_waited_for_and_one_never_seen_is_lost(recorder):
    records = recorder.records
    for key in ("late", "never"):
        records.start(key, phase="search", arm="sgd + none", number=0, config={})
    folder = records.trial_folder("late")
    folder.mkdir(parents=True)
    result = {"report": {"status": "finished", "reason": "", "epoch": 4}, "notes": []}
    threading.Timer(0.5, lambda: (folder / "result.json").write_text(json.dumps(result))).start()
    records.end("late", wait=30)
    records.end("never", wait=0.3)
    assert records.trials["late"].status == "finished"
    assert records.trials["never"].status == "lost"
    assert "its result is not seen in" in records.trials["never"].reason


def test_a_retried_trial_is_made_again_from_nothing(recorder):
    key = recorder.trial(None, status="error", evaluations=2)
    good = recorder.trial((0.9, 0.7), seed=1)
    records = recorder.records
    assert records.retry() == [key]
    assert not (records.trial_folder(key) / "result.json").exists()
    assert not records.trials[key].done
    assert records.retry() == []
    again = recorder.trial((0.9, 0.8), evaluations=1)
    assert again == key
    for seen in (records, Records.replay(records.folder)):
        assert {t.key: (t.status, len(t.evaluations)) for t in seen.trials.values()} == {
            key: ("finished", 1),
            good: ("finished", 1),
        }


def test_passwords_of_a_command_are_not_recorded(recorder):
    command = [
        "python",
        "sweeps/digits.py",
        "--study-uri",
        "postgresql://me:secret@host/db",
        "--tracking-uri",
        "http://h:1",
    ]
    recorder.records.note_run(command, num_search=3, num_confirm=1)
    assert "secret" not in recorder.records.journal.path.read_text()
    assert recorder.records.last_run["command"][3:] == ["postgresql://me:***@host/db", "--tracking-uri", "http://h:1"]


def test_a_folder_of_another_sweep_is_refused_and_says_what_differs(recorder):
    recorder.records.close()
    with pytest.raises(ValueError, match=r"toy: must be of the same sweep.*\(seed: 0 there, 7 here\): choose another"):
        Records(recorder.records.folder, recorder.records.header["identity"] | {"seed": 7})


def test_a_second_process_is_refused_by_a_lock_that_names_its_holder(recorder):
    with pytest.raises(ValueError, match=rf"one process at a time, is in use by process {os.getpid()} on "):
        Records(recorder.records.folder, recorder.records.header["identity"])


def test_a_lock_goes_with_a_killed_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from service.records.state import Records;"
        "records = Records(Path(sys.argv[1]), {'a': 1}); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid}"):
            Records(tmp_path, {"a": 1})
        process.kill()
        process.wait()
    Records(tmp_path, {"a": 1}).close()


def test_a_evaluations_that_a_killed_driver_did_not_hear_of_is_found_in_the_trials_result(recorder):
    records = recorder.records
    records.start("abc", phase="search", arm="sgd + none", number=0, config={})
    records.evaluation("abc", {"epoch": 1, "loss": 3.0})
    records.evaluation(
        "abc", {"epoch": 3, "loss": 1.0}
    )  # 2 was trained and kept in the checkpoint; then the driver died
    evaluations = [{"epoch": epoch, "loss": 4.0 - epoch} for epoch in (1, 2, 3)]
    folder = records.trial_folder("abc")
    folder.mkdir(parents=True)
    result = {"report": {"status": "finished", "reason": "", "epoch": 4}, "notes": [], "evaluations": evaluations}
    (folder / "result.json").write_text(json.dumps(result))
    records.end("abc")
    assert records.trials["abc"].evaluations == evaluations
    assert Records.replay(records.folder).trials["abc"].evaluations == evaluations


# ---- provenance ------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A repository of somebody else's with one commit, and its id."""
    if shutil.which("git") is None:
        pytest.skip("it needs git")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "theirs.py").touch()
    (folder / ".gitignore").write_text("venv/\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *arguments], check=True, env=without_git())
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True, env=without_git())
    return folder, done.stdout.strip()


def without_git():
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def test_the_commit_is_of_the_repository_that_tracks_the_file(repository):
    folder, commit = repository
    assert commit_of(folder / "theirs.py") == commit
    (folder / "theirs.py").write_text("changed")
    assert commit_of(folder / "theirs.py") == f"{commit}-dirty"


def test_an_environment_inside_another_repository_has_no_commit(repository, monkeypatch, environment_row):
    folder, _ = repository
    installed = folder / "venv" / "_records.py"
    installed.parent.mkdir()
    installed.touch()
    assert commit_of(installed) == ""
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))  # as in a hook of that repository
    assert commit_of(installed) == ""
    environment_row(
        "installed inside another git repository", "the installed version is recorded, not that repository's commit"
    )


def test_git_dir_of_another_repository_does_not_name_the_commit(repository, tmp_path, monkeypatch):
    folder, _ = repository
    alone = tmp_path / "alone" / "theirs.py"
    alone.parent.mkdir()
    alone.touch()
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(alone.parent))
    assert commit_of(alone) == ""


def test_without_git_or_a_repository_the_installed_version_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    versions = software_versions()
    assert versions["git_commit"] == f"none: sparsity-sweeps {versions['sparsity-sweeps']} as installed"


# ---- best ------------------------------------------------------------------------------------------------------


def rows_of(runs, **only):
    rows = best(runs, **only)
    return {(r["optimizer"], r["regularizer"], r["sparsity"]): (r["lam"], r["rho"], r["value"], r["n"]) for r in rows}


def test_best_is_per_arm_and_sparsity_and_counts_only_finished_trials(recorder, tmp_path):
    recorder.trial((0.99, 0.5), lam=1e-6)
    recorder.trial((0.95, 0.8), lam=1e-4, rho=0.3)
    recorder.trial((0.97, 0.6), optimizer="sgd", regularizer="none")
    recorder.trial((1.0, 1.0), status="diverged", lam=1e-1)
    assert rows_of(tmp_path / "runs") == {
        ("sam", "wcr", 0.0): (1e-6, 0.1, 0.99, 1),
        ("sam", "wcr", 0.9): (1e-4, 0.3, 0.8, 1),
        ("sgd", "none", 0.0): (None, None, 0.97, 1),
        ("sgd", "none", 0.9): (None, None, 0.6, 1),
    }
    assert list(rows_of(tmp_path / "runs", optimizer="sgd")) == [("sgd", "none", 0.0), ("sgd", "none", 0.9)]
    assert best(tmp_path / "runs", skip_sweep="toy") == []
    assert best(tmp_path / "nothing") == []


def test_a_confirmed_configuration_comes_before_a_lucky_one(recorder, tmp_path):
    recorder.trial((0.9, 0.95), lam=1e-6)  # tried once
    recorder.trial((0.9, 0.90), lam=1e-5)
    for seed, acc in ((1, 0.84), (2, 0.93)):
        recorder.trial((0.9, acc), lam=1e-5, seed=seed, phase="confirm", test=(0.1, 0.1))
    row = next(r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9)
    assert (row["lam"], row["n"], row["seeds"]) == (1e-5, 2, "unseen")
    assert row["value"] == pytest.approx((0.84 + 0.93) / 2)  # without 0.90, for which the search selected it


def test_the_seeds_of_the_search_count_where_there_are_no_others(recorder, tmp_path):
    for seed, acc in ((0, 0.7), (1, 0.9)):
        recorder.trial((0.9, acc), seed=seed)
    row = next(r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9)
    assert (row["value"], row["n"], row["seeds"]) == (pytest.approx(0.8), 2, "search")


def test_settings_are_never_compared_and_the_longer_training_comes_first(recorder, tmp_path):
    recorder.trial((0.9, 0.8))
    recorder.trial((1.0, 1.0), max_epochs=2, eval_size=20)
    recorder.trial((1.0, 0.9), model={"width": 8})
    rows = [r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9]
    assert [(r["max_epochs"], r["eval_size"], r["model"], r["value"]) for r in rows] == [
        (3, None, {"width": 8}, 0.9),
        (3, None, {}, 0.8),
        (2, 20, {}, 1.0),
    ]


def test_a_row_has_all_that_its_value_depends_on(recorder, tmp_path):
    recorder.trial((0.9, 0.8), lam=1e-4, rho=0.2)
    row = best(tmp_path / "runs")[0]
    assert {k: row[k] for k in ("lam", "rho", "lr", "weight_decay", "max_epochs", "batch_size", "train_size")} == {
        "lam": 1e-4,
        "rho": 0.2,
        "lr": 0.1,
        "weight_decay": None,
        "max_epochs": 3,
        "batch_size": 8,
        "train_size": None,
    }


def test_a_trial_in_two_sweeps_counts_once(recorder, tmp_path):
    recorder.trial((0.9, 0.8))
    shutil.copytree(tmp_path / "runs" / "toy", tmp_path / "runs" / "copy")
    assert {r["n"] for r in best(tmp_path / "runs")} == {1}


def test_best_finds_the_records_below_the_home(recorder, tmp_path, monkeypatch):
    recorder.trial((0.9, 0.8))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert best("~/runs") == best(tmp_path / "runs") != []
    with pytest.raises(
        ValueError, match=r"^runs: must be without ~, or begin with the home of a user, got '~nobody-x/y'"
    ):
        best("~nobody-x/y")
