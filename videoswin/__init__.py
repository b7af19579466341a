"""Video Swin Transformer: classify the action in each video.

Example:
    from videoswin import Predictor

    predictor = Predictor.from_pretrained("camera-motion")
    predictor("clip.mp4").top(5)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoswin._errors import InputError, VideoError
    from videoswin.acceleration import optimize_for_inference
    from videoswin.inference.prediction import Prediction
    from videoswin.inference.predictor import Predictor
    from videoswin.model.config import BASE, LARGE, NANO, SMALL, TINY, VideoSwinConfig
    from videoswin.model.swin import VideoSwin
    from videoswin.video.limits import ReadLimits
    from videoswin.video.reader import open_video
    from videoswin.video.spec import ClipSpec, ViewPlan
    from videoswin.video.views import Views, load_views
    from videoswin.weights.checkpoint import Checkpoint, load_model

__version__ = "0.1.0"

_MODULES = {
    "BASE": "model.config",
    "Checkpoint": "weights.checkpoint",
    "ClipSpec": "video.spec",
    "InputError": "_errors",
    "LARGE": "model.config",
    "NANO": "model.config",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "ReadLimits": "video.limits",
    "SMALL": "model.config",
    "TINY": "model.config",
    "VideoError": "_errors",
    "VideoSwin": "model.swin",
    "VideoSwinConfig": "model.config",
    "ViewPlan": "video.spec",
    "Views": "video.views",
    "load_model": "weights.checkpoint",
    "load_views": "video.views",
    "open_video": "video.reader",
    "optimize_for_inference": "acceleration",
}
__all__ = [
    "BASE",
    "LARGE",
    "NANO",
    "SMALL",
    "TINY",
    "Checkpoint",
    "ClipSpec",
    "InputError",
    "Prediction",
    "Predictor",
    "ReadLimits",
    "VideoError",
    "VideoSwin",
    "VideoSwinConfig",
    "ViewPlan",
    "Views",
    "load_model",
    "load_views",
    "open_video",
    "optimize_for_inference",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `videoswin --help` does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'videoswin' has no attribute {name!r}")
    value = getattr(import_module(f"videoswin.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
