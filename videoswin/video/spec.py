"""What a model eats (ClipSpec), how often a video is looked at (ViewPlan), and the published protocols.

A clip is a run of frames in time, a crop a square of it, a view one clip in one crop or in its full frame.
Both specs are plain values: they travel inside checkpoints as JSON, so that weights never part from the
sampling they were trained with.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args

from videoswin._errors import InputError

Rule = Literal["dense", "segments"]
Placement = Literal["official", "mmaction2", "torchvision", "omnivore"]
Average = Literal["probabilities", "logits"]
Crops = Literal[1, 3, "full"]

SAFE_MARGIN: Final = 0.9
"""Lead of the likeliest class at which the adaptive protocols stop: the least of seven that changed none of
the bundled model's answers to 360 films (benchmarks/results/approximate_views.json)."""


# Specs also come from files of others, where a number without bound would hang or exhaust the memory.
MAX_FRAMES: Final = 4096
"""Frames in a clip."""
MAX_STRIDE: Final = 100_000
MAX_FPS: Final = 1000.0
MIN_FPS: Final = 0.01
MAX_SIDE: Final = 4096
"""Pixels of `size` and `short_side`."""
LONGEST_FULL_FRAME: Final = 4.0
"""Longer side over shorter from which on a frame is too long to be one view: cost grows with its length."""
MAX_CLIPS: Final = 10_000
MAX_CLIP_BYTES: Final = 1 << 27
"""Of one clip in one crop, as uint8: 3 * T * S * S; 28 times 32 frames of 224 x 224."""
MAX_VIEW_BYTES: Final = 1 << 30
"""Of all views of a checkpoint's own plan; 18 times those of official-4x3 at 32 frames of 224 x 224."""
MAX_SAMPLED_FRAMES: Final = 1 << 20
"""Of all clips of a checkpoint's own plan."""


