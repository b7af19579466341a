"""Where crops lie in their frame, read from the pixels of the crops themselves."""

from __future__ import annotations

import torch

from videoswin.video.spec import Crops, Placement
from videoswin.video.views import spatial_crops


def crop_corners(
    height: int, width: int, size: int, crops: Crops, placement: Placement = "official"
) -> list[tuple[int, int]]:
    """(top, left) of each crop: every pixel of the frame holds its own row and column."""
    rows = torch.arange(height).view(1, -1, 1).expand(1, height, width)
    columns = torch.arange(width).view(1, 1, -1).expand(1, height, width)
    cropped = spatial_crops(torch.stack([rows, columns, columns], dim=-1), size, crops, placement)
    return [(int(crop[0, 0, 0, 0]), int(crop[1, 0, 0, 0])) for crop in cropped]
