"""Copies have the same frames, other encodings look alike, and nothing else does."""

import hashlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.numbered import numbered_picture, write_image, write_video
from videoswin._errors import VideoError
from videoswin.data.fingerprint import (
    SCENE_TOLERANCE,
    StreamFacts,
    VideoFacts,
    are_mirrored,
    examine_video,
    find_same_scenes,
    find_similar_videos,
)
from videoswin.video.reader import open_video


def film(seed: int, num_frames: int = 48) -> list[np.ndarray]:
    """Pictures (128, 192, 3) of a soft colored pattern that moves to the side."""
    noise = np.random.default_rng(seed).normal(size=(128, 192, 3)) * [[[1.0, 0.9, 0.8]]]
    frequencies = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(192))[..., None]
    soft = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * (frequencies < 0.04), axes=(0, 1)).real
    picture = (120 + 30 * soft / soft.std()).clip(0, 255).astype(np.uint8)
    return [np.roll(picture, number, axis=1) for number in range(num_frames)]


def facts_of(path: Path) -> VideoFacts:
    return examine_video(str(path), lambda: None)


def remux(source: Path, target: Path) -> Path:
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in reading.demux(video=0):
            if packet.size:
                packet.stream = stream
                writing.mux(packet)
    return target


def test_the_facts_are_those_of_the_file(tmp_path):
    facts = facts_of(write_video(tmp_path / "film.mp4", film(0, 50), fps=25))
    assert (facts.num_frames, facts.fps, facts.width, facts.height) == (50, 25, 192, 128)
    assert (facts.duration_seconds, facts.damage) == (2.0, None)


def test_a_copy_in_another_container_has_the_same_pictures(tmp_path):
    original = write_video(tmp_path / "film.mp4", film(0))
    copy = remux(original, tmp_path / "film.mkv")
    assert facts_of(copy).pictures_digest == facts_of(original).pictures_digest
    assert facts_of(copy).bytes_digest != facts_of(original).bytes_digest


def test_one_changed_pixel_makes_other_pictures(tmp_path):
    lossless = {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"crf": "0"}}
    changed = [picture.copy() for picture in film(0)]
    changed[40][5, 5] += 1
    one = facts_of(write_video(tmp_path / "one.mp4", film(0), **lossless))
    other = facts_of(write_video(tmp_path / "other.mp4", changed, **lossless))
    assert one.pictures_digest != other.pictures_digest
    assert one.thumbnails == other.thumbnails


