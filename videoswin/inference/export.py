"""A checkpoint as a file for another runtime, run and compared with PyTorch before it is called done."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import torch
from torch import Tensor

from videoswin._errors import InputError, VideoSwinError
from videoswin._files import replacing_all
from videoswin._optional import require
from videoswin._progress import Progress, format_duration
from videoswin._text import dump_json, plural
from videoswin.inference.backends import onnx, openvino, torch_export
from videoswin.inference.backends.exported import LOADERS, ExportedModel
from videoswin.inference.backends.metadata import ExportMetadata, ExportPrecision
from videoswin.inference.pixels import PixelModel
from videoswin.inference.predictor import Predictor, load_video
from videoswin.video.reader import open_video
from videoswin.video.spec import ViewPlan
from videoswin.weights.checkpoint import Checkpoint

Format = Literal["onnx", "openvino", "torch", "aotinductor"]

SUFFIX: Final[dict[Format, str]] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "aotinductor": ".pt2",
}
EXPORT_PRECISIONS: Final[dict[Format, tuple[ExportPrecision, ...]]] = {
    "onnx": ("fp32",),
    "openvino": ("fp32", "bf16", "int8"),
    "torch": ("fp32", "bf16"),
    "aotinductor": ("fp32", "bf16"),
}
LIBRARIES: Final[dict[Format, tuple[tuple[str, str], ...]]] = {
    "onnx": (("onnxscript", "export"), ("onnx", "export"), ("onnxruntime", "export")),
    "openvino": (("openvino", "openvino"),),
    "torch": (),
    "aotinductor": (),
}
"""What writing and running a file takes, and the extra of ours that has it."""

LARGEST_DIFFERENCE: Final[dict[ExportPrecision, float]] = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.2}
"""Of logits, relative to the largest of PyTorch's. More than this is a broken file, not rounding."""
SAFE_AGREEMENT = 0.99
"""Share of clips with the same likeliest class below which a file is kept, but not without a word."""

MOST_CLIPS: Final[dict[ExportPrecision, int]] = {"fp32": 8, "bf16": 16, "int8": 64}
"""About as many views of videos are compared; of int8, half of them give the scales instead."""
GENERATED_CLIPS = 4
TIMED_ROUNDS = 5


class ExportError(VideoSwinError):
    """The file could not be written here, or does not do what the model does; nothing of it was kept."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An exported file beside the checkpoint's model in PyTorch, float32, on the same clips and threads."""

    path: str
    format: Format
    precision: ExportPrecision
    clips: int
    source_of_clips: str
    largest_difference: float
    """Between logits, relative to the largest absolute logit of PyTorch."""
    top1_agreement: float
    """Share of the clips whose likeliest class is the same."""
    megabytes: float
    megabytes_pytorch: float
    seconds_per_clip: float
    """The fastest of a few passes, in turn with PyTorch's; benchmarks/model_cpu.py takes more care."""
    seconds_per_clip_pytorch: float
    seconds_per_clip_float32: float
    """Of the same format in float32; PyTorch's for .pt2, which PyTorch runs."""
    threads: int

    def to_json(self) -> str:
        """One line with every field."""
        return dump_json(asdict(self))


