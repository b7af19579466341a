"""Damaged copies of video files give views or a VideoError; thousands of them in benchmarks/mutations.py."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from benchmarks import mutations
from videoswin._errors import VideoError
from videoswin.video.views import load_views

RESULT = Path(mutations.__file__).parent / "results" / "mutations.json"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    names = (
        "h264.mp4",
        "fragmented.mp4",
        "h264.ts",
        "mpeg4.avi",
        "animation.gif",
        "animation.apng",
        "vp9.webm",
    )
    for name, encoder, pixel_format in mutations.GENERATED:
        if name in names:
            mutations.write_source(folder / name, encoder, pixel_format)
    return [folder / name for name in names]


def test_mutated_files_give_views_or_a_video_error(sources: list[Path], tmp_path: Path) -> None:
    answers = []
    for number in range(70):
        source = sources[number % len(sources)]
        damaged, _ = mutations.mutate(source.read_bytes(), np.random.default_rng((0, number)))
        path = tmp_path / f"{number}{source.suffix}"
        path.write_bytes(damaged)
        try:
            answers.append(load_views(path, *mutations.PROTOCOLS[number % 3]).pixels.ndim)
        except VideoError:
            answers.append(0)
    assert set(answers) == {0, 5}


def test_a_mutation_follows_from_its_number_and_the_seed(sources: list[Path]) -> None:
    content = sources[0].read_bytes()
    first, again, other = (
        mutations.mutate(content, np.random.default_rng((0, number))) for number in (3, 3, 4)
    )
    assert first == again != other
    assert first[0] != content


@pytest.mark.slow  # it starts two processes
def test_a_file_that_kills_its_process_is_told_and_the_next_one_is_read(sources: list[Path]) -> None:
    worker = mutations.Worker()
    try:
        answer, _, _, megabytes = worker.read(sources[0], mutations.PROTOCOLS[0])
        assert answer == "views"
        assert 50 < megabytes < mutations.MEGABYTES_LIMIT
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.join()
        assert worker.read(sources[0], mutations.PROTOCOLS[0])[:2] == ("crash", "exit code -9")
        assert worker.read(sources[0], mutations.PROTOCOLS[0])[0] == "views"
    finally:
        worker.close()


def test_the_committed_run_found_nothing() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result["count"] >= 10_000
    assert result["failures"] == []
    assert set(result["answers"]) == {"views", "VideoError"}
