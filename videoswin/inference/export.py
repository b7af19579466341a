"""Export a checkpoint to a file for another runtime; the file is run and compared with PyTorch."""

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

from videoswin._errors import InputError, VideoSwinError, require
from videoswin._files import replacing_all
from videoswin._progress import Progress, format_duration
from videoswin._text import dump_json, plural, printable
from videoswin.inference.backends import FORMATS, SUFFIXES, load_backend
from videoswin.inference.predictor import Predictor
from videoswin.video.reader import open_video
from videoswin.video.spec import ViewPlan
from videoswin.video.views import load_views
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import ExportPrecision, Metadata, ModelPrecision

LARGEST_DIFFERENCE: Final[dict[ModelPrecision, float]] = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.2}
"""Maximum difference of logits, relative to PyTorch's largest. More is a broken file, not rounding."""
SAFE_AGREEMENT = 0.99
"""Top-1 agreement with PyTorch, as a fraction of the clips, below which a warning is printed."""

MOST_CLIPS: Final[dict[ExportPrecision, int]] = {"fp32": 8, "bf16": 16, "int8": 64}
"""Approximate number of views that are compared; for int8, half of them are used for calibration instead."""
GENERATED_CLIPS = 4
TIMED_ROUNDS = 5


class ExportError(VideoSwinError):
    """The file could not be written, or its outputs differ from the model's; it was not kept."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An exported file compared with PyTorch in float32 on the same clips and threads."""

    path: str
    """The exported file."""
    format: str
    """Name of its format, a key of FORMATS."""
    precision: ModelPrecision
    """Precision of the exported model."""
    clips: int
    """Number of compared clips."""
    source_of_clips: str
    """Whether the clips are from videos or synthetic."""
    largest_difference: float
    """Largest difference of logits, relative to the largest absolute logit of PyTorch."""
    top1_agreement: float
    """Fraction of the clips with the same top-1 class."""
    megabytes: float
    """Size of the exported files in 10^6 bytes."""
    megabytes_pytorch: float
    """Size of the weights in PyTorch, in 10^6 bytes."""
    seconds_per_clip: float
    """Fastest of a few passes, alternating with PyTorch; benchmarks/model_cpu.py is more careful."""
    seconds_per_clip_pytorch: float
    """Time of PyTorch, measured in the same way."""
    seconds_per_clip_float32: float
    """Time of the same format in float32; PyTorch's time for .pt2, which PyTorch runs."""
    threads: int
    """CPU threads of both."""

    def to_json(self) -> str:
        """Return all fields as one line of JSON."""
        return dump_json(asdict(self))

    def to_text(self) -> str:
        """Return lines for a terminal: accuracy, size and speed next to those of PyTorch."""
        speed = self.seconds_per_clip_pytorch / self.seconds_per_clip
        milliseconds, milliseconds_pytorch = 1e3 * self.seconds_per_clip, 1e3 * self.seconds_per_clip_pytorch
        size = f"{self.megabytes:.1f} MB, weights {self.megabytes_pytorch:.1f} MB"
        lines = (
            f"{self.path}  {self.format}, {self.precision}",
            f"  compared with PyTorch in float32 on {plural(self.clips, 'clip')}, {self.source_of_clips}",
            f"  largest difference of logits  {self.largest_difference:.1e} of the largest logit",
            f"  same top-1 class              {self.top1_agreement:.1%} of the clips",
            f"  size                          {size}",
            f"  {'a clip on ' + plural(self.threads, 'thread'):28}  {milliseconds:.1f} ms, PyTorch "
            f"{milliseconds_pytorch:.1f} ms ({speed:.2f} times as fast)",
        )
        return "\n".join(map(printable, lines))


