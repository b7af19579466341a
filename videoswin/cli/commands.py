"""Run `videoswin COMMAND`: parse, call one function, print, exit. Large imports are inside the commands."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from videoswin._errors import InputError, VideoSwinError
from videoswin._files import require_writable_file, require_writable_folder
from videoswin._text import printable
from videoswin.cli.analysis import extract, search, timeline
from videoswin.cli.arguments import Choices, command_line
from videoswin.cli.terminal import (
    print_failure,
    print_json,
    print_models,
    print_prediction,
    print_rows,
    print_text,
    print_to_stderr,
    with_standard_input,
)
from videoswin.cli.training import check, evaluate, recipes, train
from videoswin.inference.backends import FORMATS, Precision
from videoswin.weights.metadata import ExportPrecision

if TYPE_CHECKING:
    from videoswin._errors import VideoError
    from videoswin.inference.prediction import Prediction


def demo(
    *,
    video: str | None = None,
    model: str = "camera-motion",
    out: str = "demo",
    license: str | None = None,
) -> int:
    """Predict a synthetic clip, and optionally your video, and write an HTML page.

    Example: videoswin demo --video my_clip.mp4

    Args:
        video: Your video.
        model: Name (see `videoswin models`) or checkpoint file.
        out: Output folder of the clip and the page.
    """
    from videoswin.cli.demo import run_demo

    require_writable_folder(out, name="--out")
    results, page = run_demo(video, model=model, out=out, license=license)
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
    precision: Precision | None = None,
    license: str | None = None,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Classify the action in each video.

    Example: videoswin predict clip.mp4 folder/ --model camera-motion
    If a video cannot be read, the others are still predicted and the exit code is 1.

    Args:
        videos: Files, folders, glob patterns, or - to read a list from standard input.
        model: Name (see `videoswin models`), checkpoint or exported file.
        top: Number of labels to print.
        precision: bf16 is faster on GPUs and on CPUs with bf16 instructions; fp32 by default.
        json: Print one JSON object per line.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, got {top}")
    from videoswin.inference.predictor import Predictor
    from videoswin.video.listing import find_videos

    predictor = Predictor.from_pretrained(
        model, device=device, protocol=protocol, precision=precision, license=license, trust=trust
    )
    results = predictor.predict_all(find_videos(with_standard_input(videos), print_to_stderr))
    return 1 if _print_results(results, top=top, as_json=json) else 0


def models(*, json: bool = False) -> int:
    """List the models: classes, published accuracy, license, and whether they are downloaded.

    Example: videoswin models --json

    Args:
        json: Print one JSON object per line.
    """
    from videoswin.weights.catalog import cache_folder, list_models

    print_rows(list_models(), as_json=json, print_text=lambda rows: print_models(rows, str(cache_folder())))
    return 0


def protocols(*, json: bool = False) -> int:
    """List the protocols: the views of a video whose predictions are averaged.

    Example: videoswin protocols

    Args:
        json: Print one JSON object per line.
    """
    from videoswin.video.spec import describe_protocols

    print_rows(describe_protocols(), as_json=json)
    return 0


def convert(
    model: str,
    out: str,
    *,
    layout: Literal["videoswin", "official", "mmaction2", "torchvision"] = "videoswin",
    inflation: Literal["average", "center"] = "average",
    window: tuple[int, int, int] | None = None,
    license: str | None = None,
    json: bool = False,
) -> int:
    """Convert weights between the layouts of libraries.

    Example: videoswin convert swin_tiny_k400.pth tiny.safetensors

    Args:
        model: Name, or file in any known layout.
        out: Output file.
        layout: Layout of the output; videoswin is a .safetensors file with all metadata.
        inflation: Of image models: weights averaged over time, or only in the center frame.
        window: Resize the bias tables to this window, e.g. 16,7,7.
        json: Print the output file and what was converted as one JSON object.
    """
    from videoswin.weights.checkpoint import Checkpoint, save_state_dict

    require_writable_file(out, name="out")
    checkpoint = Checkpoint.load(model, inflation=inflation, window=window, license=license)
    if layout == "videoswin":
        checkpoint.save(out)
    else:
        save_state_dict(checkpoint.to_state_dict(layout), out)
    lineage = checkpoint.lineage.items()
    notes: dict[str, Any] = {name: note for name, note in lineage if name in _CONVERSION_NOTES}
    if json:
        print_json({"out": out, "layout": layout, **notes})
        return 0
    for name, note in notes.items():
        print_to_stderr(f"{name}: {note}")
    print(printable(out))
    return 0


_CONVERSION_NOTES: Final = ("conversion", "labels", "clip")
"""Entries of a checkpoint's lineage that describe a conversion."""


