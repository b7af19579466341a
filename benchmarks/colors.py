"""Compare the pixels of open_video with those of the `ffmpeg` command and of decord, bit for bit.

    python benchmarks/colors.py --decord other/bin/python --output benchmarks/results/colors.json

`ffmpeg` must be installed. decord has wheels for few versions of Python and numpy: --decord is the Python
of an environment that has it; otherwise decord is omitted. The first frames of every clip that all readers
return are compared; `accurate_rnd` is the output of the scaler with that flag.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import circumstances, result_file
from benchmarks.reading import scaled
from videoswin import VideoError, open_video

FRAMES = 3
WITH_DECORD = """
import sys, numpy, decord
reader = decord.VideoReader(sys.argv[1])
numpy.save(sys.argv[2], reader.get_batch(range(min(len(reader), int(sys.argv[3])))).asnumpy())
"""

Pixels = NDArray[np.uint8]
Row = dict[str, Any]


def by_ffmpeg(path: Path, shape: tuple[int, ...]) -> Pixels:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", str(FRAMES), "-vsync", "0"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, *shape)


def by_decord(python: str, path: Path) -> Pixels | None:
    """Return the frames that decord decodes, or None if it cannot read the file."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "frames.npy")
        command = [python, "-c", WITH_DECORD, str(path), str(target), str(FRAMES)]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            return None
        pixels: Pixels = np.load(target)
        return pixels


def with_accurate_rnd(path: Path) -> Pixels:
    with av.open(str(path)) as container:
        frames = list(islice(container.decode(video=0), FRAMES))
    converted = scaled(frames, frames[0].width, frames[0].height, "bicubic+accurate_rnd")
    return np.stack([frame_hwc.numpy() for frame_hwc in converted])


def difference(ours: Pixels, theirs: Pixels | None) -> Row | str:
    """Return the mean and largest difference in levels of 0..255, over the frames that both have."""
    if theirs is None:
        return "cannot read it"
    if ours.shape[1:] != theirs.shape[1:]:
        return "does not turn it upright"
    count = min(len(ours), len(theirs))
    levels = np.abs(ours[:count].astype(int) - theirs[:count])
    return {"mean": round(float(levels.mean()), 3), "largest": int(levels.max())}


def compared(path: Path, decord: str | None) -> Row:
    with open_video(path) as video:
        ours = video.read(range(min(FRAMES, video.num_frames))).numpy()
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        row: Row = {"clip": path.name, "codec": codec.name, "pixel_format": codec.pix_fmt}
    row["ffmpeg"] = difference(ours, by_ffmpeg(path, ours.shape[1:]))
    row["accurate_rnd"] = difference(ours, with_accurate_rnd(path))
    return row | ({"decord": difference(ours, by_decord(decord, path))} if decord else {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, default=Path("../shared/clips"), help="folder of videos")
    parser.add_argument("--decord", help="Python interpreter of an environment with decord")
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    arguments = parser.parse_args()
    version = subprocess.run(["ffmpeg", "-version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    report: Row = {"circumstances": circumstances(ffmpeg=version.split()[2], av=av.__version__), "rows": []}
    for path in sorted(arguments.clips.iterdir()):
        try:
            row = compared(path, arguments.decord)
        except VideoError as error:
            row = {"clip": path.name, "refused": error.reason}
        report["rows"].append(row)
        print(row, flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