def export_model(
    checkpoint: Checkpoint,
    target: str | Path,
    *,
    format: str | None = None,
    precision: ExportPrecision = "fp32",
    videos: Iterable[str] = (),
    say: Callable[[str], None] = lambda step: None,
    progress: bool = False,
) -> Comparison:
    """Export a checkpoint to another runtime's format and compare the file with PyTorch.

    Args:
        checkpoint: Checkpoint with a head.
        target: File to write. An existing file is replaced only if the export succeeds.
        format: None infers it from the suffix: .onnx, .xml (openvino), .pt2 (torch; or aotinductor).
        precision: bf16 is not available for onnx, and int8 only for openvino, calibrated on `videos`.
        videos: Videos for the comparison. An int8 model is calibrated on the first half of each, or on every
            other video if there are many, and compared on the rest. Without videos, clips are synthetic.
        say: Called with a line for each of the four phases, which may take minutes.
        progress: Show progress and remaining time of reading and comparing on stderr.

    Raises:
        InputError: The combination of arguments is impossible, or the checkpoint has no head.
        MissingPackageError: A library is not installed.
        VideoError: A video cannot be read.
        ExportError: The outputs of the file differ from the model's.
    """
    target, videos = Path(target), list(videos)
    kind = require_possible(target, format=format, precision=precision, videos=bool(videos))
    chosen = FORMATS[kind]
    if not checkpoint.has_head:
        raise InputError(
            f"a checkpoint must have a head to be exported, {checkpoint.name} has none; train it"
        )
    predictor = Predictor(checkpoint, device="cpu")
    parts, source = _clips(predictor, videos, precision, progress)
    calibration: Tensor | tuple[()] = ()
    if precision == "int8":
        # The comparison must not use the clips of the calibration.
        calibration, parts = torch.cat(parts[::2]), parts[1::2]
        if not parts:
            raise InputError(
                f"int8 needs at least 2 videos, got 1: {checkpoint.name} uses a single clip of each video"
            )
    clips = torch.cat(parts)
    metadata = checkpoint.export_metadata(precision)
    with replacing_all(target) as staged:
        millions = sum(weight.numel() for weight in checkpoint.weights.values()) / 1e6
        say(f"phase 1 of 4: tracing the model, {millions:.1f} million parameters, with torch.export")
        started = time.monotonic()
        # Imported here, because torch.export is slow to import.
        from videoswin.inference.backends.graph import trace

        is_bf16_graph = precision == "bf16" and not chosen.sets_precision_on_loading
        program = trace(
            checkpoint,
            torch.bfloat16 if is_bf16_graph else torch.float32,
            pixel_dtype=torch.float32 if chosen.casts_pixels_first else torch.uint8,
        )
        say(f"traced in {format_duration(time.monotonic() - started)}")
        scales = f", calibrated on {plural(len(calibration), 'clip')}" if len(calibration) else ""
        say(f"phase 2 of 4: writing {target.name} ({kind}, {precision}{scales})")
        started = time.monotonic()
        write = chosen.runtime().write
        if precision == "int8":
            write(program, staged, metadata, calibration)
        else:
            write(program, staged, metadata)
        say(f"written in {format_duration(time.monotonic() - started)}")
        say(f"phase 3 of 4: comparing the file with PyTorch on {plural(len(clips), 'clip')}, {source}")
        with TemporaryDirectory() as folder:
            float32 = None
            if chosen.sets_precision_on_loading and precision != "fp32":
                say("writing the same file in float32 to compare the speed")
                float32 = Path(folder, f"float32{chosen.suffix}")
                write(program, float32, replace(metadata, precision="fp32"))
            del program
            comparison = _compare(predictor, staged, clips, kind, metadata, source, float32, say, progress)
        comparison = replace(comparison, path=str(target))
        _require_equal(comparison)
    if comparison.top1_agreement < SAFE_AGREEMENT:
        say(f"only {comparison.top1_agreement:.0%} of the clips have the same top-1 class as in PyTorch")
    slowdown = comparison.seconds_per_clip / comparison.seconds_per_clip_float32
    if precision != "fp32" and slowdown > 1:
        say(f"{precision} takes {slowdown:.2f} times as long as float32 on this CPU: use fp32 for it")
    return comparison


def require_possible(
    target: str | Path, *, format: str | None, precision: ExportPrecision, videos: bool
) -> str:
    """Return the format that `export_model` would write, or raise its error before any file is read.

    Args:
        target: File to write.
        format: As for `export_model`.
        precision: As for `export_model`.
        videos: Whether there are any videos.
    """
    target = Path(target)
    kind = _format_of(target, format, precision)
    if not target.parent.is_dir():
        raise InputError(f"the folder of {target} must exist, there is no folder {target.parent}; create it")
    if precision == "int8" and not videos:
        raise InputError("int8 needs at least 1 video for calibration, got 0; pass typical videos")
    quantizer = (("nncf", "openvino"),) if precision == "int8" else ()
    for library, extra in (*FORMATS[kind].libraries, *quantizer):
        require(library, extra=extra)
    if kind == "aotinductor" and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise ExportError("aotinductor needs a C++ compiler, got none; install g++, or use the format torch")
    return kind


def _format_of(target: Path, format: str | None, precision: ExportPrecision) -> str:
    """Return the format by argument or suffix; raise InputError if the three arguments are incompatible."""
    if target.suffix not in SUFFIXES:
        raise InputError(f"out must end in {', '.join(SUFFIXES)}, got {target}")
    by_suffix = next(name for name, each in FORMATS.items() if each.suffix == target.suffix)
    kind = format or by_suffix
    if kind not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {kind}")
    chosen = FORMATS[kind]
    if chosen.suffix != target.suffix:
        raise InputError(f"a file for {kind} must end in {chosen.suffix}, got {target}")
    if precision not in chosen.precisions:
        supported = [name for name, each in FORMATS.items() if precision in each.precisions]
        raise InputError(
            f"precision of {kind} must be one of {', '.join(chosen.precisions)}, got {precision}; "
            f"{precision} is available for {', '.join(supported)}"
        )
    return kind


