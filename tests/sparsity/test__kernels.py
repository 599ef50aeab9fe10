import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from sparsity import _kernels
from sparsity.regularizers.hoyer_square import HoyerSquare
from sparsity.regularizers.l1 import L1
from sparsity.regularizers.wcr import WCR

METHODS = [WCR, L1, HoyerSquare]
SIZES = [7, 1023, 1024, 1025, 32 * 1024 + 1, 300 * 1024 + 5, (256 * 32 + 40) * 1024 + 3]  # of tiles, of chunks

compiled = pytest.mark.skipif(_kernels.library() is None, reason="no C compiler: the formulas in PyTorch run")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has built nothing yet, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _kernels.library.cache_clear()
    yield tmp_path / "sparsity-sweeps"
    _kernels.library.cache_clear()


def weights_of(size):
    return [(torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.02).requires_grad_()]


def value_and_gradient(R, lam=1.0):
    for w in R.weights:
        w.grad = None
    value = R.backward(lam)
    return value, [w.grad for w in R.weights]


@compiled
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_formulas_in_float64(method, size):
    (w,) = weights_of(size)
    value, (gradient,) = value_and_gradient(method([w]), lam=-0.3)
    exact = w.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(-0.3 * method([exact])(), exact)
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(method([exact])().item(), rel=2e-6)
    assert (gradient - expected).norm() <= 2e-6 * expected.norm() + 1e-30


@compiled
@pytest.mark.parametrize("method", METHODS)
def test_autograd_runs_the_same_kernels(method):
    weights = [*weights_of(5000), *weights_of(40_000)]
    value, gradients = value_and_gradient(method(weights), lam=0.5)
    R = method(weights)()
    for a, b in zip(gradients, torch.autograd.grad(0.5 * R, weights), strict=True):
        assert torch.equal(a, b)
    assert R.item() == pytest.approx(value.item(), rel=1e-6)  # here a float32 sum over tensors


@compiled
@pytest.mark.parametrize("method", METHODS)
def test_no_bit_depends_on_the_number_of_threads(method):
    R = method(weights_of(SIZES[-1]))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, (gradient,) = value_and_gradient(R)
        torch.set_num_threads(3)
        three, (same,) = value_and_gradient(R)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)
    assert torch.equal(gradient, same)


def test_takes_ordinary_float32_without_gaps_on_a_cpu():
    w = torch.zeros(4, 6, 2, 2)
    if _kernels.library() is not None:
        assert _kernels.takes(w)
        assert _kernels.takes(torch.nn.Parameter(w.to(memory_format=torch.channels_last)))
        assert _kernels.takes(torch.zeros(()))
    for other in (w.double(), w.bfloat16(), w[:, ::2], w.transpose(0, 1), w.to("meta")):
        assert not _kernels.takes(other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("why", ["no compiler", "a compiler that fails", "a cache that is a file"])
def test_without_kernels_the_formulas_run(monkeypatch, fresh, method, why):
    if why == "a cache that is a file":
        fresh.write_text("")
    else:
        monkeypatch.setenv("CC", "no-such-compiler" if why == "no compiler" else "false --")
    with pytest.warns(RuntimeWarning, match="kernels: _kernels.c must compile and load"):
        assert _kernels.library() is None
    (w,) = weights_of(40_000)
    value, (gradient,) = value_and_gradient(method([w]), lam=0.1)
    exact = w.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(0.1 * method([exact])(), exact)
    assert value.item() == pytest.approx(method([exact])().item(), rel=2e-6)
    assert (gradient - expected).norm() <= 2e-6 * expected.norm()


@compiled
def test_is_built_once_and_kept(monkeypatch, fresh):
    first = _kernels.library()
    assert isinstance(first, ctypes.CDLL)
    (kept,) = fresh.iterdir()  # and nothing of the building
    assert kept.suffix == ".so"
    _kernels.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("built again"))
    assert _kernels.library() is not None


