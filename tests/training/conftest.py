"""One complete run for all tests that only look at its results; pictures only where a test wants them."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.training.small_runs import draw_nothing, stripes
from videoswin.training import loop


class CompleteRun(NamedTuple):
    """A complete run of `stripes()`."""

    folder: Path
    """Its run folder, which must not be changed."""
    checkpoint: Path
    """What `train` returned."""
    log: str
    """What it printed to stderr."""


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> CompleteRun:
    folder, log = tmp_path_factory.mktemp("complete"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(log):
        draw_nothing(patch.setattr)
        checkpoint = loop.train(stripes(), folder)
    assert checkpoint is not None
    return CompleteRun(folder, checkpoint, log.getvalue())


@pytest.fixture
def real_pictures() -> None:
    """Let the runs of a test draw their pictures."""


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the pictures of runs, which take longer than the runs."""
    if "real_pictures" not in request.fixturenames:
        draw_nothing(monkeypatch.setattr)
