"""H.264 in memory and in files keeps the content, order and size of frames."""

import pytest
import torch

from videoswin.camera_motion.clips import through_h264, write_h264
from videoswin.video.reader import open_video


@pytest.fixture
def video() -> torch.Tensor:
    """Twelve frames (12, 48, 66, 3), each of one gray of its own, brighter and brighter."""
    return (torch.arange(12, dtype=torch.uint8) * 20)[:, None, None, None].expand(12, 48, 66, 3).contiguous()


def test_memory_gives_the_kept_frames_in_order(video):
    kept = through_h264(video, crf=18, preset="veryfast", keep=[0, 5, 11])
    assert kept.shape == (3, 48, 66, 3)
    assert (kept.int() - video[[0, 5, 11]].int()).abs().max() <= 4


def test_a_file_reads_back_as_it_was_written(video, tmp_path):
    write_h264(tmp_path / "video.mp4", video, fps=30, crf=18)
    with open_video(tmp_path / "video.mp4") as reader:
        assert reader.num_frames == 12
        assert reader.fps == 30
        assert (reader.read(list(range(12))).int() - video.int()).abs().max() <= 4
