import re
import subprocess
import sys

import pytest

from videoswin.video.spec import PROTOCOLS
from videoswin.weights.catalog import ENTRIES, LABEL_SETS, entry_of_file, load_labels, require_license
from videoswin.weights.checkpoint import Checkpoint

ALL = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())


def test_every_published_file_is_there_once():
    sources = [entry.url.split("/")[2] for entry in ENTRIES.values()]
    counts = {host: sources.count(host) for host in set(sources)}
    assert counts == {
        "download.pytorch.org": 4,
        "github.com": 17,
        "download.openmmlab.com": 6,
        "dl.fbaipublicfiles.com": 6,
    }
    assert len({entry.file_name for entry in ENTRIES.values()}) == len(ENTRIES)


@ALL
def test_entries_are_consistent(entry):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", entry.name)
    assert entry.url.startswith("https://")
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8}", entry.sha256)
    assert entry.labels is None or entry.labels in LABEL_SETS
    assert entry.is_free == (entry.layout != "omnivore")
    for score in entry.scores:
        assert score.protocol in PROTOCOLS
        assert 50 < score.top1 < (score.top5 or 100) <= 100
    clip, views = entry.clip_and_views()
    assert clip.size == 32 * entry.window[1]
    assert views.crops in (1, 3)


def test_default_model_is_the_verified_file_tested_as_the_paper_does():
    entry = ENTRIES["tiny-k400"]
    assert entry.url == "https://download.pytorch.org/models/swin3d_t-7615ae03.pth"
    assert (entry.sha256, entry.size_mb, entry.license) == ("7615ae03", 127, "BSD-3-Clause")
    assert (entry.protocol, entry.scores[0].top1) == ("official-4x3", 78.8)


def test_scores_of_omnivore_stand_beside_its_own_protocol():
    scored = [entry for entry in ENTRIES.values() if entry.layout == "omnivore" and entry.scores]
    assert len(scored) == 5
    for entry in scored:
        assert entry.protocol == entry.scores[0].protocol == "omnivore-4x3"
    assert ENTRIES["omnivore-base-epic"].protocol == "official-4x3"  # how it was tested is not published


def test_mmaction2_links_have_the_published_form():
    run = "swin-small-p244-w877_in1k-pre_32xb4-amp-32x2x1-30e_kinetics710-rgb"
    url = f"https://download.openmmlab.com/mmaction/v1.0/recognition/swin/{run}/{run}_20230612-8e082ff1.pth"
    assert ENTRIES["small-k710"].url == url


def test_non_commercial_weights_must_be_asked_for():
    entry = ENTRIES["omnivore-base"]
    with pytest.raises(
        ValueError,
        match=r"CC-BY-NC-4\.0, which forbids .*license='CC-BY-NC-4\.0' in Python, --license",
    ):
        require_license(entry, None)
    with pytest.raises(ValueError, match="license"):
        Checkpoint.load("omnivore-base", license="MIT")
    require_license(entry, "CC-BY-NC-4.0")
    require_license(ENTRIES["tiny-k400"], None)


def test_files_are_found_by_name():
    assert entry_of_file("swin3d_t-7615ae03.pth") is ENTRIES["tiny-k400"]
    assert entry_of_file("mine.pth") is None


@pytest.mark.parametrize("name", LABEL_SETS)
def test_label_sets_have_their_number_of_distinct_names(name):
    labels = load_labels(name)
    assert len(labels) == len(set(labels)) == LABEL_SETS[name]
    assert all(label == label.strip() and label for label in labels)


def test_unknown_label_set_names_the_known_ones():
    with pytest.raises(ValueError, match=r"label set must be one of kinetics400, .* got 'imagenet'"):
        load_labels("imagenet")


def test_catalog_needs_no_torch():
    program = "import sys, videoswin.weights.catalog; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
