"""VideoSwinConfig, the architecture of a Video Swin Transformer, and the published variants."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any, Final

PATCH = (2, 4, 4)
"""Frames, rows and columns of pixels in one token; the same in every published video model."""
MLP_RATIO = 4
"""Width of the MLP's hidden layer divided by the width of the block."""

# Upper bounds far above every published model, so that an untrusted checkpoint cannot cause endless loops.
MAX_STAGES: Final = 8
MAX_DEPTH: Final = 256
"""Maximum number of blocks in one stage."""
_LIMITS: Final = {
    "embed_dim": 4096,
    "depths": MAX_DEPTH,
    "num_heads": 4096,
    "window": 1 << 15,
    "num_classes": 1_000_000,
    "in_channels": 4,
}
_MAX_WINDOW_PAIRS: Final = 1 << 30
"""Maximum number of token pairs in a window times heads: a position bias of 4 GiB in float32."""


@dataclass(frozen=True, kw_only=True)
class VideoSwinConfig:
    """Architecture of a Video Swin Transformer (Liu et al. 2021).

    Raises:
        ValueError: A value is invalid, or above its upper bound, which is far above the published models.

    Example:
        TINY.replace(num_classes=174, window=(16, 7, 7))
    """

    embed_dim: int
    """Channels after the patch embedding; each further stage doubles them."""
    depths: tuple[int, ...]
    """Blocks in each stage. Even blocks use regular windows, odd blocks shifted windows."""
    num_heads: tuple[int, ...]
    """Attention heads in each stage."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Tokens in a window along time, height and width."""
    num_classes: int = 400
    """Classes of the classification head."""
    in_channels: int = 3
    """Color channels of the input, 1 to 4."""
    sliced_bias: bool = False
    """Position bias of a window that is clipped in height or width. False: each offset uses its own row of
    the table. True: the first rows and columns of the full window's lookup, which confuses offsets, but is
    what the official code, mmaction2 and torchvision do. The two differ only for inputs smaller than a window
    at some stage (below 224 px for the published models)."""

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads", "window"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)):
                raise ValueError(f"{name} must be a tuple of integers, got {reprlib.repr(value)}")
            # JSON has no tuples, so convert the lists of a checkpoint's metadata.
            object.__setattr__(self, name, tuple(value))
        if len(self.window) != 3:
            raise ValueError(f"window must be (time, height, width), got {reprlib.repr(self.window)}")
        if not 1 <= len(self.depths) <= MAX_STAGES or len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths and num_heads must have the same length, 1 to {MAX_STAGES}, got "
                f"{reprlib.repr(self.depths)} and {reprlib.repr(self.num_heads)}"
            )
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) is not int or not 1 <= number <= limit:
                    raise ValueError(
                        f"{name} must be an integer from 1 to {limit}, got {reprlib.repr(number)}"
                    )
        if not isinstance(self.sliced_bias, bool):
            raise ValueError(f"sliced_bias must be True or False, got {reprlib.repr(self.sliced_bias)}")
        if (pairs := math.prod(self.window) ** 2 * max(self.num_heads)) > _MAX_WINDOW_PAIRS:
            raise ValueError(
                f"window {self.window} must have at most {_MAX_WINDOW_PAIRS} pairs of tokens times heads, "
                f"got {pairs}; use a smaller window"
            )
        for stage, heads in enumerate(self.num_heads):
            if self.stage_dim(stage) % heads:
                raise ValueError(
                    f"channels of stage {stage} must be a multiple of its heads, got "
                    f"{self.stage_dim(stage)}, not divisible by {heads} heads"
                )

    def stage_dim(self, stage: int) -> int:
        """Return the number of channels in a stage (0-based)."""
        return self.embed_dim << stage

    @property
    def feature_dim(self) -> int:
        """Input channels of the classification head."""
        return self.stage_dim(len(self.depths) - 1)

    def replace(self, **changes: Any) -> VideoSwinConfig:
        """Return a copy with some fields changed, e.g. `TINY.replace(num_classes=174)`."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serializable values; `VideoSwinConfig(**d)` is the inverse."""
        return dataclasses.asdict(self)


# Liu et al. 2021, section 3.3; all heads have 32 channels.
TINY = VideoSwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))
SMALL = VideoSwinConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))
BASE = VideoSwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
BASE_W16 = BASE.replace(window=(16, 7, 7))
"""Swin-B as trained on Something-Something v2: each window spans all 32 frames."""
LARGE = VideoSwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
LARGE_384 = LARGE.replace(window=(8, 12, 12))
"""Swin-L for 384-pixel input."""
NANO = VideoSwinConfig(embed_dim=32, depths=(2, 2, 2), num_heads=(1, 2, 4), window=(4, 4, 4), num_classes=9)
"""Our own variant, not from the paper: small enough to train on a CPU and to include in the package."""
