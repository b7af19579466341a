"""An HTML page of one timeline: the video, a lane per class, and click to seek; one file without requests."""

from __future__ import annotations

import html
from string import Template
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from videoswin._text import dump_json, plural, printable

if TYPE_CHECKING:
    from videoswin.analysis.timeline import Segment, Timeline

MAX_LANES: Final = 12
"""Most classes with a lane."""
MAX_POINTS: Final = 2000
"""Most points of a probability curve; of more windows, the largest of each group is drawn."""

_HEIGHT: Final = 40  # of a lane in its own units; its width is the duration in milliseconds


def to_html(timeline: Timeline) -> dict[str, str]:
    """Web page with the video, a lane per class, and click to seek."""
    lanes = [_lane(timeline, index) for index in _lane_classes(timeline)]
    facts = (
        f"{format_seconds(timeline.duration_seconds)} · {plural(len(timeline.segments), 'segment')} · model "
        f"{timeline.model}, {timeline.protocol} · windows of {timeline.window_seconds:.3g} s every "
        f"{timeline.hop_seconds:.3g} s · threshold {timeline.threshold:g}"
    )
    problems = [text for text in (timeline.damage, *timeline.notes) if text]
    page = _PAGE.substitute(
        title=_escape(timeline.path.rsplit("/", 1)[-1]),
        source=html.escape(quote(timeline.path.replace("\\", "/"), safe="/:.")),
        facts=_escape(facts),
        problems="".join(f'<p class="problem">{_escape(text)}</p>' for text in problems),
        lanes="\n".join(lanes) or '<p class="empty">No class has a high probability.</p>',
        rows="\n".join(_row(segment) for segment in timeline.segments),
        # `<` would end the script.
        data=dump_json(
            {
                "duration": timeline.duration_seconds,
                "segments": [[s.start_seconds, s.end_seconds, s.label] for s in timeline.segments],
            }
        ).replace("<", "\\u003c"),
    )
    return {".html": page}


def format_seconds(seconds: float) -> str:
    """Return a time as `1:02:03.4` or `2:03.4`, rounded down."""
    tenths = int(seconds * 10 + 1e-6)
    hours, minutes = tenths // 36000, tenths // 600 % 60
    rest = f"{tenths // 10 % 60:02}.{tenths % 10}"
    return f"{hours}:{minutes:02}:{rest}" if hours else f"{minutes}:{rest}"


def _lane_classes(timeline: Timeline) -> list[int]:
    """Return the classes with a lane: those with segments in order of time, then by largest probability."""
    index_of = {label: index for index, label in enumerate(timeline.labels)}
    with_segments = dict.fromkeys(index_of[segment.label] for segment in timeline.segments)
    peaks = timeline.probabilities.max(0)
    likely = [index for index in np.argsort(-peaks, kind="stable").tolist() if peaks[index] >= 0.1]
    return list(dict.fromkeys([*with_segments, *likely[:3]]))[:MAX_LANES]


def _lane(timeline: Timeline, class_index: int) -> str:
    label = timeline.labels[class_index]
    width = 1000 * timeline.duration_seconds
    times, curve = _thinned(timeline.centers, timeline.probabilities[:, class_index].astype(np.float64))
    points = " ".join(
        f"{1000 * time:.0f},{_HEIGHT * (1 - value):.1f}"
        for time, value in zip(
            [0.0, *times.tolist(), timeline.duration_seconds], [curve[0], *curve, curve[-1]], strict=True
        )
    )
    segments = "".join(
        f'<rect x="{1000 * s.start_seconds:.0f}" width="{1000 * (s.end_seconds - s.start_seconds):.0f}" '
        f'y="0" height="{_HEIGHT}"><title>{_escape(_describe(s))}</title></rect>'
        for s in timeline.segments
        if s.label == label
    )
    return (
        f'<div class="lane"><span class="label" title="{_escape(label)}">{_escape(label)}</span>'
        f'<svg viewBox="0 0 {width:.0f} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'{segments}<polygon points="0,{_HEIGHT} {points} {width:.0f},{_HEIGHT}"/>'
        f'<polyline points="{points}"/></svg></div>'
    )


