"""What a GPU gives: `python -m benchmarks.gpu speed|penalty|concurrent|tasks|runs`, each a slice of at most --minutes.

Without Ray, Optuna and MLflow: the machine may lack them. It needs torch, torchvision, NumPy and pydantic, and for
`tasks` what they need (transformers, peft, segmentation-models-pytorch): one that is missing is left out, saying so.
Data and augmentation are on the device, products in bfloat16 autocast, images channels_last: that is how the CNN task
runs on a GPU. Results are merged into benchmarks/results/DATE-DEVICE-gpu.json after each measurement, so that a slice
that ends early keeps what it has.

speed       ResNet-18 on CIFAR-10 at batch 128, images a second: each optimizer, with and without WCR; the plain loop,
            with torch.compile, and with the gradient as CUDA graphs.
penalty     The penalty and its gradient beside the time to read the weights twice and write the gradient once.
concurrent  1, 2, 4 and 8 processes that train at once: images a second of all together.
tasks       20 steps each of ViT-B/32, ResNet-50-UNet at 256x256 and a Qwen2 of 1.5 B weights, random weights and data,
            at the paper's batch size: steps a second, and the peak of memory.
runs        Whole trainings, evaluated at each sparsity. Goes on where the last slice stopped: the same command again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sparsity
from benchmarks._measure import RESULTS, device_name, slug
from trainables.config import TrialConfig
from trainables.data.errors import DataError
from trainables.data.images import Images
from trainables.loop import Training, load_task
from trainables.runner import TrialRunner
from trainables.step import batchnorm_frozen, train_step
from trainables.tasks.cnn import LoadedImages

__all__ = ["concurrent", "penalty", "runs", "speed", "tasks"]

OPTIMIZERS = {"sgd": {}, "s2sam": {"rho": 0.5}, "sam": {"rho": 0.5}, "cram": {"rho": 0.05}}
REGULARIZERS = {"none": 0.0, "wcr": 1e-5}
SPARSITIES = (0.9, 0.92, 0.94, 0.96, 0.97, 0.98)
CIFAR10: dict[str, Any] = {
    "dataset": "cifar10",
    "architecture": "resnet18",
    "max_epochs": 200,
    "batch_size": 128,
    "lr_schedule": "dynamic_tuning",
    "num_evaluations": 20,
    "target_sparsity": 0.96,
    "sparsities": SPARSITIES,
}
QWEN2: dict[str, Any] = {  # Qwen2.5-1.5B's config.json
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


# ---- one training, step by step --------------------------------------------------------------------------------------


def cifar10_config(optimizer: str = "sgd", regularizer: str = "none", **fields: Any) -> TrialConfig:
    opt = {"lr": 0.1, "weight_decay": 5e-4, **OPTIMIZERS[optimizer]}
    arm = {"optimizer": optimizer, "opt": opt, "regularizer": regularizer, "lam": REGULARIZERS[regularizer]}
    return TrialConfig.model_validate({**CIFAR10, **arm, **fields})


def random_images(num: int = 50_000, size: int = 32, num_classes: int = 10) -> LoadedImages:
    """Noise of CIFAR-10's shape: as fast as the real images, and nothing can be learned from it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num, 3, size, size), dtype=np.uint8)
    labels = rng.integers(0, num_classes, num)
    loaded = Images(images, labels, images[:100], labels[:100], num_classes, 255, "crop_flip", 0.1)
    return LoadedImages(loaded, [0.5] * 3, [0.25] * 3)


class Plain:
    """The loop's own step."""

    def __init__(self, training: Training):
        self.training = training

    def __call__(self, batch: Any) -> None:
        own = self.training
        train_step(
            own.model,
            batch,
            task=own.task,
            regularizer=own.regularizer,
            lam=own.lam,
            optimizer=own.optimizer,
            accumulate=own.config.accumulate,
        )


class Compiled(Plain):
    """The same with the network through torch.compile."""

    def __init__(self, training: Training):
        training.model.compile()
        super().__init__(training)


