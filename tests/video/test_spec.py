import json

import pytest

from videoswin.video.spec import (
    IMAGENET,
    PER_CLIP,
    PROTOCOLS,
    SAFE_MARGIN,
    ClipSpec,
    Normalisation,
    ViewPlan,
    apply_protocol,
)

CAMERA_MOTION = ClipSpec(
    frames=8, stride=1, fps=4.0, size=64, short_side=64, normalisation=PER_CLIP, antialias=True
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
        assert (clip.frames, clip.size, clip.normalisation, clip.antialias) == (8, 64, PER_CLIP, True)


def test_an_unknown_protocol_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"'official-4x4' is not known.*official-4x3.*fast-1x1"):
        apply_protocol("official-4x4", ClipSpec())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"frames": 8.0}, "frames is 8.0"),
        ({"stride": True}, "stride is True"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"size": 256}, "short_side is 224, too small to crop size 256"),
        ({"rule": "uniform"}, "rule is 'uniform', wanted one of 'dense', 'segments'"),
        ({"normalisation": "imagenet"}, "normalisation is 'imagenet'"),
        ({"normalisation": None}, "normalisation is None"),
    ],
)
def test_an_impossible_clip_spec_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": 0}, "clips is 0"),
        ({"crops": 2}, "crops is 2, wanted one of 1, 3, 'full'"),
        ({"margin": -0.1}, "margin is -0.1, wanted 0 to 1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"placement": "slowfast"}, "placement is 'slow"),
    ],
)
def test_an_impossible_view_plan_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ViewPlan(**changes)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5, 0.5), (1, 1, 1)), ((0.5, 0.5, float("nan")), (1, 1, 1)), ((0.5, 0.5, 0.5), (1, 1, 0))],
)
def test_an_impossible_normalisation_is_refused(mean, std):
    with pytest.raises(ValueError, match="wanted three"):
        Normalisation(mean=mean, std=std)


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="ClipSpec has no tempo; it has antialias, fps, frames"):
        ClipSpec.from_dict({"frames": 8, "tempo": 3})


def test_specs_can_be_used_as_keys():
    assert (
        len({ClipSpec(), ClipSpec(normalisation=IMAGENET), CAMERA_MOTION, CAMERA_MOTION.replace(fps=5.0)})
        == 3
    )