def export_model(
    checkpoint: Checkpoint,
    target: str | Path,
    *,
    format: Format | None = None,
    precision: ExportPrecision = "fp32",
    videos: Iterable[str] = (),
    say: Callable[[str], None] = lambda step: None,
    progress: bool = False,
) -> Comparison:
    """Write `target` in another runtime's format, and say how its answers differ from PyTorch's.

    format: None goes by the end of the target's name: .onnx, .xml (openvino), .pt2 (torch; or aotinductor).
    precision: bfloat16 not for onnx; int8 for openvino alone, which chooses its scales on `videos`.
    videos: views of them are compared on. An int8 model's scales come from the first half in time of each, or
        from every other video where there are many, and the rest is compared on. Without videos pictures are
        made up.
    say: told each of the four phases and how long it took, as one may take minutes.
    progress: show on stderr how far reading and comparing are, and how long they will take.
    ValueError for what cannot be, ImportError for a library that is not here, VideoError for a video that
    cannot be read, ExportError if the file answers otherwise than the model; whatever stood at `target` then
    stays as it was.
    """
    target, videos = Path(target), list(videos)
    kind = require_possible(target, format=format, precision=precision, videos=bool(videos))
    if not checkpoint.has_head:
        raise InputError(f"{checkpoint.name} is a backbone without a head: there are no logits to export")
    predictor = Predictor(checkpoint, device="cpu")
    parts, source = _clips(predictor, videos, precision, progress)
    calibration: Tensor | tuple[()] = ()
    if precision == "int8":
        # What scales were chosen on says little about what they do elsewhere.
        calibration, parts = torch.cat(parts[::2]), parts[1::2]
        if not parts:
            raise InputError(f"int8 needs two videos here, as {checkpoint.name} sees each in a single clip")
    clips = torch.cat(parts)
    metadata = ExportMetadata.of(checkpoint, precision)
    with replacing_all(target) as staged:
        millions = sum(weight.numel() for weight in checkpoint.weights.values()) / 1e6
        say(f"phase 1 of 4: tracing the model, {millions:.1f} million parameters, with torch.export")
        since = time.monotonic()
        # Only when something is exported: torch.export is slow to import.
        from videoswin.inference.backends.graph import trace

        # OpenVINO chooses its precision when it loads a file.
        low = precision == "bf16" and kind != "openvino"
        program = trace(
            checkpoint,
            torch.bfloat16 if low else torch.float32,
            pixel_dtype=torch.float32 if kind == "onnx" else torch.uint8,
        )
        say(f"traced in {format_duration(time.monotonic() - since)}")
        scales = f", with scales chosen on {plural(len(calibration), 'clip')}" if len(calibration) else ""
        say(f"phase 2 of 4: writing {target.name} ({kind}, {precision}{scales})")
        since = time.monotonic()
        writers: dict[Format, Callable[..., None]] = {
            "onnx": onnx.write,
            "openvino": partial(openvino.write, calibration=calibration),
            "torch": torch_export.write,
            "aotinductor": torch_export.write_compiled,
        }
        writers[kind](program, staged, metadata)
        say(f"written in {format_duration(time.monotonic() - since)}")
        say(f"phase 3 of 4: comparing the file with PyTorch on {plural(len(clips), 'clip')}, {source}")
        with TemporaryDirectory() as folder:
            float32 = None
            if kind == "openvino" and precision != "fp32":
                say("writing the same file in float32, to compare the speed with")
                float32 = Path(folder, "float32.xml")
                openvino.write(program, float32, replace(metadata, precision="fp32"))
            del program
            comparison = _compare(predictor, staged, clips, kind, metadata, source, float32, say, progress)
        comparison = replace(comparison, path=str(target))
        _require_equal(comparison)
    if comparison.top1_agreement < SAFE_AGREEMENT:
        say(f"only {comparison.top1_agreement:.0%} of the clips get the same top-1 class as in PyTorch")
    slowdown = comparison.seconds_per_clip / comparison.seconds_per_clip_float32
    if precision != "fp32" and slowdown > 1:
        say(
            f"{precision} takes {slowdown:.2f} times as long as float32 on this CPU: export in float32 for it"
        )
    return comparison


def require_possible(
    target: str | Path, *, format: Format | None, precision: ExportPrecision, videos: bool
) -> Format:
    """The format of the file that `export_model` would write, or its error, before anything is read.

    videos: whether there are any.
    """
    target = Path(target)
    kind = _format_of(target, format, precision)
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent} to write to")
    if precision == "int8" and not videos:
        raise InputError("int8 needs videos like those it will see, to choose its scales on: name some")
    quantizer = (("nncf", "openvino"),) if precision == "int8" else ()
    for library, extra in (*LIBRARIES[kind], *quantizer):
        require(library, extra=extra)
    if kind == "aotinductor" and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise ExportError("aotinductor needs a C++ compiler, and there is none: install g++, or use torch")
    return kind


def _format_of(target: Path, format: Format | None, precision: ExportPrecision) -> Format:
    """The format asked for by argument or name; ValueError if the three do not fit."""
    if target.suffix not in LOADERS:
        raise InputError(f"{target} must end in {', '.join(LOADERS)}: the end says for which runtime it is")
    by_name: Format = next(name for name, suffix in SUFFIX.items() if suffix == target.suffix)
    kind = format or by_name
    if SUFFIX[kind] != target.suffix:
        raise InputError(f"a file for {kind} must end in {SUFFIX[kind]}, got {target}")
    if precision not in EXPORT_PRECISIONS[kind]:
        able = ", ".join(name for name, precisions in EXPORT_PRECISIONS.items() if precision in precisions)
        raise InputError(f"{kind} is not written in {precision}; {able} can be")
    return kind


