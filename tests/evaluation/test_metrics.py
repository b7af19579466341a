"""Accuracy, average precision and intervals equal their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from videoswin.evaluation.metrics import (
    VideoScores,
    average_precision,
    class_accuracy,
    confused_pairs,
    confusion_matrix,
    mean_average_precision_interval,
    mean_class_accuracy_interval,
    mean_over_classes,
    rank_classes,
    top_k_hits,
    wilson_interval,
)

NAN = math.nan


def one_hot(labels: list[int], num_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), num_classes).bool()


def average_precision_by_definition(scores: list[float], shown: list[bool]) -> float:
    """Sum over falling thresholds of (recall gained) x (precision there)."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [y for s, y in zip(scores, shown, strict=True) if s >= threshold]
        recall = sum(found) / sum(shown)
        area += (recall - recall_before) * sum(found) / len(found)
        recall_before = recall
    return area


def test_top_k_counts_labels_among_the_k_highest_scores() -> None:
    scores = torch.tensor([[0.1, 0.6, 0.3], [0.1, 0.6, 0.3], [0.1, 0.6, 0.3]])
    targets = one_hot([1, 2, 0], 3)
    assert top_k_hits(scores, targets, 1).tolist() == [True, False, False]
    assert top_k_hits(scores, targets, 2).tolist() == [True, True, False]


def test_top_5_of_two_classes_is_top_2() -> None:
    assert top_k_hits(torch.tensor([[0.9, 0.1]]), one_hot([1], 2), 5).tolist() == [True]


def test_top_0_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        top_k_hits(torch.zeros(1, 2), one_hot([1], 2), 0)


def test_a_video_without_an_answer_is_never_right_even_among_all_classes() -> None:
    scores = torch.tensor([[NAN, NAN], [0.8, 0.2]])
    assert top_k_hits(scores, one_hot([0, 0], 2), 2).tolist() == [False, True]


def test_a_video_with_several_labels_is_a_hit_by_any_of_them() -> None:
    targets = torch.tensor([[True, False, True], [True, True, False], [False, False, False]])
    assert top_k_hits(torch.tensor([[0.1, 0.2, 0.7]] * 3), targets, 1).tolist() == [True, False, False]


def test_of_equal_scores_the_lower_index_comes_first() -> None:
    assert rank_classes(torch.tensor([[0.25, 0.5, 0.25, 0.5]])).tolist() == [[1, 3, 0, 2]]


def test_class_accuracy_is_nan_for_classes_that_do_not_occur_and_the_mean_leaves_them_out() -> None:
    hits = torch.tensor([True, False, True, True])
    accuracy = class_accuracy(hits, one_hot([0, 0, 0, 2], 3))
    assert accuracy.tolist() == pytest.approx([2 / 3, NAN, 1], nan_ok=True)
    assert mean_over_classes(accuracy) == pytest.approx(5 / 6)


def test_confusion_has_true_classes_in_rows_and_leaves_out_videos_without_an_answer() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [NAN, NAN]])
    assert confusion_matrix(scores, torch.tensor([0, 1, 0, 0])).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("levels", [2, 4, 1000], ids="{} different scores".format)
def test_average_precision_is_the_area_of_its_definition(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (40, 6), generator=generator) / levels
    targets = torch.rand(40, 6, generator=generator) < 0.3
    expected = [
        average_precision_by_definition(scores[:, k].tolist(), targets[:, k].tolist()) for k in range(6)
    ]
    assert average_precision(scores, targets).tolist() == pytest.approx(expected)


def test_average_precision_of_a_class_without_videos_is_nan() -> None:
    targets = torch.tensor([[True, False], [False, False]])
    assert average_precision(torch.rand(2, 2), targets).isnan().tolist() == [False, True]


