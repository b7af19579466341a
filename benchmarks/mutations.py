"""Fuzz load_views: thousands of damaged copies of video files must give views or a VideoError, nothing else.

Each mutated file is read in a worker process, so that a crash, a hang or excessive memory is attributed to
its file. A mutation depends on the seed and its number only: `--first 7 --count 1` repeats one.

    python -m benchmarks.mutations --clips ../shared/clips --count 10000 --seed 0 --out mutations.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import platform
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.random import Generator

from videoswin._errors import VideoError
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.views import load_views

SECONDS_LIMIT: Final = 10.0
MEGABYTES_LIMIT: Final = 1024
HANG_SECONDS: Final = 120.0
"""Timeout of a worker: it is then killed, and its file counts as a hang."""

_PROC_STATUS: Final = Path("/proc/self/status")

PROTOCOLS: Final = (
    (ClipSpec(frames=8, size=64, short_side=64), ViewPlan(clips=2, crops=3)),
    (
        ClipSpec(frames=8, size=64, short_side=64, fps=15.0),
        ViewPlan(clips=2, crops=1, placement="torchvision"),
    ),
    (ClipSpec(frames=8, size=64, short_side=64, rule="segments"), ViewPlan(clips=1, crops="full")),
)

# (name, encoder, pixel format): one small file of each kind that PyAV can write.
GENERATED: Final = (
    ("h264.mp4", "libx264", "yuv420p"),
    ("fragmented.mp4", "libx264", "yuv420p"),
    ("h264.mkv", "libx264", "yuv420p"),
    ("h264.ts", "libx264", "yuv420p"),
    ("h264.flv", "libx264", "yuv420p"),
    ("h264.h264", "libx264", "yuv420p"),
    ("hevc.mp4", "libx265", "yuv420p"),
    ("vp9.webm", "libvpx-vp9", "yuv420p"),
    ("mpeg4.avi", "mpeg4", "yuv420p"),
    ("mjpeg.mov", "mjpeg", "yuvj420p"),
    ("mpeg2.mpg", "mpeg2video", "yuv420p"),
    ("mpeg2.mxf", "mpeg2video", "yuv420p"),
    ("wmv2.wmv", "wmv2", "yuv420p"),
    ("theora.ogv", "libtheora", "yuv420p"),
    ("animation.gif", "gif", "rgb8"),
    ("animation.apng", "apng", "rgb24"),
)

INDEX_FIELDS: Final = re.compile(
    rb"stsz|stz2|stts|ctts|stsc|stco|co64|stss|elst|trun|tfhd|tfdt|trex|mvhd|mdhd|tkhd|avc1|avcC|hvcC|moov|moof|mdat"
    rb"|idx1|strh|strf|avih|LIST|movi|IHDR|acTL|fcTL|onMetaData"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of reading one mutated file."""

    number: int
    source: str
    kinds: tuple[str, ...]
    answer: str
    """`views`, `VideoError`, `crash`, `hang`, or the name of any other exception."""
    detail: str
    seconds: float
    megabytes: int
    """Peak resident memory of the worker; Python, torch and FFmpeg use about 240 MB of it."""


def flip_bytes(content: bytearray, rng: Generator) -> None:
    """Set up to 40 random bytes to random values."""
    for position in rng.integers(0, len(content), rng.integers(1, 41)):
        content[position] = rng.integers(256)


def flip_header_bytes(content: bytearray, rng: Generator) -> None:
    """Flip one bit in up to 8 bytes of the first or last 1,000, where headers and indices are."""
    reach = min(1000, len(content))
    for offset in rng.integers(-reach, reach, rng.integers(1, 9)):
        content[offset] ^= 1 << int(rng.integers(8))


def zero_span(content: bytearray, rng: Generator) -> None:
    """Set a random span to zero."""
    start, end = _span(content, rng)
    content[start:end] = bytes(end - start)


def duplicate_span(content: bytearray, rng: Generator) -> None:
    """Insert a copy of a random span before it."""
    start, end = _span(content, rng)
    content[start:start] = content[start:end]


def remove_span(content: bytearray, rng: Generator) -> None:
    """Remove a random span."""
    start, end = _span(content, rng)
    del content[start:end]


