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
from videoswin.cli.terminal import print_failure, print_json, print_models, print_prediction, print_to_stderr

if TYPE_CHECKING:
    from videoswin.inference.predictor import Prediction
    from videoswin.video.reader import VideoError


def demo(video: str | None = None, *, model: str = "camera-motion", out: str = "demo") -> int:
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
    paths: list[str],
    *,
    model: str = "tiny-k400",
    views: str | None = None,
    top: int = 5,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    json: bool = False,
    accept_license: str | None = None,
    trust: bool = False,
) -> int:
    """Name what happens in videos.

    Example: videoswin predict clip.mp4 folder/ --model camera-motion
    A video that cannot be read does not stop the others; the exit code is then 1.

    Args:
        paths: Files, folders, patterns, or - for a list on standard input.
        model: Catalog name (see `videoswin models`), bundled name or file, exported ones too.
        views: Protocol, e.g. official-4x3, adaptive-4x3, fast-1x1; by default the model's own.
        top: How many labels to print.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: bfloat16 is faster on CPUs that have it, and on GPUs; float32 by default.
        json: Print one JSON object a line.
        accept_license: License of restricted weights, e.g. CC-BY-NC-4.0.
        trust: Load also a .pt2 file that can run code.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, got {top}")
    from videoswin.inference.predictor import Predictor
    from videoswin.video.listing import find_videos

    predictor = Predictor.from_pretrained(
        model, device=device, protocol=views, precision=precision, accept_license=accept_license, trust=trust
    )
    results = predictor.predict_all(find_videos(_with_standard_input(paths), print_to_stderr))
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


def convert(
    source: str,
    target: str,
    *,
    layout: Literal["videoswin", "official", "mmaction2", "torchvision"] = "videoswin",
    inflate: Literal["inflate", "center"] = "inflate",
    window: tuple[int, int, int] | None = None,
    accept_license: str | None = None,
) -> int:
    """Convert weights from any known layout to another.

    Example: videoswin convert swin_tiny_k400.pth tiny.safetensors

    Args:
        source: Catalog name or file in any known layout.
        target: File to write.
        layout: videoswin is one .safetensors with everything a predictor needs.
        inflate: How an image model becomes a video model.
        window: Resize the bias tables to this window, e.g. 16,7,7.
        accept_license: License of restricted weights, e.g. CC-BY-NC-4.0.
    """
    from videoswin.weights.checkpoint import Checkpoint, save_state_dict

    require_writable_file(target, name="target")
    checkpoint = Checkpoint.load(source, inflate=inflate, window=window, accept_license=accept_license)
    if layout == "videoswin":
        checkpoint.save(target)
    else:
        save_state_dict(checkpoint.to_state_dict(layout), target)
    for fact in ("conversion", "labels", "clip"):
        if fact in checkpoint.lineage:
            print_to_stderr(f"{fact}: {checkpoint.lineage[fact]}")
    print(printable(target))
    return 0


def check(
    data: str,
    *,
    root: str | None = None,
    model: str | None = None,
    shortest: int = 64,
    quick: bool = False,
    write: str | None = None,
    workers: int = 2,
    json: bool = False,
) -> int:
    """Decode every video of a labeled collection and say what is wrong with it.

    Example: videoswin check my_videos/ --write clean.csv
    The exit code is 1 if files cannot be read or splits share videos.

    Args:
        data: Folder with a folder for each class, or a list (CSV, Parquet, Kinetics, UCF101, ...).
        root: Folder that the paths of a list start from; by default the list's own.
        model: Model to train from: a video is short if it sees more than that (it is looped then).
        shortest: Without --model, frames below which a video is called short.
        quick: Decode 8 frames of each video, not all: faster, but damage can be missed.
        write: CSV file for a list without unreadable, empty and repeated files.
        workers: Processes that decode.
        json: Print the report as one JSON object.
    """
    from videoswin.cli.terminal import print_data_report
    from videoswin.data.check.check import check_videos
    from videoswin.data.manifest import read_manifest, write_manifest
    from videoswin.weights.checkpoint import Checkpoint

    if write is not None:
        if not write.lower().endswith(".csv"):
            raise InputError(f"--write must be a file that ends in .csv, got {write}")
        require_writable_file(write, name="--write")
    manifest = read_manifest(data, root=root)
    for note in manifest.notes:
        print_to_stderr(f"note: {note}")
    clip = Checkpoint.load(model).clip if model else None
    report = check_videos(
        manifest, workers=workers, shortest_frames=shortest, clip=clip, sampled=quick, progress=True
    )
    if write is not None and (clean := report.clean()).samples:
        write_manifest(clean, write)
    if json:
        print(report.to_json())
    else:
        print_data_report(report, written=write, start=model, root=root)
    return 0 if report.usable else 1


def train(
    recipe: str,
    *,
    out: str,
    data: str | None = None,
    from_: str | None = None,
    set: list[str] = [],  # noqa: B006 - never changed
    trust: bool = False,
) -> int:
    """Train a model: fine-tune on your videos, or run a published recipe.

    Example: videoswin train finetune --data my_videos/ --from tiny-k400 --out run/
    Run the same command again to resume a run that was stopped.

    Args:
        recipe: finetune, kinetics:tiny, ..., my_module:my_recipe, or run/recipe.json to repeat a run.
        out: Folder for checkpoints, metrics and curves.
        data: Folder with a folder for each class, or a list of labeled videos.
        from_: Model to start from: catalog name, bundled name or file.
        set: Change a setting, e.g. --set optimizer.lr=1e-4 (as often as you like).
        trust: Run the code that a recipe.json names, if that is not a recipe of videoswin.
    """
    from pathlib import Path

    from videoswin._distributed import is_first_process
    from videoswin.recipes import build_recipe
    from videoswin.recipes.finetune import explain, measured_before
    from videoswin.training.learner import require_training_packages
    from videoswin.training.loop import train as run
    from videoswin.training.settings import parse_assignments, recipe_json

    require_training_packages()
    require_writable_folder(out, name="--out")
    # A run that is resumed keeps what was measured when it began.
    measured = measured_before(Path(out)) if recipe == "finetune" else {}
    settings = {**measured, **parse_assignments(set)}
    built = build_recipe(recipe, data=data, start=from_, settings=settings, trust=trust)
    for choice in explain(built) if recipe == "finetune" and not measured and is_first_process() else ():
        print_to_stderr(choice)
    best = run(built, Path(out), written_as=recipe_json(built, recipe, data, from_))
    if is_first_process():
        if best is None:
            print_to_stderr("stopped and saved; run the same command again to resume")
        else:
            print(printable(str(best)))
    return 0


def evaluate(
    data: str,
    *,
    model: str,
    protocol: str | None = None,
    split: str | None = None,
    out: str | None = None,
    root: str | None = None,
    workers: int = 2,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    json: bool = False,
    accept_license: str | None = None,
    trust: bool = False,
) -> int:
    """Score a model on labeled videos; those that cannot be read count as wrong.

    Example: videoswin evaluate test.csv --model run/best.safetensors --out report/

    Args:
        data: Folder with a folder for each class, or a list.
        model: Catalog name, bundled name or file.
        protocol: Views, e.g. official-4x3; by default the model's own.
        split: Split to score; by default test, else val, if any.
        out: Folder for the report, its tables and its pictures.
        root: Folder of a list's paths; by default the list's own.
        workers: Processes that decode.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Of weights and activations, e.g. bfloat16.
        json: Print the report as one JSON object.
        accept_license: License of restricted weights, e.g. CC-BY-NC-4.0.
        trust: Load also a .pt2 file that can run code.
    """
    from videoswin._distributed import join_ranks
    from videoswin.cli.terminal import print_report
    from videoswin.data.manifest import read_manifest
    from videoswin.evaluation.evaluate import evaluate as score
    from videoswin.evaluation.plots import require_drawing
    from videoswin.inference.predictor import Predictor

    rank = join_ranks()  # before the predictor chooses its device
    if out is not None and rank == 0:
        require_drawing()
        require_writable_folder(out, name="--out")
    manifest = read_manifest(data, root=root)
    for note in manifest.notes if rank == 0 else ():
        print_to_stderr(f"note: {note}")
    split = split or next((name for name in ("test", "val") if name in manifest.splits), None)
    if split is not None:
        manifest = manifest.part(split)
        print_to_stderr(f"scoring the split {split}")
    predictor = Predictor.from_pretrained(
        model,
        device=device,
        protocol=protocol,
        precision=precision,
        accept_license=accept_license,
        trust=trust,
    )
    report = score(predictor, manifest, workers=workers, progress=True)
    if rank > 0:
        return 0  # the first one speaks for all
    # Print first: if the report cannot be saved, its scores are not lost.
    if json:
        print(report.to_json(), flush=True)
    else:
        print_report(report)
    if out is not None:
        report.save(out)
        print_to_stderr(f"saved the report, its tables and its pictures in {out}")
    return 0


def export(
    model: str,
    target: str,
    *,
    format: Literal["onnx", "openvino", "torch", "aotinductor"] | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    clips: str | None = None,
    json: bool = False,
    accept_license: str | None = None,
) -> int:
    """Write a model for another runtime, and compare the file with PyTorch.

    Example: videoswin export tiny-k400 tiny.xml --precision int8 --clips videos/
    `videoswin predict --model tiny.xml` and `evaluate` then run it as they run a checkpoint.

    Args:
        model: Catalog name, bundled name or file.
        target: File to write: .onnx, .xml (OpenVINO) or .pt2 (torch.export).
        format: aotinductor for a compiled .pt2; else as the target's name says.
        precision: bfloat16 for OpenVINO and torch, int8 for OpenVINO.
        clips: Videos to compare on, and to choose int8 scales on: file, folder, pattern.
        json: Print the comparison as one JSON object.
        accept_license: License of restricted weights, e.g. CC-BY-NC-4.0.
    """
    from videoswin.cli.terminal import print_comparison
    from videoswin.inference.export import export_model, require_possible
    from videoswin.video.listing import find_videos
    from videoswin.weights.checkpoint import Checkpoint

    require_possible(target, format=format, precision=precision, videos=clips is not None)
    require_writable_file(target, name="target")
    checkpoint = Checkpoint.load(model, accept_license=accept_license)
    videos = list(find_videos([clips])) if clips else []
    comparison = export_model(
        checkpoint,
        target,
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


COMMANDS: tuple[Callable[..., int], ...] = (demo, predict, models, check, train, evaluate, convert, export)


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
