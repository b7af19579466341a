"""The kernels compile to machine code; test_kernels_on_a_gpu.py tests their results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

KERNELS = {"_expand", "_forward", "_query", "_key", "_bias", "_invert", "_collect", "_linear", "_mlp"}


@pytest.mark.slow
@pytest.mark.timeout(600)  # compilers are slow on a busy machine
def test_every_kernel_compiles_without_atomics(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    program = [sys.executable, "-m", "tests.acceleration.compile_for_gpus", "90"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0].removesuffix("_kernel") for line in done.stdout.splitlines()} == KERNELS
    # Sums that depend on which program comes first would have other last bits every time.
    for code in (listings := list(tmp_path.rglob("*.ptx"))):
        assert not re.search(r"\b(atom|red)\.", code.read_text()), code.name
    assert {code.stem.removesuffix("_kernel") for code in listings} == KERNELS
