"""Video Swin on one GPU: correctness and speed of the kernels, compared with PyTorch.

    python benchmarks/gpu.py result.json                      # eight minutes, needs only torch and triton
    python benchmarks/gpu.py result.json --sections tiles     # one section; the others in the file are kept
    TRITON_INTERPRET=1 python benchmarks/gpu.py try.json --dry-run   # smoke test on a CPU

All systems have the same weights and the same random clips, three sets in rotation. Eager systems of
one batch size take turns, and so do compiled ones. A system is timed only if its logits (inference) or
gradients (training) agree with those of the float32 reference in this run; otherwise its row has the
reason. The file is written after every row, so that an interrupted run keeps its results.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.gpu_attention import compare_attentions
from benchmarks.gpu_fused import compare_branches
from benchmarks.gpu_systems import (
    COMPILED,
    EAGER,
    TORCHVISION,
    VARIANTS,
    Run,
    System,
    initial_model,
    prepared,
    systems_here,
)
from benchmarks.gpu_tiles import sweep
from benchmarks.gpu_timing import FAILURES, Deadline, Pass, Row, failed, machine, peak_mib, time_in_turn
from benchmarks.peers import our_name, relative_difference
from videoswin._files import replacing
from videoswin.acceleration.cuda import CapturedModel
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin

FLOOR_MS = {"T": 0.316, "S": 0.53, "B": 0.83}
"""Calculated lower bound in milliseconds per clip on an H200 with five kernels per block: for each kernel,
the longest of the times of memory traffic, products and exponentials at the rates of the data sheet."""
MAX_LOGIT_ERROR = 3e-2
"""Tolerance of bfloat16 logits, relative to the largest float32 logit: six times the error on CPUs."""
MAX_GRADIENT_ERROR = 5e-2
"""The same for gradients, in the Euclidean norm over all parameters of a kind."""
MINUTES = dict(correctness=0.8, attention=0.5, branches=0.3, inference=2.7, training=1.1, tiles=0.9)
"""Time limit of each section; after it, no further group of rows is started."""
MOST_MINUTES = 6.0
"""Time limit of all sections together; with the tests of gpu.sh, a run takes less than eight minutes."""
TRAINED = (
    TORCHVISION,
    "reference, autocast",
    "boxes, autocast",
    "triton, autocast",
    "triton, compiled blocks, autocast",
)
"""Systems whose training step is timed; the last is compiled, which takes time, and is timed separately."""


class Bench:
    """Sizes, device and file of one run."""

    def __init__(self, path: Path, dry: bool) -> None:
        self.path, self.dry = path, dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.backend = "aot_eager" if dry else "inductor"
        self.configs = VARIANTS
        self.size, self.batches, self.seconds = (32, 224, 224), (1, 8, 16, 32, 64), 1.0
        if dry:
            # Two blocks, plain and shifted, on the smallest grid that has windows to shift.
            tiny = VideoSwinConfig(
                embed_dim=16, depths=(2,), num_heads=(1,), window=(2, 3, 3), sliced_bias=True
            )
            self.configs = {"T": tiny}
            self.size, self.batches, self.seconds = (2, 12, 16), (1,), 0.0
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def save(self, section: str, rows: Any) -> None:
        self.results[section] = rows
        with replacing(self.path) as staged:  # an interrupted write must not lose the file
            staged.write_text(json.dumps(self.results, indent=1) + "\n")

    def clips(self, batch: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
        """Return three sets of clips: when a set is used again, it is no longer in a cache."""
        return [torch.randn(batch, 3, *self.size, device=self.device).to(dtype) for _ in range(3)]


def correctness(bench: Bench, deadline: Deadline) -> Iterator[Row]:
    """Yield errors against the float32 reference on one clip: logits, and gradients by kind of parameter."""
    for variant in [name for name in ("T", "B") if name in bench.configs]:
        ours = initial_model(bench.configs[variant], bench.device)
        clips = bench.clips(1, torch.float32)[0]
        exact = EAGER["reference, autocast"].build(ours).to(bench.device)
        logits, gradients = _logits_and_gradients(exact, exact, clips)
        for name, system in systems_here(bench.configs[variant], EAGER | COMPILED).items():
            # Compiled systems only if they are trained: the others are compared in the inference section.
            if (
                deadline.passed()
                or not system.learns
                or (system.compiled and (name not in TRAINED or variant != "T"))
            ):
                continue
            try:
                yield {
                    "variant": variant,
                    "system": name,
                    **_errors(bench, system, ours, clips, logits, gradients),
                }
            except FAILURES as error:
                yield {"variant": variant, "system": name, "right": False, **failed(error)}


def _errors(
    bench: Bench, system: System, ours: VideoSwin, clips: Tensor, logits: Tensor, gradients: dict[str, Tensor]
) -> Row:
    """Return the relative errors of a system's logits and gradients, and whether they are in tolerance."""
    run = prepared(system, ours, bench.backend)
    mine, mine_gradients = _logits_and_gradients(run.logits, run.model, clips.to(system.weights))
    row: Row = {"logits": relative_difference(mine, logits)}
    for kind in ("", "bias_table", "qkv.bias"):
        expected = {key: value for key, value in gradients.items() if key.endswith(kind)}
        apart = sum((mine_gradients[key] - value).square().sum() for key, value in expected.items())
        norm = sum(value.square().sum() for value in expected.values())
        row[f"gradients of {kind or 'everything'}"] = float((apart / norm) ** 0.5)
    errors = [value for key, value in row.items() if key.startswith("gradients")]
    row["right"] = row["logits"] <= MAX_LOGIT_ERROR and all(e <= MAX_GRADIENT_ERROR for e in errors)
    return row


