"""What a file may cost is bounded: frames, pixels, samples and time, before any memory is allocated."""

from __future__ import annotations

import itertools
import shutil
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.video.numbered import numbered_picture, write_image, write_video
from videoswin._errors import InputError, VideoError
from videoswin.data.dataset import read_random_clip
from videoswin.video import ffmpeg
from videoswin.video.limits import ReadLimits, WorkBudget, count_claimed_samples
from videoswin.video.reader import open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import PROTOCOLS, ClipSpec, ViewPlan, apply_protocol
from videoswin.video.views import load_views

SMALL = ClipSpec(frames=4, stride=1, size=32, short_side=32)
TWO_CLIPS = ViewPlan(clips=2, crops=1)


def write_gif(path: Path, width: int, height: int, num_frames: int) -> Path:
    """An animation of a few bytes a frame, whatever the size: each draws one pixel only."""
    frame = b"!\xf9\x04\0\n\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0"
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(b"GIF89a" + screen + frame * num_frames + b";")
    return path


def replace_field(path: Path, name: bytes, offset: int, value: int) -> Path:
    """Write a 32-bit number `offset` bytes after the name of a box."""
    content = bytearray(path.read_bytes())
    position = content.index(name) + 4 + offset
    content[position : position + 4] = struct.pack(">I", value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("suffix", [".gif", ".apng"])
def test_a_long_thin_frame_is_an_error_of_its_video_by_every_protocol(tmp_path, protocol, suffix):
    path = tmp_path / f"line{suffix}"
    if suffix == ".gif":
        write_gif(path, 65_535, 1, 3)
    else:
        write_video(
            path,
            [np.zeros((1, 50_000, 3), np.uint8)] * 2,
            codec="apng",
            pix_fmt="rgb24",
            container_format="apng",
        )
    with pytest.raises(VideoError, match=r"must be at most max_aspect_ratio = 100, got \d+x1 pixels"):
        load_views(path, *apply_protocol(protocol, ClipSpec()))


def test_a_long_thin_frame_is_an_error_in_training_and_in_a_folder(tmp_path):
    path = write_gif(tmp_path / "line.gif", 1, 30_000, 3)
    with pytest.raises(VideoError, match="1x30000"), open_video(path) as video:
        read_random_clip(video, SMALL, np.random.default_rng(0))
    folder = tmp_path / "frames"
    folder.mkdir()
    write_image(folder / "0.png", np.zeros((1, 101, 3), np.uint8))
    with open_video(folder) as video, pytest.raises(VideoError, match="101x1") as refused:
        video.read([0])
    assert refused.value.path == str(folder)
    with open_video(folder, limits=ReadLimits(max_aspect_ratio=101)) as video:
        assert video.read([0]).shape == (1, 1, 101, 3)


def test_frames_too_large_to_hold_are_refused(make_video, tmp_path):
    limits = ReadLimits(max_frame_pixels=96 * 64 - 1)
    with pytest.raises(VideoError, match="at most max_frame_pixels = 6143 pixels, got 96x64"):
        open_video(make_video("video.mp4", 3), limits=limits)
    with pytest.raises(VideoError, match="max_frame_pixels = 6143"):
        open_video(write_gif(tmp_path / "animation.gif", 96, 64, 3), limits=limits)
    folder = tmp_path / "frames"
    folder.mkdir()
    write_image(folder / "0.png", np.zeros((64, 96, 3), np.uint8))
    with open_video(folder, limits=limits) as video, pytest.raises(VideoError, match=r"96x64|0\.png"):
        video.read([0])


def test_video_of_8k_is_within_the_limits_and_frames_of_gigabytes_are_not(tmp_path):
    with open_video(write_gif(tmp_path / "8k.gif", 8192, 4320, 2)) as video:
        assert video.num_frames == 2
    with pytest.raises(VideoError, match="max_frame_pixels"):
        open_video(write_gif(tmp_path / "huge.gif", 8191, 8191, 2000))


def test_pixels_that_are_decoded_are_budgeted_by_the_size_of_the_file(tmp_path):
    path = write_gif(tmp_path / "many.gif", 640, 480, 400)
    per_byte = 640 * 480 * 100 // path.stat().st_size
    limits = ReadLimits(max_decoded_pixels=1, max_decoded_pixels_per_byte=per_byte)
    with pytest.raises(VideoError, match=r"at most \d+ pixels may be decoded from its \d+ bytes"):
        load_views(path, SMALL, TWO_CLIPS, limits=limits)
    generous = ReadLimits(max_decoded_pixels=640 * 480 * 410, max_decoded_pixels_per_byte=1)
    assert load_views(path, SMALL, TWO_CLIPS, limits=generous).pixels.shape == (2, 3, 4, 32, 32)


def test_time_spent_in_decoding_is_budgeted(make_video, monkeypatch):
    clock = itertools.count(0, 20)
    monkeypatch.setattr(ffmpeg.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(VideoError, match=r"decoding must take at most max_seconds = 50, got 80\.0 s"):
        load_views(make_video("video.mp4", 30), SMALL, TWO_CLIPS, limits=ReadLimits(max_seconds=50))


def test_a_training_clip_is_refused_before_its_frames_are_in_memory_together(make_video):
    limits = ReadLimits(max_clip_pixels=4 * 96 * 64 - 1)
    with (
        open_video(make_video("video.mp4", 8), limits=limits) as video,
        pytest.raises(VideoError, match="at most 24575 pixels, got 4 frames of 96x64"),
    ):
        read_random_clip(video, SMALL, np.random.default_rng(0))


@pytest.mark.parametrize("field", ["max_frame_pixels", "max_aspect_ratio", "max_seconds"])
def test_limits_are_positive(field):
    with pytest.raises(InputError, match=f"{field} must be > 0, got 0"):
        ReadLimits(**{field: 0})


def write_fragmented(path: Path) -> Path:
    return write_video(
        path,
        [numbered_picture(number) for number in range(20)],
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )


def test_samples_that_do_not_exist_are_refused_before_ffmpeg_allocates_them(
    make_video, tmp_path, monkeypatch
):
    hostile = [
        replace_field(make_video("table.mp4", 20), b"stsz", 8, 80_000_000),
        replace_field(replace_field(make_video("same.mp4", 20), b"stsz", 8, 80_000_000), b"stsz", 4, 1),
        replace_field(write_fragmented(tmp_path / "fragments.mp4"), b"trun", 4, 80_000_000),
    ]
    monkeypatch.setattr(ffmpeg.av, "open", lambda *args, **kwargs: pytest.fail("it was opened"))
    for path in hostile:
        with pytest.raises(VideoError, match=r"a file of \d+ bytes cannot have the claimed 80\d{6} frames"):
            open_video(path)


def test_a_compressed_header_hides_no_samples(make_video):
    path = replace_field(make_video("video.mp4", 20), b"stsz", 8, 80_000_000)
    content = path.read_bytes()
    start = content.index(b"moov") - 4
    moov = content[start:]
    compressed = struct.pack(">I", len(moov)) + zlib.compress(moov)
    boxes = box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", compressed))
    path.write_bytes(content[:start] + box(b"moov", boxes))
    assert count_claimed_samples(path) == 80_000_000


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def test_a_header_in_disguise_hides_no_samples(make_video):
    path = replace_field(make_video("video.mp4", 20), b"stsz", 8, 80_000_000)
    content = path.read_bytes().replace(b"moov", b"free")
    path.write_bytes(box(b"abcd", b"") + content)
    assert count_claimed_samples(path) == 80_000_000


def test_an_edit_list_that_repeats_the_film_counts_every_repetition(make_video):
    path = make_video("video.mp4", 20)
    content = path.read_bytes()
    start = content.index(b"elst") - 4
    (length,) = struct.unpack_from(">I", content, start)
    edits = struct.pack(">IIIHH", 667, 0, 1, 0, 0)[:12] * 1000
    table = box(b"elst", bytes(4) + struct.pack(">I", 1000) + edits)
    content = content[:start] + table + content[start + length :]
    for name in (b"moov", b"trak", b"edts"):
        at = content.index(name) - 4
        (old,) = struct.unpack_from(">I", content, at)
        content = content[:at] + struct.pack(">I", old + len(table) - length) + content[at + 4 :]
    path.write_bytes(content)
    assert count_claimed_samples(path) == 20 * 1000 // 2


def test_ordinary_files_claim_the_frames_that_they_have(make_video, tmp_path):
    assert count_claimed_samples(make_video("video.mp4", 20)) == 20
    first = make_video("first.mov", 20, container_options={"movflags": "faststart"})
    assert count_claimed_samples(first) == 20
    assert count_claimed_samples(write_fragmented(tmp_path / "fragments.mp4")) == 20
    assert count_claimed_samples(make_video("video.mkv", 20)) == 0


def test_uncompressed_sound_is_no_claim(tmp_path):
    """QuickTime counts 48,000 of its samples a second, in 8 bits as many as it has bytes."""
    path = tmp_path / "sound.mov"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("pcm_mulaw", rate=48_000, layout="mono")
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), "s16", "mono")
        frame.rate = 48_000
        container.mux(sound.encode(frame))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    assert count_claimed_samples(path) < path.stat().st_size / 4
    with open_video(path) as video_reader:
        assert video_reader.num_frames == 10


