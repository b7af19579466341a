"""A search finds the moment that a clip was taken from, once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videoswin._errors import InputError
from videoswin.analysis.features import Features, save_features
from videoswin.analysis.search import FeatureIndex


def features(path: str, seed: int, count: int = 40, **changes: object) -> Features:
    """Random features of windows of 2 seconds every half a second, with a large mean."""
    starts = 0.5 * np.arange(count)
    made = Features(
        path=path,
        model="tiny",
        fps=30.0,
        stride_frames=15,
        window_frames=60,
        feats=np.random.default_rng(seed).normal(5, 1, (count, 16)).astype(np.float32),
        start_seconds=starts,
        end_seconds=starts + 2,
        duration_seconds=0.5 * count + 1.5,
    )
    return replace(made, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b", "c")):
        save_features(features(str(tmp_path / f"{name}.mp4"), seed), tmp_path / name)
    return tmp_path


def part(of: Features, first: int, stop: int) -> Features:
    return replace(
        of,
        feats=of.feats[first:stop],
        start_seconds=of.start_seconds[first:stop],
        end_seconds=of.end_seconds[first:stop],
    )


def test_the_moment_of_the_clip_is_first_and_its_neighbors_are_no_matches(folder: Path) -> None:
    matches = FeatureIndex(folder).search(part(features("b.mp4", 1), 20, 21), top=6)
    assert (matches[0].path, matches[0].start_seconds) == (str(folder / "b.mp4"), 10.0)
    assert matches[0].similarity == pytest.approx(1, abs=1e-5)
    assert [m.similarity for m in matches] == sorted((m.similarity for m in matches), reverse=True)
    for number, one in enumerate(matches):
        for other in matches[number + 1 :]:
            assert one.path != other.path or abs(one.start_seconds - other.start_seconds) >= 2


def test_the_mean_of_the_index_has_no_influence(folder: Path) -> None:
    """Without its removal, all similarities of these features would be above 0.9."""
    matches = FeatureIndex(folder).search(part(features("b.mp4", 1), 20, 21), top=30)
    assert matches[-1].similarity < 0.5


def test_the_index_follows_the_folder(folder: Path) -> None:
    assert len(FeatureIndex(folder)) == 120
    before = (folder / ".search.vectors.npy").stat().st_mtime_ns
    assert len(FeatureIndex(folder)) == 120
    assert (folder / ".search.vectors.npy").stat().st_mtime_ns == before
    save_features(features(str(folder / "d.mp4"), 3, count=5), folder / "d")
    assert len(FeatureIndex(folder)) == 125


def test_features_of_several_kinds_are_refused(folder: Path) -> None:
    save_features(features(str(folder / "d.mp4"), 3, stride_frames=8), folder / "d")
    with pytest.raises(InputError, match=r"must have one model, fps and stride, got tiny 30 8, tiny 30 15"):
        FeatureIndex(folder)


def test_a_clip_of_another_model_and_an_empty_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the clip must have features of tiny, as the index, got base"):
        FeatureIndex(folder).search(features("x.mp4", 9, model="base"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without any"):
        FeatureIndex(tmp_path / "empty")
    with pytest.raises(InputError, match="top must be >= 1, got 0"):
        FeatureIndex(folder).search(features("b.mp4", 1), top=0)