def truncate(content: bytearray, rng: Generator) -> None:
    """Truncate the file at a random position."""
    del content[int(rng.integers(1, len(content))) :]


def inflate_field(content: bytearray, rng: Generator) -> None:
    """Write an extreme number near the name of a table or header, or near the beginning if there is none."""
    named = [match.end() for match in INDEX_FIELDS.finditer(content)]
    start = int(rng.choice(named)) if named else int(rng.integers(min(400, len(content))))
    position = min(start + int(rng.integers(-8, 33)), len(content) - 4)
    value = int(
        rng.choice([0, 1, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x4C4B400, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    )
    size = int(rng.choice([2, 4, 4, 4]))
    order = "big" if rng.random() < 0.7 else "little"
    content[max(0, position) : max(0, position) + size] = (value & (2 ** (8 * size) - 1)).to_bytes(
        size, order
    )


MUTATIONS: Final[tuple[Callable[[bytearray, Generator], None], ...]] = (
    flip_bytes,
    flip_header_bytes,
    zero_span,
    duplicate_span,
    remove_span,
    truncate,
    inflate_field,
    inflate_field,
)


def mutate(content: bytes, rng: Generator) -> tuple[bytes, tuple[str, ...]]:
    """Return a damaged copy, and the names of the one to three mutations applied."""
    damaged = bytearray(content)
    kinds = []
    for _ in range(int(rng.integers(1, 4))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        if len(damaged) > 8:
            mutation(damaged, rng)
            kinds.append(mutation.__name__)
    return bytes(damaged), tuple(kinds)


def _span(content: bytearray, rng: Generator) -> tuple[int, int]:
    start = int(rng.integers(len(content)))
    length = int(2 ** rng.uniform(0, np.log2(max(2, len(content) / 4))))
    return start, min(start + length, len(content))


def generate_sources(folder: Path) -> list[Path]:
    """Write a small file of each kind in GENERATED whose encoder is available."""
    paths = []
    for name, encoder, pixel_format in GENERATED:
        if encoder in av.codecs_available:
            write_source(folder / name, encoder, pixel_format)
            paths.append(folder / name)
    return paths


def write_source(path: Path, encoder: str, pixel_format: str) -> None:
    """Write 24 frames of 96x64 pixels with a moving pattern."""
    options = {"movflags": "frag_keyframe+empty_moov"} if path.stem == "fragmented" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(encoder, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        stream.codec_context.gop_size = 8
        for number in range(24):
            y, x = np.mgrid[:64, :96]
            waves = [
                128 + 100 * np.sin((x + 3 * number) / 7 + channel) * np.cos(y / 9) for channel in range(3)
            ]
            picture = np.stack(waves, axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _peak_megabytes() -> int:
    """Return the peak resident memory since _forget_peak; outside Linux, since the process started."""
    if _PROC_STATUS.exists():
        peak = re.search(r"VmHWM:\s+(\d+)", _PROC_STATUS.read_text())
        assert peak is not None
        return int(peak[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _serve(connection: Connection) -> None:
    """Run in a worker: read the files whose paths are received, and send the outcome of each."""
    av.logging.set_level(av.logging.PANIC)
    while (task := connection.recv()) is not None:
        path, protocol = task
        _forget_peak()
        began = time.monotonic()
        try:
            answer, detail = "views", str(tuple(load_views(path, *protocol).pixels.shape))
        except VideoError as error:
            answer, detail = "VideoError", error.reason
        except BaseException as error:  # any other exception is a failure to report
            answer, detail = type(error).__name__, str(error)
        connection.send((answer, detail, time.monotonic() - began, _peak_megabytes()))


class Worker:
    """A process that reads files; it is replaced after a crash or a hang."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._connection: Connection

    def _start(self) -> SpawnProcess:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process

    def read(
        self, path: Path, protocol: tuple[ClipSpec, ViewPlan], hang_seconds: float = HANG_SECONDS
    ) -> tuple[str, str, float, int]:
        """Read one file and return answer, detail, seconds and peak megabytes."""
        self._process = self._process or self._start()
        began = time.monotonic()
        answer = "crash"
        try:
            self._connection.send((path, protocol))
            if self._connection.poll(hang_seconds):
                result: tuple[str, str, float, int] = self._connection.recv()
                return result
            answer = "hang"
        except (EOFError, ConnectionError):
            pass
        seconds = time.monotonic() - began
        self._process.join(1.0)
        detail = f"exit code {self._process.exitcode}"
        self.close()
        return answer, detail, seconds, 0

    def close(self) -> None:
        """End the process; the next `read` starts a new one."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._process = None


def run(sources: Sequence[Path], numbers: range, seed: int, *, keep: Path | None = None) -> list[Outcome]:
    """Create and read the mutations with these numbers; small sources are chosen more often.

    Args:
        keep: Folder for the mutated files whose outcome is a failure.
    """
    contents = {path: path.read_bytes() for path in sources}
    weights = np.array([1 / (1 + len(content) / 30_000) for content in contents.values()])
    weights /= weights.sum()
    outcomes = []
    worker = Worker()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in numbers:
                rng = np.random.default_rng((seed, number))
                source = sources[int(rng.choice(len(sources), p=weights))]
                damaged, kinds = mutate(contents[source], rng)
                path = Path(folder, f"{number}{source.suffix}")
                path.write_bytes(damaged)
                result = worker.read(path, PROTOCOLS[number % len(PROTOCOLS)])
                answer, detail, seconds, megabytes = result
                outcome = Outcome(
                    number=number,
                    source=source.name,
                    kinds=kinds,
                    answer=answer,
                    detail=detail.replace(f"{folder}/", ""),
                    seconds=round(seconds, 3),
                    megabytes=megabytes,
                )
                outcomes.append(outcome)
                if keep is not None and is_failure(outcome):
                    keep.mkdir(parents=True, exist_ok=True)
                    path.rename(keep / path.name)
                path.unlink(missing_ok=True)
                if number % 500 == 499:
                    print(f"{number + 1}: {summary(outcomes)}", flush=True)
    finally:
        worker.close()
    return outcomes


def is_failure(outcome: Outcome) -> bool:
    """Return whether the answer is neither views nor a VideoError, or a limit was exceeded."""
    return (
        outcome.answer not in ("views", "VideoError")
        or outcome.seconds > SECONDS_LIMIT
        or outcome.megabytes > MEGABYTES_LIMIT
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line with the counts of answers, the maxima and the number of failures."""
    counts = Counter(outcome.answer for outcome in outcomes)
    return (
        f"{dict(counts)}, slowest {max(outcome.seconds for outcome in outcomes):.1f} s, "
        f"largest {max(outcome.megabytes for outcome in outcomes)} MB, "
        f"{sum(map(is_failure, outcomes))} failures"
    )


def report(outcomes: Sequence[Outcome], seed: int, numbers: range) -> dict[str, object]:
    """Return the results of a run for the JSON file."""
    by_source: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        by_source.setdefault(outcome.source, Counter())[outcome.answer] += 1
    slowest = sorted(outcomes, key=lambda outcome: -outcome.seconds)[:10]
    largest = sorted(outcomes, key=lambda outcome: -outcome.megabytes)[:10]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores, {platform.system()}",
        "pyav": av.__version__,
        "seed": seed,
        "first": numbers.start,
        "count": len(outcomes),
        "limits": {"seconds": SECONDS_LIMIT, "megabytes": MEGABYTES_LIMIT},
        "answers": dict(Counter(outcome.answer for outcome in outcomes)),
        "by_source": {name: dict(counts) for name, counts in sorted(by_source.items())},
        "failures": [asdict(outcome) for outcome in outcomes if is_failure(outcome)],
        "slowest": [asdict(outcome) for outcome in slowest],
        "largest": [asdict(outcome) for outcome in largest],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, help="folder of further video files to mutate")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--keep", type=Path, help="folder for mutated files that fail")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.count)
    with tempfile.TemporaryDirectory() as folder:
        sources = generate_sources(Path(folder))
        if options.clips is not None:
            sources += sorted(path for path in options.clips.iterdir() if path.suffix != ".md")
        outcomes = run(sources, numbers, options.seed, keep=options.keep)
    print(summary(outcomes))
    if options.out is not None:
        options.out.write_text(json.dumps(report(outcomes, options.seed, numbers), indent=1) + "\n")


if __name__ == "__main__":
    main()
