"""Recipe of the bundled model that classifies camera movements, trained from scratch on synthetic clips."""

from __future__ import annotations

from torch.utils.data import Dataset

from videoswin.acceleration import resolve_device
from videoswin.camera_motion.camera import LABELS
from videoswin.camera_motion.clips import CameraMotionClips
from videoswin.data.dataset import Item
from videoswin.model.config import NANO
from videoswin.model.swin import initialize_from_scratch
from videoswin.training.learner import natural_precision
from videoswin.training.recipe import Augment, Model, Optimizer, Recipe, Run, Schedule, SyntheticData
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan

CLIP = ClipSpec(frames=8, stride=1, fps=4.0, size=64, short_side=64, normalization=PER_CLIP, antialias=True)
"""Two seconds in low resolution: camera movements need more temporal than spatial detail."""

STEPS = 6000
BATCH_SIZE = 64
ITEMS_PER_STEP = BATCH_SIZE // 4
"""An item is four variants of one rendered clip."""


def camera_motion() -> Recipe:
    """A small model of nine camera movements, trained from scratch on synthetic clips.

    It uses 96,000 rendered clips in four variants each. Command: `videoswin train camera-motion --out run/`,
    with the extras `train` and `camera-motion`. Cost: 66 minutes on two shared cores. Expected top-1 with
    3 x 3 views of H.264 files: 99 % on unseen photographs; docs/camera-motion.md has the results.
    """
    return Recipe(
        name="camera-motion",
        data=SyntheticData(
            clips=generated_clips,
            description="generated: a virtual camera over textures and the photographs in scikit-image",
            labels=LABELS,
            clip=CLIP,
            views=ViewPlan(clips=3, crops=3),
            batch_size=BATCH_SIZE,
        ),
        model=Model(
            init_from=None,
            config=NANO.replace(num_classes=len(LABELS)),
            initialize=initialize_from_scratch,
            drop_path=0.0,
            dropout=0.0,
        ),
        # The clips already have the size and the variation for training.
        augment=Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, label_smoothing=0.05),
        optimizer=Optimizer(
            lr=1e-3, backbone_lr_scale=1.0, weight_decay=0.05, max_grad_norm=1.0, ema_decay=0.999
        ),
        schedule=Schedule(epochs=1, warmup_epochs=400 / STEPS, lr_update="step"),
        run=Run(
            precision=natural_precision(resolve_device("auto").type),
            num_threads=1,
            log_every=50,
            save_every=250,
            license="Apache-2.0",
        ),
    )


def generated_clips(seed: int) -> Dataset[Item]:
    """Return one epoch of clips: the easiest in the first 250 steps, full difficulty from step 1,000 on."""
    return CameraMotionClips(
        length=STEPS * ITEMS_PER_STEP,
        easy=250 * ITEMS_PER_STEP,
        hard=1000 * ITEMS_PER_STEP,
        seed=seed,
        frames=CLIP.frames,
        size=CLIP.size,
    )
