"""Plot learning curves, confusion matrices and contact sheets of frames as PNG files.

This uses matplotlib's objects without pyplot: no window, no global state, safe in threads. The colors are
suitable for color-blind readers (Okabe and Ito; one light-to-dark scale).

Legend: T frames, H W height and width of a frame, K classes.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from rich.cells import cell_len
from torch import Tensor

from videoswin._errors import require
from videoswin.evaluation.metrics import confused_pairs

_log = logging.getLogger(__name__)

COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: Final = ("-", "--", "-.", ":")

SMOOTHED_ABOVE: Final = 200
"""Curves with more points than this are drawn faintly, with their running mean on top."""
NAMED_CLASSES: Final = 30
"""Maximum number of classes for a confusion matrix with class names and counts."""
NUM_CONFUSED_PAIRS: Final = 20
LABEL_WIDTH: Final = 30
"""Maximum length of a label in characters; the middle of longer ones is left out."""
FRAME_HEIGHT: Final = 128
"""Height of a frame on a contact sheet, in pixels."""
FRAMES_PER_ROW: Final = 8

_MISSING_SHOWN: Final = 10
"""Maximum number of characters in the warning about characters without a font."""
_DPI = 100
_MARGIN, _GAP, _NARROWEST_SHEET = 12, 4, 560
"""Contact sheet in pixels: margin around it and below each row, gap between frames, minimum caption width."""
_CAPTION_LINE, _CAPTION_LETTER = 16, 7
"""Line height and average letter width of captions, in pixels."""
_INK = "#1c2430"
_PALE = "#d5dbe3"
_LETTER = 0.085
"""Average width of a letter on a confusion matrix, in inches."""
_DARKENING = 0.4
"""Exponent from a fraction to its color, which keeps rare confusions visible next to a full diagonal."""

Curve = tuple[Sequence[float], Sequence[float]]
"""Increasing x, and y."""


def draw_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    x_label: str = "step",
    *,
    fractions: Collection[str] = (),
) -> None:
    """Plot panels of curves in rows of at most three.

    Args:
        path: PNG file to write.
        panels: Title -> name of a curve -> its (x, y).
        x_label: Label of all x axes.
        fractions: Titles of the panels with fractions; their y axis is always 0 to 100 %.
    """
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = _figure(5.2 * columns, 3.8 * lines, layout="constrained")
    for number, (title, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, number)
        axes.set_title(title, color=_INK)
        axes.set_xlabel(x_label)
        _draw_panel(axes, curves, is_fraction=title in fractions)
    figure.savefig(path, format="png")


def draw_confusion(path: Path, matrix: Tensor, labels: Sequence[str], *, title: str = "") -> None:
    """Plot a confusion matrix, (K, K) counts with true classes in rows.

    Up to NAMED_CLASSES classes have names and counts, and colors proportional to the fraction of the true
    class. With more classes, colors are darker, so that rare confusions stay visible, and a bar chart shows
    the most confused pairs.

    Args:
        path: Image file to write.
        matrix: (K, K).
        labels: Class names in the order of the rows.
        title: Title of the plot; empty for none.
    """
    counts = matrix.double()
    fractions = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    if len(labels) <= NAMED_CLASSES:
        _draw_named_confusion(path, fractions, matrix, [shortened(label) for label in labels], title)
    else:
        _draw_large_confusion(path, fractions, matrix, labels, title)


def draw_contact_sheet(path: Path, rows: Sequence[tuple[str, Tensor]], *, columns: int = 1) -> None:
    """Draw strips of frames under their captions.

    Args:
        path: PNG file to write.
        rows: Captions with frames, uint8 (T, H, W, 3). T may be 0 for a caption without frames. Captions may
            have several lines; long lines are wrapped. Frames are scaled to FRAME_HEIGHT pixels; of more than
            FRAMES_PER_ROW frames, evenly spaced ones are drawn.
        columns: Strips per line of the sheet.
    """
    strips = [_strip(frames_thwc) for _, frames_thwc in rows]
    columns = min(columns, len(rows))
    cell = max(_NARROWEST_SHEET // columns, *(sum(picture.width + _GAP for picture in s) for s in strips))
    width = _MARGIN + columns * (cell + _MARGIN)
    captions = [_wrap_caption(caption, cell // _CAPTION_LETTER) for caption, _ in rows]
    drawable = _drawable([line for caption in captions for line in caption])
    heights = [
        _CAPTION_LINE * len(caption) + (FRAME_HEIGHT if strip else 0) + 2 * _GAP + _MARGIN
        for caption, strip in zip(captions, strips, strict=True)
    ]
    line_heights = [max(heights[first : first + columns]) for first in range(0, len(rows), columns)]
    height = sum(line_heights) + _MARGIN
    figure = _figure(width / _DPI, height / _DPI)
    for index, (caption, strip) in enumerate(zip(captions, strips, strict=True)):
        line, column = divmod(index, columns)
        left, top = _MARGIN + column * (cell + _MARGIN), height - _MARGIN - sum(line_heights[:line])
        text = {"va": "top", "linespacing": 1.3, "size": 8.5, "color": _INK, "parse_math": False}
        lines = "\n".join(next(drawable.texts) for _ in caption)
        figure.text(left / width, top / height, lines, family=drawable.families, **text)
        bottom = top - _CAPTION_LINE * len(caption) - _GAP - FRAME_HEIGHT
        for picture in strip:
            box = (left / width, bottom / height, picture.width / width, FRAME_HEIGHT / height)
            axes = figure.add_axes(box)
            axes.imshow(picture.frame_hwc.numpy(), aspect="auto")
            axes.axis("off")
            left += picture.width + _GAP
    figure.savefig(path, format="png")


def require_drawing() -> None:
    """Raise MissingPackageError if matplotlib, which all plots need, is not installed."""
    require("matplotlib", extra="train")


class _Picture(NamedTuple):
    frame_hwc: Tensor
    """uint8 (H, W, 3)."""
    width: int
    """Width on the sheet in pixels."""


def _strip(frames_thwc: Tensor) -> list[_Picture]:
    """Return the frames of one strip: (T, H, W, 3) -> up to FRAMES_PER_ROW pictures."""
    count, height, width, _ = frames_thwc.shape
    shown = torch.linspace(0, count - 1, min(count, FRAMES_PER_ROW)).round().long()
    return [
        _Picture(frame_hwc, max(1, round(FRAME_HEIGHT * width / height))) for frame_hwc in frames_thwc[shown]
    ]


def _figure(width_inches: float, height_inches: float, **options: Any) -> Any:
    figure = require("matplotlib.figure", extra="train").Figure
    return figure(figsize=(width_inches, height_inches), dpi=_DPI, facecolor="white", **options)


def _draw_panel(axes: Any, curves: Mapping[str, Curve], *, is_fraction: bool) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        color, style = COLORS[number % len(COLORS)], STYLES[number % len(STYLES)]
        x, y = (np.asarray(values, dtype=float) for values in curve)
        if len(x) > SMOOTHED_ABOVE:
            axes.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
            x, y = _running_mean(x, y, len(x) // 50)
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, style, color=color, label=name, linewidth=1.8, marker=marker, markersize=3.5)
    ticker = require("matplotlib.ticker", extra="train")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    if is_fraction:
        axes.set_ylim(-0.03, 1.03)  # so that a line at 0 or 1 is not clipped
        axes.yaxis.set_major_locator(ticker.MultipleLocator(0.2))
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    else:
        # Learning rates are small: 3.5e-4 must not be labeled 0.00.
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useOffset=False)
    axes.grid(color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)


def _running_mean(x: np.ndarray, y: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of `width` neighboring points."""
    kernel = np.full(width, 1 / width)
    return np.convolve(x, kernel, mode="valid"), np.convolve(y, kernel, mode="valid")


