"""Time of the kernels for many tile sizes; part of benchmarks/gpu.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor

from benchmarks.gpu_systems import stage_grid
from benchmarks.gpu_timing import FAILURES, Deadline, Row, failed, time_in_turn
from benchmarks.peers import relative_difference
from videoswin.acceleration.triton.tiles import Tiles, backward_tiles
from videoswin.model.config import VideoSwinConfig
from videoswin.model.windows import Grid, bias_table_rows, window_geometry

MAX_DIFFERENCE = 2e-2
"""Tolerance between tile sizes, which differ in the order of summation; results are half precision."""
FORWARD = [
    (64, 64, 4, 2, 1), (64, 64, 4, 3, 1), (64, 64, 4, 3, 2), (64, 64, 4, 3, 4), (64, 64, 4, 4, 1),
    (64, 32, 4, 2, 1), (64, 32, 4, 3, 1), (64, 128, 4, 1, 1), (64, 128, 4, 2, 1), (64, 128, 4, 2, 2),
    (128, 32, 4, 3, 1), (128, 64, 4, 2, 1), (128, 32, 8, 3, 1), (128, 64, 8, 2, 1), (128, 64, 8, 3, 1),
    (128, 128, 8, 2, 1), (32, 64, 4, 3, 1), (16, 128, 4, 2, 1),
]  # fmt: skip
"""Rows, columns, warps, stages and windows per program of the attention kernel."""
BACKWARD = [
    (64, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 2), (64, 32, 4, 3), (128, 32, 8, 2), (128, 64, 8, 2),
    (64, 64, 8, 2), (32, 64, 4, 2),
]  # fmt: skip
"""Rows, columns, warps and stages of one kernel of the backward pass; the others keep their defaults."""
LINEAR = [
    (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 8, 2), (64, 64, 8, 2),
    (64, 64, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3),
]  # fmt: skip
"""Rows, columns, warps and stages for linear layers."""


def sweep(
    device: torch.device,
    config: VideoSwinConfig,
    size: Grid,
    deadline: Deadline,
    seconds: float,
) -> Iterator[Row]:
    """Yield a row per tile size, for eight clips: attention of stages 1 and 3, linear layers of 1 and 2."""
    on_gpu = device.type == "cuda"
    given = (device, config, size, 8 if on_gpu else 1)
    passes = [("forward", FORWARD, (0, 2), partial(_forward, *given))]
    passes += [(layer, LINEAR, (0, 1), partial(_linear, *given, layer)) for layer in ("qkv", "mlp")]
    for kernel in ("query", "key", "bias"):
        passes.append((f"backward, {kernel} kernel", BACKWARD, (0, 2), partial(_backward, *given, kernel)))
    # Alternate between the kernels, so that each has some rows when the time is up.
    for number in range(max(map(len, (FORWARD, LINEAR, BACKWARD))) if on_gpu else 1):
        for name, shapes, stages, make in passes:
            for stage in stages if on_gpu else stages[:1]:
                if number >= len(shapes):
                    continue
                if deadline.passed():
                    yield {"pass": name, "stage": stage + 1, "failed": "no time left"}
                    return
                names = ("rows", "columns", "warps", "stages", "windows")
                tiles = Tiles(**dict(zip(names, shapes[number], strict=False)))
                yield _row(device, name, stage, tiles, seconds, partial(make, stage))


def _row(
    device: torch.device,
    name: str,
    stage: int,
    tiles: Tiles,
    seconds: float,
    make: Callable[[Tiles | None], Callable[[int], tuple[Tensor, ...]]],
) -> Row:
    """Return the times of a pass, if its results agree with those of the default tiles (None)."""
    row: Row = {"pass": name, "stage": stage + 1, **dataclasses.asdict(tiles)}
    one_pass, usual = make(tiles), make(None)
    try:
        apart = [
            relative_difference(a.float(), b.float()) for a, b in zip(one_pass(0), usual(0), strict=True)
        ]
        if not all(difference <= MAX_DIFFERENCE for difference in apart):
            return row | {"failed": f"wrong: {apart}"}
        return row | time_in_turn({"": one_pass}, device, seconds)[""]
    except FAILURES as error:  # for example, too little shared memory
        return row | failed(error)


def _forward(
    device: torch.device,
    config: VideoSwinConfig,
    size: Grid,
    clips: int,
    stage: int,
    tiles: Tiles | None,
) -> Callable[[int], tuple[Tensor, ...]]:
    from videoswin.acceleration.triton.forward import attention_forward

    inputs, table, index, *cut = _problem(device, config, size, clips, stage)
    return lambda number: attention_forward(inputs[number % 3], table, index, *cut, tiles)


def _backward(
    device: torch.device,
    config: VideoSwinConfig,
    size: Grid,
    clips: int,
    kernel: str,
    stage: int,
    tiles: Tiles | None,
) -> Callable[[int], tuple[Tensor, ...]]:
    from videoswin.acceleration.triton.backward import attention_backward
    from videoswin.acceleration.triton.forward import attention_forward

    inputs, table, index, *cut = _problem(device, config, size, clips, stage)
    chosen = backward_tiles(inputs[0].dtype)
    if tiles is not None:
        chosen = dataclasses.replace(chosen, **{kernel: tiles})
    done = [(qkv, *attention_forward(qkv, table, index, *cut)) for qkv in inputs]

    def one_pass(number: int) -> tuple[Tensor, ...]:
        qkv, out, log_sums = done[number % 3]
        return attention_backward(out, qkv, table, index, out, log_sums, *cut, chosen)

    return one_pass


def _linear(
    device: torch.device,
    config: VideoSwinConfig,
    size: Grid,
    clips: int,
    layer: str,
    stage: int,
    tiles: Tiles | None,
) -> Callable[[int], tuple[Tensor, ...]]:
    from videoswin.acceleration.triton.linear import norm_linear, norm_mlp_add

    channels, rows = config.stage_dim(stage), clips * prod(stage_grid(size, stage))
    inputs = [_drawn(number, device, rows, channels) for number in range(3)]
    norm, bias, hidden = _drawn(3, device, channels), _drawn(4, device, channels), 4 * channels
    wide = _drawn(5, device, hidden, channels), _drawn(6, device, hidden)
    if layer == "mlp":
        back = _drawn(7, device, channels, hidden) / hidden, bias
        return lambda number: (norm_mlp_add(inputs[number % 3], norm, bias, 1e-5, *wide, *back, tiles),)
    qkv = [each[: 3 * channels] for each in wide]
    return lambda number: (norm_linear(inputs[number % 3], norm, bias, 1e-5, *qkv, tiles),)


def _drawn(seed: int, device: torch.device, *shape: int) -> Tensor:
    """Return random values that only depend on the seed, so that results of all tiles can be compared."""
    # The Triton interpreter, used on a CPU, does not support products in bfloat16.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    torch.manual_seed(seed)
    return torch.randn(shape, device=device).to(dtype)


def _problem(device: torch.device, config: VideoSwinConfig, size: Grid, clips: int, stage: int):
    p, m, n = config.window
    geometry = window_geometry(
        stage_grid(size, stage), config.window, (p // 2, m // 2, n // 2), False, device
    )
    heads = config.num_heads[stage]
    shape = (clips, *geometry.grid, 3, heads, config.stage_dim(stage) // heads)
    inputs = [_drawn(number, device, *shape) for number in range(3)]
    table = _drawn(3, device, bias_table_rows(config.window), heads).float()
    return inputs, table, geometry.bias_index, geometry.window, geometry.shift
