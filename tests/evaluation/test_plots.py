"""Plots are valid PNG files with the expected contents."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from videoswin.evaluation import plots
from videoswin.evaluation.plots import (
    COLORS,
    FRAME_HEIGHT,
    FRAMES_PER_ROW,
    draw_confusion,
    draw_contact_sheet,
    draw_curves,
)

image = pytest.importorskip("matplotlib.image")
font_manager = pytest.importorskip("matplotlib.font_manager")


def pixels(path: Path) -> np.ndarray:
    """(H, W, 3) of 0..255."""
    return (255 * image.imread(path)[..., :3]).round().astype(int)


def box_of(path: Path, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """top, left, height, width of all pixels of this color."""
    rows, columns = np.nonzero((pixels(path) == color).all(2))
    return rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1


def frames(count: int, color: tuple[int, int, int], height: int = 64, width: int = 96) -> Tensor:
    return torch.tensor(color, dtype=torch.uint8).expand(count, height, width, 3)


@pytest.mark.parametrize("num_points", [0, 1, 10, 1000])
def test_curves_of_any_length_are_drawn(tmp_path: Path, num_points: int) -> None:
    x = np.linspace(0, 3, num_points)
    draw_curves(tmp_path / "x.png", {"loss": {"training": (x, np.exp(-x)), "validation": ([], [])}})
    color = tuple(int(COLORS[0][i : i + 2], 16) for i in (1, 3, 5))
    assert (pixels(tmp_path / "x.png") == color).all(2).any()


def test_four_panels_take_two_lines(tmp_path: Path) -> None:
    for count in (3, 4):
        draw_curves(tmp_path / f"{count}.png", {str(n): {"": ([1, 2], [1, 2])} for n in range(count)})
    three, four = (pixels(tmp_path / f"{count}.png").shape for count in (3, 4))
    assert four == (2 * three[0], three[1], 3)


def test_a_confusion_has_true_classes_in_rows(tmp_path: Path) -> None:
    b_taken_for_a = torch.tensor([[0, 0], [5, 0]])
    centers = []
    for name, matrix in (("b for a.png", b_taken_for_a), ("a for b.png", b_taken_for_a.T)):
        draw_confusion(tmp_path / name, matrix, ["a", "b"])
        darkest = (pixels(tmp_path / name) == (8, 48, 107)).all(2)
        centers.append([np.median(places) for places in np.nonzero(darkest)])
    (lower, left), (upper, right) = centers
    assert lower > upper + 50
    assert right > left + 50


def test_accuracy_is_drawn_from_0_to_100_percent_and_a_small_learning_rate_with_its_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, make = [], plots._figure

    def kept(*size: float, **options: object) -> object:
        figures.append(make(*size, **options))
        return figures[-1]

    monkeypatch.setattr(plots, "_figure", kept)
    panels = {"accuracy": {"training": ([1], [0.9])}, "learning rate": {"head": ([1, 2], [3.5e-4, 1e-4])}}
    draw_curves(tmp_path / "x.png", panels, fractions=("accuracy",))
    accuracy, rate = figures[0].axes
    assert accuracy.get_ylim() == pytest.approx((0, 1), abs=0.05)
    assert [label.get_text() for label in accuracy.get_yticklabels()][1:-1] == [
        f"{percent}%" for percent in range(0, 101, 20)
    ]
    labels = {label.get_text() for label in rate.get_yticklabels()}
    assert len(labels) == len(rate.get_yticks())
    assert rate.yaxis.get_offset_text().get_text() in ("1e\N{MINUS SIGN}4", "1e-4")


@pytest.mark.parametrize("num_classes", [1, 2, 30, 31, 400])
def test_a_confusion_of_any_number_of_classes_fits_a_screen(tmp_path: Path, num_classes: int) -> None:
    names = [rf"$\class{number}$ and_a name of some length" for number in range(num_classes)]
    counts = torch.randint(3, (num_classes, num_classes), generator=torch.manual_seed(0))
    draw_confusion(tmp_path / "x.png", counts, names)
    height, width, _ = pixels(tmp_path / "x.png").shape
    assert 300 < height < 2000
    assert 300 < width < 2000


def test_a_contact_sheet_shows_every_frame_upright_and_unstretched(tmp_path: Path) -> None:
    red, green = (255, 0, 0), (0, 128, 0)
    tall = frames(1, red, height=100, width=50)
    draw_contact_sheet(tmp_path / "x.png", [("red", tall), ("green", frames(2, green))])
    assert box_of(tmp_path / "x.png", red)[2:] == (FRAME_HEIGHT, FRAME_HEIGHT // 2)
    top, left, height, width = box_of(tmp_path / "x.png", green)
    assert (height, width) == (FRAME_HEIGHT, 2 * FRAME_HEIGHT * 3 // 2 + 4)
    assert top > box_of(tmp_path / "x.png", red)[0] + FRAME_HEIGHT
    assert left == box_of(tmp_path / "x.png", red)[1]


def test_of_many_frames_first_and_last_and_some_between_are_shown(tmp_path: Path) -> None:
    gray = torch.arange(0, 160, 5, dtype=torch.uint8).view(32, 1, 1, 1).expand(32, 64, 64, 3)
    draw_contact_sheet(tmp_path / "x.png", [("32 frames", gray)])
    grays, areas = np.unique(pixels(tmp_path / "x.png")[..., 0], return_counts=True)
    shown = set(grays[areas >= FRAME_HEIGHT**2 * 0.9]) - {255}
    assert len(shown) == FRAMES_PER_ROW
    assert {min(shown), max(shown)} == {0, 155}


def test_captions_without_frames_and_of_any_text_are_written(tmp_path: Path) -> None:
    rows = [(f"{'folder/' * 60}\udc80.mp4\ntrue: $\\no_maths$", frames(0, (0, 0, 0)))]
    draw_contact_sheet(tmp_path / "x.png", rows)
    assert (pixels(tmp_path / "x.png") < 100).any()


@pytest.fixture(autouse=True)
def no_fonts_found_before() -> Iterator[None]:
    plots._fonts_for.cache_clear()
    yield
    plots._fonts_for.cache_clear()


NO_FONT = "走\u0378"
"""A character that few machines have a font for, and one that is not assigned at all."""


def draw_everything(folder: Path, name: str) -> None:
    draw_confusion(folder / "few.png", torch.tensor([[1, 2], [0, 1]]), [name, "b"])
    many = torch.zeros(31, 31, dtype=torch.long).fill_diagonal_(1)
    many[0, 1] = 1
    draw_confusion(folder / "many.png", many, [f"{name} {number}" for number in range(31)])
    draw_contact_sheet(folder / "sheet.png", [(f"{name}.mp4\ntrue: {name}", frames(1, (0, 0, 0)))])


def test_characters_without_a_font_are_drawn_as_boxes_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    draw_everything(tmp_path, f"{NO_FONT}\u200b")
    assert {record.getMessage() for record in caplog.records} == {
        "no installed font has the characters \u8d70, which are drawn as boxes; install a font with them, "
        "such as Noto Sans CJK"
    }


def test_an_installed_font_that_has_the_names_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = plots._glyphs(font_manager.findfont("DejaVu Sans"))
    name = min(plots._glyphs(font_manager.findfont("STIXGeneral")) - own)
    families, missing = plots._fonts_for(frozenset(f"a{name}"))
    assert len(families) == 2
    assert missing == frozenset()
    draw_everything(tmp_path, name)
    assert caplog.records == []


def test_wide_characters_are_wrapped_where_they_end() -> None:
    assert plots._wrap_caption("走" * 30, 20) == ["走" * 10] * 3


def test_half_of_a_class_is_half_as_dark_where_classes_are_few(tmp_path: Path) -> None:
    """Of many classes it is darker, so that rare confusions are seen."""
    from matplotlib import colormaps

    for count, is_linear in ((2, True), (40, False)):
        matrix = torch.full((count, count), 0)
        matrix[0, :2] = 10
        draw_confusion(tmp_path / "x.png", matrix, [str(n) for n in range(count)], title="model: 10 videos")
        half = tuple(round(255 * part) for part in colormaps["Blues"](0.5)[:3])
        assert (np.abs(pixels(tmp_path / "x.png") - half).max(2) <= 2).sum() > 2000 * is_linear
        darker = tuple(round(255 * part) for part in colormaps["Blues"](0.5**0.4)[:3])
        assert ((np.abs(pixels(tmp_path / "x.png") - darker).max(2) <= 2).sum() > 300) is not is_linear


def test_strips_fill_a_grid(tmp_path: Path) -> None:
    rows = [(str(n), frames(2, (0, 0, 40 * n + 40))) for n in range(3)]
    draw_contact_sheet(tmp_path / "grid.png", rows, columns=2)
    first, second, third = (box_of(tmp_path / "grid.png", (0, 0, 40 * n + 40)) for n in range(3))
    assert first[0] == second[0] < third[0]
    assert first[1] == third[1] < second[1]
