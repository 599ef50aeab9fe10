"""File sizes and latencies of a network: dense, pruned and shrunk."""

import contextlib
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.pruning.checkpoint import save_weights
from trainables.pruning.exporting.deployable import Deployable
from trainables.pruning.exporting.formats.onnx import ONNX, open_session
from trainables.pruning.shrinking import measure_size

__all__ = ["BATCH_SIZES", "NUM_RUNS", "costs"]

BATCH_SIZES = (1, 64)
NUM_RUNS = 200
SLOWEST_RUN = 10.0  # seconds


def costs(
    networks: Mapping[str, Deployable], *, num_runs: int = NUM_RUNS, seconds: float = 10.0
) -> list[dict[str, Any]]:
    """Measure networks on one CPU thread, in turns so that a slow moment of the machine hits all of them.

    Args:
        networks: Networks by their names in the table. Their raw inputs have the same shape.
        num_runs: Runs of each network with each batch size, in PyTorch and in ONNX Runtime.
        seconds: The runs of one batch size in one of the two end after this time, and after three runs at the earliest.

    Returns:
        A row for each network:

        - network: its name
        - parameters, nonzero: number of parameters, and of those that are not 0
        - macs: multiply-accumulate operations for one example (of convolutions, linear layers and attention)
        - file_bytes, gzip_bytes: size of the weights as safetensors, and after gzip (level 6)
        - eager_ms_1, eager_ms_64, onnx_ms_1, onnx_ms_64: median latency in milliseconds, of PyTorch without compilation
          and of ONNX Runtime, with a batch of 1 and of 64; None if a run takes longer than 10 s
        - num_runs: by latency, the number of its runs
    """
    rows: list[dict[str, Any]] = [{"network": name, **sizes(network)} for name, network in networks.items()]
    sessions = {name: session_of(network) for name, network in networks.items()}
    with one_thread(), torch.inference_mode():
        for batch_size in BATCH_SIZES:
            inputs = {name: network.example(batch_size) for name, network in networks.items()}
            eager = {name: bind(network, inputs[name]) for name, network in networks.items()}
            onnx = {
                name: bind(sessions[name].run, None, {network.input_name: inputs[name].numpy()})
                for name, network in networks.items()
            }
            for engine, runs in (("eager", eager), ("onnx", onnx)):
                times = take_turns(runs, num_runs, seconds * len(runs))
                for row in rows:
                    key, taken = f"{engine}_ms_{batch_size}", times[row["network"]]
                    row[key] = 1000 * statistics.median(taken) if taken else None
                    row.setdefault("num_runs", {})[key] = len(taken)
    return rows


def session_of(network: Deployable) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        ONNX(network, {}).write(Path(scratch))
        return open_session(Path(scratch) / ONNX.file)


def sizes(network: Deployable) -> dict[str, int]:
    parameters = list(network.parameters())
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.safetensors"
        save_weights(network.network.state_dict(), file)
        file_bytes, gzip_bytes = file.stat().st_size, compressed_size(file)
    return {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
        "macs": measure_size(network, network.example(1)).macs,
        "file_bytes": file_bytes,
        "gzip_bytes": gzip_bytes,
    }


def compressed_size(file: Path) -> int:
    compressor = zlib.compressobj(6, wbits=31)  # gzip's own format
    with file.open("rb") as stream:
        size = sum(len(compressor.compress(block)) for block in iter(lambda: stream.read(1 << 20), b""))
    return size + len(compressor.flush())


def take_turns(runs: Mapping[str, Callable[[], Any]], num_runs: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each run, without the first one; none at all if one takes longer than SLOWEST_RUN."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    for turn in range(num_runs + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken = time.perf_counter() - start
            if turn:
                times[name].append(taken)
            elif taken > SLOWEST_RUN:
                return {name: [] for name in runs}
        if turn >= 3 and time.perf_counter() - begin > seconds:
            break
    return times


def bind(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: function(*args)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch's operations within this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
