"""A timeline says what the predictor says about each part, and is the same after an interruption."""

from pathlib import Path

import numpy as np
import pytest

from tests.analysis.conftest import FPS, MOVEMENTS, SECONDS
from videoswin._errors import InputError, VideoError
from videoswin.analysis import timeline as module
from videoswin.analysis.files import COMBINED_CSV, SavedTimeline, save_timelines
from videoswin.analysis.timeline import timeline
from videoswin.inference.predictor import Predictor


@pytest.mark.parametrize("protocol", ["fast-1x1", "official-4x3"])
def test_the_probabilities_of_a_window_are_those_of_the_predictor(movements: Path, protocol: str) -> None:
    predictor = Predictor.from_pretrained("camera-motion", device="cpu", protocol=protocol)
    found = timeline(movements, predictor, hop_seconds=0.7)
    for start, end, probabilities in zip(found.starts, found.ends, found.probabilities, strict=True):
        views = predictor.load(movements, start_seconds=start, end_seconds=end)
        assert np.array_equal(predictor.score(views).numpy(), probabilities)


def test_movements_are_found_with_edges_within_a_token(movements: Path, predictor: Predictor) -> None:
    found = timeline(movements, predictor)
    assert [segment.label for segment in found.segments] == list(MOVEMENTS)
    for number, segment in enumerate(found.segments):
        assert segment.start_seconds == pytest.approx(number * SECONDS, abs=0.5)
        assert segment.end_seconds == pytest.approx((number + 1) * SECONDS, abs=0.5)
        # Segments begin and end with a frame.
        assert segment.start_seconds == pytest.approx(segment.start_frame / FPS)
        assert segment.end_seconds == pytest.approx(segment.end_frame / FPS)
    assert found.segments[0].start_frame == 0
    assert found.segments[-1].end_frame == found.num_frames == 3 * round(SECONDS * FPS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, "threshold must be > 0 and <= 1, got 0"),
        ({"window_seconds": 1.0}, "window_seconds must be at least 2, the length of a clip"),
        ({"hop_seconds": 3.0}, "hop_seconds must be > 0 and at most window_seconds"),
        ({"min_seconds": -1.0}, "min_seconds must be >= 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    movements: Path, predictor: Predictor, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        timeline(movements, predictor, **settings)


def saved(paths: list[Path], predictor: Predictor, out: Path, **settings: object) -> list:
    return list(save_timelines(map(str, paths), predictor, out, formats=["csv"], progress=False, **settings))


def test_a_folder_has_the_files_of_each_video_and_a_combined_csv(
    movements: Path, predictor: Predictor, tmp_path: Path
) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    good, bad = saved([movements, text], predictor, tmp_path / "out")
    assert isinstance(good, SavedTimeline)
    assert good.is_new
    assert isinstance(bad, VideoError)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"three.csv", "three.timeline.json", COMBINED_CSV}
    assert (tmp_path / "out" / COMBINED_CSV).read_text() == (tmp_path / "out" / "three.csv").read_text()


def test_a_finished_video_is_skipped_until_a_setting_changes(
    movements: Path, predictor: Predictor, tmp_path: Path
) -> None:
    (first,) = saved([movements], predictor, tmp_path)
    (second,) = saved([movements], predictor, tmp_path)
    (third,) = saved([movements], predictor, tmp_path, threshold=0.5)
    assert [each.is_new for each in (first, second, third)] == [True, False, True]
    assert second.segments == first.segments


def test_an_interrupted_video_continues_with_the_same_result(
    movements: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = saved([movements], predictor, tmp_path / "whole")
    score, calls = module.score_window, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(module, "score_window", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved([movements], predictor, tmp_path / "part")
    (part,) = (tmp_path / "part").iterdir()
    part.write_bytes(part.read_bytes()[:-3])  # as after a kill in the middle of a window
    (resumed,) = saved([movements], predictor, tmp_path / "part")
    windows = len(timeline(movements, predictor).starts)
    assert len(calls) - windows == 5 + windows - 3
    assert resumed.segments == whole.segments
    assert not list((tmp_path / "part").glob(".*"))


def test_videos_with_one_name_have_files_of_their_own(
    movements: Path, predictor: Predictor, tmp_path: Path
) -> None:
    copies = [tmp_path / name for name in ("a/v.mp4", "b/v.mp4", "v.mkv")]
    for copy in copies:
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(movements.read_bytes())
    results = saved(copies, predictor, tmp_path / "out", hop_seconds=2.0)
    stems = [result.files[-1].name for result in results]
    assert len(set(stems)) == 3
    assert stems[2] == "v.mkv.timeline.json"
