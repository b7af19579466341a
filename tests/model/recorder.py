"""Recorder of the operators that run, for tests of cost."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Names of the operators that ran, and every tensor that they made."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()
        self.shapes: list[torch.Size] = []
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operators.add(func.overloadpacket.__name__)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.shapes.append(tensor.shape)
                self.dtypes.add(tensor.dtype)
        return out
