import platform
import subprocess
import sys

import pytest

KEPT = """
import torch
from pathlib import Path
from trainables.malloc import keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
if {keeps}:
    assert keep_freed_memory()
before = resident()
made = torch.ones(2**24)  # 64 MiB
grown = resident() - before
del made
print((resident() - before) / grown)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's allocator")
@pytest.mark.parametrize(("keeps", "expected"), [(True, 1.0), pytest.param(False, 0.0, marks=pytest.mark.slow)])
def test_freed_memory_stays_with_the_process(keeps, expected):
    command = [sys.executable, "-c", KEPT.format(keeps=keeps)]
    kept = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kept == pytest.approx(expected, abs=0.1)