def _logits_and_gradients(
    run: Callable[[Tensor], Tensor], model: torch.nn.Module, clips: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    logits = run(clips)
    target = torch.arange(len(clips), device=clips.device)
    F.cross_entropy(logits.float(), target).backward()
    # torchvision's parameters have other names; ours are those of the reference.
    found = {our_name(key): p.grad.float() for key, p in model.named_parameters() if p.grad is not None}
    return logits.detach().float(), found


def attention(bench: Bench, deadline: Deadline) -> Iterator[Row]:
    """Time attention alone in each stage, plain and shifted, without and with the backward pass."""
    yield from compare_attentions(bench.configs, bench.size, bench.device, deadline, bench.seconds / 4)


def branches(bench: Bench, deadline: Deadline) -> Iterator[Row]:
    """Time the branches of blocks of the first stages, plain and fused."""
    yield from compare_branches(bench.configs, bench.device, deadline, bench.seconds / 4)


def inference(bench: Bench, deadline: Deadline) -> Iterator[Row]:
    """Time inference of models; few batch sizes of compiled ones, because each is compiled separately."""
    models = {name: initial_model(config, bench.device) for name, config in bench.configs.items()}
    for variant, ours in models.items():
        systems = systems_here(bench.configs[variant], EAGER)
        runs = {name: prepared(system, ours, bench.backend) for name, system in systems.items()}
        if TORCHVISION not in runs:
            yield {"variant": variant, "system": TORCHVISION, "failed": "not here"}
        for batch in bench.batches:
            if deadline.passed():
                yield {"variant": variant, "clips": batch, "failed": "no time left"}
            else:
                yield from _predict(bench, variant, ours, runs, batch, deadline)
    quickest = tuple(name for name, system in COMPILED.items() if system.quickest)
    theirs = ("torchvision, compiled, autocast",)
    plan = [
        ("T", 32, tuple(COMPILED)),
        ("B", 32, (*quickest, *theirs)),
        ("T", 1, (*quickest, *theirs)),
    ]
    for variant, batch, names in [("T", 2, tuple(COMPILED))] if bench.dry else plan:
        systems = systems_here(bench.configs[variant], {name: COMPILED[name] for name in names})
        runs = {name: prepared(system, models[variant], bench.backend) for name, system in systems.items()}
        if deadline.passed():
            yield {"variant": variant, "clips": batch, "system": ", ".join(systems), "failed": "no time left"}
        else:
            yield from _predict(bench, variant, models[variant], runs, batch, deadline)


def _predict(
    bench: Bench, variant: str, ours: VideoSwin, runs: dict[str, Run], batch: int, deadline: Deadline
) -> Iterator[Row]:
    clips = bench.clips(batch)
    few = clips[0][[0, -1]]  # a clip's logits do not depend on what else is in its batch
    exact = _prediction(EAGER["reference, autocast"].build(ours).to(bench.device).eval(), [few.float()])(0)
    passes: dict[str, Pass] = {}
    facts: dict[str, Row] = {}
    for name, run in runs.items():
        if passes and deadline.passed():
            yield {"variant": variant, "clips": batch, "system": name, "failed": "no time left"}
            continue
        candidates: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {name: lambda run=run: run.logits}
        if batch <= 8 and bench.device.type == "cuda" and (EAGER | COMPILED)[name].quickest:
            candidates[f"{name}, CUDA graph"] = partial(CapturedModel, run.model, clips[0])
        for label, build in candidates.items():
            start = time.perf_counter()
            try:
                one_pass = _prediction(build(), clips)
                apart = relative_difference(one_pass(0)[[0, -1]].float(), exact)
            except FAILURES as error:
                yield {"variant": variant, "clips": batch, "system": label, **failed(error)}
                continue
            facts[label] = {"logits": apart, "first_call_seconds": round(time.perf_counter() - start, 1)}
            if apart <= MAX_LOGIT_ERROR:
                passes[label] = one_pass
            else:
                yield {"variant": variant, "clips": batch, "system": label, "failed": "wrong", **facts[label]}
    for label, times in time_in_turn(passes, bench.device, 2 * bench.seconds).items():
        row = {"variant": variant, "clips": batch, "system": label, **facts[label], **times}
        if "ms" in times:
            each = times["ms"] / batch
            row |= {"ms_per_clip": round(each, 4), "of_H200_floor": round(FLOOR_MS[variant] / each, 3)}
            # The memory of a graph is allocated at capture, so a replay would show almost no increase.
            row["peak_MiB"] = None if "graph" in label else peak_mib(passes[label], bench.device)
        yield row


def _prediction(run: Callable[[Tensor], Tensor], clips: list[Tensor]) -> Callable[[int], Tensor]:
    def one_pass(number: int) -> Tensor:
        with torch.no_grad():  # the mode of graph capture; another mode would recompile
            return run(clips[number % len(clips)])

    return one_pass


def training(bench: Bench, deadline: Deadline) -> Iterator[Row]:
    """Time a training step under autocast: forward, cross-entropy, backward, AdamW."""
    *eager, compiled = TRAINED
    plan = [("T", 16, eager), ("B", 8, eager), ("T", 16, [compiled])]
    for variant, batch, names in [row for row in plan if row[0] in bench.configs]:
        if deadline.passed():
            yield {"variant": variant, "clips": batch, "system": ", ".join(names), "failed": "no time left"}
            continue
        batch = 2 if bench.dry else batch
        known = systems_here(bench.configs[variant], EAGER | COMPILED)
        right = _found_right(bench, variant)
        for name in names:
            if name not in known or name not in right:
                reason = "wrong, or not compared" if name in known else "not here"
                yield {"variant": variant, "clips": batch, "system": name, "failed": reason}
        passes = {
            name: _step(bench, variant, known[name], batch)
            for name in names
            if name in known and name in right
        }
        for name, times in time_in_turn(passes, bench.device, 2 * bench.seconds).items():
            row = {"variant": variant, "clips": batch, "system": name, **times}
            if "ms" in times:
                row["clips_per_s"] = round(1000 * batch / times["ms"], 1)
                peak = peak_mib(passes[name], bench.device)
                row["peak_MiB_per_clip"] = None if peak is None else round(peak / batch)
            yield row


def _found_right(bench: Bench, variant: str) -> set[str]:
    """Return the systems whose gradients are correct according to the correctness section."""
    rows = bench.results.get("correctness", [])
    return {row["system"] for row in rows if row.get("variant") == variant and row["right"]}


def _step(bench: Bench, variant: str, system: System, batch: int) -> Callable[[int], object]:
    run = prepared(system, initial_model(bench.configs[variant], bench.device), bench.backend)
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-4, fused=bench.device.type == "cuda")
    clips = bench.clips(batch, torch.float32)
    targets = torch.randint(bench.configs[variant].num_classes, (batch,), device=bench.device)

    def step(number: int) -> None:
        F.cross_entropy(run.logits(clips[number % 3]).float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def tiles(bench: Bench, deadline: Deadline) -> Iterator[Row]:
    """Time the kernels with other tile sizes, to choose the defaults."""
    yield from sweep(bench.device, bench.configs["T"], bench.size, deadline, bench.seconds / 4)


SECTIONS = {
    "correctness": correctness,
    "attention": attention,
    "branches": branches,
    "inference": inference,
    "training": training,
    "tiles": tiles,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="JSON file for the results; its other sections are kept")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--dry-run", action="store_true", help="smoke test with tiny sizes on a CPU")
    arguments = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # the reference must be computed in float32
    bench = Bench(arguments.output, arguments.dry_run)
    here = machine(bench.device, bench.seconds)
    before = bench.results.get("machine", {})
    if before and any(before.get(what) != here.get(what) for what in ("name", "torch", "triton")):
        raise SystemExit(f"{arguments.output} has figures of {before}, this is {here}: name another file")
    bench.save("machine", here)
    print(here, flush=True)
    end = time.monotonic() + 60 * MOST_MINUTES
    broken: list[str] = []
    # Training steps are only timed if this run has checked their gradients.
    needed = {"correctness"} if "training" in arguments.sections else set()
    whole = set(arguments.sections) == set(SECTIONS)
    for name in [name for name in SECTIONS if name in needed | set(arguments.sections)]:
        start, rows = time.monotonic(), []
        bench.save(name, rows)
        minutes = MINUTES[name] if whole else MOST_MINUTES
        try:
            # A dry run has no time limit, so that it covers everything on a slow machine.
            seconds = math.inf if bench.dry else min(60 * minutes, end - start)
            for row in SECTIONS[name](bench, Deadline(seconds)):
                rows.append(row)
                print(row, flush=True)
                bench.save(name, rows)
        except FAILURES as error:  # later sections can still give results
            traceback.print_exc()
            bench.save(name, [*rows, failed(error)])
            broken.append(name)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    if broken:
        raise SystemExit(f"failed: {', '.join(broken)}")


if __name__ == "__main__":
    main()
