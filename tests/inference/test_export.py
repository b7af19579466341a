"""Exported files have the outputs of the PyTorch model and its metadata, or are not kept."""

import dataclasses
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.inference.conftest import Export, film_thwc
from videoswin.camera_motion.clips import write_h264
from videoswin.cli.commands import main
from videoswin.inference import export
from videoswin.inference.backends import FORMATS, Runtime, load_backend
from videoswin.inference.backends.exported import ExportedBackend
from videoswin.inference.backends.pytorch import PyTorchBackend
from videoswin.inference.export import ExportError, export_model
from videoswin.inference.predictor import Predictor
from videoswin.video.spec import ViewPlan
from videoswin.video.views import load_views
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import ExportPrecision, Metadata

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

pytestmark = [
    pytest.mark.timeout(600),  # compilers are slow on a busy machine
    # What the exporters' own tracing says of torch's internals.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture
def stand_in(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor | tuple[()]]:
    """Replaces the runtimes of .pt2 and .xml by PyTorch and a file of metadata, which cost no time.

    Returns:
        The clips for calibration of every file that is written.
    """
    calibrations: list[torch.Tensor | tuple[()]] = []

    def write(
        program: Checkpoint, path: Path, metadata: Metadata, calibration: torch.Tensor | tuple[()] = ()
    ) -> None:
        assert program.weights is checkpoint.weights
        calibrations.append(calibration)
        path.write_text(metadata.to_json())

    def load(
        path: Path, device: torch.device, *, trust: bool = False
    ) -> tuple[Metadata, Callable[[torch.Tensor], torch.Tensor]]:
        return Metadata.of_exported_file(path.read_text(), path), PyTorchBackend(checkpoint, device)

    monkeypatch.setattr(
        "videoswin.inference.backends.graph.trace", lambda checkpoint, dtype, pixel_dtype: checkpoint
    )
    for name in ("torch", "openvino"):
        replaced = dataclasses.replace(FORMATS[name], runtime=lambda: Runtime(write, load))
        monkeypatch.setitem(FORMATS, name, replaced)
    return calibrations


@pytest.mark.parametrize(
    ("suffix", "precision", "clip", "difference"),
    [
        (".xml", "fp32", "padded", 1e-5),
        # It is converted twice, to compare the speed with float32.
        pytest.param(".xml", "bf16", "checkpoint", 3e-2, marks=pytest.mark.slow),
        (".pt2", "fp32", "checkpoint", 1e-5),
        (".pt2", "bf16", "padded", 3e-2),
    ],
)
def test_a_file_answers_as_the_checkpoint_does(
    suffix: str,
    precision: ExportPrecision,
    clip: str,
    difference: float,
    videos: list[str],
    exported: Export,
    request: pytest.FixtureRequest,
) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(clip)
    path, comparison = exported(checkpoint, suffix, precision)
    assert comparison.largest_difference < difference
    # Of three videos two clips of one crop, or one clip of three crops: at most 8 and 16.
    assert comparison.clips == {"fp32": 6, "bf16": 9}[precision]
    assert comparison.path == str(path)
    ours, theirs = Predictor.from_pretrained(path), Predictor(checkpoint, device="cpu")
    assert (ours.labels, ours.clip, ours.views, ours.protocol) == (
        (theirs.labels, theirs.clip, theirs.views, theirs.protocol)
    )
    torch.testing.assert_close(
        ours(videos[0]).probabilities, theirs(videos[0]).probabilities, rtol=0, atol=10 * difference
    )


def test_what_is_no_exported_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an exported model must end in \.onnx, \.xml, \.pt2"):
        load_backend(tmp_path / "model.safetensors", torch.device("cpu"))


@pytest.mark.usefixtures("stand_in")
def test_reading_and_comparing_show_their_progress_on_stderr(
    checkpoint: Checkpoint, videos: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    comparison = export_model(checkpoint, tmp_path / "model.pt2", videos=videos[:1], progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if re.match("read|compare|measure", line)] == [
        "read: 1 video",
        f"compare: {comparison.clips} clips",
        "measure speed: 5 rounds",
    ]


@pytest.mark.usefixtures("stand_in")
def test_every_phase_is_reported_before_it_starts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    said: list[str] = []
    export_model(checkpoint, tmp_path / "model.pt2", say=said.append)
    patterns = (
        r"phase 1 of 4: tracing the model, \d+\.\d million parameters, with torch\.export",
        r"traced in \d+ s",
        r"phase 2 of 4: writing model\.pt2 \(torch, fp32\)",
        r"written in \d+ s",
        r"phase 3 of 4: comparing the file with PyTorch on 4 clips, synthetic",
        r"comparing 3 clips in one batch with the same clips one by one",
        r"phase 4 of 4: measuring the speed on one clip",
    )
    for pattern, line in zip(patterns, said, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(("number", "clips"), [(1, 6), (30, 8)])
def test_few_clips_are_compared_however_long_or_many_the_videos_are(
    number: int, clips: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    write_h264(path, film_thwc(120), fps=10, crf=23)
    comparison = export_model(checkpoint, tmp_path / "model.pt2", videos=[str(path)] * number)
    assert comparison.clips == clips


@pytest.mark.usefixtures("stand_in")
def test_a_multi_label_file_answers_by_sigmoid(
    checkpoint: Checkpoint, videos: list[str], tmp_path: Path
) -> None:
    several = dataclasses.replace(checkpoint, multi_label=True)
    export_model(several, tmp_path / "model.pt2")
    ours = Predictor.from_pretrained(tmp_path / "model.pt2")(videos[0]).probabilities
    torch.testing.assert_close(ours, Predictor(several, device="cpu")(videos[0]).probabilities)


@pytest.mark.usefixtures("stand_in")
def test_a_file_with_other_outputs_is_not_kept_and_the_old_file_remains(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.pt2"
    target.write_bytes(b"what was there")
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", {"fp32": 1e-12})
    with pytest.raises(ExportError, match="differ"):
        export_model(checkpoint, target)
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(("name", "format"), [("model.xml", "openvino"), ("model.pt2", "torch")])
def test_a_file_slower_than_float32_is_reported(
    name: str, format: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[object] = []

    def times(*passes: partial[object], progress: bool) -> list[float]:
        compared.extend(each.func for each in passes)
        return [2.0, 3.0, 2.0]

    monkeypatch.setattr(export, "_fastest_of_each", times)
    said: list[str] = []
    comparison = export_model(checkpoint, tmp_path / name, precision="bf16", say=said.append)
    assert said[-1] == "bf16 takes 1.50 times as long as float32 on this CPU: use fp32 for it"
    assert comparison.seconds_per_clip_float32 == 2.0
    pytorch, exported, in_float32 = compared
    assert isinstance(exported, ExportedBackend)
    assert exported.metadata.precision == "bf16"
    if format == "openvino":
        assert isinstance(in_float32, ExportedBackend)
        assert in_float32.metadata.precision == "fp32"
    else:
        assert in_float32 is pytorch


@pytest.mark.usefixtures("stand_in")
def test_a_file_that_is_not_slower_needs_no_word(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_fastest_of_each", lambda *passes, progress: [3.0, 2.0, 2.0])
    said: list[str] = []
    export_model(checkpoint, tmp_path / "model.xml", say=said.append)
    export_model(checkpoint, tmp_path / "model.xml", precision="bf16", say=said.append)
    assert not any("times as long" in line for line in said)


def test_impossible_exports_are_refused_before_any_work(
    checkpoint: Checkpoint, tmp_path: Path, videos: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"must end in \.onnx, \.xml, \.pt2"):
        export_model(checkpoint, tmp_path / "model.tflite")
    with pytest.raises(
        ValueError, match="precision of onnx must be one of fp32, got int8; int8 is available for openvino"
    ):
        export_model(checkpoint, tmp_path / "model.onnx", precision="int8", videos=videos)
    with pytest.raises(ValueError, match="int8 needs at least 1 video for calibration, got 0"):
        export_model(checkpoint, tmp_path / "model.xml", precision="int8")
    with pytest.raises(ValueError, match="there is no folder"):
        export_model(checkpoint, tmp_path / "nowhere" / "model.xml")
    with pytest.raises(ValueError, match=r"a file for openvino must end in \.xml"):
        export_model(checkpoint, tmp_path / "model.onnx", format="openvino")
    weights = {name: t for name, t in checkpoint.weights.items() if not name.startswith("head.")}
    backbone = dataclasses.replace(checkpoint, weights=weights, labels=())
    with pytest.raises(ValueError, match="must have a head to be exported"):
        export_model(backbone, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "precision", "library", "extra"),
    [
        ("model.onnx", "fp32", "onnxruntime", "export"),
        ("model.xml", "fp32", "openvino", "openvino"),
        ("model.xml", "int8", "nncf", "openvino"),
    ],
)
def test_a_library_that_is_not_here_is_missed_before_any_work(
    target: str,
    precision: ExportPrecision,
    library: str,
    extra: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # imports as if it were not installed
    said: list[str] = []
    with pytest.raises(ImportError, match=rf"this needs {library}: pip install 'videoswin\[{extra}\]'"):
        export_model(checkpoint, tmp_path / target, precision=precision, videos=["a.mp4"], say=said.append)
    assert said == []


def test_the_command_refuses_a_target_before_it_loads_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "absent.safetensors"), str(tmp_path / "model.tflite")])
    assert stopped.value.code == 2
    assert "must end in .onnx, .xml, .pt2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_a_file_that_is_none_is_one_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not a model")
    with pytest.raises(ValueError, match=name):
        Predictor.from_pretrained(tmp_path / name)


@pytest.mark.parametrize("frames", [20, 11, 6], ids=["long", "shorter than two clips", "shorter than one"])
def test_scales_are_not_chosen_on_what_is_compared(
    frames: int, checkpoint: Checkpoint, tmp_path: Path, stand_in: list[torch.Tensor | tuple[()]]
) -> None:
    video = tmp_path / "video.mp4"
    write_h264(video, film_thwc(frames), fps=10, crf=23)
    comparison = export_model(checkpoint, tmp_path / "model.xml", precision="int8", videos=[str(video)])
    plan = ViewPlan(clips=10, crops=3)
    first, second = (
        load_views(video, checkpoint.clip, plan, **part).pixels
        for part in ({"end_seconds": frames / 20}, {"start_seconds": frames / 20})
    )
    calibration, of_the_file_in_float32 = stand_in
    assert of_the_file_in_float32 == ()
    assert {view.numpy().tobytes() for view in calibration} == {view.numpy().tobytes() for view in first}
    # Clips that repeat because the half is short count once.
    assert comparison.clips == len({view.numpy().tobytes() for view in second})


def test_int8_needs_more_than_a_single_picture(checkpoint: Checkpoint, tmp_path: Path) -> None:
    video = tmp_path / "picture.mp4"
    write_h264(video, film_thwc(1), fps=10, crf=23)
    with pytest.raises(
        ValueError,
        match=r"picture\.mp4 must have at least 2 frames, got a single picture; int8 is calibrated",
    ):
        export_model(checkpoint, tmp_path / "model.xml", precision="int8", videos=[str(video)])


def test_int8_needs_more_than_one_clip_of_one_video(
    checkpoint: Checkpoint, tmp_path: Path, videos: list[str]
) -> None:
    clip, views = checkpoint.clip.replace(rule="segments"), ViewPlan(clips=1, crops=1)
    segments = dataclasses.replace(checkpoint, clip=clip, views=views)
    with pytest.raises(ValueError, match="int8 needs at least 2 videos, got 1"):
        export_model(segments, tmp_path / "model.xml", precision="int8", videos=videos[:1])
    assert list(tmp_path.iterdir()) == []
