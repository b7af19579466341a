"""Specify model inputs (ClipSpec), the views of a video (ViewPlan), and the published protocols.

A clip is a sequence of frames, a crop is a square of it, and a view is one clip in one crop or in its full
frame. T frames, H height, W width, S side of the crop, V views. Both specs are plain values that are saved in
checkpoints as JSON, so that weights are always saved with the sampling that they were trained with.
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
from videoswin._text import first_few, plural

Rule = Literal["dense", "segments"]
Placement = Literal["official", "mmaction2", "torchvision", "omnivore"]
Average = Literal["probabilities", "logits"]
Crops = Literal[1, 3, "full"]

SAFE_MARGIN: Final = 0.9
"""Margin of the adaptive protocols: the smallest of seven margins that changed no top-1 prediction of the
bundled model on 360 videos (benchmarks/results/approximate_views.json)."""


# Specs can come from untrusted files, where an unbounded number could hang or exhaust the memory.
MAX_FRAMES: Final = 4096
"""Largest number of frames in a clip."""
MAX_STRIDE: Final = 100_000
MAX_FPS: Final = 1000.0
MIN_FPS: Final = 0.01
MAX_SIDE: Final = 4096
"""Largest `size` and `short_side`, in pixels."""
MAX_VIEW_ASPECT_RATIO: Final = 4.0
"""Largest ratio of the longer to the shorter side of a full-frame view, whose cost grows with this ratio."""
MAX_CLIPS: Final = 10_000
MAX_CLIP_BYTES: Final = 1 << 27
"""Largest size of one clip in one crop, as uint8, 3 * T * S * S: 28 times 32 frames of 224 x 224."""
MAX_VIEW_BYTES: Final = 1 << 30
"""Largest size of all views in the plan of a checkpoint: 18 times official-4x3 at 32 frames of 224 x 224."""
MAX_SAMPLED_FRAMES: Final = 1 << 20
"""Largest number of frames in all clips in the plan of a checkpoint."""


def _require_count(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{name} must be an integer from 1 to {most}, got {reprlib.repr(value)}")


def _require_number(name: str, value: object, least: float, most: float) -> None:
    # NaN fails the comparison, an integer too long for a float does not.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InputError(f"{name} must be a number from {least:g} to {most:g}, got {reprlib.repr(value)}")


def _require_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    # Compare types as well, because True equals 1.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {reprlib.repr(value)}")


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Fixed mean and standard deviation per channel (R, G, B), for values scaled to 0..1."""

    mean: tuple[float, float, float]
    """Value to subtract from each channel."""
    std: tuple[float, float, float]
    """Value to divide each channel by, > 0."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or len(values) != 3:
                raise InputError(f"{name} must be three numbers (R, G, B), got {reprlib.repr(values)}")
            for value in values:
                _require_number(name, value, 1e-6 if name == "std" else -1e6, 1e6)
            object.__setattr__(self, name, tuple(values))  # JSON has lists


IMAGENET: Final = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PER_CLIP: Final = "per-clip"
"""Normalize each clip by its own mean and standard deviation over all frames, pixels and channels."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """Sampling and preprocessing of the clips that a model was trained with."""

    frames: int = 32
    """Number of frames in a clip, T."""
    stride: int = 2
    """Step between neighboring frames of a clip, in frames of the video (resampled if `fps` is set)."""
    fps: float | None = None
    """Frame rate to which the video is resampled first, in frames per second; None keeps its frames."""
    size: int = 224
    """Height and width of the square crop in pixels, S."""
    short_side: int = 224
    """Length in pixels to which the shorter side of a frame is resized before cropping, >= `size`."""
    normalization: Normalization | Literal["per-clip"] = IMAGENET
    """Normalization of the uint8 pixels for the model: a fixed mean and std, or PER_CLIP."""
    rule: Rule = "dense"
    """`dense`: frames at `stride`; `segments`: one frame from each of `frames` equal parts of the video."""
    antialias: bool = False
    """Apply a low-pass filter when downscaling. The published models were trained and tested without it."""

    def __post_init__(self) -> None:
        _require_count("frames", self.frames, MAX_FRAMES)
        _require_count("stride", self.stride, MAX_STRIDE)
        _require_count("size", self.size, MAX_SIDE)
        _require_count("short_side", self.short_side, MAX_SIDE)
        if self.fps is not None:
            _require_number("fps", self.fps, MIN_FPS, MAX_FPS)
        if self.short_side < self.size:
            raise InputError(f"short_side must be >= size {self.size}, got {self.short_side}")
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
        """Return the span of a clip in frames, as in the published code: `frames * stride`."""
        return self.frames * self.stride

    def seconds(self, fps: float) -> float | None:
        """Return the span of a clip in seconds for a video at `fps` frames/s; None if all (`segments`)."""
        return None if self.rule == "segments" else self.span / (self.fps or fps)

    @property
    def num_bytes(self) -> int:
        """Return the size of one clip in one crop as uint8, in bytes."""
        return 3 * self.frames * self.size**2

    def replace(self, **changes: Any) -> ClipSpec:
        """Return a copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values, for `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ClipSpec:
        """Return the ClipSpec of `to_dict`; raise InputError for unknown, missing and invalid fields."""
        if isinstance(fields, Mapping) and isinstance(fields.get("normalization"), Mapping):
            normalization = from_fields(Normalization, fields["normalization"])
            fields = {**fields, "normalization": normalization}
        return from_fields(cls, fields)


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """Number and placement of the views of a video, and how their outputs are averaged."""

    clips: int = 4
    """Number of clips in time."""
    crops: Crops = 3
    """Crops per clip: 1 in the center, 3 along the longer side of the frame, or `full` for the full frame."""
    placement: Placement = "official"
    """Library whose rules place the clips and the crops; see sampling.py and views.py."""
    average: Average = "probabilities"
    """Outputs that are averaged over the views: probabilities, or logits (before the softmax)."""
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
        """Return the number of views of a video, V: clips times crops."""
        return self.clips * self.views_per_clip

    @property
    def views_per_clip(self) -> int:
        """Return the number of views of each clip."""
        return 1 if self.crops == "full" else self.crops

    @property
    def is_adaptive(self) -> bool:
        """Return whether a prediction may use fewer views than V."""
        return self.margin < 1

    @property
    def name(self) -> str:
        """Return the name in the style of protocol names: `4x3`, `full-frame-4x1`, `adaptive-4x3`."""
        prefix = "adaptive-" * self.is_adaptive + "full-frame-" * (self.crops == "full")
        return f"{prefix}{self.clips}x{self.views_per_clip}"

    def replace(self, **changes: Any) -> ViewPlan:
        """Return a copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values, for `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ViewPlan:
        """Return the ViewPlan of `to_dict`; raise InputError for unknown, missing and invalid fields."""
        return from_fields(cls, fields)


