"""Catalog of the weights that this package can load: URL, architecture, training data, labels, license.

`videoswin models` prints `list_models`, and does not need torch. Sizes and hashes are given where the
publisher gives them (torchvision and OpenMMLab put the first eight hex digits of the SHA-256 into the name).
Not included: the paper's Swin-L video weights, which were never released, and the Keras ports, which are the
official weights in HDF5.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from safetensors import safe_open

from videoswin._errors import InputError
from videoswin.video.spec import ClipSpec, ViewPlan, apply_protocol
from videoswin.weights.metadata import KEY, Metadata

Architecture = Literal["tiny", "small", "base", "large"]

BUNDLED: Final = Path(__file__).parent / "bundled"
"""Folder of the checkpoints that are part of the package."""
_KINETICS_CLIP = ClipSpec(frames=32, stride=2, size=224)


@dataclass(frozen=True)
class Score:
    """A published accuracy. None of them was measured by us."""

    top1: float
    """Percent."""
    top5: float | None
    """Percent; None if not published."""
    protocol: str
    """One of videoswin.video.spec.PROTOCOLS."""
    source: str
    """Where it was published."""


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One published file."""

    name: str
    """Name by which the file is loaded."""
    url: str
    """URL of the file."""
    mirror: str | None = None
    """URL of a copy of the file, used if `url` fails."""
    layout: str
    """Library whose tensor names the file uses."""
    architecture: Architecture
    """Size of the model, such as tiny."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Tokens in a window (time, height, width); (1, M, M) for an image model."""
    trained_on: str
    """Datasets, in the order of training."""
    labels: str | None
    """Label set (see LABEL_SETS); None if unknown, and for image models, whose classes are dropped."""
    license: str
    """License of the weights, as an SPDX identifier."""
    clip: ClipSpec = _KINETICS_CLIP
    """How a video becomes a clip."""
    protocol: str = "official-4x3"
    """Default protocol of a Predictor of these weights."""
    scores: tuple[Score, ...] = ()
    """Published accuracies; empty if there are none."""
    sha256: str | None = None
    """First hex digits of the file's SHA-256."""
    size_mb: int | None = None
    """Size in 10^6 bytes, rounded."""

    @property
    def file_name(self) -> str:
        """File name in the cache folder."""
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Path of the file in the cache folder, where it may not exist yet."""
        return cache_folder() / self.file_name

    @property
    def is_image_model(self) -> bool:
        """Whether this is a 2D Swin: it is inflated when loaded, has no classes, and needs training."""
        return self.window[0] == 1

    @property
    def is_free(self) -> bool:
        """Whether commercial use is allowed. If False, the license must be accepted (`require_license`)."""
        return self.license in ("Apache-2.0", "BSD-3-Clause", "MIT")

    def clip_and_views(self) -> tuple[ClipSpec, ViewPlan]:
        """Return the clip and the default views of these weights."""
        return apply_protocol(self.protocol, self.clip)


def cache_folder() -> Path:
    """Return the folder of downloaded files: $VIDEOSWIN_HOME, or ~/.cache/videoswin."""
    return Path(os.environ.get("VIDEOSWIN_HOME") or Path.home() / ".cache" / "videoswin").expanduser()


def list_models() -> list[dict[str, Any]]:
    """Return one row per model, bundled models first; `file` is None if it is not downloaded.

    Every row has the same keys: the fields of CatalogEntry and `file`.
    """
    published = [
        asdict(entry) | {"file": str(entry.path) if entry.path.is_file() else None}
        for entry in ENTRIES.values()
    ]
    empty = dict.fromkeys(published[0])
    return [empty | _bundled(path) for path in sorted(BUNDLED.glob("*.safetensors"))] + published


def _bundled(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        metadata = Metadata.from_json(file.metadata()[KEY], "config")
    assert metadata.config is not None
    return {
        "name": metadata.name,
        "layout": "videoswin",
        "window": metadata.config.window,
        "trained_on": metadata.lineage["trained on"],
        "labels": metadata.name,
        "license": metadata.license,
        "clip": metadata.clip.to_dict(),
        "scores": (),
        "size_mb": round(path.stat().st_size / 1e6),
        "file": str(path),
    }


def require_license(entry: CatalogEntry, accepted: str | None) -> None:
    """Raise InputError unless the license allows every use or `accepted` repeats it."""
    if not entry.is_free and accepted != entry.license:
        raise InputError(
            f"{entry.name} is licensed {entry.license}, which forbids commercial use; "
            f"repeat the license to accept it: license={entry.license!r} in Python, "
            f"--license {entry.license} on the command line"
        )


def entry_of_file(file_name: str) -> CatalogEntry | None:
    """Return the entry whose file has this name, for files that were downloaded by hand."""
    return next((entry for entry in ENTRIES.values() if entry.file_name == file_name), None)


LABEL_SETS: Final[Mapping[str, int]] = MappingProxyType(
    {"kinetics400": 400, "kinetics600": 600, "kinetics700": 700, "kinetics710": 710, "something-v2": 174}
)
"""Name of each label set in labels/ -> number of classes."""


def load_labels(name: str) -> tuple[str, ...]:
    """Return the class names of a label set, e.g. `kinetics400`; raise InputError if it is unknown."""
    if name not in LABEL_SETS:
        raise InputError(f"label set must be one of {', '.join(LABEL_SETS)}, got {name!r}")
    path = Path(__file__).parent / "labels" / f"{name}.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def guess_label_set(num_classes: int) -> str | None:
    """Return the label set with this number of classes, or None."""
    return next((name for name, count in LABEL_SETS.items() if count == num_classes), None)


def numbered_labels(num_classes: int) -> tuple[str, ...]:
    """Return `class 0`, `class 1`, ... for a model whose class names are unknown."""
    return tuple(f"class {index}" for index in range(num_classes))


_STORAGE = "https://github.com/SwinTransformer/storage/releases/download"
_TORCHVISION = "https://download.pytorch.org/models"
_OPENMMLAB = "https://download.openmmlab.com/mmaction/v1.0/recognition/swin"
_OMNIVORE = "https://dl.fbaipublicfiles.com/omnivore/models"

_PAPER = "arXiv 2106.13230"
_README = "MMAction2 1.2 README"


_IN1K_K400, _IN22K_K400 = "ImageNet-1K, Kinetics-400", "ImageNet-22K, Kinetics-400"

# Name, architecture, file, 10^6 bytes, training data, top-1 and top-5 of the paper, and of torchvision.
_TORCHVISION_FILES: tuple[
    tuple[str, Architecture, str, int, str, tuple[float, float], tuple[float, float]], ...
] = (
    ("tiny-k400", "tiny", "t-7615ae03", 127, _IN1K_K400, (78.8, 93.6), (77.715, 93.519)),
    ("small-k400", "small", "s-da41c237", 229, _IN1K_K400, (80.6, 94.5), (79.521, 94.158)),
    ("base-k400", "base", "b_1k-24f7c7c6", 382, _IN1K_K400, (80.6, 94.6), (79.427, 94.386)),
    ("base-k400-in22k", "base", "b_22k-7c6ae6fa", 382, _IN22K_K400, (82.7, 95.5), (81.643, 95.574)),
)


def _torchvision_entries() -> Iterator[CatalogEntry]:
    """Yield the official weights as torchvision publishes them, with a hash: the default source."""
    for name, architecture, file, size_mb, trained_on, paper, own in _TORCHVISION_FILES:
        yield CatalogEntry(
            name=name,
            url=f"{_TORCHVISION}/swin3d_{file}.pth",
            layout="torchvision",
            architecture=architecture,
            trained_on=trained_on,
            labels="kinetics400",
            license="BSD-3-Clause",
            scores=(
                Score(*paper, "official-4x3", _PAPER),
                Score(*own, "torchvision-15fps-12x1", "torchvision 0.28"),
            ),
            sha256=file.rpartition("-")[2],
            size_mb=size_mb,
        )


_IN22K_K600, _K400_SSV2 = "ImageNet-22K, Kinetics-600", "Kinetics-400, Something-Something v2"

# Name, architecture, window length in time, end of the file name, training data, labels, top-1 and top-5.
_OFFICIAL_FILES: tuple[tuple[str, Architecture, int, str, str, str, tuple[float, float] | None], ...] = (
    ("tiny-k400-official", "tiny", 8, "kinetics400_1k", _IN1K_K400, "kinetics400", (78.8, 93.6)),
    ("small-k400-official", "small", 8, "kinetics400_1k", _IN1K_K400, "kinetics400", (80.6, 94.5)),
    ("base-k400-official", "base", 8, "kinetics400_1k", _IN1K_K400, "kinetics400", (80.6, 94.6)),
    ("base-k400-in22k-official", "base", 8, "kinetics400_22k", _IN22K_K400, "kinetics400", (82.7, 95.5)),
    ("base-k600-in22k", "base", 8, "kinetics600_22k", _IN22K_K600, "kinetics600", (84.0, 96.5)),
    ("base-ssv2", "base", 16, "sthv2", _K400_SSV2, "something-v2", (69.6, 92.7)),
    # Its accuracy is not published; according to its name, base-ssv2 was trained from it (VST#66, #78).
    ("base-w16-k400-in22k", "base", 16, "kinetics400_22k", _IN22K_K400, "kinetics400", None),
)


def _official_entries() -> Iterator[CatalogEntry]:
    """Yield the files of the paper's authors. No hash is published."""
    for name, architecture, window_time, file, trained_on, labels, score in _OFFICIAL_FILES:
        protocol = "ssv2-1x3" if labels == "something-v2" else "official-4x3"
        yield CatalogEntry(
            name=name,
            url=f"{_STORAGE}/v1.0.4/swin_{architecture}_patch244_window{window_time}77_{file}.pth",
            layout="official",
            architecture=architecture,
            window=(window_time, 7, 7),
            trained_on=trained_on,
            labels=labels,
            license="Apache-2.0",
            protocol=protocol,
            scores=() if score is None else (Score(*score, protocol, _PAPER),),
        )