def test_a_file_of_a_thousand_tracks_is_refused(make_video):
    """FFmpeg opens a decoder for each: 0.8 GB for a file of 0.7 MB."""
    path = make_video("video.mp4", 3)
    content = path.read_bytes()
    start = content.index(b"trak") - 4
    (length,) = struct.unpack_from(">I", content, start)
    content = content[: start + length] + content[start : start + length] * 999 + content[start + length :]
    moov = content.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", content, moov)
    path.write_bytes(content[:moov] + struct.pack(">I", size + 999 * length) + content[moov + 4 :])
    with pytest.raises(VideoError):
        open_video(path)


def test_packets_that_overlap_in_the_file_are_no_work_without_end(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(bytes(1000))
    budget = WorkBudget(path, ReadLimits(), num_bytes=1000)
    budget.require_num_frames(100, packet_bytes=100 * 500)
    with pytest.raises(VideoError, match="must not be much larger than the file of 1000 bytes, got"):
        budget.require_num_frames(101, packet_bytes=2**29)


def test_more_packets_than_the_limit_are_refused_while_they_are_listed(make_video):
    for name in ("video.mkv", "video.ts"):
        with pytest.raises(VideoError, match="at most max_frames = 10 frames, got 11"):
            open_video(make_video(name, 20), limits=ReadLimits(max_frames=10))


def test_a_video_that_claims_to_last_for_years_is_resampled_frame_by_frame():
    clip, views = apply_protocol("torchvision-15fps-12x1", ClipSpec())
    indices = {index for clip_of in sample_clips(40, 1e-8, clip, views) for index in clip_of}
    assert min(indices) >= 0
    assert max(indices) < 40


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("itself.mp4", "ffconcat version 1.0\nfile itself.mp4\n"),
        ("other.ffconcat", "ffconcat version 1.0\nfile video.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nvideo.ts\n#EXT-X-ENDLIST\n"),
        (
            "manifest.mpd",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
            '<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>video.mp4</BaseURL>'
            "</Representation></AdaptationSet></Period></MPD>",
        ),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_playlists_open_nothing(make_video, tmp_path, monkeypatch, name, content):
    make_video("video.mp4", 3)
    make_video("video.ts", 3)
    (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)  # the names in a playlist are relative
    with pytest.raises(VideoError, match="the file is not a video"):
        open_video(name)


def test_a_playlist_in_a_folder_of_images_opens_nothing(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    write_image(tmp_path / "secret.png", numbered_picture(1))
    (folder / "0.png").write_text("ffconcat version 1.0\nfile ../secret.png\n")
    with open_video(folder) as video, pytest.raises(VideoError, match=r"0\.png cannot be decoded"):
        video.read([0])


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
HOSTILE = (
    *("line.apng", "line65k.gif", "many_samples_stsz.mp4", "many_samples_trun.mp4"),
    *("gif_8191px_2000_frames.gif", "ffconcat_of_itself.mp4"),
)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the hostile files are not at {CASES}")
@pytest.mark.parametrize("name", HOSTILE)
def test_the_hostile_files_that_were_found_are_refused(tmp_path, monkeypatch, name):
    shutil.copyfile(CASES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError):
        load_views(name, ClipSpec(), ViewPlan())


def test_read_needs_no_second_copy_of_its_frames(make_video):
    with open_video(make_video("video.mp4", 10)) as video:
        frames = video.read([3, 1, 3])
        assert torch.equal(frames[0], frames[2])
        assert torch.equal(frames[1], video.read([1])[0])
