"""Frames come in the colors of FFmpeg's default scaler, whatever their format and color matrix."""

import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.filter import Graph

from videoswin.video.ffmpeg import RgbConverter
from videoswin.video.reader import open_video
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.views import load_views

BT709, YCGCO, BT2020_CL, DERIVED, ICTCP = 1, 8, 10, 12, 14
PQ, HLG = 16, 18
FORMATS = (
    *("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuva420p", "yuv410p", "yuv411p"),
    *("yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "gbrp", "gray", "gray10le"),
    *("bgr0", "rgba", "rgb48le", "rgb8"),
)


def noisy_picture(width: int = 96, height: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    waves = np.sin(np.mgrid[:height, :width].sum(0)[..., None] / (7, 11, 13))
    return (127 + 90 * waves + rng.normal(0, 9, (height, width, 3))).clip(0, 255).astype(np.uint8)


def through_plain_ffmpeg(frame: av.VideoFrame) -> np.ndarray:
    """What `ffmpeg -pix_fmt rgb24` does: FFmpeg itself puts in a scaler where a format needs one."""
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 30)
        ),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ).configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray()


@pytest.mark.parametrize(("width", "height"), [(96, 64), (97, 65)])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_pixels_are_those_of_plain_ffmpeg_bit_for_bit(pix_fmt, width, height):
    picture = noisy_picture(width, height)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
    assert np.array_equal(RgbConverter()(frame).numpy(), through_plain_ffmpeg(frame))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg command to compare with")
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p"])
def test_pixels_are_those_of_the_ffmpeg_command(tmp_path, pix_fmt):
    path = tmp_path / "video.mkv"
    write_frames(path, [av.VideoFrame.from_ndarray(noisy_picture(), "rgb24").reformat(format=pix_fmt)])
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    with open_video(path) as video:
        assert video.read([0]).numpy().tobytes() == pixels


def write_frames(path, frames, *, colorspace=2, primaries=2, transfer=2, full_range=False):
    """A lossless file of these YUV frames that states their colors so."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        codec = stream.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc = colorspace, primaries, transfer
        codec.color_range = 2 if full_range else 1
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 30)
            frame.colorspace, frame.color_primaries, frame.color_trc = colorspace, primaries, transfer
            frame.color_range = codec.color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_color(path) -> tuple[torch.Tensor, str | None, tuple[str, ...]]:
    with open_video(path) as video:
        return video.read([0])[0].float().mean(dim=(0, 1)), video.damage, video.notes


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    "color", [(200, 60, 30), (30, 180, 60), (20, 40, 220), (240, 240, 240), (12, 12, 12)]
)
def test_ycgco_is_converted(tmp_path, color, full_range):
    red, green, blue = color
    ycgco = (
        (red + 2 * green + blue) / 4,
        (2 * green - red - blue) / 4,
        (red - blue) / 2,
    )
    offsets, scales = ((0, 128, 128), (255, 255, 255)) if full_range else ((16, 128, 128), (219, 224, 224))
    planes = [
        round(offset + value * scale / 255)
        for value, offset, scale in zip(ycgco, offsets, scales, strict=True)
    ]
    picture = np.ascontiguousarray(np.broadcast_to(np.array(planes, np.uint8)[:, None, None], (3, 48, 64)))
    frame = av.VideoFrame.from_ndarray(picture, "yuv444p")
    write_frames(tmp_path / "v.mkv", [frame], colorspace=YCGCO, full_range=full_range)
    found, damage, _ = read_color(tmp_path / "v.mkv")
    assert (found - torch.tensor(color)).abs().max() <= 3
    assert damage is None


def yuv_of(color, matrix: str) -> av.VideoFrame:
    picture = np.ascontiguousarray(np.broadcast_to(np.array(color, np.uint8), (48, 64, 3)))
    return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv444p", dst_colorspace=matrix)


@pytest.mark.parametrize(("primaries", "matrix"), [(1, "ITU709"), (5, "ITU601"), (6, "SMPTE170M")])
def test_a_matrix_derived_from_the_primaries_is_theirs(tmp_path, primaries, matrix):
    color = (200, 60, 30)
    write_frames(tmp_path / "v.mkv", [yuv_of(color, matrix)], colorspace=DERIVED, primaries=primaries)
    found, damage, _ = read_color(tmp_path / "v.mkv")
    assert (found - torch.tensor(color)).abs().max() <= 3
    assert damage is None


@pytest.mark.parametrize(
    ("colorspace", "primaries", "said"),
    [
        (BT2020_CL, 9, "BT.2020 with constant luminance, bt2020nc was used instead"),
        (ICTCP, 9, "ICtCp, bt2020nc was used instead"),
        (DERIVED, 2, "derived from the primaries, which are unknown, bt709 was used instead"),
        (11, 2, "SMPTE ST 2085, bt709 was used instead"),
    ],
)
def test_a_matrix_that_cannot_be_converted_is_replaced_and_named(tmp_path, colorspace, primaries, said):
    gray = (120, 120, 120)
    write_frames(tmp_path / "v.mkv", [yuv_of(gray, "ITU709")], colorspace=colorspace, primaries=primaries)
    found, damage, _ = read_color(tmp_path / "v.mkv")
    assert (found - torch.tensor(gray)).abs().max() <= 3
    assert damage == f"its color matrix is {said}: colors are approximate"


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_hdr_is_said_to_look_flat_and_is_no_damage(tmp_path, transfer, name):
    write_frames(
        tmp_path / "v.mkv", [yuv_of((90, 90, 90), "ITU709")], colorspace=9, primaries=9, transfer=transfer
    )
    _, damage, notes = read_color(tmp_path / "v.mkv")
    assert damage is None
    assert notes == (f"colors look flat, because HDR ({name}) is not tone-mapped",)


def test_a_loaded_video_keeps_the_note_of_hdr(tmp_path):
    gray = yuv_of((90, 90, 90), "ITU709")
    write_frames(tmp_path / "v.mkv", [gray] * 4, colorspace=9, primaries=9, transfer=PQ)
    loaded = load_views(tmp_path / "v.mkv", ClipSpec(frames=2, size=32, short_side=32), ViewPlan())
    assert loaded.notes == ("colors look flat, because HDR (PQ) is not tone-mapped",)


def test_sdr_video_has_no_notes(make_video):
    with open_video(make_video("v.mp4", 3)) as video:
        video.read([0])
        assert video.notes == ()