def test_average_precision_finds_videos_without_an_answer_last() -> None:
    scores = torch.tensor([[NAN], [0.2], [0.1]])
    assert average_precision(scores, torch.tensor([[True], [False], [False]])).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("hits", "number", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_gives_published_values(hits: int, number: int, low: float, high: float) -> None:
    assert wilson_interval(hits / number, number) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_ends_at_exactly_1_where_all_are_hits_and_at_0_where_none_is() -> None:
    for number in (*range(1, 200), 1000, 12345):
        assert wilson_interval(1.0, number)[1] == 1.0
        assert wilson_interval(0.0, number)[0] == 0.0
        assert mean_class_accuracy_interval(1.0, torch.tensor([number, number + 1, 3]))[1] == 1.0


def test_intervals_have_no_rounding_errors_in_json() -> None:
    ends = wilson_interval(1 / 3, 7)
    assert [len(str(end)) <= 14 for end in ends] == [True, True]
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(30, 7, generator=generator) < 0.4
    interval = mean_average_precision_interval(targets.float(), targets, np.random.default_rng(0))
    assert interval == (1.0, 1.0)


def test_wilson_interval_without_videos_is_refused() -> None:
    with pytest.raises(ValueError, match=r"count > 0, got 0\.5 and 0"):
        wilson_interval(0.5, 0)


def test_mean_class_interval_of_even_classes_is_that_of_all_videos() -> None:
    assert mean_class_accuracy_interval(0.7, torch.tensor([10, 0, 10])) == pytest.approx(
        wilson_interval(0.7, 20)
    )


def test_mean_class_interval_widens_with_a_rare_class() -> None:
    even, uneven = (mean_class_accuracy_interval(0.7, torch.tensor(counts)) for counts in ([10, 10], [19, 1]))
    assert uneven[0] < even[0] < even[1] < uneven[1]


def test_bootstrap_interval_is_the_spread_of_average_precision_over_drawn_lists() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(60, 3, generator=generator) < 0.4
    scores = (targets + torch.randn(60, 3, generator=generator)).round(decimals=1)
    rng = np.random.default_rng(0)
    drawn = [torch.from_numpy(rng.integers(60, size=60)) for _ in range(50)]
    means = [mean_over_classes(average_precision(scores[d], targets[d])) for d in drawn]
    interval = mean_average_precision_interval(scores, targets, np.random.default_rng(0), resamples=50)
    assert interval == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))


def scored(scores: list[list[float]], labels: list[list[int]], *, multi_label: bool = False) -> VideoScores:
    targets = torch.zeros(len(scores), len(scores[0]), dtype=torch.bool)
    for row, own in zip(targets, labels, strict=True):
        row[own] = True
    names = tuple(map(str, range(len(scores[0]))))
    return VideoScores(labels=names, multi_label=multi_label, targets=targets, scores=torch.tensor(scores))


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_top_5_is_left_out_where_every_class_or_all_but_none_would_be_among_them(classes: int) -> None:
    found = scored([[1 / classes] * classes] * 3, [[0], [1], [1]])
    assert (found.top5 is None) == ("top5" not in found.intervals) == (classes <= 5)


def test_chance_and_the_most_frequent_class_say_what_not_looking_gets() -> None:
    found = scored([[0.2, 0.5, 0.3]] * 4, [[1], [1], [1], [2]])
    assert (found.chance, found.majority_class_accuracy) == (pytest.approx(1 / 3), 0.75)
    several = scored([[0.2, 0.5, 0.3]] * 4, [[0, 1], [1], [], [1]], multi_label=True)
    assert (several.chance, several.majority_class_accuracy) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("right", "videos", "part"),
    [(10, 20, "includes the 50.0 %"), (20, 20, None), (2, 40, "is below the 50.0 %")],
)
def test_a_score_no_better_than_not_looking_is_warned_about(
    right: int, videos: int, part: str | None
) -> None:
    labels = [[number % 2] for number in range(videos)]
    scores = [[0.9, 0.1] if (own == [0]) == (n < right) else [0.1, 0.9] for n, own in enumerate(labels)]
    warning = scored(scores, labels).chance_warning
    assert warning is None if part is None else part in warning


def test_loss_is_cross_entropy_of_the_videos_with_an_answer() -> None:
    nan = float("nan")
    found = scored([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [nan] * 3], [[0], [1], [0]])
    assert found.loss == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)
    several = scored([[0.5, 0.25]], [[1]], multi_label=True)
    assert several.loss == pytest.approx(-(math.log(0.5) + math.log(0.25)))


def test_confused_pairs_are_sorted_and_leave_out_the_diagonal() -> None:
    matrix = torch.tensor([[9, 1, 0], [0, 9, 0], [3, 0, 9]])
    assert confused_pairs(matrix) == [(2, 0, 3), (0, 1, 1)]
