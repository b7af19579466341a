"""Every kind of file that people have is opened, although containers are allowed by name."""

from __future__ import annotations

import av
import pytest

from tests.video.numbered import frame_number
from videoswin.video.limits import IMAGE_CONTAINERS, VIDEO_CONTAINERS
from videoswin.video.reader import open_video

FAST_VP9 = {"deadline": "realtime", "cpu-used": "8"}

FILES = [
    # name, codec, pixel format, size (None: any)
    *[(f"video.{suffix}", "libx264", "yuv420p", None) for suffix in ("mp4", "mov", "m4v", "f4v", "ismv")],
    *[(f"video.{suffix}", "libx264", "yuv420p", None) for suffix in ("mkv", "flv", "ts", "m2ts", "h264")],
    *[(f"video.{suffix}", "mpeg4", "yuv420p", None) for suffix in ("3gp", "3g2", "avi", "nut")],
    *[(f"video.{suffix}", "mpeg2video", "yuv420p", None) for suffix in ("mpg", "vob", "mxf", "m2v", "wtv")],
    ("video.webm", "libvpx-vp9", "yuv420p", None),
    ("video.ivf", "libvpx-vp9", "yuv420p", None),
    ("video.ogv", "libvpx", "yuv420p", None),
    ("video.wmv", "wmv2", "yuv420p", None),
    ("video.asf", "msmpeg4", "yuv420p", None),
    ("video.hevc", "libx265", "yuv420p", None),
    ("video.obu", "libsvtav1", "yuv420p", None),
    ("video.mjpeg", "mjpeg", "yuvj420p", None),
    ("video.y4m", "rawvideo", "yuv420p", None),
    ("video.gif", "gif", "rgb8", None),
    ("video.apng", "apng", "rgb24", None),
    ("video.swf", "flv", "yuv420p", None),
    ("video.dv", "dvvideo", "yuv411p", (720, 480)),
    ("video.rm", "rv20", "yuv420p", (176, 144)),
    ("video.h261", "h261", "yuv420p", (176, 144)),
    ("video.h263", "h263", "yuv420p", (176, 144)),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "size"), FILES, ids=[name for name, *_ in FILES])
def test_a_file_of_any_common_kind_gives_its_frames(make_video, name, codec, pix_fmt, size):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg here has no encoder {codec}")
    options = FAST_VP9 if "vpx" in codec else {"preset": "12"} if codec == "libsvtav1" else {}
    container_format = "ogg" if name.endswith("ogv") else None
    width, height = size or (96, 64)
    path = make_video(
        name,
        6,
        width=width,
        height=height,
        codec=codec,
        pix_fmt=pix_fmt,
        options=options,
        container_format=container_format,
    )
    with open_video(path) as video:
        assert [frame_number(frame) for frame in video.read(range(video.num_frames))] == list(range(6))


def test_every_container_on_the_lists_is_one_that_ffmpeg_reads():
    names = {name for listed in av.formats_available for name in listed.split(",")}
    readable = {name for name in names if is_readable(name)}
    assert set(VIDEO_CONTAINERS) | set(IMAGE_CONTAINERS) <= readable


def is_readable(name: str) -> bool:
    try:
        return av.format.ContainerFormat(name, "r").is_input
    except ValueError:
        return False


def test_nothing_that_opens_other_files_is_on_the_lists():
    others = {
        "concat",
        "dash",
        "hls",
        "applehttp",
        "imf",
        "rtsp",
        "sdp",
        "webm_dash_manifest",
        "lavfi",
        "mlv",
    }
    assert not others & (set(VIDEO_CONTAINERS) | set(IMAGE_CONTAINERS))
