"""`make test-faults`: what may happen to the hosts of a cluster, on the pretended ones of conftest.py. In this order:
the last one leaves a host without power."""

import json
import subprocess
import sys
import threading
import time

import pytest

from service.records.events import EventLog
from service.records.state import State
from tests._digits import ARMS, SMALL, events, num_repeated, results, run, studies, wait_until

# Trials of about a minute on a third of two cores, with a checkpoint every few seconds.
LONG = [
    *SMALL,
    *ARMS,
    "--epochs",
    "60",
    "--evaluations",
    "12",
    "--model",
    "width=12",
    "--trials",
    "1",
    "--confirm",
    "0",
]
HEALTH_CHECK = 20  # seconds after which a silent host is given up (clusters/on_prem.yaml)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same sweep on this machine alone: where trials run makes no difference to their results."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run(runs, *LONG[len(SMALL) + len(ARMS) :], timeout=600)
    return runs


class Submitted:
    """A sweep that `ray submit` runs on the cluster."""

    def __init__(self, cluster, name):
        self.cluster, self.name, self.out, self.error = cluster, name, "", None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.out = self.cluster.submit("sweeps/digits.py", *LONG, "--name", self.name, timeout=900)
        except BaseException as error:
            self.error = error

    def poll(self):
        return None if self.thread.is_alive() else "ended"

    returncode = "see its output"

    def end(self):
        self.thread.join(900)
        assert self.error is None, self.error
        return self.out


def host_with_a_trial(hosts):
    """A worker on which a trial trains now."""
    for host in (2, 3):
        processes = hosts.call("exec", str(host), "--", "ps", "-eo", "pcpu,args", check=False)
        if any("ResourceTrainable.train" in line for line in processes.splitlines()):
            return host
    return None


def goes_on(cluster, name, since, before):
    """Seconds from `since` until every trial that had begun before has come on by a evaluation."""
    path = cluster.runs / name / "events.jsonl"

    def all_did():
        later = {
            e["trial"] for e, _ in EventLog.read(path) if e["event"] in ("evaluation", "end") and e["time"] > since
        }
        return before <= later

    wait_until(all_did, timeout=300)
    return time.time() - since


def running(cluster, name):
    return {key for key, trial in State.read(cluster.runs / name).trials.items() if trial.status == "running"}


def in_mlflow(cluster, name):
    """[trial, status, most points of a (metric, step)] of each run, asked of the server on the head."""
    program = (
        "import json; from tests._digits import recorded; from collections import Counter;"
        f"print('ANSWER', json.dumps([[t, s, max(Counter(p[:2] for p in points).values())] for t, s, points "
        f"in recorded(None, {name!r}, {cluster.uri!r})]))"
    )
    environment = ["env", "MLFLOW_TRACKING_USERNAME=admin", f"MLFLOW_TRACKING_PASSWORD={cluster.password()}"]
    out = cluster.hosts.lan(*environment, sys.executable, "-c", program)
    return json.loads(next(line for line in out.splitlines() if line.startswith("ANSWER"))[6:])


def notice(hosts, host):
    """As a cloud does to a spot instance: what runs there is told to end."""
    hosts.call("exec", str(host), "--", "pkill", "-TERM", "raylet")


def cut(seconds):
    def part(hosts, host):
        hosts.call("cut", str(host))
        threading.Timer(seconds, lambda: hosts.call("heal", str(host))).start()

    return part


def power_off(hosts, host):
    hosts.call("kill", str(host))


@pytest.mark.parametrize(
    ("name", "fault", "again"),
    [
        ("a host's network cut for less than the health check's timeout", cut(HEALTH_CHECK / 3), "nothing"),
        ("a host's network cut for longer, then restored", cut(3 * HEALTH_CHECK), "at most one checkpoint interval"),
        ("a host's Ray ended by SIGTERM (spot)", notice, "at most one checkpoint interval"),
        ("a host powered off", power_off, "at most one checkpoint interval"),
    ],
)
def test_a_host(cluster, hosts, undisturbed, fault_row, name, fault, again):
    sweep = "".join(letter for letter in name if letter.isalnum())
    submitted = Submitted(cluster, sweep)
    wait_until(lambda: events(cluster.runs, sweep)["evaluation"] >= 4, submitted, timeout=400)
    host = wait_until(lambda: host_with_a_trial(hosts), submitted)
    before, since = running(cluster, sweep), time.time()
    fault(hosts, host)
    seconds = goes_on(cluster, sweep, since, before)
    assert "Best: " in submitted.end()
    assert results(cluster.runs, sweep) == results(undisturbed)
    assert num_repeated(cluster.runs, sweep) == 0
    theirs = {study.partition(": ")[2]: trials for study, trials in studies(undisturbed).items()}
    assert {study.partition(": ")[2]: trials for study, trials in studies(cluster.runs, sweep).items()} == theirs
    runs = in_mlflow(cluster, sweep)
    assert sorted(run[0] for run in runs) == sorted(["all", *results(undisturbed)])
    assert {(status, most) for _, status, most in runs} == {("FINISHED", 1)}
    fault_row(name, "nothing", again, f"automatic: all trials that ran continue after {seconds:.0f} s")


def test_status_and_stop_from_the_head(cluster, hosts):
    submitted = Submitted(cluster, "stopped")
    wait_until(lambda: events(cluster.runs, "stopped")["evaluation"] >= 1, submitted, timeout=400)
    assert "stopped: running (process " in hosts.ssh(1, "python -m sweeps status stopped")
    assert "stopped has stopped" in hosts.ssh(1, "python -m sweeps stop stopped")
    submitted.thread.join(60)
    assert isinstance(submitted.error, AssertionError | subprocess.SubprocessError)  # `ray submit` says 1
    assert "stopped: stopped" in hosts.ssh(1, "python -m sweeps status stopped")