def _mmaction2_entries() -> Iterator[CatalogEntry]:
    """Yield MMAction2's own trainings: the only free Swin-L, Kinetics-700 and Kinetics-710 models."""

    def entry(
        name: str,
        architecture: Architecture,
        run: str,
        tag: str,
        trained_on: str,
        labels: str,
        top1: float,
        top5: float,
    ) -> CatalogEntry:
        folder = f"swin-{architecture}-p244-w877_{run}-rgb"
        return CatalogEntry(
            name=name,
            url=f"{_OPENMMLAB}/{folder}/{folder}_{tag}.pth",
            layout="mmaction2",
            architecture=architecture,
            trained_on=trained_on,
            labels=labels,
            license="Apache-2.0",
            protocol="mmaction2-4x3",
            scores=(Score(top1, top5, "mmaction2-4x3", _README),),
            sha256=tag.rpartition("-")[2],
        )

    in1k, in22k = _IN1K_K400, _IN22K_K400
    run = "in1k-pre_8xb8-amp-32x2x1-30e_kinetics400"
    yield entry("tiny-k400-mmaction2", "tiny", run, "20220930-241016b2", in1k, "kinetics400", 78.90, 93.77)
    yield entry("small-k400-mmaction2", "small", run, "20220930-e91ab986", in1k, "kinetics400", 80.54, 94.46)
    yield entry("base-k400-mmaction2", "base", run, "20220930-182ec6cc", in1k, "kinetics400", 80.57, 94.49)
    run = "in22k-pre_8xb8-amp-32x2x1-30e_kinetics400"
    yield entry("large-k400-in22k", "large", run, "20220930-78ad8b11", in22k, "kinetics400", 83.46, 95.91)
    run, trained_on = "in22k-pre_16xb8-amp-32x2x1-30e_kinetics700", "ImageNet-22K, Kinetics-700"
    yield entry(
        "large-k700-in22k", "large", run, "20220930-f8d74db7", trained_on, "kinetics700", 75.92, 92.72
    )
    run, trained_on = "in1k-pre_32xb4-amp-32x2x1-30e_kinetics710", "ImageNet-1K, Kinetics-710"
    yield entry("small-k710", "small", run, "20230612-8e082ff1", trained_on, "kinetics710", 76.90, 92.96)


