"""The closed forms compiled for this machine's processor: `_kernels.c`, built once by its C compiler.

Where there is no compiler, or anything else fails, `library()` warns once and is None. Then the formulas in PyTorch
run; their numbers differ by the rounding of sums alone (a relative 2e-6 in float32). `CC=false` chooses them silently.
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
# Each operation rounds as PyTorch's does: no fused multiply-add, no reordering but where the source says so. OpenMP is
# not linked: its functions are those of the copy that PyTorch has loaded, with PyTorch's threads.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
VARIANTS = (["-march=native", "-fopenmp"], ["-march=native", "-fopenmp-simd"], ["-fopenmp-simd"])
COMMAND_SECONDS = 60  # for one run of the compiler
BUILD_SECONDS = 2 * COMMAND_SECONDS * len(VARIANTS)
DIGEST_SIZE = hashlib.sha256().digest_size


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
    arguments: Sequence[float],
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
        (ctypes.c_double * len(arguments))(*arguments),
        lam,
        overwrite,
        torch.get_num_threads(),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, built at the first call and kept in the user's cache folder; None where that fails."""
    given = os.environ.get("CC", "")
    if given.strip() == "false":
        return None
    try:
        return _kept_or_built(given)
    except Exception as error:  # the formulas give the same numbers: nothing about a cache or a compiler is fatal
        reason = " ".join(str(error).split())[:300]
        warnings.warn(
            f"kernels: must compile and load, did not ({reason}): the slower formulas in PyTorch run instead; "
            "CC=false chooses them without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _kept_or_built(given: str) -> ctypes.CDLL:
    """given: the compiler's command, with its arguments, or nothing."""
    try:
        compiler = shlex.split(given) or [shutil.which("cc") or shutil.which("gcc") or "clang"]
    except ValueError as error:
        raise ValueError(f"CC must be a command as a shell splits it, got {given!r}: {error}") from error
    what = "\0".join([*compiler, *FLAGS, _processor()]).encode(errors="surrogateescape")
    name = f"kernels-{hashlib.sha256(SOURCE.read_bytes() + what).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsity-sweeps"
    _remove_abandoned(cache)
    with contextlib.suppress(OSError, AttributeError):  # not there, or damaged: it is built
        if _is_whole(cache / name):
            return _load(cache / name)
    cache.mkdir(parents=True, exist_ok=True)
    return _build(compiler, cache, name)


def _remove_abandoned(cache: Path) -> None:
    """Remove the folders of builds that were killed: all that are older than any build takes."""
    for folder in cache.glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > BUILD_SECONDS:
                shutil.rmtree(folder)


def _build(compiler: list[str], folder: Path, name: str) -> ctypes.CDLL:
    """Compile, load and put in place the first variant that can be loaded; OSError if none can."""
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
            os.replace(built, folder / name)  # another process may have put its own there: they are the same
            return loaded
    origin = "CC" if os.environ.get("CC") else "the compiler"
    raise OSError(f"{origin} {shlex.join(compiler)!r} built none: {reason}")


def _sign(path: Path) -> None:
    """Append the SHA-256 of a library to it, which loaders ignore, and write it through to the disk."""
    with path.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _is_whole(path: Path) -> bool:
    """Whether a library ends with its own SHA-256. Loading a damaged one would end the process with a signal."""
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
    """What decides which instructions it has: a cache folder may be shared by machines that differ."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), platform.processor(), *dict.fromkeys(told)])
