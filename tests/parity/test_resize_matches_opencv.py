"""The published pipelines resize with OpenCV; ours must show the model the same pixels.

The difference is rounding, as both use fixed-point weights: on waves and on noise alike 0.23 to 0.27 gray
levels on average and 1 at most.
"""

import numpy as np
import pytest
import torch

from videoswin.video.views import resize_short_side

cv2 = pytest.importorskip("cv2")

SIZES = [(256, 340, 224), (240, 320, 224), (720, 1280, 224), (360, 640, 256), (128, 128, 224), (97, 131, 64)]


def smooth_picture(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 11), np.cos(x / 23 - y / 5), np.sin((x * y) ** 0.5 / 9)]
    return np.stack([127.5 + 127.5 * wave for wave in waves], axis=-1).astype(np.uint8)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("picture", [smooth_picture, noise])
@pytest.mark.parametrize(("height", "width", "short_side"), SIZES)
def test_resizing_equals_opencv_bilinear_to_a_gray_level(height, width, short_side, picture):
    frame_hwc = picture(height, width)
    ours = resize_short_side(torch.from_numpy(frame_hwc)[None], short_side, antialias=False)[0].numpy()
    theirs = cv2.resize(frame_hwc, (ours.shape[1], ours.shape[0]), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.mean() <= 0.5
    assert difference.max() <= 1
