"""The bundled model that names how the camera moves, trained from nothing on generated clips."""

from __future__ import annotations

from videoswin.data.camera_motion import CameraMotionClips
from videoswin.data.camera_path import LABELS
from videoswin.model.config import NANO
from videoswin.training.optimizer import initialize_from_scratch
from videoswin.training.recipe import Augment, Clips, Data, Model, Optimizer, Recipe, Run, Schedule
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan

CLIP = ClipSpec(frames=8, stride=1, fps=4.0, size=64, short_side=64, normalisation=PER_CLIP, antialias=True)
"""Two seconds, small: how the camera moves needs time more than detail."""

STEPS = 6000
ITEMS_PER_STEP = 16


def camera_motion() -> Recipe:
    """NANO learns to name nine camera movements from 96,000 rendered clips, each seen four ways.

    Command: `videoswin train camera-motion --out run/`. Cost: 66 minutes on two shared cores. Expected with
    3 x 3 views through H.264 files: 99 % on unseen photographs; docs/camera-motion.md has the figures.
    """

    def clips(seed: int) -> Clips:
        return CameraMotionClips(
            length=STEPS * ITEMS_PER_STEP,
            easy=250 * ITEMS_PER_STEP,
            hard=1000 * ITEMS_PER_STEP,
            seed=seed,
            frames=CLIP.frames,
            size=CLIP.size,
        )

    return Recipe(
        name="camera-motion",
        data=Data(
            clips=clips,
            source="generated: a virtual camera over textures and the photographs in scikit-image",
            labels=LABELS,
            clip=CLIP,
            views=ViewPlan(clips=3, crops=3),
            items_per_step=ITEMS_PER_STEP,
            workers=2,
        ),
        model=Model(config=NANO.replace(num_classes=len(LABELS)), initialize=initialize_from_scratch),
        augment=Augment(label_smoothing=0.05),
        optimizer=Optimizer(peak_rate=1e-3, weight_decay=0.05, largest_gradient=1.0, averaging=0.999),
        schedule=Schedule(steps=STEPS, warmup_steps=400),
        run=Run(
            command="videoswin train camera-motion --out run/",
            licence="Apache-2.0",
            seed=0,
            precision="bf16-mixed",
            threads=1,
        ),
    )