def _require_count(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{name} must be an integer from 1 to {most}, got {reprlib.repr(value)}")


def _require_number(name: str, value: object, least: float, most: float) -> None:
    # NaN fails the comparison, an integer too long for a float does not.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InputError(f"{name} must be a number from {least:g} to {most:g}, got {reprlib.repr(value)}")


def _require_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    # By type, too: True equals 1.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {reprlib.repr(value)}")


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """A fixed mean and standard deviation, per channel, of RGB values scaled to 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or len(values) != 3:
                raise InputError(f"{name} must be three numbers (R, G, B), got {reprlib.repr(values)}")
            for value in values:
                _require_number(name, value, 1e-6 if name == "std" else -1e6, 1e6)
            object.__setattr__(self, name, tuple(values))  # JSON gives lists


IMAGENET: Final = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PER_CLIP: Final = "per-clip"
"""Each clip minus its mean, over its standard deviation: one of each, over frames, pixels and channels."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """Everything that turns a video into the clips that these weights were trained on."""

    frames: int = 32
    """Frames in a clip, T."""
    stride: int = 2
    """Step between neighboring frames of a clip, in frames of the (resampled, see `fps`) video."""
    fps: float | None = None
    """Resample the video in time to this rate first; None takes its frames as they are."""
    size: int = 224
    """Height and width of the square that is cropped, in pixels, S."""
    short_side: int = 224
    """The frame's shorter side is resized to this before cropping, in pixels; at least `size`."""
    normalization: Normalization | Literal["per-clip"] = IMAGENET
    """How uint8 pixels become the model's floats: a fixed mean and std, or PER_CLIP."""
    rule: Rule = "dense"
    """`dense`: frames at `stride`; `segments`: one frame from each of `frames` equal parts of the video."""
    antialias: bool = False
    """Low-pass before shrinking. The published models were trained and tested without."""

    def __post_init__(self) -> None:
        _require_count("frames", self.frames, MAX_FRAMES)
        _require_count("stride", self.stride, MAX_STRIDE)
        _require_count("size", self.size, MAX_SIDE)
        _require_count("short_side", self.short_side, MAX_SIDE)
        if self.fps is not None:
            _require_number("fps", self.fps, MIN_FPS, MAX_FPS)
        if self.short_side < self.size:
            raise InputError(f"short_side is {self.short_side}, too small to crop size {self.size} from")
        if self.num_bytes > MAX_CLIP_BYTES:
            raise InputError(
                f"a clip must have at most {MAX_CLIP_BYTES} values, got {self.frames} frames of "
                f"{self.size} x {self.size} pixels; use fewer frames or a smaller size"
            )
        if not (isinstance(self.normalization, Normalization) or self.normalization == PER_CLIP):
            raise InputError(
                f"normalization must be a Normalization or PER_CLIP, got {reprlib.repr(self.normalization)}"
            )
        _require_one_of("antialias", self.antialias, (False, True))
        _require_one_of("rule", self.rule, get_args(Rule))

    @property
    def span(self) -> int:
        """Frames that a clip reaches over, as the published code counts them: `frames * stride`."""
        return self.frames * self.stride

    def seconds(self, fps: float) -> float | None:
        """Return how much of a video of `fps` frames a second a clip covers; None if all (`segments`)."""
        return None if self.rule == "segments" else self.span / (self.fps or fps)

    @property
    def num_bytes(self) -> int:
        """Size of one clip in one crop as uint8."""
        return 3 * self.frames * self.size**2

    def replace(self, **changes: Any) -> ClipSpec:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` gives an equal ClipSpec back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ClipSpec:
        """The ClipSpec that `to_dict` wrote; ValueError names fields that do not exist."""
        if isinstance(fields, Mapping) and isinstance(fields.get("normalization"), Mapping):
            normalization = from_fields(Normalization, fields["normalization"])
            fields = {**fields, "normalization": normalization}
        return from_fields(cls, fields)


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """How often, where in time and where in the frame a video is looked at."""

    clips: int = 4
    """Clips in time."""
    crops: Crops = 3
    """Squares of each clip: 1 in the center, or 3 along the frame's longer side; `full`: all of the frame."""
    placement: Placement = "official"
    """Whose rules place the clips in time and the crops in the frame; see sampling.py and transforms.py."""
    average: Average = "probabilities"
    """What is averaged over the views: probabilities, or logits before they become probabilities."""
    margin: float = 1.0
    """Stop when the top-1 class leads the top-2 class by more than this, 0 to 1; 1 evaluates all views."""

    def __post_init__(self) -> None:
        _require_count("clips", self.clips, MAX_CLIPS)
        _require_one_of("crops", self.crops, get_args(Crops))
        _require_one_of("placement", self.placement, get_args(Placement))
        _require_one_of("average", self.average, get_args(Average))
        _require_number("margin", self.margin, 0, 1)
        if self.is_adaptive and self.average != "probabilities":
            raise InputError(f"average must be 'probabilities' with a margin below 1, got {self.average!r}")

    @property
    def num_views(self) -> int:
        """V: clips times crops."""
        return self.clips * self.views_per_clip

    @property
    def views_per_clip(self) -> int:
        """Looks at each clip."""
        return 1 if self.crops == "full" else self.crops

    @property
    def is_adaptive(self) -> bool:
        """Whether a video may be answered from fewer views than V."""
        return self.margin < 1

    @property
    def name(self) -> str:
        """As protocols are named: `4x3`, `full-frame-4x1`, `adaptive-4x3`."""
        prefix = "adaptive-" * self.is_adaptive + "full-frame-" * (self.crops == "full")
        return f"{prefix}{self.clips}x{self.views_per_clip}"

    def replace(self, **changes: Any) -> ViewPlan:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` gives an equal ViewPlan back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ViewPlan:
        """The ViewPlan that `to_dict` wrote; ValueError names fields that do not exist."""
        return from_fields(cls, fields)


def describe_protocols() -> list[dict[str, str]]:
    """Return a row for each protocol: its name, the views of a video, and what it is."""
    return [
        {
            "name": name,
            "views": describe_protocol(name).partition(": ")[2],
            "description": (inspect.getdoc(protocol) or "").partition("\n")[0],
        }
        for name, protocol in PROTOCOLS.items()
    ]


def describe_protocol(name: str) -> str:
    """Return a protocol's name with what is looked at: `3x3: 3 clips x 3 crops = 9 views per video`.

    name: one of PROTOCOLS, or the `name` of a ViewPlan; any other text comes back as it is.
    """
    if (found := re.fullmatch(r"(?P<kind>.*-)?(?P<clips>\d+)x(?P<crops>\d)", name)) is None:
        return name
    clips, crops = int(found["clips"]), int(found["crops"])
    is_full, most = "full-frame" in name, "up to " * name.startswith("adaptive")
    looks = f"{_count(clips, 'clip')} x {_count(crops, 'full frame' if is_full else 'crop')}"
    label = f"{name}: " if found["kind"] else ""
    return f"{label}{most}{looks} = {_count(clips * crops, 'view')} per video"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def require_affordable(clip: ClipSpec, views: ViewPlan) -> None:
    """Raise InputError if the views of one video need more memory or frames than any sensible plan.

    For plans that come with weights; a plan that the user asks for is the user's choice.
    """
    width, height = clip.size, clip.size
    if views.crops == "full":
        width, height = round(LONGEST_FULL_FRAME * clip.short_side), clip.short_side
    if views.num_views * 3 * clip.frames * width * height > MAX_VIEW_BYTES:
        raise InputError(
            f"all views of a video must have at most {MAX_VIEW_BYTES} values, got {views.num_views} views of "
            f"{clip.frames} frames of up to {width} x {height} pixels; use fewer clips"
        )
    if clip.rule == "segments" and views.clips != 1:
        raise InputError(f"clips must be 1 with rule 'segments', which covers the video, got {views.clips}")
    if views.clips * clip.frames > MAX_SAMPLED_FRAMES:
        raise InputError(
            f"all clips of a video must have at most {MAX_SAMPLED_FRAMES} frames, got {views.clips} clips of "
            f"{clip.frames} frames; use fewer clips"
        )


def official_4x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """Video Swin's Kinetics test: 4 clips at interval centers, short side = crop size, 3 crops."""
    return clip.replace(rule="dense", short_side=clip.size), ViewPlan(clips=4, crops=3, placement="official")


def mmaction2_4x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """MMAction2 1.x's Kinetics test: as the official one, but its clips reach from end to end."""
    return clip.replace(rule="dense", short_side=clip.size), ViewPlan(clips=4, crops=3, placement="mmaction2")


def torchvision_15fps_12x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """Torchvision's Kinetics test: 15 frames a second, 12 clips, the center 224 of a short side of 256."""
    short_side = round(clip.size * 256 / 224)
    return (
        clip.replace(rule="dense", fps=15.0, stride=1, short_side=short_side),
        ViewPlan(clips=12, crops=1, placement="torchvision"),
    )


def omnivore_4x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """Omnivore's Kinetics test: 4 clips of the first 10 seconds at 16 frames a second, mean of logits.

    Source: omnivision/config/experiments/omnivore/inference_k400_in1k_pretrained.yaml in
    facebookresearch/omnivore: 160 frames of one 10-second clip, cut at stride 40 into clips of 32.
    """
    return (
        clip.replace(rule="dense", fps=16.0, stride=1, short_side=clip.size),
        ViewPlan(clips=4, crops=3, placement="omnivore", average="logits"),
    )


def ssv2_1x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """Video Swin's Something-Something test: 1 clip over the whole video, short side = crop size, 3 crops."""
    return (
        clip.replace(rule="segments", fps=None, short_side=clip.size),
        ViewPlan(clips=1, crops=3, placement="official"),
    )


def fast_1x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """One look: the center crop of a clip in the middle of the video. Not published; for speed."""
    return clip, ViewPlan(clips=1, crops=1, placement="official")


def full_frame_4x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """As official-4x3, but each clip is one view of the whole frame. Not published; for speed."""
    clip, views = official_4x3(clip)
    return clip, views.replace(crops="full")


def full_frame_1x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """One look: the whole frame of a clip in the middle of the video. Not published; for speed."""
    return clip.replace(short_side=clip.size), ViewPlan(clips=1, crops="full", placement="official")


def adaptive_4x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """As official-4x3, until one class leads the next by 0.9 (SAFE_MARGIN). Not published; for speed."""
    clip, views = official_4x3(clip)
    return clip, views.replace(margin=SAFE_MARGIN)


PROTOCOLS: Final[Mapping[str, Callable[[ClipSpec], tuple[ClipSpec, ViewPlan]]]] = MappingProxyType(
    {
        "official-4x3": official_4x3,
        "mmaction2-4x3": mmaction2_4x3,
        "torchvision-15fps-12x1": torchvision_15fps_12x1,
        "omnivore-4x3": omnivore_4x3,
        "ssv2-1x3": ssv2_1x3,
        "fast-1x1": fast_1x1,
        "full-frame-4x1": full_frame_4x1,
        "full-frame-1x1": full_frame_1x1,
        "adaptive-4x3": adaptive_4x3,
    }
)


def apply_protocol(name: str, clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """The clip spec and view plan of the protocol called `name`, for a model that eats `clip`.

    What belongs to the weights stays (frames, size, normalization, and stride and fps unless the protocol is
    about them); what belongs to the test is set. ValueError for an unknown name.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol {name!r} is not known; the known ones are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name](clip)


_Fields = TypeVar("_Fields")


def from_fields(cls: type[_Fields], fields: Mapping[str, Any]) -> _Fields:
    """Return the dataclass `cls` with these fields; InputError if some are unknown or missing."""
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(fields, Mapping):
        raise InputError(
            f"{cls.__name__} must be an object with {', '.join(known)}, got {reprlib.repr(fields)}"
        )
    if unknown := [name for name in fields if name not in known]:
        raise InputError(
            f"{cls.__name__} has no {', '.join(map(reprlib.repr, unknown[:3]))}; "
            f"it has {', '.join(sorted(known))}"
        )
    required = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in fields]:
        raise InputError(f"{cls.__name__} has no value for {', '.join(missing)}")
    return cls(**fields)
