"""Run `videoswin COMMAND`: parse, call one function, print. Large imports happen inside the commands."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from videoswin._errors import InputError
from videoswin._files import require_writable_file, require_writable_folder
from videoswin._text import printable
from videoswin.cli.arguments import command_line
from videoswin.cli.exit_codes import exit_code
from videoswin.cli.terminal import (
    print_failure,
    print_json,
    print_models,
    print_prediction,
    print_table,
    print_to_stderr,
)
from videoswin.cli.training import check, evaluate, recipes, train

if TYPE_CHECKING:
    from videoswin.inference.predictor import Prediction
    from videoswin.video.reader import VideoError


def demo(*, video: str | None = None, model: str = "camera-motion", out: str = "demo") -> int:
    """Predict a synthetic clip, and optionally your video, and write an HTML page.

    Example: videoswin demo --video my_clip.mp4

    Args:
        video: Your video.
        model: Name (see `videoswin models`) or checkpoint file.
        out: Output folder of the clip and the page.
    """
    from videoswin.cli.demo import run_demo

    require_writable_folder(out, name="--out")
    results, page = run_demo(video, model=model, out=out)
    failures = _print_results(results, top=5, as_json=False)
    print(f"{printable(str(page))} shows the frames and the scores.")
    return 1 if failures else 0


def predict(
    videos: list[str],
    *,
    model: str = "tiny-k400",
    protocol: str | None = None,
    top: int = 5,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    json: bool = False,
    license: str | None = None,
    trust: bool = False,
) -> int:
    """Classify the action in each video.

    Example: videoswin predict clip.mp4 folder/ --model camera-motion
    If a video cannot be read, the others are still predicted and the exit code is 1.

    Args:
        videos: Files, folders, glob patterns, or - to read a list from standard input.
        model: Name (see `videoswin models`), checkpoint or exported file.
        protocol: Views (see `videoswin protocols`); by default those of the model.
        top: Number of labels to print.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: bf16 is faster on GPUs and on CPUs with bf16 instructions; fp32 by default.
        json: Print one JSON object per line.
        license: Accept the license of restricted weights by repeating it, e.g. CC-BY-NC-4.0.
        trust: Allow a .pt2 file that can run code.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, got {top}")
    from videoswin.inference.predictor import Predictor
    from videoswin.video.listing import find_videos

    predictor = Predictor.from_pretrained(
        model, device=device, protocol=protocol, precision=precision, license=license, trust=trust
    )
    results = predictor.predict_all(find_videos(_with_standard_input(videos), print_to_stderr))
    return 1 if _print_results(results, top=top, as_json=json) else 0


def models(*, json: bool = False) -> int:
    """List the models: classes, published accuracy, license, and whether they are downloaded.

    Example: videoswin models --json

    Args:
        json: Print one JSON object per line.
    """
    from videoswin.weights.catalog import cache_folder, list_models

    rows = list_models()
    if json:
        for row in rows:
            print_json(row)
    else:
        print_models(rows, str(cache_folder()))
    return 0


def protocols(*, json: bool = False) -> int:
    """List the protocols: the views of a video whose predictions are averaged.

    Example: videoswin protocols

    Args:
        json: Print one JSON object per line.
    """
    from videoswin.video.spec import describe_protocols

    rows = describe_protocols()
    if json:
        for row in rows:
            print_json(row)
    else:
        print_table(rows)
    return 0


def convert(
    model: str,
    out: str,
    *,
    layout: Literal["videoswin", "official", "mmaction2", "torchvision"] = "videoswin",
    inflate: Literal["inflate", "center"] = "inflate",
    window: tuple[int, int, int] | None = None,
    license: str | None = None,
) -> int:
    """Convert weights between the layouts of libraries.

    Example: videoswin convert swin_tiny_k400.pth tiny.safetensors

    Args:
        model: Name, or file in any known layout.
        out: Output file.
        layout: Layout of the output; videoswin is a .safetensors file with all metadata.
        inflate: Inflation of image models: repeat over time, or use the center frame.
        window: Resize the bias tables to this window, e.g. 16,7,7.
        license: Accept the license of restricted weights by repeating it, e.g. CC-BY-NC-4.0.
    """
    from videoswin.weights.checkpoint import Checkpoint, save_state_dict

    require_writable_file(out, name="out")
    checkpoint = Checkpoint.load(model, inflate=inflate, window=window, license=license)
    if layout == "videoswin":
        checkpoint.save(out)
    else:
        save_state_dict(checkpoint.to_state_dict(layout), out)
    for fact in ("conversion", "labels", "clip"):
        if fact in checkpoint.lineage:
            print_to_stderr(f"{fact}: {checkpoint.lineage[fact]}")
    print(printable(out))
    return 0


def export(
    model: str,
    out: str,
    *,
    format: Literal["onnx", "openvino", "torch", "aotinductor"] | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    data: str | None = None,
    json: bool = False,
    license: str | None = None,
) -> int:
    """Export a model to another runtime, and compare it with PyTorch.

    Example: videoswin export tiny-k400 tiny.xml --precision int8 --data videos/
    `videoswin predict --model tiny.xml` and `evaluate` use the file like a checkpoint.

    Args:
        model: Name (see `videoswin models`) or checkpoint file.
        out: Output file: .onnx, .xml (OpenVINO) or .pt2 (torch.export).
        format: aotinductor for a compiled .pt2; by default from the file extension.
        precision: bf16 for OpenVINO and torch, int8 for OpenVINO.
        data: Videos for the comparison and for int8 calibration: file, folder or pattern.
        json: Print the comparison as one JSON object.
        license: Accept the license of restricted weights by repeating it, e.g. CC-BY-NC-4.0.
    """
    from videoswin.cli.terminal import print_comparison
    from videoswin.inference.export import export_model, require_possible
    from videoswin.video.listing import find_videos
    from videoswin.weights.checkpoint import Checkpoint

    require_possible(out, format=format, precision=precision, videos=data is not None)
    require_writable_file(out, name="out")
    checkpoint = Checkpoint.load(model, license=license)
    videos = list(find_videos([data])) if data else []
    comparison = export_model(
        checkpoint,
        out,
        format=format,
        precision=precision,
        videos=videos,
        say=print_to_stderr,
        progress=True,
    )
    if json:
        print(comparison.to_json())
    else:
        print_comparison(comparison)
    return 0


COMMANDS: tuple[Callable[..., int], ...] = (
    *(demo, predict, models, protocols, recipes, check, train, evaluate, convert, export),
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the work failed, 2 the call was wrong."""
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal cannot show.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = vars(command_line(COMMANDS).parse_args(arguments))
    command: Callable[..., int] = options.pop("command")
    raise SystemExit(exit_code(lambda: command(**options)))


def _print_results(results: "Iterable[Prediction | VideoError]", *, top: int, as_json: bool) -> int:
    """Print each result as it arrives; return the number of failed videos."""
    from videoswin.inference.predictor import Prediction

    failures = 0
    for result in results:
        if not isinstance(result, Prediction):
            failures += 1
            print_failure(result.path, result.reason, as_json=as_json)
        else:
            print_prediction(result, top, as_json=as_json)
    return failures


def _with_standard_input(paths: list[str]) -> Iterator[str]:
    """Yield the paths, with `-` replaced by the lines of standard input."""
    for path in paths:
        if path == "-":
            lines = (os.fsdecode(line).strip("\r\n") for line in sys.stdin.buffer)
            yield from filter(None, lines)
        else:
            yield path


if __name__ == "__main__":
    main()
