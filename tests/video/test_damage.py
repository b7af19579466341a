"""What is no video is refused with a reason; what is broken gives what can be decoded, and says so."""

import itertools
import os
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.numbered import frame_number, write_image
from videoswin._errors import VideoError
from videoswin.video import ffmpeg
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import open_video

FIRST_INDEX_THEN_DATA = {"movflags": "faststart"}


def write_sound(path: Path, codec: str, *, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 1)
            container.mux(picture.encode(frame.reformat(format="yuvj420p")))
            container.mux(picture.encode(None))
        to_codec = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 22050), np.float32), "fltp", "stereo")
        silence.rate, silence.pts = 44100, 0
        for frame in to_codec.resample(silence):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def not_videos(folder: Path) -> dict[str, tuple[Path, str]]:
    """What it is -> (where, the reason that is given)."""
    text, notes, empty, playlist = (
        folder / name for name in ("text.mp4", "notes.txt", "empty.mp4", "list.mp4")
    )
    zeros, noise, pipe, loop = (folder / name for name in ("zeros.mp4", "noise.mkv", "pipe.mp4", "loop.mp4"))
    text.write_text("This is not a video.\n" * 50)
    notes.write_text("Nor is this.\n" * 50)
    empty.write_bytes(b"")
    playlist.write_text("ffconcat version 1.0\nfile sound.mp4\n")
    zeros.write_bytes(bytes(100_000))
    noise.write_bytes(np.random.default_rng(0).bytes(100_000))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    return {
        "missing": (folder / "missing.mp4", "there is no such file"),
        "a dangling link": (loop, "there is no such file"),
        "an address": (Path("http://localhost:1/video.mp4"), "there is no such file"),
        "empty": (empty, "the file is empty"),
        "text": (text, "the file is not a video"),
        "text that FFmpeg would draw": (notes, "the file is not a video"),
        "a playlist": (playlist, "the file is not a video"),
        "zeros": (zeros, "the file is not a video"),
        "noise": (noise, "the file is not a video"),
        "a pipe": (pipe, "the path must be a regular file or a folder"),
        "a device": (Path("/dev/zero"), "the path must be a regular file or a folder"),
        "sound": (write_sound(folder / "sound.mp4", "aac"), "the file has no video stream"),
        "music with a cover": (
            write_sound(folder / "song.mp4", "aac", cover=True),
            "the file has no video stream",
        ),
        "music": (write_sound(folder / "song.mp3", "libmp3lame", cover=True), "the file is not a video"),
        "an image": (
            write_image(folder / "one.png", np.zeros((8, 8, 3), np.uint8)),
            "the file is not a video",
        ),
    }


def test_what_is_no_video_is_refused_with_a_reason(tmp_path):
    for what, (path, reason) in not_videos(tmp_path).items():
        with pytest.raises(VideoError) as refused:
            open_video(path)
        assert refused.value.path == str(path), what
        assert refused.value.reason.startswith(reason), what
        assert str(refused.value) == f"{path}: {refused.value.reason}"
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(make_video):
    path = make_video("secret.mp4", 3)
    path.chmod(0)
    with pytest.raises(VideoError, match="Permission denied"):
        open_video(path)


def test_video_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(VideoError(Path("a.mp4"), "it is empty")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "it is empty", "a.mp4: it is empty")


@pytest.mark.parametrize("name", ["a:b.mp4", "100%03d.mp4", "é ?*[1].mp4", "no_suffix", "wrong.avi"])
def test_a_name_is_only_a_name(make_video, name):
    path = make_video("video.mp4", 5).rename(make_video("video.mp4", 5).with_name(name))
    with open_video(path) as video:
        assert [frame_number(frame) for frame in video.read(range(5))] == list(range(5))


