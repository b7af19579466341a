import json
import re

import pytest

from videoswin._errors import InputError
from videoswin.video.spec import (
    IMAGENET,
    PER_CLIP,
    PROTOCOLS,
    SAFE_MARGIN,
    ClipSpec,
    Normalization,
    ViewPlan,
    apply_protocol,
    describe_protocol,
    require_affordable,
)

CAMERA_MOTION = ClipSpec(
    frames=8, stride=1, fps=4.0, size=64, short_side=64, normalization=PER_CLIP, antialias=True
)


@pytest.mark.parametrize("clip", [ClipSpec(), CAMERA_MOTION, ClipSpec(rule="segments")])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_specs_survive_json(name, clip):
    for spec in apply_protocol(name, clip):
        assert type(spec).from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_protocols_are_the_published_ones():
    clip = ClipSpec()
    assert apply_protocol("official-4x3", clip) == (clip, ViewPlan(clips=4, crops=3, placement="official"))
    assert apply_protocol("mmaction2-4x3", clip) == (clip, ViewPlan(clips=4, crops=3, placement="mmaction2"))
    assert apply_protocol("torchvision-15fps-12x1", clip) == (
        ClipSpec(fps=15.0, stride=1, short_side=256),
        ViewPlan(clips=12, crops=1, placement="torchvision"),
    )
    assert apply_protocol("ssv2-1x3", clip) == (ClipSpec(rule="segments"), ViewPlan(clips=1, crops=3))
    assert apply_protocol("fast-1x1", clip) == (clip, ViewPlan(clips=1, crops=1))


def test_the_approximate_protocols_look_at_the_same_clips_as_the_exact_ones():
    for clip in (ClipSpec(), CAMERA_MOTION, ClipSpec(short_side=256)):
        exact, views = apply_protocol("official-4x3", clip)
        assert apply_protocol("full-frame-4x1", clip) == (exact, views.replace(crops="full"))
        assert apply_protocol("adaptive-4x3", clip) == (exact, views.replace(margin=SAFE_MARGIN))
        one = ViewPlan(clips=1, crops="full")
        assert apply_protocol("full-frame-1x1", clip) == (clip.replace(short_side=clip.size), one)


def test_a_full_frame_is_one_view_of_each_clip():
    assert [ViewPlan(clips=4, crops=crops).num_views for crops in (1, 3, "full")] == [4, 12, 4]


def test_specs_written_before_margins_were_known_look_at_everything():
    assert not ViewPlan.from_dict({"clips": 4, "crops": 3, "placement": "official"}).is_adaptive


def test_a_protocol_leaves_alone_what_belongs_to_the_weights():
    for name in PROTOCOLS:
        clip, _ = apply_protocol(name, CAMERA_MOTION)
        assert (clip.frames, clip.size, clip.normalization, clip.antialias) == (8, 64, PER_CLIP, True)


def test_an_unknown_protocol_is_refused_with_the_known_names():
    with pytest.raises(
        ValueError, match=r"protocol must be one of official-4x3.*fast-1x1.*, got 'official-4x4'"
    ):
        apply_protocol("official-4x4", ClipSpec())


HUGE = 10**400

