"""Disable the pictures of runs, which take longer than the runs, unless a test uses `real_pictures`."""

import pytest

from tests.training.small_runs import draw_nothing


@pytest.fixture
def real_pictures() -> None:
    """Let the runs of a test draw their pictures."""


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_pictures" not in request.fixturenames:
        draw_nothing(monkeypatch.setattr)