def _draw_named_confusion(
    path: Path, fractions: np.ndarray, matrix: Tensor, labels: list[str], title: str
) -> None:
    side = max(2.5, 0.42 * len(labels))
    names = _LETTER * max(map(cell_len, labels))
    drawable = _drawable(labels)
    texts = {"labels": list(drawable.texts), "family": drawable.families, "parse_math": False}
    across = names < 0.95 * side / len(labels)
    figure = _figure(side + names + 1.6, side + names + 0.8, layout="constrained")
    axes = figure.add_subplot()
    _add_title(figure, title)
    image = _draw_fractions(axes, fractions, exponent=1.0)
    axes.set_xticks(range(len(labels)), rotation=0 if across else 90, **texts)
    axes.set_yticks(range(len(labels)), **texts)
    axes.tick_params(length=0)
    for true, predicted in matrix.nonzero().tolist():
        color = "white" if fractions[true, predicted] > 0.6 else _INK
        count = int(matrix[true, predicted])
        axes.text(predicted, true, count, ha="center", va="center", size=8, color=color)
    _add_scale(figure, image, axes, ticks=[0, 0.25, 0.5, 0.75, 1])
    figure.savefig(path, format="png")


def _draw_large_confusion(
    path: Path, fractions: np.ndarray, matrix: Tensor, labels: Sequence[str], title: str
) -> None:
    figure = _figure(17, 8, layout="constrained")
    _add_title(figure, title)
    heat, bars = figure.subplots(1, 2, width_ratios=(1.35, 1))
    image = _draw_fractions(heat, fractions, exponent=_DARKENING)
    heat.set_xticks([])
    heat.set_yticks([])
    _add_scale(figure, image, heat, ticks=[0, 0.02, 0.1, 0.3, 1])
    pairs = confused_pairs(matrix)[:NUM_CONFUSED_PAIRS]
    drawn = bars.barh(range(len(pairs)), [count for _, _, count in pairs], color=COLORS[0])
    names = _drawable(
        [f"{shortened(labels[true])} → {shortened(labels[predicted])}" for true, predicted, _ in pairs]
    )
    bars.set_yticks(range(len(pairs)), list(names.texts), family=names.families, parse_math=False)
    bars.bar_label(drawn, padding=3)
    bars.invert_yaxis()
    bars.set_xticks([])
    bars.tick_params(length=0)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    heading = "most confused: true → predicted, videos" if pairs else "no confused classes"
    bars.set_title(heading, color=_INK)
    figure.savefig(path, format="png")


