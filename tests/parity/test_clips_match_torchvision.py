"""The clips of torchvision's evaluation: VideoClips resamples and unfolds, UniformClipSampler picks."""

import pytest
import torch

from videoswin.video.sampling import sample_clips
from videoswin.video.spec import ClipSpec, ViewPlan

video_utils = pytest.importorskip("torchvision.datasets.video_utils")


@pytest.mark.parametrize("fps", [10.0, 15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0])
@pytest.mark.filterwarnings("ignore:There aren't enough frames")
def test_clips_match_torchvision_for_every_length_up_to_600(fps):
    clip = ClipSpec(frames=32, stride=1, fps=15.0)
    views = ViewPlan(clips=12, crops=1, placement="torchvision")
    for num_frames in range(1, 601):
        frames = torch.arange(num_frames)
        theirs, _ = video_utils.VideoClips.compute_clips_for_video(frames, 32, 1, fps, 15)
        if len(theirs) == 0:  # too short: torchvision drops the video, we loop it
            continue
        chosen = torch.linspace(0, len(theirs) - 1, steps=12).floor().to(torch.int64)
        assert sample_clips(num_frames, fps, clip, views) == theirs[chosen].tolist(), num_frames
