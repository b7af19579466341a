"""Labeled videos that need no files: facts about them, and the report that follows."""

from collections.abc import Sequence

from videoswin._errors import VideoError
from videoswin.data.check import make_report
from videoswin.data.check.report import DataReport
from videoswin.data.fingerprint import VideoFacts
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.spec import ClipSpec

CLASSES = ("clap", "jump", "wave")


def facts(path: str, **changes: object) -> VideoFacts:
    """A sound video of 10 s that resembles no other."""
    level = sum(path.encode()) % 97
    fields: dict[str, object] = {
        "num_frames": 300,
        "fps": 30.0,
        "width": 320,
        "height": 240,
        "damage": None,
        "bytes_digest": f"bytes of {path}",
        "pictures_digest": f"pictures of {path}",
        "thumbnails": bytes([level * 2, 255 - level * 2]) * (8 * 8 * 8 * 3 // 2),
    }
    return VideoFacts(path=path, **(fields | changes))  # type: ignore[arg-type]


def same_pictures(*paths: str, bytes_too: bool = False) -> list[VideoFacts]:
    """Copies of one video."""
    first = facts(paths[0])
    same = {"pictures_digest": first.pictures_digest, "thumbnails": first.thumbnails}
    return [facts(path, **(same | ({"bytes_digest": "bytes"} if bytes_too else {}))) for path in paths]


def sample(
    path: str, label: str, split: str | None = None, start: float | None = None, end: float | None = None
) -> Sample:
    return Sample(
        path=path, labels=(CLASSES.index(label),), split=split, start_seconds=start, end_seconds=end
    )


def report_of(
    *samples: Sample,
    known: Sequence[VideoFacts | VideoError] = (),
    min_frames: int = 1,
    clip: ClipSpec | None = None,
    source: str = "videos",
) -> DataReport:
    """The report on these samples; videos that are not `known` are sound."""
    manifest = Manifest(source=source, classes=CLASSES, samples=samples)
    examined: dict[str, VideoFacts | VideoError] = {s.path: facts(s.path) for s in samples}
    examined |= {video.path: video for video in known}
    return make_report(manifest, examined, min_frames=min_frames, clip=clip)