class Graphs(Plain):
    """The same with loss, gradient and penalty as CUDA graphs: one for an optimizer's first gradient and one for those
    after it, whose running statistics of BatchNorm stay. The update is not in them: S2SAM's and CrAM's keep tensors of
    one step for another. The gradients are copied out, since they do."""

    def __init__(self, training: Training):
        super().__init__(training)
        batch = next(training.task.batches("train", training.config.batch_size, seed=0))
        self.batch = tuple(tensor.clone() for tensor in batch)
        self.trained = [p for p in training.model.parameters() if p.requires_grad]
        self.graphs = [self._capture(frozen) for frozen in (False, True)]

    def _gradient(self, frozen: bool) -> Tensor:
        own = self.training
        own.optimizer.zero_grad(set_to_none=True)
        with batchnorm_frozen(own.model, when=frozen):
            loss = own.task.loss(own.model, self.batch)
        loss.backward()
        return loss.detach() + own.lam * own.regularizer.backward(own.lam)

    def _capture(self, frozen: bool) -> tuple[torch.cuda.CUDAGraph, Tensor, list[Tensor | None]]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # what is chosen or allocated at a first run must be there before
                self._gradient(frozen)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._gradient(frozen)
        gradients = [p.grad for p in self.trained]
        for p in self.trained:
            p.grad = None
        return graph, loss, gradients

    def __call__(self, batch: Any) -> None:
        for own, new in zip(self.batch, batch, strict=True):
            own.copy_(new)
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            graph, loss, gradients = self.graphs[min(calls, 1)]
            calls += 1
            graph.replay()
            for p, gradient in zip(self.trained, gradients, strict=True):
                p.grad = None if gradient is None else gradient.clone()
            return loss.clone()

        self.training.optimizer.step(closure)


LOOPS = {"plain": Plain, "compile": Compiled, "graphs": Graphs}


def endless(training: Training) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from training.task.batches("train", training.config.batch_size, seed=epoch)
        epoch += 1


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step_seconds(training: Training, loop: str, num_steps: int, *, warmup: int = 10) -> float:
    """Seconds a step, batches included, over `num_steps` after a warm-up."""
    training.model.train()
    device = training.task.device.type
    batches, step = endless(training), LOOPS[loop](training)
    for _ in range(warmup):
        step(next(batches))
    wait(device)
    begin = time.perf_counter()
    for _ in range(num_steps):
        step(next(batches))
    wait(device)
    return (time.perf_counter() - begin) / num_steps


# ---- the measurements ------------------------------------------------------------------------------------------------


def speed(data: LoadedImages, device: str, *, num_steps: int = 200, loops=tuple(LOOPS), **fields: Any) -> Iterator:
    """(name, what was measured) of each optimizer, with and without WCR, in each loop."""
    for loop in loops:
        for optimizer in OPTIMIZERS:
            for regularizer in REGULARIZERS:
                config = cifar10_config(optimizer, regularizer, **fields)
                training = Training(load_task(config, data=data, device=device), config)
                seconds = step_seconds(training, loop, num_steps)
                name = f"{optimizer} + {regularizer}" if regularizer != "none" else optimizer
                measured = {"ms": 1000 * seconds, "images_per_s": config.batch_size / seconds}
                yield f"speed/{loop}/{name}", measured


