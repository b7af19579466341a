"""Keep an exponential moving average (EMA) of the trainable parameters of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from videoswin._errors import InputError
from videoswin.training.fsdp import distribute_like, full_tensor


class ExponentialMovingAverage:
    """Exponential moving average of the trainable parameters of a model, initialized with their values.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the initial values do not dominate
    the average of a short run. Parameters that are frozen when the average is created, and buffers, are not
    averaged.

    Example:
        ema = ExponentialMovingAverage(model, decay=0.999)
        optimizer.step()
        ema.update()
        with ema.average_parameters():
            torch.save(model.state_dict(), "model.pt")
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy the trainable parameters.

        Args:
            model: The model on its final device, already wrapped and sharded as in training.
            decay: Fraction of the average that an update keeps, >= 0 and < 1.

        Raises:
            InputError: `decay` is outside this range.
        """
        if not 0.0 <= decay < 1.0:
            raise InputError(f"ema_decay must be >= 0 and < 1, such as 0.999, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current parameters; to be called after each optimizer step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - decay)
        self.num_updates += 1

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Replace the parameters of the model by their averages inside the context, and restore them after.

        The parameters are restored bit for bit, also after an error. This takes one more copy of the
        trainable parameters, at a time when no gradients are computed.
        """
        originals = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            self._copy_to_model(self._averages)
            yield
        finally:
            self._copy_to_model(originals)

    def state_dict(self) -> dict[str, Any]:
        """Return the unsharded averages, which may share memory with this object, and the update count."""
        averages = {name: full_tensor(average) for name, average in self._averages.items()}
        return {"updates": self.num_updates, "averages": averages}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages from `state_dict()`.

        Raises:
            InputError: The state has averages of other parameters.
        """
        averages = state["averages"]
        if {n: t.shape for n, t in averages.items()} != {n: t.shape for n, t in self._averages.items()}:
            differing = sorted(averages.keys() ^ self._averages.keys()) or ["same names, different shapes"]
            raise InputError(
                f"the saved moving average does not match the trainable parameters: "
                f"{', '.join(differing[:3])}; start a new run"
            )
        for name, average in self._averages.items():
            average.copy_(distribute_like(average, averages[name]))
        self.num_updates = state["updates"]

    @torch.no_grad()
    def _copy_to_model(self, values: dict[str, torch.Tensor]) -> None:
        # One by one: there is no fused copy for sharded tensors.
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
