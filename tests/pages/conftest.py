"""The video of tests/analysis."""

from tests.analysis.conftest import movements as movements
