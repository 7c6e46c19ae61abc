"""The tests of the kernels pass without a GPU too, in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
LEAST_VERSION = "3.9"
"""The interpreter of Triton 3.6 fails with numpy 2.4; those between were not tried."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are tested on the GPU itself")
@pytest.mark.parametrize("name", ["test_kernels.py", "test_kernels_in_training.py"])
def test_kernels_pass_their_tests_in_the_interpreter(name):
    pytest.importorskip("triton", LEAST_VERSION, reason="Triton is not installed, or too old")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / name]
    # In a process of its own: Triton decides when it is imported whether it compiles.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
