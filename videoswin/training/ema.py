"""An exponential moving average of the weights that learn, kept beside a model in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from videoswin._errors import InputError
from videoswin.training.distributed import distribute_like, full_tensor


class ExponentialMovingAverage:
    """The average of a model's learning parameters over its steps; it begins as the parameters themselves.

    The newest weights count 1 - min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not
    an average of its beginning. Parameters that are frozen when the average is made, and buffers, are the
    model's own. It is made when the model is on its device, wrapped and sharded as it will be in training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """decay: part of the average that a step keeps, in [0, 1), else ValueError."""
        if not 0.0 <= decay < 1.0:
            raise InputError(f"decay is {decay}, wanted a number from 0 to below 1, such as 0.999")
        self.decay = decay
        self.updates = 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in; to be called after each step of the optimizer."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model carries the averaged weights; afterwards, its own again, bit for bit.

        Costs one more copy of the learning weights, at a time when no gradients are computed.
        """
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            self._assign(self._averages)
            yield
        finally:
            self._assign(own)

    def state_dict(self) -> dict[str, Any]:
        """The averages, whole, and how many updates they have seen; may share memory with this object."""
        averages = {name: full_tensor(average) for name, average in self._averages.items()}
        return {"updates": self.updates, "averages": averages}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; ValueError if it was the average of other parameters."""
        averages = state["averages"]
        if {n: t.shape for n, t in averages.items()} != {n: t.shape for n, t in self._averages.items()}:
            odd = sorted(averages.keys() ^ self._averages.keys()) or ["the same names, other shapes"]
            raise InputError(f"the average is not of these parameters: {', '.join(odd[:3])}; start a new run")
        for name, average in self._averages.items():
            average.copy_(distribute_like(average, averages[name]))
        self.updates = state["updates"]

    @torch.no_grad()
    def _assign(self, weights: dict[str, torch.Tensor]) -> None:
        # One by one: sharded tensors know no fused copy.
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
