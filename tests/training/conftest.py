"""Runs here draw no pictures, which takes longer than the runs, unless a test asks for `real_pictures`."""

import pytest

from tests.training.small_runs import draw_nothing


@pytest.fixture
def real_pictures() -> None:
    """The run draws as it always does."""


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_pictures" not in request.fixturenames:
        draw_nothing(monkeypatch.setattr)