def _add_title(figure: Any, title: str) -> None:
    drawable = _drawable([title])
    lines = textwrap.fill(next(drawable.texts), max(20, int(figure.get_figwidth() / _LETTER)))
    figure.suptitle(lines, color=_INK, size=10, family=drawable.families, parse_math=False)


def _draw_fractions(axes: Any, fractions: np.ndarray, *, exponent: float) -> Any:
    norm = require("matplotlib.colors", extra="train").PowerNorm(exponent, vmin=0, vmax=1)
    image = axes.imshow(fractions, cmap="Blues", norm=norm, interpolation="nearest")
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    axes.spines[:].set_color(_PALE)
    return image


def _add_scale(figure: Any, image: Any, axes: Any, *, ticks: list[float]) -> None:
    scale = figure.colorbar(image, ax=axes, shrink=0.8, ticks=ticks)
    scale.ax.set_yticklabels([f"{100 * tick:.0f} %" for tick in ticks])
    scale.set_label("fraction of the true class")
    scale.outline.set_visible(False)


def shortened(text: str, width: int = LABEL_WIDTH) -> str:
    """Return the text with the middle left out if it has more than `width` characters."""
    half = width // 2
    return text if len(text) <= width else f"{text[: half - 1]}…{text[-half:]}"


def _wrap_caption(caption: str, width: int) -> list[str]:
    """Wrap a caption to lines of `width` letters; undecodable bytes of file names become question marks."""
    text = caption.encode("utf-8", "replace").decode("utf-8")
    # East Asian characters are twice as wide as letters.
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, max(1, width * len(line) // max(1, cell_len(line))))
    ]


class _Drawable(NamedTuple):
    texts: Iterator[str]
    """The texts, with boxes for characters that no installed font has."""
    families: list[str]
    """Font families for drawing; each character uses the first family that has it."""


def _drawable(texts: Sequence[str]) -> _Drawable:
    """Return texts that can be drawn without warnings about missing glyphs, and the fonts for them."""
    families, missing = _fonts_for(frozenset("".join(texts)) - {"\n"})
    boxes = str.maketrans({character: "□" if character.isprintable() else "" for character in missing})
    return _Drawable((text.translate(boxes) for text in texts), families)


@cache
def _fonts_for(characters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Return font families that together have the characters, and the characters that no font has."""
    manager = require("matplotlib.font_manager", extra="train")
    families = list(manager.FontProperties().get_family())
    missing = characters - _glyphs(manager.findfont(manager.FontProperties()))
    # Prefer the regular font of each family; fonts named Last Resort have boxes for all characters.
    fonts = sorted(
        manager.fontManager.ttflist, key=lambda font: font.style == "normal" and font.weight == 400
    )
    files = {font.name: font.fname for font in fonts if "Last Resort" not in font.name}
    for name in sorted(files, key=lambda name: ("Sans" not in name, name)):
        if missing and (found := missing & _glyphs(files[name])):
            families.append(name)
            missing -= found
    if shown := "".join(sorted(filter(str.isprintable, missing))):
        _log.warning(
            "no installed font has the characters %s%s, which are drawn as boxes; install a font with them, "
            "such as Noto Sans CJK",
            shown[:_MISSING_SHOWN],
            "..." if len(shown) > _MISSING_SHOWN else "",
        )
    return families, missing


def _glyphs(path: str) -> frozenset[str]:
    """Return the characters of a font file; none if matplotlib cannot use it."""
    try:
        font = require("matplotlib.ft2font", extra="train").FT2Font(path)
    except RuntimeError:  # such as a font of bitmaps
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))