def _thinned(
    times: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most MAX_POINTS points; each keeps the largest value of its group."""
    size = -(-len(values) // MAX_POINTS)
    starts = np.arange(0, len(values), size)
    return times[starts], np.maximum.reduceat(values, starts)


def _describe(segment: Segment) -> str:
    times = f"{format_seconds(segment.start_seconds)} to {format_seconds(segment.end_seconds)}"
    return f"{segment.label}, {times}, {segment.probability:.0%}"


def _row(segment: Segment) -> str:
    start, end = format_seconds(segment.start_seconds), format_seconds(segment.end_seconds)
    return (
        f'<tr><td><button type="button" data-seek="{segment.start_seconds:.3f}">{start}</button></td>'
        f"<td>{end}</td><td>{_escape(segment.label)}</td><td>{segment.probability:.0%}</td></tr>"
    )


def _escape(text: str) -> str:
    return html.escape(printable(text))


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6878; --line: #d5dbe3; --ground: #fff;
          --bar: #c6dbfb; --curve: #2f6fde; --head: #c2410c; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6eaf0; --soft: #9aa7b6; --line: #333c48; --ground: #14181e;
            --bar: #23406b; --curve: #7fb0ff; --head: #ff9a62; }
  }
  * { box-sizing: border-box; }
  body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
         max-width: 66rem; margin: 1.5rem auto; padding: 0 1rem; }
  h1 { font-size: 1.25rem; margin: 0; overflow-wrap: anywhere; }
  p { margin: .25rem 0; color: var(--soft); }
  .problem { color: var(--head); }
  video { display: block; width: 100%; max-height: 60vh; margin: 1rem 0 .5rem; background: #000;
          border-radius: 6px; }
  #status { display: flex; gap: 1rem; min-height: 1.5rem; font-variant-numeric: tabular-nums; }
  #status output { font-weight: 600; }
  #lanes { position: relative; margin: .5rem 0 1.5rem; cursor: pointer; touch-action: manipulation; }
  .lane { display: grid; grid-template-columns: 9rem 1fr; align-items: center; gap: .75rem;
          border-top: 1px solid var(--line); }
  .label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: .9rem; }
  .lane svg { width: 100%; height: 2.5rem; display: block; }
  rect { fill: var(--bar); }
  polygon { fill: var(--curve); opacity: .18; }
  polyline { fill: none; stroke: var(--curve); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
  #head { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: var(--head);
          pointer-events: none; }
  #seek { width: calc(100% - 9.75rem); margin-left: 9.75rem; accent-color: var(--head); }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-top: 1px solid var(--line); }
  th { font-weight: 500; color: var(--soft); }
  td button { font: inherit; color: var(--curve); background: none; border: 0; padding: 0; cursor: pointer;
              text-decoration: underline; }
  tr.now td { background: var(--bar); }
  @media (max-width: 40rem) {
    .lane { grid-template-columns: 1fr; gap: 0; }
    #seek { width: 100%; margin-left: 0; }
  }
</style>
<h1>$title</h1>
<p>$facts</p>
$problems
<video id="video" src="$source" controls preload="metadata"></video>
<p id="unplayable" class="problem" hidden>This browser cannot play the video, or the video was moved.</p>
<div id="status"><span id="time">0:00.0</span><output id="now" aria-live="polite"></output></div>
<input id="seek" type="range" min="0" max="1000" value="0" step="any" aria-label="Position in the video">
<div id="lanes">
$lanes
<div id="head" hidden></div>
</div>
<table>
<thead><tr><th>start</th><th>end</th><th>label</th><th>probability</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
<script id="data" type="application/json">$data</script>
<script>
const { duration, segments } = JSON.parse(document.getElementById("data").textContent);
const [video, head, time, now, seek, lanes] =
  ["video", "head", "time", "now", "seek", "lanes"].map((id) => document.getElementById(id));
const rows = [...document.querySelectorAll("tbody tr")];
let position = 0;

function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6), pad = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(tenths / 36000), minutes = Math.floor(tenths / 600) % 60;
  const rest = pad(Math.floor(tenths / 10) % 60) + "." + (tenths % 10);
  return hours ? hours + ":" + pad(minutes) + ":" + rest : minutes + ":" + rest;
}

function show(seconds) {
  position = Math.min(Math.max(seconds, 0), duration);
  time.textContent = clock(position);
  seek.value = 1000 * position / duration;
  seek.setAttribute("aria-valuetext", clock(position));
  const lane = lanes.querySelector("svg");
  if (lane) {
    const box = lane.getBoundingClientRect(), left = box.left - lanes.getBoundingClientRect().left;
    head.style.left = left + box.width * position / duration + "px";
    head.hidden = false;
  }
  const here = segments.map(([start, end]) => start <= position && position < end);
  const text = segments.filter((_, i) => here[i]).map((segment) => segment[2]).join(", ");
  if (now.textContent !== text) now.textContent = text;
  rows.forEach((row, i) => row.classList.toggle("now", here[i]));
}

function go(seconds) {
  if (video.readyState > 0) video.currentTime = seconds;
  show(seconds);
}

lanes.addEventListener("click", (event) => {
  const lane = lanes.querySelector("svg");
  if (!lane) return;
  const box = lane.getBoundingClientRect();
  if (event.clientX >= box.left) go(duration * (event.clientX - box.left) / box.width);
});
seek.addEventListener("input", () => go(duration * seek.value / 1000));
document.querySelectorAll("[data-seek]").forEach((button) =>
  button.addEventListener("click", () => go(Number(button.dataset.seek))));
video.addEventListener("timeupdate", () => show(video.currentTime));
video.addEventListener("seeking", () => show(video.currentTime));
video.addEventListener("error", () => { document.getElementById("unplayable").hidden = false; });
addEventListener("resize", () => show(position));
(function follow() { if (!video.paused) show(video.currentTime); requestAnimationFrame(follow); })();
show(0);
</script>
</html>
""")
