"""Shared by all tests: one thread per process, as tests run side by side; the same examples every time."""

import os

# Before torch is imported, for its threads and those of the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("same-every-time", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same-every-time")

# Triton reads this once, when it is imported, which other libraries may do before tests/acceleration.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
