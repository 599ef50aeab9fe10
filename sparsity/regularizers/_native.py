"""The closed forms compiled for this machine's processor: `_kernels.c`, built once by its C compiler.

Where there is no compiler, or it fails, `library()` is None and the formulas in PyTorch are what runs; their numbers
differ by the rounding of sums alone (a relative 2e-6 in float32). `CC=false` chooses that.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["library", "penalty", "takes"]

SOURCE = Path(__file__).with_name("_kernels.c")
# Each operation rounds as PyTorch's does: no fused multiply-add, no reordering but where the source says so. OpenMP is
# not linked: its functions are those of the copy that PyTorch has loaded, with PyTorch's threads.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
VARIANTS = (["-march=native", "-fopenmp"], ["-march=native", "-fopenmp-simd"], ["-fopenmp-simd"])


def takes(weight: Tensor) -> bool:
    """Whether the kernels can read a tensor: float32 on a CPU, without gaps, and an ordinary tensor."""
    return (
        weight.dtype is torch.float32
        and weight.is_cpu
        and type(weight) in (Tensor, torch.nn.Parameter)
        and (weight.is_contiguous() or (weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)))
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def penalty(
    kernel: str,
    knobs: Sequence[float],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None] = (),
    *,
    lam: float = 1.0,
    overwrite: bool = False,
) -> float:
    """The sum of the penalties of weights that `takes` accepts.

    gradients: where given, lam times each weight's gradient is added to them, or overwrites them; each has its weight's
    shape, type and strides, or is None where none is wanted.
    """
    num = len(weights)
    pointers = ctypes.c_void_p * num
    loaded = library()
    assert loaded is not None
    return getattr(loaded, kernel)(
        num,
        pointers(*[weight.data_ptr() for weight in weights]),
        pointers(*[None if gradient is None else gradient.data_ptr() for gradient in gradients]),
        (ctypes.c_int64 * num)(*[weight.numel() for weight in weights]),
        (ctypes.c_double * len(knobs))(*knobs),
        lam,
        overwrite,
        torch.get_num_threads(),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, built at the first call and kept in the user's cache folder; None where that fails."""
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or "clang"]
    what = "\0".join([SOURCE.read_text(), *compiler, *FLAGS, _processor()])
    name = f"kernels-{hashlib.sha256(what.encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsity-sweeps"
    try:
        if not (cache / name).exists():
            cache.mkdir(parents=True, exist_ok=True)
            _build(compiler, cache, name)
        return _load(cache / name)
    except OSError:
        return None


def _build(compiler: list[str], folder: Path, name: str) -> None:
    """Compile and put in place the first variant that compiles and loads; OSError if none does."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / name
        for variant in VARIANTS:
            compile_ = [*compiler, *FLAGS, *variant, "-c", str(SOURCE), "-o", f"{built}.o"]
            link = [*compiler, "-shared", f"{built}.o", "-o", str(built), "-lm"]
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                for command in (compile_, link):
                    subprocess.run(command, check=True, capture_output=True, timeout=60)
                _load(built)
                os.replace(built, folder / name)  # another process may have put its own there: they are the same
                return
    raise OSError(f"{shlex.join(compiler)} built no kernels")


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    pointer = ctypes.c_void_p
    for kernel in ("wcr", "l1", "hoyer_square"):
        function = getattr(loaded, kernel)
        function.restype = ctypes.c_double
        function.argtypes = [ctypes.c_int64, *[pointer] * 4, ctypes.c_double, ctypes.c_int, ctypes.c_int]
    return loaded


def _processor() -> str:
    """What decides which instructions it has: a cache folder may be shared by machines that differ."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), platform.processor(), *dict.fromkeys(told)])