IMPOSSIBLE_CLIPS = [
    ({"frames": 0}, "frames must be an integer from 1 to 4096, got 0"),
    ({"frames": 8.0}, "frames must be an integer from 1 to 4096, got 8.0"),
    ({"frames": 10**9}, "frames must be an integer from 1 to 4096, got 1000000000"),
    ({"frames": HUGE}, "frames must be an integer from 1 to 4096, got 1000"),
    ({"frames": "8"}, "frames must be an integer from 1 to 4096, got '8'"),
    ({"frames": [8]}, "frames must be an integer from 1 to 4096, got [8]"),
    ({"stride": True}, "stride must be an integer from 1 to 100000, got True"),
    ({"stride": 10**6}, "stride must be an integer from 1 to 100000, got 1000000"),
    ({"size": 10**6}, "size must be an integer from 1 to 4096, got 1000000"),
    ({"short_side": 10**6}, "short_side must be an integer from 1 to 4096, got 1000000"),
    ({"fps": float("nan")}, "fps must be a number from 0.01 to 1000, got nan"),
    ({"fps": 0.0}, "fps must be a number from 0.01 to 1000, got 0.0"),
    ({"fps": 1e-300}, "fps must be a number from 0.01 to 1000, got 1e-300"),
    ({"fps": float("inf")}, "fps must be a number from 0.01 to 1000, got inf"),
    ({"fps": HUGE}, "fps must be a number from 0.01 to 1000, got 1000"),
    ({"fps": "25"}, "fps must be a number from 0.01 to 1000, got '25'"),
    ({"fps": True}, "fps must be a number from 0.01 to 1000, got True"),
    ({"size": 256}, "short_side must be >= size 256, got 224"),
    ({"rule": "uniform"}, "rule must be one of 'dense', 'segments', got 'uniform'"),
    ({"rule": ["dense"]}, "rule must be one of 'dense', 'segments', got ['dense']"),
    ({"antialias": 1}, "antialias must be one of False, True, got 1"),
    ({"antialias": "no"}, "antialias must be one of False, True, got 'no'"),
    ({"normalization": "imagenet"}, "normalization must be a Normalization or PER_CLIP, got 'imagenet'"),
    ({"normalization": None}, "normalization must be a Normalization or PER_CLIP, got None"),
    (
        {"frames": 4096, "size": 224},
        "a clip must have at most 134217728 values, got 4096 frames of 224 x 224 pixels; use fewer frames",
    ),
    ({"size": 4096, "short_side": 4096}, "a clip must have at most 134217728 values, got 32 frames of 4096"),
]


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE_CLIPS)
def test_an_impossible_clip_spec_is_refused(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ClipSpec(**changes)
    with pytest.raises(InputError, match=re.escape(message)):
        ClipSpec.from_dict(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": 0}, "clips must be an integer from 1 to 10000, got 0"),
        ({"clips": 10**9}, "clips must be an integer from 1 to 10000, got 1000000000"),
        ({"crops": 2}, "crops must be one of 1, 3, 'full', got 2"),
        ({"crops": True}, "crops must be one of 1, 3, 'full', got True"),
        ({"crops": 3.0}, "crops must be one of 1, 3, 'full', got 3.0"),
        ({"margin": -0.1}, "margin must be a number from 0 to 1, got -0.1"),
        ({"margin": float("nan")}, "margin must be a number from 0 to 1, got nan"),
        ({"margin": "1"}, "margin must be a number from 0 to 1, got '1'"),
        (
            {"placement": "slowfast"},
            "placement must be one of 'official', 'mmaction2', 'torchvision', 'omnivore'",
        ),
    ],
)
def test_an_impossible_view_plan_is_refused(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ViewPlan(**changes)
    with pytest.raises(InputError, match=re.escape(message)):
        ViewPlan.from_dict(changes)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (1, 1, 1), "mean must be three numbers"),
        ("abc", (1, 1, 1), "mean must be three numbers (R, G, B), got 'abc'"),
        (0.5, (1, 1, 1), "mean must be three numbers (R, G, B), got 0.5"),
        ((0.5, 0.5, float("nan")), (1, 1, 1), "mean must be a number from -1e+06 to 1e+06, got nan"),
        ((0.5, 0.5, 0.5), (1, 1, 0), "std must be a number from 1e-06 to 1e+06, got 0"),
        ((0.5, 0.5, 0.5), (1, 1, 1e-45), "std must be a number from 1e-06 to 1e+06, got 1e-45"),
        ((0.5, 0.5, 0.5), (1, True, 1), "std must be a number from 1e-06 to 1e+06, got True"),
    ],
)
def test_an_impossible_normalization_is_refused(mean, std, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Normalization(mean=mean, std=std)
    with pytest.raises(InputError, match=re.escape(message)):
        ClipSpec.from_dict({"normalization": {"mean": mean, "std": std}})


def test_views_of_one_video_have_a_budget_of_memory_and_of_frames():
    for name in PROTOCOLS:
        require_affordable(*apply_protocol(name, ClipSpec(size=384, short_side=384)))
    with pytest.raises(InputError, match="at most 1073741824 values, got 3000 views of 32 frames"):
        require_affordable(ClipSpec(), ViewPlan(clips=1000))
    with pytest.raises(InputError, match="at most 1048576 frames, got 10000 clips of 4096 frames"):
        require_affordable(ClipSpec(frames=4096, size=1), ViewPlan(clips=10_000, crops=1))


@pytest.mark.parametrize("fields", [None, 7, "frames", [1], [["frames", 8]]])
def test_specs_are_read_from_objects_only(fields):
    for spec in (ClipSpec, ViewPlan):
        with pytest.raises(InputError, match=rf"{spec.__name__} must be an object with"):
            spec.from_dict(fields)


def test_missing_fields_are_named():
    with pytest.raises(InputError, match="Normalization has no value for std"):
        ClipSpec.from_dict({"normalization": {"mean": [0, 0, 0]}})


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="ClipSpec has no 'tempo'; it has antialias, fps, frames"):
        ClipSpec.from_dict({"frames": 8, "tempo": 3})


def test_specs_can_be_used_as_keys():
    assert (
        len({ClipSpec(), ClipSpec(normalization=IMAGENET), CAMERA_MOTION, CAMERA_MOTION.replace(fps=5.0)})
        == 3
    )


def test_adaptive_plan_averages_probabilities():
    with pytest.raises(
        InputError, match="average must be 'probabilities' with a margin below 1, got 'logits'"
    ):
        ViewPlan(margin=0.9, average="logits")
    with pytest.raises(InputError, match="average must be one of 'probabilities', 'logits', got 'scores'"):
        ViewPlan(average="scores")


def test_plan_of_older_files_averages_probabilities():
    fields = ViewPlan().to_dict()
    del fields["average"]
    assert ViewPlan.from_dict(fields) == ViewPlan(average="probabilities")


@pytest.mark.parametrize(
    ("name", "description"),
    [
        (ViewPlan(clips=3, crops=3).name, "3 clips x 3 crops = 9 views per video"),
        ("official-4x3", "official-4x3: 4 clips x 3 crops = 12 views per video"),
        ("fast-1x1", "fast-1x1: 1 clip x 1 crop = 1 view per video"),
        ("full-frame-4x1", "full-frame-4x1: 4 clips x 1 full frame = 4 views per video"),
        ("adaptive-4x3", "adaptive-4x3: up to 4 clips x 3 crops = 12 views per video"),
        ("something else", "something else"),
    ],
)
def test_a_protocol_is_described_by_its_clips_crops_and_views(name, description):
    assert describe_protocol(name) == description


def test_every_protocol_is_described_by_the_views_that_it_takes():
    for name in PROTOCOLS:
        _, views = apply_protocol(name, ClipSpec())
        words = f" = {views.num_views} view{'s' * (views.num_views > 1)} per video"
        assert describe_protocol(name).endswith(words)
