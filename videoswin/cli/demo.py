"""Classify a generated clip and a video of the user, and write an HTML page with the predictions."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template

import av
import numpy as np
from torch import Tensor

from videoswin._errors import VideoError
from videoswin._text import printable
from videoswin.camera_motion.camera import (
    LABELS,
    MotionRange,
    camera_path,
    to_pixels,
    view_from_base,
    warp,
)
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import landscape
from videoswin.inference.prediction import Prediction
from videoswin.inference.predictor import Predictor
from videoswin.video.reader import open_video

SECONDS, FPS = 2.0, 30
HEIGHT, WIDTH = 240, 320
FRAMES_PER_VIDEO = 6
"""Number of frames of each video on the page."""
THUMBNAIL_HEIGHT = 120
"""Height of these frames in pixels."""


def run_demo(
    video: str | None, *, model: str = "camera-motion", out: str = "demo", license: str | None = None
) -> tuple[list[Prediction | VideoError], Path]:
    """Classify a generated clip and `video`, and write an HTML page with the predictions.

    Args:
        video: Path of a video of the user; None classifies the generated clip only.
        model: Catalog name, bundled name or file.
        out: Folder for the generated clip and the page.
        license: License of restricted weights, repeated to accept it.

    Returns:
        The predictions, with a VideoError for a `video` that cannot be read, and the path of the page. The
        page has no section for a video that cannot be read.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "pan-right.mp4"
    make_clip("pan right", clip)
    predictor = Predictor.from_pretrained(model, license=license)
    results = list(predictor.predict_all([clip, *([video] if video else [])]))
    page = folder / "index.html"
    predictions = [result for result in results if isinstance(result, Prediction)]
    page.write_text(render_page(predictions), encoding="utf-8")
    return results, page


def make_clip(movement: str, path: Path) -> None:
    """Write an H.264 video of a moving hand-held camera: 2 seconds, 320x240 pixels, 30 frames/s.

    Args:
        movement: One of LABELS of the camera-motion model.
        path: File to write.
    """
    rng = np.random.default_rng(7)
    scene = landscape(rng, 640)
    times = np.arange(round(SECONDS * FPS)) / FPS
    steady = MotionRange(slowest=0.15, fastest=0.15, shake=0.004, easing=0.0)
    poses = camera_path(rng, LABELS.index(movement), times, SECONDS, steady)
    scene_from_base = view_from_base(poses, WIDTH / HEIGHT, width=WIDTH / HEIGHT)
    frames = warp(scene, scene_from_base, (HEIGHT, WIDTH), outside="reflection")
    write_h264(path, to_pixels(frames), fps=FPS, crf=20)


def render_page(predictions: Sequence[Prediction]) -> str:
    """Return a self-contained HTML page with the frames and scores of each video."""
    return _PAGE.substitute(sections="\n".join(_section(prediction) for prediction in predictions))


def _section(prediction: Prediction) -> str:
    """Return the HTML section of a video: frames, top-5 classes and their probabilities."""
    rows = "\n".join(
        f"<tr><th>{_escape(label)}</th>"
        f'<td><div class="bar" style="width:{100 * probability:.2f}%"></div></td>'
        f"<td>{100 * probability:.1f} %</td></tr>"
        for label, probability in prediction.top(5)
    )
    return _SECTION.substitute(
        path=_escape(prediction.path),
        summary=_escape(
            f"{prediction.duration_seconds:.1f} s · model {prediction.model} · views {prediction.protocol}"
        ),
        damage=f'<p class="damage">{_escape(prediction.damage)}</p>' if prediction.damage else "",
        frames="\n".join(f'<img alt="" src="{uri}">' for uri in frame_uris(prediction.path)),
        rows=rows,
    )


def _escape(text: str) -> str:
    return html.escape(printable(text))


def frame_uris(path: str) -> list[str]:
    """Return FRAMES_PER_VIDEO evenly spaced frames of a video as data: URIs of small JPEG images."""
    with open_video(path) as video:
        indices = np.linspace(0, video.num_frames - 1, FRAMES_PER_VIDEO).round().astype(int).tolist()
        frames_thwc = video.read(indices)
    return [
        f"data:image/jpeg;base64,{base64.b64encode(_encode_jpeg(frame)).decode()}" for frame in frames_thwc
    ]


def _encode_jpeg(frame_hwc: Tensor) -> bytes:
    """Encode a frame as a JPEG image that is THUMBNAIL_HEIGHT pixels high: uint8 (H, W, 3) -> bytes."""
    height, width, _ = frame_hwc.shape
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_hwc.numpy()), format="rgb24")
    small = frame.reformat(
        width=max(2, round(width * THUMBNAIL_HEIGHT / height)), height=THUMBNAIL_HEIGHT, format="yuvj444p"
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg")
        stream.width, stream.height, stream.pix_fmt = small.width, small.height, "yuvj444p"
        container.mux(stream.encode(small))
        container.mux(stream.encode(None))
    return buffer.getvalue()


_SECTION = Template("""<section>
<h2>$path</h2>
<p>$summary</p>
$damage
<div class="frames">
$frames
</div>
<table>
$rows
</table>
</section>""")

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>videoswin</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430;
         max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
  section { border-top: 1px solid #d5dbe3; padding: .5rem 0 1.5rem; }
  h2 { font-size: 1.1rem; margin-bottom: 0; overflow-wrap: anywhere; }
  p { margin: 0 0 .75rem; color: #5b6878; }
  .damage { color: #a3420a; }
  .frames { display: flex; gap: 4px; overflow-x: auto; }
  .frames img { height: 104px; border-radius: 4px; }
  table { width: 100%; margin-top: .75rem; border-collapse: collapse; }
  th { text-align: left; font-weight: 500; white-space: nowrap; padding-right: 1rem; }
  td:nth-child(2) { width: 100%; }
  td:last-child { text-align: right; white-space: nowrap; padding-left: 1rem;
                  font-variant-numeric: tabular-nums; }
  .bar { background: #2f6fde; height: .8rem; border-radius: 3px; min-width: 1px; }
</style>
<h1>Predictions of videoswin</h1>
$sections
</html>
""")
