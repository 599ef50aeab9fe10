"""benchmarks/gpu.py on a CPU, at a tiny size: that each measurement runs, not how fast."""

import json
import time

import pytest
import torch

from benchmarks import gpu

TINY = {"architecture": "small_resnet", "model": {"width": 4, "depth": 1}, "batch_size": 8}


@pytest.fixture(scope="module")
def images():
    return gpu.random_images(num=64, size=8)


def test_speed_measures_each_optimizer_with_and_without_wcr(images):
    measured = dict(gpu.speed(images, "cpu", num_steps=1, loops=("plain",), **TINY))
    assert [name.split("/")[-1] for name in measured] == [
        f"{optimizer}{more}" for optimizer in ("sgd", "s2sam", "sam", "cram") for more in ("", " + wcr")
    ]
    assert all(values["images_per_s"] > 0 for values in measured.values())


def test_penalty_is_measured_beside_the_bandwidth():
    measured = dict(gpu.penalty("cpu", num_repeats=2, width=8))
    assert measured.keys() == {"penalty/wcr", "penalty/l1", "penalty/hoyer_square"}
    for values in measured.values():
        assert values["ratio"] == pytest.approx(values["ms"] / values["ideal_ms"])


def test_concurrent_process_trains(images):
    ((name, values),) = gpu.concurrent(images, "cpu", counts=(1,), num_steps=1, **TINY)
    assert name == "concurrent/1"
    assert values["slowest"] == values["images_per_s"] > 0


def test_tasks_take_a_step_at_a_tiny_size():
    pytest.importorskip("peft")
    pytest.importorskip("segmentation_models_pytorch")
    measured = dict(gpu.tasks("cpu", num_steps=1, small=True))
    assert measured.keys() == {"tasks/vit", "tasks/unet", "tasks/lora"}
    assert all(values["steps_per_s"] > 0 for values in measured.values())


def test_runs_stop_at_the_time_and_go_on_from_there(images, tmp_path):
    sizes = {**TINY, "epochs": 2, "num_evaluations": 2}
    assert dict(gpu.runs(images, "cpu", tmp_path, until=time.monotonic() - 1, **sizes)) == {}
    later = dict(gpu.runs(images, "cpu", tmp_path, until=time.monotonic() + 600, **sizes))
    assert list(later) == [f"runs/{o} + {r}/seed 0" for r in ("none", "wcr") for o in ("sgd", "s2sam", "sam")]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    again = dict(gpu.runs(images, "cpu", tmp_path, until=time.monotonic() + 600, **sizes))
    assert json.dumps(again, default=str) == json.dumps(later, default=str)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}


def test_measurements_are_merged_into_one_file(tmp_path):
    gpu.keep(tmp_path, "a", 1)
    gpu.keep(tmp_path, "b", 2)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["results"] == {"a": 1, "b": 2}
    assert path.name.endswith("-gpu.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu", "penalty"])
    with pytest.raises(SystemExit, match=r"^benchmarks.gpu: must run where torch sees a GPU, got none$"):
        gpu.main()