def describe_protocols() -> list[dict[str, str]]:
    """Return a row for each protocol: its name, the views of a video, and a description."""
    return [
        {
            "name": name,
            "views": describe_protocol(name).partition(": ")[2],
            "description": (inspect.getdoc(protocol) or "").partition("\n")[0],
        }
        for name, protocol in PROTOCOLS.items()
    ]


def describe_protocol(name: str) -> str:
    """Return a protocol name with its views, such as `official-4x3: 4 clips x 3 crops = 12 views per video`.

    Args:
        name: One of PROTOCOLS, or the `name` of a ViewPlan; any other text is returned unchanged.
    """
    if (found := re.fullmatch(r"(?P<kind>.*-)?(?P<clips>\d+)x(?P<crops>\d)", name)) is None:
        return name
    clips, crops = int(found["clips"]), int(found["crops"])
    is_full, most = "full-frame" in name, "up to " * name.startswith("adaptive")
    looks = f"{plural(clips, 'clip')} x {plural(crops, 'full frame' if is_full else 'crop')}"
    label = f"{name}: " if found["kind"] else ""
    return f"{label}{most}{looks} = {plural(clips * crops, 'view')} per video"


def require_affordable(clip: ClipSpec, views: ViewPlan) -> None:
    """Raise InputError if the views of one video need too much memory or too many frames.

    This check is for plans saved with weights; plans set by the user are not limited.
    """
    width, height = clip.size, clip.size
    if views.crops == "full":
        width, height = round(MAX_VIEW_ASPECT_RATIO * clip.short_side), clip.short_side
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
    """MMAction2 1.x's Kinetics test: as official-4x3, but the clips extend to both ends of the video."""
    return clip.replace(rule="dense", short_side=clip.size), ViewPlan(clips=4, crops=3, placement="mmaction2")


def torchvision_15fps_12x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """Torchvision's Kinetics test: 15 frames/s, 12 clips, the center crop 224 of a short side of 256."""
    short_side = round(clip.size * 256 / 224)
    return (
        clip.replace(rule="dense", fps=15.0, stride=1, short_side=short_side),
        ViewPlan(clips=12, crops=1, placement="torchvision"),
    )


def omnivore_4x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """Omnivore's Kinetics test: 4 clips of the first 10 seconds at 16 frames/s, 3 crops, mean of logits.

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
    """One view: the center crop of a clip in the middle of the video. Not published; for speed."""
    return clip, ViewPlan(clips=1, crops=1, placement="official")


def full_frame_4x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """As official-4x3, but each clip is one full-frame view. Not published; for speed."""
    clip, views = official_4x3(clip)
    return clip, views.replace(crops="full")


def full_frame_1x1(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """One view: the full frame of a clip in the middle of the video. Not published; for speed."""
    return clip.replace(short_side=clip.size), ViewPlan(clips=1, crops="full", placement="official")


def adaptive_4x3(clip: ClipSpec) -> tuple[ClipSpec, ViewPlan]:
    """As official-4x3, but stops when top-1 leads top-2 by 0.9. Not published; for speed."""
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
    """Return the clip spec and view plan of a protocol, for a model with input `clip`.

    The protocol keeps what belongs to the weights (frames, size, normalization, and stride and fps unless it
    specifies them) and sets what belongs to the test.

    Args:
        name: One of PROTOCOLS.
        clip: Clip that the model was trained with.

    Raises:
        InputError: The name is not in PROTOCOLS.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
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
            f"{cls.__name__} has no {first_few([reprlib.repr(name) for name in unknown])}; "
            f"it has {', '.join(sorted(known))}"
        )
    required = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in fields]:
        raise InputError(f"{cls.__name__} has no value for {', '.join(missing)}")
    return cls(**fields)
