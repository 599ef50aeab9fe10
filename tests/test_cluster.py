"""The cluster files against what reads them: Ray's schema and preparation, a pretended EC2, KubeRay's fields. How they
work on real hosts is for `make test-cluster`."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
AWS, ON_PREM, KUBERAY = ROOT / "cluster.yaml", ROOT / "clusters" / "on_prem.yaml", ROOT / "clusters" / "kuberay.yaml"
LAUNCHED = pytest.mark.parametrize("path", [AWS, ON_PREM], ids=lambda path: path.name)


def prepared(path):
    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    return config


# ---- what Ray's launcher reads -------------------------------------------------------------------------------------


@LAUNCHED
def test_it_passes_rays_own_schema_and_preparation(path):
    assert prepared(path)["provider"]["type"] == {AWS: "aws", ON_PREM: "local"}[path]


@LAUNCHED
def test_a_mistake_in_it_would_be_found(path):
    config = yaml.safe_load(path.read_text())
    config["max_wrokers"] = 3
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(config))


@LAUNCHED
def test_what_it_copies_is_there_and_is_the_whole_project(path):
    mounts = yaml.safe_load(path.read_text())["file_mounts"]
    assert all((ROOT / source).exists() for source in mounts.values())
    assert all(target == f"~/sparsity-sweeps/{source}" for target, source in mounts.items())
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    packages |= {path.name for path in ROOT.glob("*.py")}
    read_at_install = set(re.findall(r'"(README\.md|LICENSE)"', (ROOT / "pyproject.toml").read_text()))
    assert packages | read_at_install | {"clusters", "pyproject.toml", "constraints.txt"} == set(mounts.values())


@LAUNCHED
def test_its_commands_are_shell(path):
    config = yaml.safe_load(path.read_text())
    commands = [c for name, value in config.items() if name.endswith("_commands") for c in value]
    assert len(commands) >= 6
    for command in commands:
        subprocess.run(["bash", "-n", "-c", f"true && ({command})"], check=True)  # as Ray wraps it


@LAUNCHED
def test_nothing_of_ray_or_mlflow_listens_to_strangers(path):
    config = yaml.safe_load(path.read_text())
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "MLFLOW_HOST=127.0.0.1" in " ".join(config["setup_commands"])


@LAUNCHED
def test_its_scripts_are_there(path):
    named = set(re.findall(r"~/sparsity-sweeps/(clusters/\S+\.sh)", path.read_text()))
    assert named == {"clusters/setup.sh", "clusters/mlflow.sh"}
    for script in (ROOT / "clusters").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
        assert shlex.quote(script.name) == script.name


# ---- AWS -----------------------------------------------------------------------------------------------------------


def test_aws_has_a_head_for_no_trials_and_workers_from_none_to_the_stated_maximum():
    config = prepared(AWS)
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] == config["max_workers"] == 8
    assert config["idle_timeout_minutes"] == 10


@pytest.mark.slow
def test_on_ec2_it_starts_spot_workers_in_a_group_closed_but_for_ssh(tmp_path, monkeypatch):
    moto = pytest.importorskip("moto", reason="the pretended EC2 is not installed (dependency group dev)")
    import boto3
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps the key that it makes in ~/.ssh
    (tmp_path / ".ssh").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "pretended")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)  # Ray waits half a minute for IAM
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        ec2 = boto3.client("ec2", "us-west-2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        config = prepare_config(yaml.safe_load(AWS.read_text().replace("ami-00000000000000000", image)))
        config = aws.bootstrap_aws(config)
        provider = _get_node_provider(config["provider"], config["cluster_name"])
        for kind in ("head", "gpu"):
            node = {**config["available_node_types"][kind]["node_config"]}
            node |= config["head_node"] if kind == "head" else {}
            tags = {TAG_RAY_NODE_KIND: "head" if kind == "head" else "worker", TAG_RAY_USER_NODE_TYPE: kind}
            provider.create_node(node, {**tags, TAG_RAY_NODE_NAME: kind}, 1)
        instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        head, worker = sorted(instances, key=lambda instance: "IamInstanceProfile" not in instance)
        (group,) = ec2.describe_security_groups(GroupNames=["sparsity-sweeps"])["SecurityGroups"]
    assert "InstanceLifecycle" not in head
    assert worker["InstanceLifecycle"] == "spot"
    assert head["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1")
    assert "IamInstanceProfile" not in worker
    for instance in instances:
        assert [g["GroupId"] for g in instance["SecurityGroups"]] == [group["GroupId"]]
    inside, ssh = sorted(group["IpPermissions"], key=lambda rule: rule.get("FromPort", -1))
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [group["GroupId"]]
    assert not inside["IpRanges"]
    assert (ssh["FromPort"], ssh["ToPort"], ssh["IpProtocol"]) == (22, 22, "tcp")


# ---- Kubernetes ----------------------------------------------------------------------------------------------------

# The fields of KubeRay's ray.io/v1 (RayClusterSpec, RayJobSpec, their parts) and, of Kubernetes', the ones used.
FIELDS = {
    "cluster": "headGroupSpec workerGroupSpecs rayVersion enableInTreeAutoscaling autoscalerOptions suspend "
    "headServiceAnnotations",
    "head": "serviceType headService enableIngress rayStartParams template",
    "worker": "groupName replicas minReplicas maxReplicas numOfHosts rayStartParams template scaleStrategy",
    "autoscaler": "resources image imagePullPolicy env envFrom volumeMounts securityContext idleTimeoutSeconds "
    "upscalingMode",
    "job": "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector "
    "submitterConfig entrypoint runtimeEnvYAML jobId submissionMode entrypointResources entrypointNumCpus "
    "entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend",
    "pod": "containers volumes securityContext nodeSelector tolerations terminationGracePeriodSeconds",
    "container": "name image command env ports resources volumeMounts readinessProbe",
}


@pytest.fixture(scope="module")
def kinds():
    documents = [d for d in yaml.safe_load_all(KUBERAY.read_text())]
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


def pods(kinds):
    cluster = kinds["RayCluster", "sparsity-sweeps"]["spec"]
    yield kinds["Deployment", "mlflow"]["spec"]["template"]["spec"]
    yield cluster["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in cluster["workerGroupSpecs"])


def test_kuberays_fields_are_spelled_as_it_spells_them(kinds):
    cluster, job = kinds["RayCluster", "sparsity-sweeps"], kinds["RayJob", "cifar10"]
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    used = [
        ("cluster", spec),
        ("autoscaler", spec["autoscalerOptions"]),
        ("head", spec["headGroupSpec"]),
        *(("worker", group) for group in spec["workerGroupSpecs"]),
        ("job", job["spec"]),
        *(("pod", pod) for pod in pods(kinds)),
        *(("container", container) for pod in pods(kinds) for container in pod["containers"]),
    ]
    for part, fields in used:
        assert set(fields) <= set(FIELDS[part].split()), part
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):  # map[string]string
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_what_its_parts_say_of_each_other_holds(kinds):
    cluster = kinds["RayCluster", "sparsity-sweeps"]
    job = kinds["RayJob", "cifar10"]["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert f"--concurrent {group['maxReplicas']}" in job["entrypoint"]
    assert group["minReplicas"] == 0
    assert (ROOT / "sweeps" / "cifar10.py").exists()
    assert job["entrypoint"].startswith("python -m sweeps.cifar10 ")
    for pod in pods(kinds):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert all(("PersistentVolumeClaim", claim) in kinds for claim in claims)
    assert len({container["image"] for pod in pods(kinds) for container in pod["containers"]}) == 1
    assert kinds["PersistentVolumeClaim", "sweeps"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_its_passwords_are_in_a_secret_and_its_versions_ours(kinds):
    for pod in pods(kinds):
        for variable in (v for container in pod["containers"] for v in container.get("env", ())):
            secret = any(word in variable["name"] for word in ("PASSWORD", "SECRET"))
            assert ("secretKeyRef" in variable.get("valueFrom", {})) is secret
            assert isinstance(variable.get("value", ""), str)
    ray = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert kinds["RayCluster", "sparsity-sweeps"]["spec"]["rayVersion"] == ray
    assert f"rayproject/ray:{ray}-py312" in (ROOT / "clusters" / "Dockerfile").read_text()
