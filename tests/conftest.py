"""Shared by all tests: one thread each, because tests run side by side, and the same examples every time."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("same-every-time", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same-every-time")
