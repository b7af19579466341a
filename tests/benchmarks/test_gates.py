"""No benchmark times a system that answers otherwise than its peer, or with what is no number."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import attention_cpu, model_cpu, training

WRONG = pytest.mark.parametrize("factor", [1.1, float("nan")], ids=["other", "no number"])


@WRONG
def test_a_wrong_attention_is_not_timed(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def attention_of(system: str, *_: object) -> Callable[[Tensor], Tensor]:
        return lambda x: x * (factor if system == "videoswin" else 1.0)

    monkeypatch.setattr(attention_cpu, "attention_of", attention_of)
    monkeypatch.setattr(attention_cpu, "GRIDS", ((2, 4, 4),))
    with pytest.raises(SystemExit, match="outputs differ"):
        attention_cpu.compare(0, 0, rounds=1)


@WRONG
def test_a_wrong_model_is_not_timed(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(1, 5)
    builders = {model_cpu.BASE: lambda _: lambda: logits, ("new", "int8"): lambda _: lambda: logits * factor}
    monkeypatch.setattr(model_cpu, "BUILDERS", builders)
    monkeypatch.setattr(model_cpu, "MAX_DIFFERENCE", {"float32": 1e-5, "int8": 0.05})
    monkeypatch.setattr(model_cpu, "backend_of", lambda *_: [])
    with pytest.raises(SystemExit, match="new, int8: logits differ"):
        model_cpu.compare(list(builders), rounds=1, files=Path())


@WRONG
def test_a_wrong_training_step_is_not_timed(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def __init__(self, system: str, *_: object) -> None:
            self.factor = factor if system == "videoswin" else 1.0

        def gradients(self) -> dict[str, Tensor]:
            return {"weight": torch.ones(3) * self.factor}

    monkeypatch.setattr(training, "Trainer", Trainer)
    with pytest.raises(SystemExit, match="gradients differ"):
        training.compare("32x224x224", rounds=1)
