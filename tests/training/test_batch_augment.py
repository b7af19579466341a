import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.training.losses import cutmix_box, erase, mix, mixing_partners, soft_targets


def numbered_clips(count, size=16):
    """Return clips in which every pixel of clip i is i + 1."""
    return torch.arange(1.0, count + 1).view(-1, 1, 1, 1, 1).expand(count, 3, 4, size, size).clone()


def one_hot(count):
    return torch.eye(count)


def mixed(count=6, weights=None, mixup=0.0, cutmix=0.0, seed=0, size=16):
    weights = torch.ones(count) if weights is None else torch.tensor(weights)
    rng = np.random.default_rng(seed)
    return mix(numbered_clips(count, size), one_hot(count), weights, mixup=mixup, cutmix=cutmix, rng=rng)


def test_targets_of_one_label_are_smoothed_over_all_classes_as_torch_does():
    targets = torch.tensor([2, 0])
    assert torch.equal(soft_targets(targets, 4, 0.0), torch.eye(4)[targets])
    torch.testing.assert_close(
        soft_targets(targets, 4, 0.1),
        torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]),
    )
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.1], [0.0, 1.0, -2.0, 0.5]])
    ours = torch.nn.functional.cross_entropy(logits, soft_targets(targets, 4, 0.1))
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1))


def test_targets_of_several_labels_are_smoothed_over_yes_and_no():
    targets = torch.tensor([[1, 0, 1]])
    plain = soft_targets(targets, 3, 0.0)
    assert plain.dtype == torch.float32
    assert plain.tolist() == [[1.0, 0.0, 1.0]]
    torch.testing.assert_close(soft_targets(targets, 3, 0.1), torch.tensor([[0.95, 0.05, 0.95]]))


def test_targets_of_another_number_of_classes_are_refused():
    with pytest.raises(
        ValueError, match=r"targets must have shape \(B, 5\), one column per class, got \(1, 3\)"
    ):
        soft_targets(torch.zeros(1, 3), 5, 0.0)


def test_mixing_that_is_off_changes_nothing():
    clips, targets = mixed()
    assert torch.equal(clips, numbered_clips(6))
    assert torch.equal(targets, one_hot(6))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_follow_what_is_seen(mixup, cutmix):
    for seed in range(20):
        clips, targets = mixed(mixup=mixup, cutmix=cutmix, seed=seed)
        seen = clips.mean(dim=(1, 2, 3, 4))
        torch.testing.assert_close(seen, targets @ torch.arange(1.0, 7.0))
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        share = targets[0, 0]
        torch.testing.assert_close(targets, share * one_hot(6) + (1 - share) * one_hot(6).flip(0))


def test_cutmix_pastes_one_box_in_all_frames():
    for seed in range(20):
        clips, _ = mixed(cutmix=1.0, seed=seed)
        assert torch.equal(clips, clips[:, :1, :1].expand_as(clips))
        pasted = clips[0, 0, 0] == 6
        assert ((clips[0, 0, 0] == 1) | pasted).all()
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns)
        assert rows.int().diff().abs().sum() <= 2  # in one piece


def test_with_both_on_half_of_the_batches_take_each():
    cut = sum(
        set(mixed(mixup=0.8, cutmix=1.0, seed=seed, size=4)[0][0].flatten().tolist()) <= {1.0, 6.0}
        for seed in range(200)
    )
    assert 70 < cut < 130


def test_shares_are_drawn_from_the_beta_distribution():
    shares = [float(mixed(2, mixup=0.2, seed=seed, size=1)[1][0, 0]) for seed in range(1000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.std(shares) == pytest.approx(1 / 1.4**0.5 / 2, abs=0.02)  # of Beta(0.2, 0.2)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_a_blank_clip_is_mixed_into_no_other_and_its_partner_finds_another(mixup, cutmix):
    weights = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    for seed in range(10):
        clips, targets = mixed(weights=weights, mixup=mixup, cutmix=cutmix, seed=seed)
        share = targets[0, 0]
        for clip in (1, 4):
            torch.testing.assert_close(clips[clip], numbered_clips(6)[clip])
            torch.testing.assert_close(targets[clip], one_hot(6)[clip])
        for clip, partner in {0: 5, 2: 3, 3: 2, 5: 0}.items():
            torch.testing.assert_close(
                targets[clip], share * one_hot(6)[clip] + (1 - share) * one_hot(6)[partner]
            )
            seen = set(clips[clip].flatten().tolist())
            assert not seen & {2.0, 5.0}


def test_not_even_what_is_not_a_number_gets_out_of_a_blank_clip():
    clips = numbered_clips(4)
    clips[1] = float("nan")
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    blended, _ = mix(clips, one_hot(4), weights, mixup=1.0, cutmix=0.0, rng=np.random.default_rng(0))
    assert blended[[0, 2, 3]].isfinite().all()


@given(weights=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=12))
def test_clips_that_count_are_partners_of_each_other(weights):
    partners = mixing_partners(torch.tensor(weights)).tolist()
    for clip, partner in enumerate(partners):
        assert partners[partner] == clip
        assert weights[partner] == weights[clip]
        assert weights[clip] or partner == clip


def test_clips_of_one_video_side_by_side_are_partners_of_other_videos():
    videos = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert (videos[mixing_partners(torch.ones(8))] != videos).all()


def test_mixing_leaves_its_input_alone():
    clips, targets = numbered_clips(4), one_hot(4)
    for options in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        mix(clips, targets, torch.ones(4), rng=np.random.default_rng(0), **options)
        assert torch.equal(clips, numbered_clips(4))
        assert torch.equal(targets, one_hot(4))


@settings(max_examples=100)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    area=st.floats(0, 1),
)
def test_the_pasted_box_lies_inside_and_is_no_larger_than_asked(height, width, place, area):
    center = (int(place[0] * height), int(place[1] * width))
    top, bottom, left, right = cutmix_box(height, width, center, area)
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    assert (bottom - top) * (right - left) <= area * height * width + 1e-6


def erased(probability, count=300, size=32):
    return erase(torch.ones(count, 3, 2, size, size), probability, np.random.default_rng(0))


def test_erasing_blanks_one_rectangle_in_all_frames_and_channels():
    clips = erased(1.0)
    assert torch.equal(clips, clips[:, :1, :1].expand_as(clips))
    areas, ratios = [], []
    for frame in clips[:, 0, 0]:
        blank = frame == 0
        rows, columns = blank.any(1), blank.any(0)
        assert torch.equal(blank, rows[:, None] & columns)
        assert rows.int().diff().abs().sum() <= 2
        areas.append(float(blank.float().mean()))
        ratios.append(float(rows.sum() / columns.sum()))
    assert 0.015 < min(areas) < 0.04
    assert 0.3 < max(areas) < 0.35
    assert min(ratios) < 0.4
    assert max(ratios) > 2.5
    assert len(set(areas)) > 50  # each clip has its own


def test_erasing_takes_clips_with_its_probability_and_leaves_its_input_alone():
    changed = (erased(0.25, count=1000, size=8) == 0).flatten(1).any(1).float().mean()
    assert float(changed) == pytest.approx(0.25, abs=0.05)
    clips = torch.ones(4, 3, 2, 16, 16)
    assert torch.equal(erase(clips, 0.0, np.random.default_rng(0)), clips)
    assert not torch.equal(erase(clips, 1.0, np.random.default_rng(0)), clips)
    assert (clips == 1).all()
