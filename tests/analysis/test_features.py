"""Features lie on the grid that libraries of temporal localization expect."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.analysis.conftest import SECONDS
from videoswin._errors import InputError
from videoswin.analysis.features import Features, extract, read_features, save_features, write_configs
from videoswin.inference.predictor import Predictor

STRIDE, FPS = 6, 30.0


@pytest.fixture(scope="module")
def features(movements: Path, predictor: Predictor) -> Features:
    return extract(movements, predictor, stride=STRIDE)


def test_windows_begin_at_multiples_of_the_stride(features: Features) -> None:
    frames = round(features.duration_seconds * FPS)
    count = (frames - features.window_frames) // STRIDE + 1
    assert features.window_frames == 60  # 8 frames at 4 frames/s
    assert features.feats.shape == (count, 128)
    assert features.feats.dtype == np.float32
    np.testing.assert_allclose(features.start_seconds, np.arange(count) * STRIDE / FPS, atol=1e-9)


def test_a_row_is_the_mean_of_the_tokens_before_the_head(
    features: Features, movements: Path, predictor: Predictor
) -> None:
    views = predictor.load(
        movements, start_seconds=features.start_seconds[7], end_seconds=features.end_seconds[7]
    )
    head = predictor.model.get_classifier()
    logits = torch.nn.functional.linear(torch.from_numpy(features.feats[7]), head.weight, head.bias)
    torch.testing.assert_close(logits.softmax(-1), predictor.score(views), rtol=1e-5, atol=1e-6)


def test_a_cut_is_found_at_its_second_by_the_formulas_of_both_libraries(features: Features) -> None:
    normalized = features.feats / np.linalg.norm(features.feats, axis=1, keepdims=True)
    middle = len(normalized) // 2  # the middle of the second of three movements
    likeness = normalized @ normalized[middle]
    change = int(np.abs(np.diff(likeness[: middle + 1])).argmax()) + 0.5
    seconds_of_actionformer = (change * STRIDE + 0.5 * features.window_frames) / FPS
    seconds_of_opentad = (change * STRIDE + features.window_frames // 2) / FPS
    assert seconds_of_actionformer == seconds_of_opentad
    assert seconds_of_opentad == pytest.approx(SECONDS, abs=0.75)


@pytest.mark.parametrize("format", ["npz", "npy", "safetensors"])
def test_files_have_the_features_and_need_no_pickle(features: Features, tmp_path: Path, format: str) -> None:
    path = save_features(features, tmp_path / "a.b", format)
    assert path.name == f"a.b.{format}"
    if format == "npz":
        with np.load(path, allow_pickle=False) as arrays:
            assert np.array_equal(arrays["feats"], features.feats)
            assert json.loads(str(arrays["meta"]))["stride_frames"] == STRIDE
        read = read_features(path)
        assert read.metadata | {"path": ""} == features.metadata | {"path": ""}
        assert (tmp_path / read.path).samefile(features.path)
    if format == "npy":
        assert np.array_equal(np.load(path, allow_pickle=False), features.feats)
    if format == "safetensors":
        from safetensors.numpy import load_file

        assert np.array_equal(load_file(path)["feats"], features.feats)


def test_configs_have_the_numbers_of_the_grid(features: Features, tmp_path: Path) -> None:
    yaml, python = write_configs(features, tmp_path, "npz")
    assert f"feat_stride: {STRIDE}\n  num_frames: 60\n  default_fps: 30\n" in yaml.read_text()
    names: dict[str, dict] = {}
    exec(python.read_text(), names)
    assert names["dataset"]["feature_stride"] * names["dataset"]["sample_stride"] == STRIDE
    assert names["dataset"]["offset_frames"] == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride must be from 1 to 60, the frames of a window, got 0"),
        ({"stride": 61}, "stride must be from 1 to 60"),
        ({"fps": 0.0}, "fps must be > 0, got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    movements: Path, predictor: Predictor, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extract(movements, predictor, **settings)


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros(3))
    with pytest.raises(InputError, match="must be a file of `videoswin extract`"):
        read_features(other)