def _omnivore_entries() -> Iterator[CatalogEntry]:
    """Yield Meta's Omnivore, trained jointly on images, videos and depth. Not for commercial use.

    Kinetics scores are from its README of 2022-06; its first README had 78.2, 81.5, 82.8, 83.2 and 83.4 for
    the same links. They were measured with Omnivore's own test (omnivore-4x3); the test of the EPIC-Kitchens
    model is not published.
    """

    def entry(
        name: str,
        architecture: Architecture,
        file: str,
        top1: float | None,
        *,
        window: tuple[int, int, int] = (8, 7, 7),
    ) -> CatalogEntry:
        epic = top1 is None
        return CatalogEntry(
            name=name,
            url=f"{_OMNIVORE}/{file}_checkpoint.torch",
            layout="omnivore",
            architecture=architecture,
            window=window,
            trained_on="EPIC-Kitchens-100" if epic else "ImageNet, Kinetics-400, SUN RGB-D",
            labels=None if epic else "kinetics400",
            license="CC-BY-NC-4.0",
            protocol="official-4x3" if epic else "omnivore-4x3",
            scores=() if top1 is None else (Score(top1, None, "omnivore-4x3", "Omnivore README"),),
        )

    yield entry("omnivore-tiny", "tiny", "swinT", 78.9)
    yield entry("omnivore-small", "small", "swinS", 82.2)
    yield entry("omnivore-base", "base", "swinB", 83.3, window=(16, 7, 7))
    yield entry("omnivore-base-in21k", "base", "swinB_In21k", 84.0, window=(16, 7, 7))
    yield entry("omnivore-large-in21k", "large", "swinL_In21k", 84.1)
    yield entry("omnivore-base-epic", "base", "swinB_epic", None, window=(16, 7, 7))


