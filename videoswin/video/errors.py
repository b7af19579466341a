"""VideoError, which every part of the package raises for a video that cannot be read."""

from __future__ import annotations

import os

from videoswin._errors import VideoSwinError


class VideoError(VideoSwinError):
    """A video that cannot be read: its `path`, and the `reason` in one line."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both, so that it survives pickling
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