def penalty(device: str, *, num_repeats: int = 50, **model: Any) -> Iterator:
    """(name, what was measured) of each penalty with its gradient, added to gradients that are there."""
    network = sparsity.load("trainables.architectures", "resnet18")(10, **model).to(device)
    weights = [p for p in network.parameters() if p.ndim > 1]
    size = 4 * sum(w.numel() for w in weights)
    flat, copy = (torch.randn(size // 4, device=device) for _ in range(2))

    def milliseconds(run: Callable[[], object]) -> float:
        times = []
        for repeat in range(num_repeats + 5):
            wait(device)
            begin = time.perf_counter()
            run()
            wait(device)
            if repeat >= 5:
                times.append(1000 * (time.perf_counter() - begin))
        return float(np.median(times))

    bandwidth = 2 * size / milliseconds(lambda: copy.copy_(flat))  # bytes a millisecond
    ideal = 3 * size / bandwidth
    for name in ("wcr", "l1", "hoyer_square"):
        R = sparsity.load("regularizers", name)(weights)
        for w in weights:
            w.grad = torch.zeros_like(w)
        measured = milliseconds(lambda R=R: R.backward(1e-5))
        yield f"penalty/{name}", {"ms": measured, "ideal_ms": ideal, "ratio": measured / ideal}


def concurrent(
    data: LoadedImages, device: str, *, counts=(1, 2, 4, 8), num_steps: int = 200, **fields: Any
) -> Iterator:
    """(name, what was measured) of so many processes that train SGD with WCR at once, each with data of its own."""
    context = torch.multiprocessing.get_context("spawn")
    for count in counts:
        barrier, results = context.Barrier(count), context.Queue()
        args = (data, device, num_steps, fields, barrier, results)
        processes = [context.Process(target=train_beside_others, args=args) for _ in range(count)]
        for process in processes:
            process.start()
        rates = [results.get() for _ in processes]
        for process in processes:
            process.join()
        yield f"concurrent/{count}", {"images_per_s": sum(rates), "slowest": min(rates), "fastest": max(rates)}


def train_beside_others(data, device, num_steps, fields, barrier, results) -> None:
    """What each of the processes runs; it puts its images a second into `results`."""
    torch.set_num_threads(1)
    config = cifar10_config("sgd", "wcr", **fields)
    training = Training(load_task(config, data=data, device=device), config)
    step_seconds(training, "plain", 10)
    barrier.wait()
    results.put(config.batch_size / step_seconds(training, "plain", num_steps, warmup=0))


def tasks(device: str, *, num_steps: int = 20, small: bool = False) -> Iterator:
    """(name, what was measured) of the paper's other workloads. small: the same on networks for a CPU's test."""
    for name, make in (("vit", make_vit), ("unet", make_unet), ("lora", make_lora)):
        try:
            training = make(device, small)
        except ImportError as error:
            yield f"tasks/{name}", {"left_out": str(error)}
            continue
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = step_seconds(training, "plain", num_steps, warmup=2)
        peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
        weights = sum(p.numel() for p in training.model.parameters())
        measured = {"steps_per_s": 1 / seconds, "batch_size": training.config.batch_size, "weights": weights}
        yield f"tasks/{name}", {**measured, "peak_GB": peak}
        del training
        if device == "cuda":
            torch.cuda.empty_cache()


def make_vit(device: str, small: bool) -> Training:
    from trainables.tasks.vit import LoadedViT

    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_layers": 2, "num_heads": 2} if small else {}
    config = TrialConfig.model_validate(
        {"task": "vit", "dataset": "cifar100", "architecture": "vit", "model": sizes, "scope": "uniform"}
        | {"optimizer": "s2sam", "opt": {"lr": 1e-3, "rho": 0.25}, "regularizer": "wcr", "lam": 1e-2}
        | {"max_epochs": 200, "batch_size": 8 if small else 128, "target_sparsity": 0.8}
    )
    loaded = random_images(200 if small else 20_000, num_classes=100)
    return Training(load_task(config, data=LoadedViT(loaded.images, loaded.mean, loaded.std), device=device), config)


def make_unet(device: str, small: bool) -> Training:
    from trainables.data.slices import Slices

    size, encoder, width = (32, "resnet18", 2) if small else (256, "resnet50", 16)
    config = TrialConfig.model_validate(
        {
            "task": "unet",
            "dataset": "lgg",
            "architecture": "unet",
            "model": {"encoder": encoder, "decoder_width": width},
        }
        | {"optimizer": "s2sam", "opt": {"lr": 1e-2, "rho": 0.25}, "regularizer": "wcr", "lam": 1e-5}
        | {"max_epochs": 200, "batch_size": 8 if small else 64, "target_sparsity": 0.85}
    )
    num = 3 * (16 if small else 256)
    rng = np.random.default_rng(0)
    data = Slices(
        images=rng.integers(0, 256, (num, 3, size, size), dtype=np.uint8),
        masks=rng.integers(0, 2, (num, size, size), dtype=np.uint8),
        patients=np.repeat(list("ABC"), num // 3),
        numbers=np.tile(np.arange(num // 3), 3),
        mean=np.full((num, 3), 0.5),
        std=np.full((num, 3), 0.25),
        split={"train": ("A",), "validation": ("B",), "test": ("C",)},
        channels=("one", "two", "three"),
        shown=1,
    )
    return Training(load_task(config, data=data, device=device), config)


def make_lora(device: str, small: bool) -> Training:
    """Batches of 16 in 4 parts, as the paper's, each question 256 tokens long, of which the last 9 are the answer."""
    import peft  # noqa: F401 -- the task imports it once it builds the network

    from trainables.data.tokens import EncodedQuestions, Ragged
    from trainables.tasks.lora import LoadedQuestions

    tiny = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    network = QWEN2 | (tiny if small else {})
    length, num = (24, 40) if small else (256, 2000)
    config = TrialConfig.model_validate(
        {"task": "lora", "dataset": "commonsense", "architecture": "causal_lm", "task_args": {"base_dtype": "bfloat16"}}
        | {"optimizer": "adamw", "opt": {"lr": 2e-4}, "regularizer": "wcr", "lam": 1e-5}
        | {"max_epochs": 2, "batch_size": 4 if small else 64, "accumulate": 2 if small else 4, "target_sparsity": 0.2}
    ).model_copy(update={"model": {"config": network}})  # a dictionary is no argument
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, network["vocab_size"], length - 9).tolist() for _ in range(num)]
    answers = [[*rng.integers(1, network["vocab_size"], 8).tolist(), 0] for _ in range(2)]
    questions = EncodedQuestions(
        prompts=Ragged.of(rows),
        responses=Ragged.of(answers),
        candidates=np.tile(np.arange(2), (num, 1)),
        answers=rng.integers(0, 2, num),
        tasks=np.zeros(num, np.int64),
        task_names=["random"],
    )
    half = np.arange(num // 2)
    data = LoadedQuestions(questions, half, half + num // 2, half + num // 2, length, "", 0, "")
    return Training(load_task(config, data=data, device=device), config)


def runs(
    data: LoadedImages, device: str, folder: Path, *, until: float, seeds=(0,), epochs: int = 200, **fields: Any
) -> Iterator:
    """(name, what was measured) of each whole training that is done by `until` (time.monotonic()); one that is not is
    left at its last evaluation in `folder`, from where it goes on. Accuracies are of the test split."""
    for seed in seeds:
        for regularizer in REGULARIZERS:
            for optimizer in ("sgd", "s2sam", "sam"):
                config = cifar10_config(
                    optimizer, regularizer, **{"max_epochs": epochs, "seed": seed, "read_test": True, **fields}
                )
                trial = TrialRunner(
                    config, folder / config.key, lambda c=config: load_task(c, data=data, device=device), keep="none"
                )
                report = {"status": "running"}
                while report["status"] == "running":
                    if time.monotonic() > until:
                        return
                    report = trial.advance()
                result = json.loads((folder / config.key / "result.json").read_text())
                yield f"runs/{optimizer} + {regularizer}/seed {seed}", {"config": config.model_dump(), **result}


# ---- the command -----------------------------------------------------------------------------------------------------


def load_images(root: str | None) -> LoadedImages | None:
    """CIFAR-10; None, saying so, where it cannot be had."""
    config = cifar10_config()
    try:
        return sparsity.load("trainables.tasks", "cnn").load(config, root)
    except (DataError, OSError) as error:
        print(f"random images instead of CIFAR-10: {error}")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("speed", "penalty", "concurrent", "tasks", "runs"))
    parser.add_argument("--data-root", help="folder with CIFAR-10; downloaded by default")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this slice; then it stops, to go on next time")
    parser.add_argument("--folder", type=Path, default=Path("gpu-runs"), help="of checkpoints of `runs`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--seeds", type=int, default=1, help="of `runs`, from 0 on")
    parser.add_argument("--epochs", type=int, default=200, help="of `runs`")
    parser.add_argument("--loops", nargs="*", choices=tuple(LOOPS), default=list(LOOPS), help="of `speed`")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: must run where torch sees a GPU, got none")
    until = time.monotonic() + 60 * args.minutes
    data = load_images(args.data_root) if {"speed", "concurrent", "runs"} & {*args.what} else None
    if data is None and "runs" in args.what:
        raise SystemExit("benchmarks.gpu: runs must have CIFAR-10 (--data-root), got none")
    for what in args.what:
        measured: Mapping[str, Iterator] = {
            "speed": speed(data or random_images(), "cuda", loops=args.loops),
            "penalty": penalty("cuda"),
            "concurrent": concurrent(data or random_images(), "cuda"),
            "tasks": tasks("cuda"),
            "runs": runs(data, "cuda", args.folder, until=until, seeds=range(args.seeds), epochs=args.epochs)
            if data
            else iter(()),
        }
        for name, values in measured[what]:
            keep(args.results, name, values)
            print(name, json.dumps(values)[:200], flush=True)
            if time.monotonic() > until:
                return


def keep(folder: Path, name: str, values: Any) -> None:
    """Merge one measurement into the file of this device and day."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%d')}-{slug(device_name())}-gpu.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    record |= {"date": time.strftime("%Y-%m-%d"), "device": device_name(), "torch": torch.__version__}
    record["results"] = {**record.get("results", {}), name: values}
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