@pytest.mark.parametrize("share", [0.6, 0.8])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("video.mp4", {"container_options": FIRST_INDEX_THEN_DATA}),
        ("video.mkv", {}),
        ("video.flv", {}),
        ("video.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("video.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    ],
)
def test_a_file_that_is_cut_off_gives_what_is_there_and_says_so(make_video, name, options, share):
    path = make_video(name, 120, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with open_video(path) as video:
        assert 0 < video.num_frames < 120
        shown = [frame_number(frame) for frame in video.read(range(video.num_frames))]
        assert shown[: video.num_readable - 1] == list(range(video.num_readable - 1))
        assert video.damage is not None


@pytest.mark.parametrize("name", ["video.ts", "video.mpg", "video.gif"])
def test_a_stream_that_is_cut_off_gives_what_is_there(make_video, name):
    codec = {"ts": "libx264", "mpg": "mpeg2video", "gif": "gif"}[name[-3:].strip(".")]
    path = make_video(name, 100, codec=codec, pix_fmt="rgb8" if codec == "gif" else "yuv420p", fps=25)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with open_video(path) as video:
        assert 20 < video.num_frames < 90
        shown = [frame_number(frame) for frame in video.read(range(video.num_frames))]
        assert shown[:-3] == list(range(video.num_frames))[:-3]


def test_an_index_that_was_never_written_is_refused(make_video):
    path = make_video("video.mp4", 60)  # an mp4 ends with its index
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(VideoError):
        open_video(path)


def test_a_broken_end_is_found_and_the_last_good_frame_stands_in(make_video):
    path = make_video("video.mp4", 120, container_options=FIRST_INDEX_THEN_DATA)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with open_video(path) as video:
        assert (video.num_frames, video.num_readable, video.damage) == (120, 120, None)
        shown = [frame_number(frame) for frame in video.read(range(120))]
        assert 0 < video.num_readable < 120
        assert f"decoding ends after {video.num_readable} of its 120 frames" in video.damage
        assert len(set(shown[video.num_readable - 1 :])) == 1
        assert frame_number(video.read([119])[0]) == shown[-1]


def test_a_broken_frame_is_replaced_by_its_neighbor(make_video):
    path = make_video("video.mkv", 60, codec="mjpeg", pix_fmt="yuvj420p")
    content = bytearray(path.read_bytes())
    start_of_image = b"\xff\xd8\xff"
    position = 0
    for _ in range(31):  # to the picture of frame 30
        position = content.index(start_of_image, position + 1)
    content[position : position + 600] = bytes(600)
    path.write_bytes(content)
    with open_video(path) as video:
        shown = [frame_number(frame) for frame in video.read(range(60))]
        assert shown == [*range(30), 29, *range(31, 60)]
        assert video.damage == "1 of the frames read cannot be decoded and are replaced by neighbors"


def test_noise_in_the_middle_never_hangs_or_crashes(make_video):
    for name in ("video.mp4", "video.mkv", "video.ts", "video.flv"):
        path = make_video(name, 100)
        for seed in range(5):
            content = bytearray(path.read_bytes())
            for position in np.random.default_rng(seed).integers(200, len(content), 30):
                content[position] ^= 0xFF
            broken = path.with_stem(f"broken_{seed}")
            broken.write_bytes(content)
            try:
                with open_video(broken) as video:
                    assert len(video.read(range(video.num_frames))) == video.num_frames
            except VideoError:
                pass


def test_the_real_damaged_clip_gives_the_frames_around_the_damage(clips):
    with open_video(clips / "corrupted.mp4") as video:
        assert video.num_frames == 50
        assert video.read(range(50)).shape == (50, 720, 1280, 3)
        assert "1 of the frames read cannot be decoded" in video.damage
        assert video.num_readable == 50


def test_a_decoder_that_stalls_is_given_up_on(make_video, monkeypatch):
    clock = itertools.count(0, 20)
    path = make_video("video.mp4", 60, b_frames=3)
    monkeypatch.setattr(ffmpeg.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(VideoError, match=r"the decoder returned no frame for 50 seconds"):
        open_video(path, limits=ReadLimits(stall_seconds=50))
