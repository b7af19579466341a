import numpy as np
import pytest
import torch

from tests.video.numbered import frame_number, numbered_picture, write_image
from videoswin._errors import VideoError
from videoswin.video.reader import FOLDER_FPS, open_video


def write_images(folder, names, size=(96, 64)):
    for number, name in enumerate(names):
        write_image(folder / name, numbered_picture(number, *size))


def test_images_are_frames_in_natural_order(tmp_path):
    write_images(tmp_path, [f"frame_{number}.png" for number in range(12)])
    with open_video(tmp_path) as video:
        assert video.num_frames == 12
        assert video.fps == FOLDER_FPS
        assert video.duration_seconds == pytest.approx(12 / FOLDER_FPS)
        assert [frame_number(frame) for frame in video.read(range(12))] == list(range(12))
        assert [frame_number(frame) for frame in video.read([11, 2, 2])] == [11, 2, 2]
        assert video.damage is None


def test_every_kind_of_image_is_read(tmp_path):
    names = ["1.jpg", "2.jpeg", "3.png", "4.bmp", "5.webp", "6.PNG"]
    write_images(tmp_path, names)
    with open_video(tmp_path) as video:
        frames_thwc = video.read(range(len(names)))
    assert frames_thwc.dtype == torch.uint8
    assert [frame_number(frame) for frame in frames_thwc] == list(range(len(names)))
    expected = np.stack([numbered_picture(number) for number in range(len(names))])
    assert np.abs(frames_thwc.numpy().astype(int) - expected).mean() < 4


def test_other_files_hidden_ones_and_odd_names_do_no_harm(tmp_path):
    write_images(tmp_path, ["frame %03d.png", "frame é 7.png"])
    write_images(tmp_path, [".frame_0.png"], size=(10, 10))
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "more.png").mkdir()
    with open_video(tmp_path) as video:
        assert sorted(frame_number(frame) for frame in video.read([0, 1])) == [0, 1]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a frame")
    with pytest.raises(VideoError, match=r"the folder must have videos or images .*, got neither"):
        open_video(tmp_path)


def test_images_of_different_sizes_are_refused(tmp_path):
    write_images(tmp_path, ["1.png", "2.png"])
    write_images(tmp_path, ["3.png"], size=(64, 48))
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"96x64 and 64x48 \(3\.png\)"):
        video.read([0, 1, 2])


def test_a_broken_image_is_named(tmp_path):
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "2.png").write_bytes(b"not an image")
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"2\.png cannot be decoded"):
        video.read([0, 1])


def numbers_of(folder):
    with open_video(folder) as video:
        return [frame_number(frame) for frame in video.read(range(video.num_frames))]


@pytest.mark.parametrize("names", ["flow_{}_{:05}.jpg", "{}_{:05}.jpg", "Flow-{}-{}.png"])
def test_optical_flow_beside_the_frames_is_left_out(tmp_path, names):
    write_images(tmp_path, [f"img_{number:05}.jpg" for number in range(1, 4)])
    for axis in "xy":
        write_images(tmp_path, [names.format(axis, number) for number in range(1, 3)], size=(32, 32))
    assert numbers_of(tmp_path) == [0, 1, 2]


def test_flow_alone_is_two_series_if_it_has_two_directions(tmp_path):
    write_images(tmp_path, [f"flow_{axis}_{number}.png" for axis in "xy" for number in range(2)])
    with pytest.raises(VideoError, match=r"one series of images, got 2 named flow_x_#, 2 named flow_y_#"):
        open_video(tmp_path)


def test_two_series_of_frames_are_refused(tmp_path):
    write_images(tmp_path, [f"{camera}_{number}.png" for camera in ("left", "right") for number in range(2)])
    with pytest.raises(VideoError, match=r"2 named left_#, 2 named right_#; keep one of them"):
        open_video(tmp_path)


def test_a_cover_beside_the_frames_is_no_frame(tmp_path):
    write_images(tmp_path, [f"frame_{number}.png" for number in range(3)])
    write_images(tmp_path, ["cover.jpg"], size=(10, 10))
    assert numbers_of(tmp_path) == [0, 1, 2]


def test_frames_named_by_date_and_time_are_one_series(tmp_path):
    write_images(tmp_path, [f"2024-01-0{day}_12-0{minute}.png" for day in (1, 2) for minute in (0, 1)])
    assert numbers_of(tmp_path) == [0, 1, 2, 3]