def _clips(
    predictor: Predictor, videos: list[str], precision: ExportPrecision, progress: bool
) -> tuple[list[Tensor], str]:
    """Return clips, one tensor (views, 3, T, S, S) uint8 per video, and a text about their origin.

    For int8 there are two tensors per video, of its first and its second half, which share no frame; unless
    there are too many videos for that, or a clip spans the whole video.
    """
    if not videos:
        return [_synthetic_clips(predictor.clip.frames, predictor.clip.size)], "synthetic"
    most = MOST_CLIPS[precision]
    count = min(len(videos), most)
    crops: Literal[1, 3] = 3 if count <= most // 4 else 1
    in_halves = precision == "int8" and predictor.clip.rule == "dense" and count <= most // 2
    each = most // (count * crops)
    plan = ViewPlan(clips=max(1, each // 2 if in_halves else each), crops=crops)
    if predictor.clip.rule == "segments":
        plan = plan.replace(clips=1)
    parts = []
    # Evenly spaced in the list, which may be sorted by class, and in each video, where neighboring frames
    # are similar.
    with Progress("read", count, "videos", shown=progress) as bar:
        for number in range(count):
            path = videos[number * len(videos) // count]
            for start, end in _halves(path) if in_halves else [(None, None)]:
                views = load_views(path, predictor.clip, plan, start_seconds=start, end_seconds=end)
                parts.append(_without_repeats(views.pixels, crops))
            bar.advance()
    return parts, f"from {plural(count, 'video')}"


def _halves(path: str) -> list[tuple[float | None, float | None]]:
    """Return start and end of the two halves of a video in seconds; they share no frame."""
    with open_video(path) as video:
        if video.num_frames < 2:
            raise InputError(
                f"{path} must have at least 2 frames, got a single picture; int8 is calibrated on one half "
                "of a video and compared on the other"
            )
        middle = video.duration_seconds / 2
    return [(None, middle), (middle, None)]


def _without_repeats(pixels: Tensor, crops: int) -> Tensor:
    """Remove clips equal to the previous one, as in a video that is shorter than a clip."""
    kept = [i for i, view in enumerate(pixels) if i < crops or not torch.equal(view, pixels[i - crops])]
    return pixels[kept]


def _synthetic_clips(frames: int, size: int) -> Tensor:
    """Return drifting clouds of color, (clips, 3, T, S, S) uint8, smooth in space and time like videos."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(GENERATED_CLIPS, 3, 4, 6, 6, generator=generator)
    clips = torch.nn.functional.interpolate(coarse, size=(frames, size, size), mode="trilinear")
    return (clips * 255).round().to(torch.uint8)


@torch.inference_mode()
def _compare(
    predictor: Predictor,
    path: Path,
    clips: Tensor,
    format: str,
    metadata: Metadata,
    source: str,
    float32: Path | None,
    say: Callable[[str], None],
    progress: bool,
) -> Comparison:
    """Compare the file with PyTorch; `float32` is the same model in that precision for the speed, if any."""
    cpu = torch.device("cpu")
    pytorch, exported = predictor.backend, load_backend(path, cpu, trust=True)  # we have just written it
    pairs = []
    with Progress("compare", len(clips), "clips", shown=progress) as bar:
        for clip in torch.split(clips, 1):
            pairs.append((pytorch(clip), exported(clip).float()))
            bar.advance()
    expected, logits = map(torch.cat, zip(*pairs, strict=True))
    run_batch = FORMATS[format].runtime().run_batch
    as_batch = partial(run_batch, path) if run_batch else exported
    if len(clips) > 1:
        say(f"comparing {plural(len(clips[:3]), 'clip')} in one batch with the same clips one by one")
    _require_equal_batch(as_batch(clips[:3]).float(), logits[:3], metadata.precision)
    if metadata.precision == "fp32":
        in_float32: Callable[[Tensor], Tensor] = exported
    else:
        in_float32 = load_backend(float32, cpu) if float32 else pytorch
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
    """Return the minimum time of each pass in seconds, timed alternately; other load only adds time."""
    fastest = {one_pass.func: math.inf for one_pass in passes}  # a repeated model is timed once
    with Progress("measure speed", TIMED_ROUNDS, "rounds", shown=progress) as bar:
        for _ in range(TIMED_ROUNDS):
            for model, one_pass in {one_pass.func: one_pass for one_pass in passes}.items():
                started = time.perf_counter()
                one_pass()
                fastest[model] = min(fastest[model], time.perf_counter() - started)
            bar.advance()
    return [fastest[one_pass.func] for one_pass in passes]


def _require_equal_batch(together: Tensor, one_by_one: Tensor, precision: ModelPrecision) -> None:
    """Raise ExportError if the logits of clips in one batch differ from those of single clips."""
    difference = (together - one_by_one).abs().max() / one_by_one.abs().max()
    if not difference < LARGEST_DIFFERENCE[precision]:
        raise ExportError(
            f"the file was not kept: {plural(len(together), 'clip')} in one batch differ by {difference:.2g} "
            "from the same clips one by one"
        )


def _require_equal(found: Comparison) -> None:
    most = LARGEST_DIFFERENCE[found.precision]
    # Negated, so that NaN also fails.
    if not found.largest_difference < most:
        raise ExportError(
            f"{found.path} was not kept: its logits must differ from PyTorch's by < {most} of the largest "
            f"for {found.precision}, got {found.largest_difference:.2g}"
        )
