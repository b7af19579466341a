"""`videoswin <command>`: parse, call one function, print. Nothing heavy is imported before a command runs."""

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
    """Predict a clip made on the spot, and yours if named; write a page of both.

    Example: videoswin demo --video my_clip.mp4

    Args:
        video: A video of your own.
        model: Catalog name, bundled name or file.
        out: Folder for the clip and the page.
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
    """Name what happens in videos.

    Example: videoswin predict clip.mp4 folder/ --model camera-motion
    A video that cannot be read does not stop the others; the exit code is then 1.

    Args:
        videos: Files, folders, patterns, or - for a list on standard input.
        model: Catalog name (see `videoswin models`), bundled name or file, exported ones too.
        protocol: Views, e.g. official-4x3, adaptive-4x3, fast-1x1; by default the model's own.
        top: How many labels to print.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: bfloat16 is faster on CPUs that have it, and on GPUs; float32 by default.
        json: Print one JSON object a line.
        license: License of restricted weights, e.g. CC-BY-NC-4.0.
        trust: Load also a .pt2 file that can run code.
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
    """List the published weights, and which of them are on this disk.

    Example: videoswin models --json

    Args:
        json: Print one JSON object a line.
    """
    from videoswin.weights.download import cache_folder
    from videoswin.weights.listing import list_models

    rows = list_models()
    if json:
        for row in rows:
            print_json(row)
    else:
        print_models(rows, str(cache_folder()))
    return 0


def protocols(*, json: bool = False) -> int:
    """List the protocols: which views of a video are averaged.

    Example: videoswin protocols

    Args:
        json: Print one JSON object a line.
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
    """Convert weights from any known layout to another.

    Example: videoswin convert swin_tiny_k400.pth tiny.safetensors

    Args:
        model: Catalog name or file in any known layout.
        out: File to write.
        layout: videoswin is one .safetensors with everything a predictor needs.
        inflate: How an image model becomes a video model.
        window: Resize the bias tables to this window, e.g. 16,7,7.
        license: License of restricted weights, e.g. CC-BY-NC-4.0.
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
    """Write a model for another runtime, and compare the file with PyTorch.

    Example: videoswin export tiny-k400 tiny.xml --precision int8 --data videos/
    `videoswin predict --model tiny.xml` and `evaluate` then run it as they run a checkpoint.

    Args:
        model: Catalog name, bundled name or file.
        out: File to write: .onnx, .xml (OpenVINO) or .pt2 (torch.export).
        format: aotinductor for a compiled .pt2; else as the name of the file says.
        precision: bfloat16 for OpenVINO and torch, int8 for OpenVINO.
        data: Videos to compare on, and to choose int8 scales on: file, folder, pattern.
        json: Print the comparison as one JSON object.
        license: License of restricted weights, e.g. CC-BY-NC-4.0.
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
    """Print every answer as it comes; how many videos had none."""
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
    """The paths, with the lines of standard input in the place of `-`."""
    for path in paths:
        if path == "-":
            lines = (os.fsdecode(line).strip("\r\n") for line in sys.stdin.buffer)
            yield from filter(None, lines)
        else:
            yield path


if __name__ == "__main__":
    main()
