"""Average precision against torchmetrics, which the package cannot import everywhere."""

import pytest
import torch

from videoswin.evaluation.metrics import average_precision

classification = pytest.importorskip("torchmetrics.functional.classification", exc_type=ImportError)


@pytest.mark.parametrize("levels", [5, 10_000])
def test_average_precision_matches_torchmetrics(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (200, 7), generator=generator) / levels
    targets = torch.rand(200, 7, generator=generator) < 0.2
    theirs = classification.multilabel_average_precision(scores, targets.int(), num_labels=7, average="none")
    torch.testing.assert_close(average_precision(scores, targets).float(), theirs)
