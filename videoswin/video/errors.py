"""VideoError, the exception for videos that cannot be read."""

from __future__ import annotations

import os

from videoswin._errors import VideoSwinError


class VideoError(VideoSwinError):
    """Raised for a video that cannot be read; has its `path`, and the `reason` in one line."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both arguments, so that the exception can be pickled
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
