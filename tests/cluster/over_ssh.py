"""`make test-cluster`: sweeps on a head and two workers, over real SSH, with clusters/on_prem.yaml. In this order, as
the later tests look at what the earlier ones left."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.records.state import State
from tests import _own_network as own_network

HERE = Path(__file__).parent
# Trials of a second.
SMALL = [
    "--epochs",
    "2",
    "--evaluations",
    "2",
    "--confirm",
    "0",
    "--search-seeds",
    "1",
    "--model",
    "width=4",
    "--model",
    "depth=1",
]
SMALL_CIFAR10 = ["--architecture", "small_resnet", "--train-size", "500", "--eval-size", "500"]
SMALL_CIFAR10 += ["--optimizer", "sgd", "--lr-schedule", "constant"]
HOSTILE = [
    "two words", "it's", 'say "hi"', "$(touch /tmp/executed)", "`touch /tmp/executed`", "a; touch /tmp/executed",
    "line\nbreak", "λ ρ", "*", "~", "", "!!", "\\", "--flag=x y", "a&b|c>d", "$HOME", "tab\there", "-", "#x",
]  # fmt: skip


def finished(cluster, name):
    """The trials of a sweep that finished, by key; no other is there."""
    trials = State.read(cluster.runs / name).trials
    assert {trial.status for trial in trials.values()} == {"finished"}
    return trials


def hosts_with_trials(hosts):
    """On which hosts an actor of ours ran: Ray writes its name into the log of the process it ran in."""
    look = ["bash", "-c", "grep -ls actor_name:Trial /tmp/ray/session_latest/logs/worker-*.out"]
    return [host for host in (1, 2, 3) if hosts.call("exec", str(host), "--", *look, check=False)]


def ask_mlflow(cluster, code):
    """What `code`, with `client` at hand, leaves in `answer`, asked over the network and by the server's address."""
    program = "import json, mlflow; client = mlflow.MlflowClient(); " + code + "; print('ANSWER', json.dumps(answer))"
    environment = ["env", f"MLFLOW_TRACKING_URI={cluster.uri}", "MLFLOW_TRACKING_USERNAME=admin"]
    environment.append(f"MLFLOW_TRACKING_PASSWORD={cluster.password()}")
    out = cluster.hosts.lan(*environment, sys.executable, "-c", program)
    return json.loads(next(line for line in out.splitlines() if line.startswith("ANSWER"))[6:])


