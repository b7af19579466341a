"""Every kind of file gives its frames by number: in one pass, at random, one at a time."""

import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.video.field_pictures import write_fields
from tests.video.numbered import frame_number, numbered_picture, write_video
from videoswin.video import ffmpeg
from videoswin.video.reader import open_video

FILES = Path(__file__).parent / "files"

QUIET_HEVC = "log-level=none"
VP9 = {"deadline": "realtime", "cpu-used": "8"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=10:min-keyint=5"}

# name -> options of write_video
KINDS = {
    "h264.mp4": {"b_frames": 3},
    "h264_open_gop.mp4": {"b_frames": 3, "options": OPEN_GOP},
    "h264_intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=20"}},
    "h264_10_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "h264_444.mp4": {"pix_fmt": "yuv444p"},
    "h264_fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.mkv": {"b_frames": 3},
    "h264.mov": {},
    "h264.ts": {"b_frames": 3},
    "h264.flv": {},
    "h264_without_b_frames.avi": {"b_frames": 0},
    "h264_with_b_frames.avi": {"b_frames": 2},
    "stream.h264": {"b_frames": 2, "fps": 25},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": QUIET_HEVC}},
    "hevc_open_gop.mkv": {
        "codec": "libx265",
        "options": {"x265-params": f"{QUIET_HEVC}:open-gop=1:keyint=10"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "vp9_hidden_frames.webm": {
        "codec": "libvpx-vp9",
        "options": {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4_without_b_frames.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4_with_b_frames.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv.wmv": {"codec": "wmv2"},
    "ffv1.mkv": {"codec": "ffv1"},
    "alpha_qtrle.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "alpha_prores.mov": {"codec": "prores_ks", "pix_fmt": "yuva444p10le"},
    "animation.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 25},
    "animation.png": {"codec": "apng", "pix_fmt": "rgba", "container_format": "apng"},
    "late.mkv": {"milliseconds": range(100_000, 102_000, 50), "fps": 20},
    "late.ts": {"milliseconds": range(100_000, 102_000, 50), "fps": 20},
}


def assert_every_frame_is_where_it_belongs(path, num_frames):
    with open_video(path) as video:
        assert video.num_frames == num_frames
        assert [frame_number(frame) for _, frame in video.frames(range(num_frames))] == list(
            range(num_frames)
        )
        assert video.damage is None
        chosen = random.Random(0).choices(range(num_frames), k=12)
        assert [frame_number(frame) for frame in video.read(chosen)] == chosen
        assert [frame_number(video.read([index])[0]) for index in chosen] == chosen
        assert video.damage is None


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_numbered_as_shown(make_video, name):
    path = make_video(name, 40, **KINDS[name])
    assert_every_frame_is_where_it_belongs(path, 40)
    with open_video(path) as video:
        assert video.fps == pytest.approx(KINDS[name].get("fps", 30), rel=1e-6)
        # APNG rounds the display times of frames to a millisecond.
        assert video.duration_seconds == pytest.approx(40 / video.fps, abs=1e-3)
        frames_thwc = video.read([0, 39])
    assert frames_thwc.dtype == torch.uint8
    assert frames_thwc.shape == (2, 64, 96, 3)
    # The lower half is plain orange, whatever the codec. GIF has few colors.
    orange = frames_thwc[:, 44:, 8:-8].float().mean(dim=(0, 1, 2))
    assert (orange - torch.tensor([200.0, 60.0, 30.0])).abs().max() < (30 if "gif" in name else 6)


def test_av1_frames_are_numbered_as_shown(make_video, capfd):
    path = make_video("av1.mkv", 40, codec="libsvtav1", options={"preset": "12"})
    capfd.readouterr()  # the encoder is talkative
    assert_every_frame_is_where_it_belongs(path, 40)


@pytest.mark.parametrize("name", ["varying.mp4", "varying.mkv", "varying.ts"])
def test_frames_of_a_varying_rate_have_their_own_times(make_video, name):
    steps = np.random.default_rng(1).integers(5, 200, 50)
    path = make_video(name, 50, milliseconds=np.cumsum(steps).tolist())
    assert_every_frame_is_where_it_belongs(path, 50)
    with open_video(path) as video:
        assert video.fps == pytest.approx(1000 / steps[1:].mean(), rel=0.05)
        shown = np.cumsum([0, *steps[1:]]) / 1000
        assert [video.seconds(index) for index in range(50)] == pytest.approx(shown, abs=1e-3)
        assert [video.index_at(seconds) for seconds in shown] == list(range(50))
        assert [video.index_at(seconds - 0.003) for seconds in shown[1:]] == list(range(49))
        assert video.duration_seconds == pytest.approx(shown[-1] + 1 / video.fps, abs=1e-3)


@pytest.mark.parametrize(("width", "height"), [(97, 65), (97, 64), (96, 65), (33, 131)])
@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("ffv1", "yuv420p"), ("libx264", "yuv444p"), ("ffv1", "bgr0")]
)
def test_odd_sizes_are_kept(tmp_path, width, height, codec, pix_fmt):
    pictures = [numbered_picture(number, width, height) for number in range(3)]
    path = write_video(tmp_path / "odd.mkv", pictures, codec=codec, pix_fmt=pix_fmt)
    with open_video(path) as video:
        frames_thwc = video.read([0, 1, 2])
    assert frames_thwc.shape == (3, height, width, 3)
    assert [frame_number(frame) for frame in frames_thwc] == [0, 1, 2]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    picture = numbered_picture(0b1011)
    path = write_video(tmp_path / "turned.mp4", [picture] * 3, rotation=degrees, options={"crf": "1"})
    with open_video(path) as video:
        [frame_hwc] = video.read([1])
    expected = np.rot90(picture, degrees // 90)  # a display matrix turns counterclockwise
    assert frame_hwc.shape == expected.shape
    assert np.abs(frame_hwc.numpy().astype(int) - expected).mean() < 3


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("name", "colorspace"), [("ITU601", 6), ("ITU709", 1)])
def test_colors_follow_the_stated_matrix_and_range(tmp_path, name, colorspace, full_range):
    colors = [(200, 60, 30), (30, 180, 60), (20, 40, 220), (240, 240, 240), (12, 12, 12)]
    path = tmp_path / "colors.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = 2 if full_range else 1
        for color in colors:
            picture = np.broadcast_to(np.array(color, np.uint8), (64, 64, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(
                format="yuv420p", dst_colorspace=name, dst_color_range="JPEG" if full_range else "MPEG"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_video(path) as video:
        seen = video.read(range(len(colors))).float().mean(dim=(1, 2))
    assert (seen - torch.tensor(colors)).abs().max() <= 4


def test_recordings_joined_end_to_end_are_read_in_order(make_video):
    """Their timestamps start anew in the middle of the file."""
    path = make_video("joined.ts", 40, b_frames=2)
    path.write_bytes(2 * path.read_bytes())
    with open_video(path) as video:
        shown = [frame_number(frame) for frame in video.read(range(video.num_frames))]
    assert shown == 2 * list(range(40))


def test_frames_whose_timestamps_are_decoding_times_come_in_the_order_decoded():
    """B-frames whose pts equal their dts; FFmpeg, too, decodes 58 of the 60, in this order."""
    with open_video(FILES / "no_ctts_b_frames.mp4") as video:
        shown = [frame_number(frame) for frame in video.read(range(video.num_frames))]
        assert shown == [1, 2, *range(4, 60)]
        chosen = random.Random(0).choices(range(58), k=8)
        assert [frame_number(frame) for frame in video.read(chosen)] == [shown[index] for index in chosen]
        assert video.fps == 30
        assert video.damage is None


@pytest.mark.parametrize("name", ["fields.mp4", "fields.mkv", "fields.ts"])
def test_fields_in_packets_of_their_own_are_counted_as_frames(tmp_path, name):
    path = write_fields(tmp_path / name, 20, fps=25)
    assert_every_frame_is_where_it_belongs(path, 20)
    with open_video(path) as video:
        assert video.fps == 25
        assert video.duration_seconds == pytest.approx(0.8)


def test_what_an_edit_list_cuts_out_is_not_missing():
    with open_video(FILES / "edit_list_trim.mp4") as video:
        assert [frame_number(frame) for frame in video.read(range(video.num_frames))] == list(range(20, 50))
        assert video.damage is None


def test_empty_chunks_of_an_avi_are_not_missing_frames(make_video):
    """FFmpeg fills an AVI of 60 frames a second with empty chunks if there are 30 in a second."""
    path = make_video(
        "v.avi", 30, codec="mpeg4", b_frames=0, fps=60, milliseconds=[i * 1000 // 30 for i in range(30)]
    )
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 50
    assert_every_frame_is_where_it_belongs(path, 30)
    with open_video(path) as video:
        assert video.fps == pytest.approx(30, rel=0.02)


def test_sound_that_starts_late_does_no_harm(make_video):
    """An FLV names no streams: one may turn up long after the file was opened."""
    path = make_video("late_sound.flv", 250)
    mp3_data = b"\x2f" + bytes(400)
    header = b"\x08" + len(mp3_data).to_bytes(3, "big") + bytes(7)
    sound = header + mp3_data + (len(header) + len(mp3_data)).to_bytes(4, "big")
    path.write_bytes(path.read_bytes() + sound)
    assert_every_frame_is_where_it_belongs(path, 250)


def test_a_change_of_size_midway_is_scaled_to_the_first(make_video):
    small, large = make_video("small.h264", 20), make_video("large.h264", 20, width=192, height=96)
    small.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(small) as video:
        frames_thwc = video.read(range(video.num_frames))
    assert frames_thwc.shape == (40, 64, 96, 3)
    assert [frame_number(frame) for frame in frames_thwc] == 2 * list(range(20))


def test_hidden_vp8_frames_are_not_counted(tmp_path):
    cv2 = pytest.importorskip("cv2")  # PyAV cannot encode VP8
    path = tmp_path / "vp8.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 30, (96, 64))
    for number in range(30):
        writer.write(numbered_picture(number)[..., ::-1].copy())
    writer.release()
    with av.open(str(path)) as container:
        hidden = [bytes(packet) for packet in container.demux(video=0)][9]
    shown_bit_cleared = bytes([hidden[0] & ~0x10]) + hidden[1:]
    path.write_bytes(path.read_bytes().replace(hidden, shown_bit_cleared))
    with open_video(path) as video:
        shown = [frame_number(frame) for frame in video.read(range(video.num_frames))]
        assert shown == [*range(9), *range(10, 30)]
        assert video.damage is None


def test_a_single_frame_is_a_video(make_video):
    for name, options in (("one.mp4", {}), ("one.avi", {"codec": "mpeg4"})):
        with open_video(make_video(name, 1, **options)) as video:
            assert video.num_frames == 1
            assert video.fps == 30
            assert frame_number(video.read([0])[0]) == 0


def test_repeats_and_any_order_are_allowed(make_video):
    with open_video(make_video("video.mp4", 40)) as video:
        assert [frame_number(frame) for frame in video.read([39, 0, 7, 7, 39])] == [39, 0, 7, 7, 39]


@pytest.mark.parametrize("indices", [[-1], [40], [0, 40], [0, -3]])
def test_frames_outside_the_video_are_refused(make_video, indices):
    with (
        open_video(make_video("video.mp4", 40)) as video,
        pytest.raises(ValueError, match="indices must be from 0 to 39, got"),
    ):
        video.read(indices)


def test_no_frames_at_all_are_refused(make_video):
    with (
        open_video(make_video("video.mp4", 3)) as video,
        pytest.raises(ValueError, match="indices must have at least one frame, got none"),
    ):
        video.read([])


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts", "long.flv"])
def test_sparse_reads_seek_and_dense_reads_decode_once(make_video, decoded_packets, name):
    path = make_video(
        name, 250, keyframe_every=25, b_frames=2, options={"x264-params": "keyint=25:scenecut=0"}
    )
    with open_video(path) as video:
        video.read([240])
        assert len(decoded_packets) < 60
        decoded_packets.clear()
        video.read([10, 240])
        assert len(decoded_packets) < 100
        decoded_packets.clear()
        video.read([200])
        video.read([201])
        assert len(decoded_packets) < 60
        decoded_packets.clear()
        video.read(range(0, 250, 2))
        assert len(decoded_packets) <= 251  # and the flush


def test_only_the_frames_asked_for_are_converted(make_video, monkeypatch):
    converted = []
    convert = ffmpeg.RgbConverter.__call__
    monkeypatch.setattr(
        ffmpeg.RgbConverter,
        "__call__",
        lambda self, frame: converted.append(0) or convert(self, frame),
    )
    with open_video(make_video("video.mp4", 120)) as video:
        video.read([5, 60, 119, 60])
    assert len(converted) == 3


def test_real_clips_read_the_same_in_one_pass_and_at_random(clips):
    counts = {
        "av1_video.mkv": 125,
        "bt709_full_range.mp4": 30,
        "demo.mp4": 280,
        "flipping_a_pancake.mkv": 310,
        "h264_10bits.mp4": 30,
        "h265_video.mp4": 10,
        "part_0.mp4": 32,
        "test.avi": 164,
        "test.mp4": 300,
        "unordered.mov": 4,
        "video_0.mov": 3,
        "video_90.mov": 3,
    }
    for name, num_frames in counts.items():
        with open_video(clips / name) as video:
            assert video.num_frames == num_frames, name
            chosen = random.Random(0).sample(range(num_frames), k=min(4, num_frames))
            wanted = set(chosen)
            in_one_pass = {
                index: frame for index, frame in video.frames(range(num_frames)) if index in wanted
            }
            for index in chosen:
                assert torch.equal(video.read([index])[0], in_one_pass[index]), (name, index)
            assert video.damage is None, name


def test_a_clip_with_rotation_is_the_other_one_turned(clips):
    with open_video(clips / "video_0.mov") as upright, open_video(clips / "video_90.mov") as turned:
        assert upright.read([0]).shape == (1, 320, 568, 3)
        assert turned.read([0]).shape == (1, 568, 320, 3)