def _clips(
    predictor: Predictor, videos: list[str], precision: ExportPrecision, progress: bool
) -> tuple[list[Tensor], str]:
    """uint8 (n, 3, T, S, S) of each video, and where they are from.

    For int8 of the first and of the second half in time of each video, which share no frame; but of whole
    ones where there are too many for two clips of each, or a clip is the whole video.
    """
    if not videos:
        return [_made_up(predictor.clip.frames, predictor.clip.size)], "synthetic"
    most = MOST_CLIPS[precision]
    count = min(len(videos), most)
    crops: Literal[1, 3] = 3 if count <= most // 4 else 1
    in_halves = precision == "int8" and predictor.clip.rule == "dense" and count <= most // 2
    each = most // (count * crops)
    plan = ViewPlan(clips=max(1, each // 2 if in_halves else each), crops=crops)
    if predictor.clip.rule == "segments":
        plan = plan.replace(clips=1)
    parts = []
    # Evenly spread over the list, which may be sorted by class, and over each video, whose neighbors in
    # time resemble each other.
    with Progress("read", count, "videos", shown=progress) as bar:
        for number in range(count):
            path = videos[number * len(videos) // count]
            for start, end in _halves(path) if in_halves else [(None, None)]:
                part = load_video(path, predictor.clip, plan, start_seconds=start, end_seconds=end)
                parts.append(_distinct(part.views, crops))
            bar.advance()
    return parts, f"from {plural(count, 'video')}"


def _halves(path: str) -> list[tuple[float | None, float | None]]:
    """Start and end of two parts of a video that share no frame; ValueError for a single picture."""
    with open_video(path, threads=1) as video:
        if video.num_frames < 2:
            raise InputError(
                f"{path} is a single picture; int8 needs a half to choose scales on, and another"
            )
        middle = video.duration_seconds / 2
    return [(None, middle), (middle, None)]


def _distinct(views: Tensor, crops: int) -> Tensor:
    """Without the clips that repeat the one before, as those of a video shorter than a clip do."""
    kept = [i for i, view in enumerate(views) if i < crops or not torch.equal(view, views[i - crops])]
    return views[kept]


def _made_up(frames: int, size: int) -> Tensor:
    """Drifting clouds of color, uint8 (n, 3, T, S, S): smooth in space and time, as films are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(GENERATED_CLIPS, 3, 4, 6, 6, generator=generator)
    films = torch.nn.functional.interpolate(coarse, size=(frames, size, size), mode="trilinear")
    return (films * 255).round().to(torch.uint8)


@torch.inference_mode()
def _compare(
    predictor: Predictor,
    path: Path,
    clips: Tensor,
    format: Format,
    metadata: ExportMetadata,
    source: str,
    float32: Path | None,
    say: Callable[[str], None],
    progress: bool,
) -> Comparison:
    """The file beside PyTorch; `float32` is a file in that precision to compare the time with, if any."""
    assert not isinstance(predictor.model, ExportedModel)
    pytorch = PixelModel(predictor.model, predictor.clip.normalization)
    exported = ExportedModel(path, device=torch.device("cpu"), trust=True)  # it was written a moment ago
    pairs = []
    with Progress("compare", len(clips), "clips", shown=progress) as bar:
        for clip in torch.split(clips, 1):
            pairs.append((pytorch(clip), exported(clip).float()))
            bar.advance()
    expected, logits = map(torch.cat, zip(*pairs, strict=True))
    # Our own way to run OpenVINO's files takes one clip at a time; others may not.
    as_batch = partial(openvino.run_batch, path) if format == "openvino" else exported
    if len(clips) > 1:
        say(f"comparing {plural(len(clips[:3]), 'clip')} in one batch with the same clips one by one")
    _require_equal_batch(as_batch(clips[:3]).float(), logits[:3], metadata.precision)
    if metadata.precision == "fp32":
        in_float32: Callable[[Tensor], Tensor] = exported
    else:
        in_float32 = ExportedModel(float32, device=torch.device("cpu")) if float32 else pytorch
    models = (pytorch, exported, in_float32)
    say("phase 4 of 4: measuring the speed on one clip")
    seconds = _fastest_of_each(*(partial(model, clips[:1]) for model in models), progress=progress)
    weights = sum(p.numel() * p.element_size() for p in predictor.model.parameters())
    return Comparison(
        path=str(path),
        format=format,
        precision=metadata.precision,
        clips=len(clips),
        source_of_clips=source,
        largest_difference=float((logits - expected).abs().max() / expected.abs().max()),
        top1_agreement=float((logits.argmax(1) == expected.argmax(1)).float().mean()),
        megabytes=sum(made.stat().st_size for made in path.parent.iterdir()) / 1e6,
        megabytes_pytorch=weights / 1e6,
        seconds_per_clip=seconds[1],
        seconds_per_clip_pytorch=seconds[0],
        seconds_per_clip_float32=seconds[2],
        threads=torch.get_num_threads(),
    )


def _fastest_of_each(*passes: partial[Any], progress: bool) -> list[float]:
    """The least seconds that each pass takes, in turn: what else a machine does only ever adds to them."""
    fastest = {one_pass.func: math.inf for one_pass in passes}  # a model given twice is timed once
    with Progress("measure speed", TIMED_ROUNDS, "rounds", shown=progress) as bar:
        for _ in range(TIMED_ROUNDS):
            for model, one_pass in {one_pass.func: one_pass for one_pass in passes}.items():
                since = time.perf_counter()
                one_pass()
                fastest[model] = min(fastest[model], time.perf_counter() - since)
            bar.advance()
    return [fastest[one_pass.func] for one_pass in passes]


def _require_equal_batch(together: Tensor, one_by_one: Tensor, precision: ExportPrecision) -> None:
    """ExportError if clips that go through together get other answers than alone."""
    difference = (together - one_by_one).abs().max() / one_by_one.abs().max()
    if not difference < LARGEST_DIFFERENCE[precision]:
        raise ExportError(
            f"the file was not kept: {plural(len(together), 'clip')} in one batch differ by {difference:.2g} "
            "from the same clips one by one"
        )


def _require_equal(found: Comparison) -> None:
    most = LARGEST_DIFFERENCE[found.precision]
    # Written so that a difference that is no number fails, too.
    if not found.largest_difference < most:
        raise ExportError(
            f"{found.path} was not kept: its logits differ from PyTorch's by {found.largest_difference:.2g} "
            f"of the largest, more than the {most} that {found.precision} may"
        )