def _image_entries() -> Iterator[CatalogEntry]:
    """Yield Microsoft's image models, which are inflated to initialize training. No hash is published."""

    def entry(
        name: str, architecture: Architecture, file: str, *, release: str = "v1.0.0", mirrored: bool = False
    ) -> CatalogEntry:
        side = 12 if "window12" in file else 7
        return CatalogEntry(
            name=name,
            url=f"{_STORAGE}/{release}/{file}.pth",
            mirror=f"{_OPENMMLAB}/{file}.pth" if mirrored else None,
            layout="microsoft",
            architecture=architecture,
            window=(1, side, side),
            trained_on="ImageNet-22K" if file.endswith("22k") else "ImageNet-1K",
            labels=None,
            license="MIT",
            clip=ClipSpec(size=32 * side, short_side=32 * side),
        )

    yield entry("image-tiny-in1k", "tiny", "swin_tiny_patch4_window7_224", mirrored=True)
    yield entry("image-small-in1k", "small", "swin_small_patch4_window7_224", mirrored=True)
    yield entry("image-base-in1k", "base", "swin_base_patch4_window7_224", mirrored=True)
    yield entry("image-base-384-in1k", "base", "swin_base_patch4_window12_384")
    yield entry("image-tiny-in22k", "tiny", "swin_tiny_patch4_window7_224_22k", release="v1.0.8")
    yield entry("image-small-in22k", "small", "swin_small_patch4_window7_224_22k", release="v1.0.8")
    yield entry("image-base-in22k", "base", "swin_base_patch4_window7_224_22k")
    yield entry("image-base-384-in22k", "base", "swin_base_patch4_window12_384_22k")
    yield entry("image-large-in22k", "large", "swin_large_patch4_window7_224_22k", mirrored=True)
    yield entry("image-large-384-in22k", "large", "swin_large_patch4_window12_384_22k")


_SOURCES = (_torchvision_entries, _official_entries, _mmaction2_entries, _omnivore_entries, _image_entries)

ENTRIES: Final[Mapping[str, CatalogEntry]] = MappingProxyType(
    {entry.name: entry for entries in _SOURCES for entry in entries()}
)
"""Name -> entry; the preferred source comes first."""