def status_of(cluster, *curl):
    return cluster.hosts.lan("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *curl)


def test_ray_submit_of_digits_runs_trials_on_several_hosts(cluster, hosts):
    out = cluster.submit("sweeps/digits.py", *SMALL, "--trials", "1")
    assert "Best: " in out
    assert len(finished(cluster, "digits")) == 6
    assert len(hosts_with_trials(hosts)) >= 2


def test_the_wrapper_submits_cifar10(cluster):
    root = os.environ.get("CIFAR10_ROOT")
    if not root:
        pytest.skip("CIFAR10_ROOT is not set: a folder with CIFAR-10 (see --data-root)")
    flags = [*SMALL, *SMALL_CIFAR10, "--trials", "1", "--data-root", Path(root).resolve()]
    out = cluster.sweeps("submit", cluster.file, "cifar10", "--", *flags)
    assert "Best: " in out
    assert len(finished(cluster, "cifar10")) == 4


def test_own_code_on_the_head_alone_reaches_the_workers(cluster, hosts):
    for name, text in own_network.files().items():
        write = f"mkdir -p /root/mine && printf %s {shlex.quote(text)} > /root/mine/{name}"
        hosts.call("exec", "1", "--", "bash", "-c", write)
    assert "nets.py" not in hosts.call("exec", "2", "--", "bash", "-c", "ls /root/mine 2>&1 || true")
    sweep = own_network.commands()[1]
    out = hosts.ssh(1, f"cd ~/mine && {sweep} --name own --seeds 4 --no-race", timeout=600)
    assert "Best: sgd + " in out
    arms = {trial.arm for trial in finished(cluster, "own").values()}
    assert arms == {"sgd + none", "sgd + penalties:LogSum"}
    assert {path.name for path in (cluster.runs / "own" / "code").glob("*/*.py")} == {
        "nets.py",
        "data.py",
        "penalties.py",
    }
    look = ["bash", "-c", "grep -ls actor_name:Trial /tmp/ray/session_latest/logs/worker-*.out"]
    assert any(hosts.call("exec", str(host), "--", *look, check=False) for host in (2, 3))


def test_arguments_arrive_unbroken_and_unexecuted(cluster, hosts):
    script = hosts.folder / "arguments.py"
    script.write_text("import json, sys; print('ARGUMENTS', json.dumps(sys.argv[1:]))")
    out = cluster.sweeps("submit", cluster.file, script, "--", *HOSTILE)
    arrived = next(line for line in out.splitlines() if line.startswith("ARGUMENTS"))
    assert json.loads(arrived[len("ARGUMENTS") :]) == HOSTILE
    assert "executed" not in hosts.call("exec", "1", "--", "ls", "/tmp")


def test_every_run_is_in_the_heads_mlflow(cluster):
    # Asked by the head's address, from another host than it: behind a password, and by the names it is told only.
    code = (
        "found = [r for e in client.search_experiments() for r in client.search_runs(e.experiment_id)]; "
        "answer = [[r.data.tags.get('sweep'), r.data.tags.get('trial'), r.info.status] for r in found]"
    )
    runs = ask_mlflow(cluster, code)
    for sweep in (folder.name for folder in cluster.runs.iterdir() if (folder / "events.jsonl").exists()):
        keys = {trial for name, trial, status in runs if name == sweep and status == "FINISHED"}
        assert keys == {*finished(cluster, sweep), "all"}
    assert len({(name, trial) for name, trial, _ in runs}) == len(runs)  # none twice

    call = f"{cluster.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert status_of(cluster, call) == "401"
    right = ["--user", f"admin:{cluster.password()}"]
    assert status_of(cluster, *right, call) == "200"
    assert status_of(cluster, *right, "--header", "Host: elsewhere.example", call) == "403"


def test_nothing_else_listens_to_others_and_secrets_are_nowhere_else(cluster, hosts):
    assert status_of_dashboard(hosts) == "000"  # no connection
    token = hosts.call("exec", "1", "--", "cat", "/root/.ray/auth_token").strip()
    kept = {
        cluster.password(): {"1": ["/root/mlflow/password"]},
        token: {host: ["/root/.ray/auth_token"] for host in "123"},
    }
    for secret, places in kept.items():
        for host in "123":
            assert secret not in hosts.call("exec", host, "--", "ps", "-eo", "args")
            look = f"grep -rlsI -D skip {shlex.quote(secret)} /tmp/ray /root /var/log {hosts.shared} || true"
            assert hosts.call("exec", host, "--", "bash", "-c", look).split() == places.get(host, [])
            for place in places.get(host, []):
                assert hosts.call("exec", host, "--", "stat", "--format=%a", place).strip() == "600"


def test_ray_takes_nothing_from_who_has_not_its_token(cluster, hosts):
    code = f"import ray; ray.init('{hosts.address(1)}:6379', _node_ip_address='{hosts.address(1)}')"
    stranger = ["env", f"HOME={hosts.folder}", "RAY_AUTH_MODE=disabled", sys.executable, "-c", code]
    with pytest.raises(AssertionError, match=r"(?i)unauthenticated|token"):
        hosts.lan(*stranger, stderr=subprocess.STDOUT)


def status_of_dashboard(hosts):
    address = f"http://{hosts.address(1)}:8265"
    return hosts.lan(
        "curl",
        "--silent",
        "--output",
        "/dev/null",
        "--max-time",
        "5",
        "--write-out",
        "%{http_code}",
        address,
        check=False,
    )


def test_the_ui_shows_the_sweep_in_a_browser(cluster, hosts):
    import importlib.util

    spec = importlib.util.spec_from_file_location("_browser", HERE / "_browser.py")
    browser = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(browser)
    if browser.CHROMIUM is None:
        pytest.skip("no chromium here to read the UI with")
    experiment = ask_mlflow(cluster, "answer = client.get_experiment_by_name('digits').experiment_id")
    environment = ["env", "MLFLOW_TRACKING_USERNAME=admin", f"MLFLOW_TRACKING_PASSWORD={cluster.password()}"]
    page = f"{cluster.uri}/#/experiments/{experiment}/runs"
    text = hosts.lan(*environment, sys.executable, HERE / "_browser.py", page, "7 matching runs", timeout=240)
    assert "digits" in text  # the parent; its six children are folded below it


@pytest.mark.parametrize("how", ["tmux", "ray job submit"])
def test_a_driver_goes_on_after_the_login_that_started_it(cluster, hosts, how):
    name = how.replace(" ", "_")
    flags = [*SMALL, "--trials", "1", "--optimizer", "sgd", "--name", name]
    if how == "tmux":
        cluster.sweeps("submit", "--tmux", cluster.file, "digits", "--", *flags)
    else:
        job = ["ray", "job", "submit", "--no-wait", "--"]
        hosts.ssh(1, shlex.join([*job, "python", "-m", "sweeps.digits", *flags]))
    events, deadline = cluster.runs / name / "events.jsonl", time.monotonic() + 240
    while '"complete": true' not in (events.read_text() if events.exists() else ""):
        assert time.monotonic() < deadline, f"{how}: the sweep did not end"
        time.sleep(1)
    assert len(finished(cluster, name)) == 3  # sgd with each of three regularizers


def test_storage_that_the_others_do_not_see_is_said_before_the_first_trial(cluster, hosts):
    with pytest.raises(AssertionError, match="exit code 1") as failure:
        cluster.submit("sweeps/digits.py", *SMALL, "--trials", "1", "--runs", "/root/runs")
    said = " ".join(str(failure.value).split())
    both = ", ".join(sorted([hosts.address(2), hosts.address(3)]))
    assert f"{both}: does not see the driver's file in the records' folder" in said, said[-1500:]
    assert '"start"' not in hosts.call("exec", "1", "--", "cat", "/root/runs/digits/events.jsonl")


def test_after_ray_down_nothing_runs(cluster, hosts):
    cluster.down()
    names = ("raylet", "gcs_server", "ray::", "mlflow", "dashboard", "log_monitor", "uvicorn")
    deadline = time.monotonic() + 30
    while True:
        lines = [line for host in "123" for line in hosts.call("exec", host, "--", "ps", "-eo", "args").splitlines()]
        left = [line for line in lines if any(name in line for name in names)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert left == []