@pytest.mark.parametrize("cc", ["gcc 'unclosed", "/no/such/compiler\udcff -O2", "false --"])
def test_a_compiler_that_cannot_be_called_is_named_once(monkeypatch, fresh, cc):
    """udcff is what Python makes of a byte that is not UTF-8."""
    monkeypatch.setenv("CC", cc)
    with pytest.warns(RuntimeWarning, match="kernels: _kernels.c must compile and load .*, got CC ") as caught:
        assert [L1([torch.tensor([3.0, -4.0])])().item() for _ in range(2)] == [7.0, 7.0]
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_the_formulas_can_be_chosen_without_a_warning(monkeypatch, fresh):
    monkeypatch.setenv("CC", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _kernels.library() is None


@compiled
def test_leftovers_of_a_killed_build_are_removed_but_not_a_running_build(fresh):
    for name in ("tmpkilled", "tmprunning"):
        (fresh / name).mkdir(parents=True)
        (fresh / name / "kernels.so.o").touch()
    old = (fresh / "tmpkilled").stat().st_mtime - _kernels.BUILD_SECONDS - 1
    os.utime(fresh / "tmpkilled", (old, old))
    assert _kernels.library() is not None
    assert sorted(path.name for path in fresh.iterdir() if path.suffix != ".so") == ["tmprunning"]


def no_symbols(content):
    """A library that is whole and has none of the kernels."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        subprocess.run(["cc", "-shared", "-x", "c", "-", "-o", file.name], input=b"int x;", check=True)
        other = Path(file.name).read_bytes()
    return other + hashlib.sha256(other).digest()


DAMAGES = {
    **{f"cut to {size} bytes": lambda content, size=size: content[:size] for size in (0, 4096, 13972)},
    "without its last byte": lambda content: content[:-1],
    "a tail of zeros": lambda content: content[:8192] + bytes(len(content) - 8192),
    "all zeros": lambda content: bytes(len(content)),
    "without the symbols": no_symbols,
    "a directory": None,
}
# Each cache in a process of its own: loading a damaged library ends a process with SIGBUS or SIGSEGV.
USE_CACHES = """
import os, sys, torch
from sparsity import _kernels
from sparsity.regularizers.l1 import L1
for cache in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        os.environ["XDG_CACHE_HOME"] = cache
        value = L1([torch.tensor([3.0, -4.0])])().item()
        os._exit(10 * (_kernels.library() is not None) + (value == 7.0))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@compiled
@pytest.mark.slow
def test_a_damaged_library_is_built_again(fresh):
    assert _kernels.library() is not None
    (kept,) = fresh.iterdir()
    whole = kept.read_bytes()
    damaged = {}
    for damage, change in DAMAGES.items():
        damaged[damage] = fresh.parent / damage / "sparsity-sweeps" / kept.name
        damaged[damage].parent.mkdir(parents=True)
        damaged[damage].write_bytes(change(whole)) if change else damaged[damage].mkdir()
    command = [sys.executable, "-c", USE_CACHES, *[str(path.parent.parent) for path in damaged.values()]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(_kernels.__file__).parents[1])
    ended = dict(zip(damaged, map(int, done.stdout.split()), strict=True))
    assert ended == {damage: 11 if change else 1 for damage, change in DAMAGES.items()}, done.stderr
    assert all(_kernels._is_whole(path) for damage, path in damaged.items() if DAMAGES[damage])
    assert done.stderr.count("RuntimeWarning: kernels") == 1
    assert "Is a directory" in done.stderr
    assert str(damaged["a directory"].parent) in done.stderr  # a long message is cut off


@compiled
def test_a_compiler_without_openmp_and_march_builds_the_last_variant(monkeypatch, fresh):
    """The last variant needs neither OpenMP's runtime nor -march."""
    monkeypatch.setattr(_kernels, "VARIANTS", (["--no-such-flag"], _kernels.VARIANTS[-1]))
    assert _kernels.library() is not None
    assert L1([torch.tensor([3.0, -4.0])])().item() == 7.0
