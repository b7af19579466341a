"""Shared by all tests: one thread each, because tests run side by side, and the same examples every time."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("same-every-time", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same-every-time")

# Triton reads this once, when it is imported, which other libraries may do before tests/kernels.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
