"""Compiled penalties and gradients for float32 weights on a CPU.

`_kernels.c` is compiled at first use by the machine's C compiler and cached in the user's cache folder. Where there is
no compiler, or anything else fails, `library()` warns once and returns None, and the formulas in PyTorch are used.
`CC=false` selects them without a warning. Their results differ by the rounding of sums only, a relative 2e-6. WCR's
gradient differs by more where the magnitudes are nearly equal: by about 1e-4 where they differ by a relative 1e-3, and
by 0.03 where they differ in the last digits of float32.
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
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["library", "penalty", "takes"]

SOURCE = Path(__file__).with_name("_kernels.c")
# Operations are rounded as in PyTorch: no fused multiply-add, and sums are reordered only where the source says so.
# OpenMP is not linked, so its functions are those that PyTorch has loaded, with PyTorch's threads.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
# Tried in this order: not every compiler has OpenMP or -march=native.
VARIANTS = (["-march=native", "-fopenmp"], ["-march=native", "-fopenmp-simd"], ["-fopenmp-simd"])
COMMAND_SECONDS = 60  # time limit of one run of the compiler
BUILD_SECONDS = 2 * COMMAND_SECONDS * len(VARIANTS)
DIGEST_SIZE = hashlib.sha256().digest_size


def takes(weight: Tensor) -> bool:
    """Whether the kernels can read a tensor.

    They read ordinary float32 tensors on a CPU without gaps in memory.
    """
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
    arguments: Sequence[float],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None] = (),
    *,
    lam: float = 1.0,
    overwrite: bool = False,
) -> float:
    """Compute the sum of the penalties of weights, and their gradients.

    Args:
        kernel: Name of a function in `_kernels.c`.
        arguments: Arguments of the penalty, see `_kernels.c`.
        weights: Tensors that `takes` accepts.
        gradients: For each weight a tensor of its shape, type and strides to which lam dR/dw is added, or None.
        lam: Factor of the gradients.
        overwrite: Whether lam dR/dw replaces the gradients instead of being added to them.

    Returns:
        The unscaled sum of the penalties.
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
        (ctypes.c_double * len(arguments))(*arguments),
        lam,
        overwrite,
        torch.get_num_threads(),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None if they cannot be built.

    The first call loads them from the user's cache folder, or builds them.
    """
    given = os.environ.get("CC", "")
    if given.strip() == "false":
        return None
    try:
        return _cached_or_built(given)
    except Exception as error:  # the formulas give the same numbers, so no fault of a cache or a compiler is fatal
        reason = " ".join(str(error).split())[:300]
        warnings.warn(
            f"kernels: {SOURCE.name} must compile and load (set CC to a C compiler, or CC=false to use the slower "
            f"formulas in PyTorch without this warning), got {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _cached_or_built(given: str) -> ctypes.CDLL:
    """Load the kernels from the cache, or build them.

    Args:
        given: The compiler's command with its arguments (CC), or an empty string for the machine's compiler.
    """
    try:
        compiler = shlex.split(given) or [shutil.which("cc") or shutil.which("gcc") or "clang"]
    except ValueError as error:
        raise ValueError(f"CC must be a command as a shell splits it, got {given!r}: {error}") from error
    what = "\0".join([*compiler, *FLAGS, _processor()]).encode(errors="surrogateescape")
    name = f"kernels-{hashlib.sha256(SOURCE.read_bytes() + what).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsity-sweeps"
    _remove_abandoned(cache)
    with contextlib.suppress(OSError, AttributeError):  # missing or damaged: build it
        if _is_whole(cache / name):
            return _load(cache / name)
    cache.mkdir(parents=True, exist_ok=True)
    return _build(compiler, cache, name)


def _remove_abandoned(cache: Path) -> None:
    """Remove the folders of builds that were killed.

    These are older than the longest build.
    """
    for folder in cache.glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > BUILD_SECONDS:
                shutil.rmtree(folder)


def _build(compiler: list[str], folder: Path, name: str) -> ctypes.CDLL:
    """Build the first variant that works, and rename it into the cache.

    Raises OSError if no variant compiles and loads.
    """
    reason = ""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / name
        for variant in VARIANTS:
            compile_ = [*compiler, *FLAGS, *variant, "-c", str(SOURCE), "-o", f"{built}.o"]
            link = [*compiler, "-shared", f"{built}.o", "-o", str(built), "-lm"]
            try:
                for command in (compile_, link):
                    subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_SECONDS)
                loaded = _load(built)
            except (OSError, AttributeError, subprocess.SubprocessError) as error:
                said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
                reason = said.splitlines()[-1] if said else str(error)
                continue
            _sign(built)
            os.replace(built, folder / name)  # replaces the same file if another process was faster
            return loaded
    origin = "CC" if os.environ.get("CC") else "the compiler"
    raise OSError(f"{origin} {shlex.join(compiler)!r} failed: {reason}")


def _sign(path: Path) -> None:
    """Append a library's SHA-256 to it and flush it to the disk.

    Loaders ignore what follows the library.
    """
    with path.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _is_whole(path: Path) -> bool:
    """Whether a library ends with its own SHA-256.

    Loading a damaged library can kill the process.
    """
    content = path.read_bytes()
    return hashlib.sha256(content[:-DIGEST_SIZE]).digest() == content[-DIGEST_SIZE:]


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    pointer = ctypes.c_void_p
    for kernel in ("wcr", "l1", "hoyer_square"):
        function = getattr(loaded, kernel)
        function.restype = ctypes.c_double
        function.argtypes = [ctypes.c_int64, *[pointer] * 4, ctypes.c_double, ctypes.c_int, ctypes.c_int]
    return loaded


def _processor() -> str:
    """Describe the processor's instruction set.

    Machines with different processors may share a cache folder.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    relevant = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), platform.processor(), *dict.fromkeys(relevant)])