def export(
    model: str,
    out: str,
    *,
    format: Annotated[str, Choices(FORMATS)] | None = None,
    precision: ExportPrecision = "fp32",
    videos: str | None = None,
    license: str | None = None,
    json: bool = False,
) -> int:
    """Export a model to another runtime, and compare it with PyTorch.

    Example: videoswin export tiny-k400 tiny.xml --precision int8 --videos videos/
    `videoswin predict --model tiny.xml` and `evaluate` use the file like a checkpoint.

    Args:
        model: Name (see `videoswin models`) or checkpoint file.
        out: Output file: .onnx, .xml (OpenVINO) or .pt2 (torch.export).
        format: aotinductor for a compiled .pt2; by default from the file extension.
        precision: bf16 for OpenVINO and torch, int8 for OpenVINO.
        videos: For the comparison and for int8 calibration: file, folder or pattern.
        json: Print the comparison as one JSON object.
    """
    from videoswin.inference.export import export_model, require_possible
    from videoswin.video.listing import find_videos
    from videoswin.weights.checkpoint import Checkpoint

    require_possible(out, format=format, precision=precision, videos=videos is not None)
    require_writable_file(out, name="out")
    checkpoint = Checkpoint.load(model, license=license)
    comparison = export_model(
        checkpoint,
        out,
        format=format,
        precision=precision,
        videos=list(find_videos([videos])) if videos else [],
        say=print_to_stderr,
        progress=True,
    )
    if json:
        print(comparison.to_json())
    else:
        print_text(comparison.to_text(), printable(comparison.path))
    return 0


def _print_results(results: "Iterable[Prediction | VideoError]", *, top: int, as_json: bool) -> int:
    """Print each result as it arrives; return the number of failed videos."""
    from videoswin.inference.prediction import Prediction

    failures = 0
    for result in results:
        if not isinstance(result, Prediction):
            failures += 1
            print_failure(result.path, result.reason, as_json=as_json)
        else:
            print_prediction(result, top, as_json=as_json)
    return failures


COMMANDS: tuple[Callable[..., int], ...] = (
    *(
        demo,
        predict,
        timeline,
        extract,
        search,
        models,
        protocols,
        recipes,
        check,
        train,
        evaluate,
        convert,
        export,
    ),
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


# Errors of the machine, not of the program; they may have no file name.
_ENVIRONMENT_ERRNOS: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EPIPE,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.EROFS,
        errno.ENOMEM,
    }
)


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    Errors raised on purpose and errors of the operating system are printed as one line, bugs with their
    traceback.

    Args:
        command: Function without arguments that returns an exit code.

    Returns:
        The exit code of the command; 2 for invalid arguments, 1 if it failed, 130 if it was interrupted.
    """
    try:
        code = command()
        if sys.stdout is not None:  # None after `>&-`
            sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(error, 2)
    except VideoSwinError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        if not _output_is_closed():
            return _report_bug()
        # The reader closed the pipe, as in `| head`: discard the output, also that of the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(error, 1) if _is_environment_error(error) else _report_bug()


def _is_environment_error(error: Exception) -> bool:
    """Return whether an error has an explanation by the operating system, such as a full disk."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _ENVIRONMENT_ERRNOS)


def _output_is_closed() -> bool:
    """Return whether the reader of standard output closed it; other pipes are between our own processes."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _report_bug() -> int:
    """Print the traceback of the current exception and where to report it; return exit code 1."""
    for line in traceback.format_exc().splitlines():
        print_to_stderr(line)
    print_to_stderr(
        "videoswin: this is a bug in videoswin. Please report it with the lines above, the command and the "
        "versions of videoswin, torch and av (`pip list`); see CONTRIBUTING.md"
    )
    return 1


def _fail(error: object, code: int) -> int:
    """Print an error as one line and return the exit code."""
    print_to_stderr(f"videoswin: {error}")
    return code


if __name__ == "__main__":
    main()