@pytest.mark.parametrize(
    "options",
    [
        {"options": {"crf": "33"}},
        {"codec": "mpeg4", "options": {"b": "1M"}},
        {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    ],
    ids=["smaller", "mpeg4", "mjpeg"],
)
def test_another_encoding_looks_alike(tmp_path, options):
    one = facts_of(write_video(tmp_path / "one.mp4", film(0)))
    other = facts_of(write_video(tmp_path / "other.mkv", film(0), **options))
    assert one.pictures_digest != other.pictures_digest
    assert find_similar_videos([one, other]) == [[0, 1]]


def test_another_size_and_rate_look_alike(tmp_path):
    one = facts_of(write_video(tmp_path / "one.mp4", film(0, 64), fps=30))
    half = [picture[::2, ::2] for picture in film(0, 64)[::2]]
    other = facts_of(write_video(tmp_path / "other.mp4", half, fps=15))
    assert find_similar_videos([one, other]) == [[0, 1]]


def test_the_duration_of_a_varying_rate_is_that_of_its_timestamps(tmp_path):
    milliseconds = [*range(0, 1000, 50), *range(1000, 5000, 200)]
    facts = facts_of(write_video(tmp_path / "v.mp4", film(0, 40), milliseconds=milliseconds))
    assert facts.num_frames == 40
    assert facts.duration_seconds == pytest.approx(5, abs=0.2)


def test_other_films_later_beginnings_and_reversals_do_not_look_alike(tmp_path):
    films = [film(0), film(1), film(0, 56)[8:], film(0)[::-1]]
    facts = [facts_of(write_video(tmp_path / f"{i}.mp4", pictures)) for i, pictures in enumerate(films)]
    assert find_similar_videos(facts) == []


def test_a_mirrored_film_looks_alike_and_is_known_as_mirrored(tmp_path):
    films = [film(0), [picture[:, ::-1] for picture in film(0)], film(0)]
    facts = [facts_of(write_video(tmp_path / f"{i}.mp4", pictures)) for i, pictures in enumerate(films)]
    assert find_similar_videos(facts[:2]) == [[0, 1]]
    assert are_mirrored(facts[0], facts[1])
    assert not are_mirrored(facts[0], facts[2])


def test_eight_frames_tell_as_much_about_copies_as_all_do(tmp_path):
    write_video(tmp_path / "one.mp4", film(0))
    write_video(tmp_path / "other.mkv", film(0), options={"crf": "30"})
    write_video(tmp_path / "single.mp4", film(1)[:1])
    one, other, single = (
        examine_video(str(tmp_path / name), lambda: None, sampled=True)
        for name in ("one.mp4", "other.mkv", "single.mp4")
    )
    whole = facts_of(tmp_path / "one.mp4")
    assert (one.num_frames, one.width, one.bytes_digest) == (
        whole.num_frames,
        whole.width,
        whole.bytes_digest,
    )
    assert find_similar_videos([one, other, single]) == [[0, 1]]
    assert single.num_frames == 1
    assert len(set(np.frombuffer(single.thumbnails, np.uint8).reshape(8, -1)[:, 0])) == 1


def test_films_of_other_lengths_do_not_look_alike(tmp_path):
    still = [film(0)[0]]
    short, long = (facts_of(write_video(tmp_path / f"{n}.mp4", still * n)) for n in (30, 40))
    assert find_similar_videos([short, long]) == []


def test_whatever_a_chain_of_pairs_connects_is_one_group():
    def two_tone(one: int, other: int) -> VideoFacts:
        return replace(PLAIN, path=f"{one} {other}", thumbnails=bytes([one, other]) * (8 * 8 * 8 * 3 // 2))

    # First and second are alike, third and fourth, and last first and fourth.
    chain = [two_tone(57, 54), two_tone(50, 50), two_tone(42, 62), two_tone(50, 62)]
    assert find_similar_videos([two_tone(200, 9), *chain]) == [[1, 2, 3, 4]]
    assert find_similar_videos(chain[1:]) == [[1, 2]]
    assert find_similar_videos([]) == []


PLAIN = VideoFacts(
    path="plain.mp4",
    num_frames=90,
    fps=30.0,
    width=340,
    height=256,
    damage=None,
    bytes_digest="bytes",
    pictures_digest="pictures",
    thumbnails=b"",
)


def test_a_single_frame_and_a_folder_of_frames_are_examined(tmp_path):
    single = facts_of(write_video(tmp_path / "single.mp4", film(0, 1)))
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        write_image(folder / f"{number}.png", numbered_picture(number))
    frames = facts_of(folder)
    assert (single.num_frames, frames.num_frames, frames.bytes_digest) == (1, 3, None)
    assert len(single.thumbnails) == len(frames.thumbnails) == 8 * 8 * 8 * 3


def test_frames_behind_a_broken_end_do_not_count(tmp_path):
    path = write_video(tmp_path / "film.mp4", film(0, 120), container_options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    facts = facts_of(path)
    pictures = hashlib.sha256()
    with open_video(path) as video:
        for _, frame_hwc in video.frames(range(facts.num_frames)):
            pictures.update(b"128 192 " + frame_hwc.numpy().tobytes())
    assert facts.pictures_digest == pictures.hexdigest()
    assert 0 < facts.num_frames < 120
    assert f"decoding ends after {facts.num_frames} of its 120 frames" in (facts.damage or "")


def test_signs_of_life_come_while_a_long_video_is_examined(tmp_path):
    signs = []
    examine_video(str(write_video(tmp_path / "film.mp4", film(0, 1) * 320)), lambda: signs.append(1))
    assert len(signs) > 10


def test_what_is_no_video_raises(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("not a video")
    with pytest.raises(VideoError):
        facts_of(path)


def test_a_varying_rate_and_the_codec_are_read_from_the_file(tmp_path):
    with av.open(str(tmp_path / "varying.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = (number if number < 15 else 2 * number - 15), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    constant = facts_of(write_video(tmp_path / "constant.mp4", film(0, 30)))
    varying = facts_of(tmp_path / "varying.mp4")
    assert varying.stream == StreamFacts(codec="h264", variable_rate=True)
    assert (constant.stream.codec, constant.stream.variable_rate) == ("h264", False)


def test_a_chain_of_alike_videos_is_not_one_scene():
    """Light that grows by 10 levels from each video to the next: neighbors are near, the ends are not."""
    levels = [10, 20, 30, 40, 50, 200, 201]
    shown = [replace(PLAIN, path=str(level), thumbnails=bytes([level]) * (8 * 8 * 8 * 3)) for level in levels]
    scenes = find_same_scenes(shown)
    assert [5, 6] in scenes
    for scene in scenes:
        assert max(levels[i] for i in scene) - min(levels[i] for i in scene) <= SCENE_TOLERANCE
    assert find_same_scenes(shown[:2]) == [[0, 1]]
    assert find_same_scenes([]) == []
