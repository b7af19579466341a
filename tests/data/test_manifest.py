"""One table of samples: its parts, its digest, what is held out of it, and the CSV that it is written to."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.data.manifest import Manifest, Sample, read_manifest, write_manifest
from videoswin.data.splits import hold_out


def table(
    *samples: Sample, classes: tuple[str, ...] = ("run", "walk"), multi_label: bool = False
) -> Manifest:
    return Manifest(source="list.csv", classes=classes, samples=samples, multi_label=multi_label)


def of_classes(*sizes: int) -> Manifest:
    """A manifest with this many videos of each class."""
    samples = [
        Sample(path=f"/videos/{label}/{number}.mp4", labels=(label,))
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    return table(*samples, classes=tuple(f"class {label}" for label in range(len(sizes))))


def counts(manifest: Manifest) -> list[int]:
    """How many videos of each class."""
    labels = Counter(label for sample in manifest.samples for label in sample.labels)
    return [labels[label] for label in range(len(manifest.classes))]


# Parts and digest


def test_a_part_has_the_samples_of_its_split_and_all_classes() -> None:
    train, val, neither = (
        Sample(path="a.mp4", labels=(0,), split="train"),
        Sample(path="b.mp4", labels=(1,), split="val"),
        Sample(path="c.mp4", labels=(1,)),
    )
    manifest = table(val, neither, train)
    assert manifest.splits == ("train", "val")
    assert manifest.part("train") == replace(manifest, samples=(train,))


def test_a_split_that_is_not_there_is_refused_naming_those_that_are() -> None:
    with pytest.raises(ValueError, match="no video of split 'test'; the splits are: train"):
        table(Sample(path="a.mp4", labels=(0,), split="train")).part("test")
    with pytest.raises(ValueError, match="the splits are: none; the list has no splits"):
        table(Sample(path="a.mp4", labels=(0,))).part("test")


def test_the_digest_does_not_depend_on_folders_splits_or_the_name_of_the_list() -> None:
    one = table(Sample(path="/here/a.mp4", labels=(1,), start_seconds=1, split="val"))
    other = table(Sample(path="there/b/a.mp4", labels=(1,), start_seconds=1.0))
    assert one.digest == replace(other, source="other.csv").digest


def test_the_digest_depends_on_everything_that_is_asked_about() -> None:
    a, b = Sample(path="a.mp4", labels=(1,)), Sample(path="b.mp4", labels=(0,))
    manifests = [
        table(a, b),
        table(b, a),
        table(a),
        table(a, replace(b, labels=(1,))),
        table(replace(a, start_seconds=1.0), b),
        table(replace(a, end_seconds=1.0), b),
        table(replace(a, path="c.mp4"), b),
        table(a, b, classes=("run", "sit")),
        table(a, b, multi_label=True),
    ]
    assert len({manifest.digest for manifest in manifests}) == len(manifests)


def test_the_digest_is_the_same_in_every_process() -> None:
    digest = table(Sample(path="a.mp4", labels=(1,), end_seconds=2.5)).digest
    assert digest[:12] == "7787604dc403"


# Existence


def test_a_video_that_is_missing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").touch()
    (tmp_path / "list.csv").write_text("path,label\na.mp4,x\nb.mp4,x\n")
    assert [Path(sample.path).name for sample in read_manifest(tmp_path / "list.csv").samples] == [
        "a.mp4",
        "b.mp4",
    ]


def test_a_list_of_which_no_video_exists_is_refused_suggesting_root(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\nvideos/a.mp4,x\nvideos/b.mp4,x\n")
    with pytest.raises(
        ValueError, match=r"none of its 2 videos exists, .*videos/a.mp4; set root to the folder"
    ):
        read_manifest(tmp_path / "list.csv")


def test_a_long_list_costs_no_look_up_for_each_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.mp4").touch()
    (tmp_path / "list.txt").write_text("".join(f"{number}.mp4 0\n" for number in range(5000)))
    asked: list[object] = []
    for name in ("exists", "isfile", "isdir"):
        real = getattr(os.path, name)
        monkeypatch.setattr(os.path, name, lambda path, real=real: asked.append(path) or real(path))
    assert len(read_manifest(tmp_path / "list.txt").samples) == 5000
    assert len(asked) < 10


# Class names


def test_names_beside_the_list_are_its_classes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 1\n")
    (tmp_path / "list.txt.classes.txt").write_text("walk\r\nrun\r\nsit\r\n")
    manifest = read_manifest(tmp_path / "list.txt")
    assert (manifest.classes, manifest.samples[0].labels) == (("walk", "run", "sit"), (1,))
    assert read_manifest(tmp_path / "list.txt", classes=("a", "b")).classes == ("a", "b")


@pytest.mark.parametrize("classes", [("x", "x"), ("x", " y"), ("x", ""), ("x", "y\nz"), ("x", "y\x1b[2J")])
def test_names_that_no_file_could_hold_are_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.mp4,x\n")
    with pytest.raises(ValueError, match=r"the class name|class names must be unique, got .* twice"):
        read_manifest(tmp_path / "list.csv", classes=classes)


# Holding out


def test_a_part_of_each_class_is_held_out() -> None:
    rest, held = hold_out(of_classes(100, 10, 40), 0.2, seed=0)
    assert counts(held) == [20, 2, 8]
    assert counts(rest) == [80, 8, 32]


def test_every_class_of_two_or_more_is_on_both_sides_and_a_single_video_in_the_rest() -> None:
    for part in (0.01, 0.5, 0.99):
        rest, held = hold_out(of_classes(2, 3, 1, 50), part, seed=1)
        assert min(counts(rest)) >= 1
        assert [count > 0 for count in counts(held)] == [True, True, False, True]


def test_the_two_sides_are_the_manifest_in_its_order() -> None:
    manifest = of_classes(5, 5)
    rest, held = hold_out(manifest, 0.4, seed=0)
    assert sorted(rest.samples + held.samples, key=manifest.samples.index) == list(manifest.samples)
    for side in (rest, held):
        assert list(side.samples) == sorted(side.samples, key=manifest.samples.index)
        assert (side.classes, side.source) == (manifest.classes, manifest.source)


def test_the_same_seed_holds_out_the_same_videos_in_whatever_order_and_folder() -> None:
    manifest = of_classes(20, 20)
    held = set(hold_out(manifest, 0.25, seed=3)[1].samples)
    shuffled = random.Random(0).sample(manifest.samples, 40)
    moved = [replace(sample, path=f"elsewhere{sample.path}") for sample in shuffled]
    assert set(hold_out(replace(manifest, samples=tuple(shuffled)), 0.25, seed=3)[1].samples) == held
    assert {
        sample.path.removeprefix("elsewhere") for sample in hold_out(table(*moved), 0.25, seed=3)[1].samples
    } == {sample.path for sample in held}


def test_another_seed_holds_out_others() -> None:
    manifest = of_classes(20, 20)
    assert len({hold_out(manifest, 0.25, seed=seed)[1].samples for seed in range(5)}) == 5


def test_another_video_of_a_class_changes_nothing_for_other_classes() -> None:
    held_before = hold_out(of_classes(20, 20), 0.25, seed=0)[1]
    held_after = hold_out(of_classes(20, 21), 0.25, seed=0)[1]
    assert [s for s in held_before.samples if s.labels == (0,)] == [
        s for s in held_after.samples if s.labels == (0,)
    ]


def test_classes_of_one_size_do_not_hold_out_the_same_places() -> None:
    held = hold_out(of_classes(20, 20), 0.25, seed=0)[1].samples
    places = [{Path(sample.path).name for sample in held if sample.labels == (label,)} for label in (0, 1)]
    assert places[0] != places[1]


def test_parts_of_a_file_are_never_on_both_sides() -> None:
    paths = [f"{'./' if second % 2 else ''}{number}.mp4" for number in range(6) for second in range(4)]
    manifest = table(
        *(
            Sample(path=path, labels=(place // 2 % 2,), start_seconds=place, end_seconds=place + 1)
            for place, path in enumerate(paths)
        )
    )
    for seed in range(10):
        rest, held = hold_out(manifest, 0.3, seed=seed)
        sides = [{os.path.normpath(sample.path) for sample in side.samples} for side in (rest, held)]
        assert all(sides)
        assert not sides[0] & sides[1]


@settings(max_examples=40)
@given(
    labels=st.lists(st.frozensets(st.integers(0, 5), max_size=4), min_size=2, max_size=30),
    part=st.floats(0.01, 0.99),
    seed=st.integers(0, 10),
)
def test_no_class_of_a_multi_label_table_is_taken_from_the_rest(labels, part, seed) -> None:
    samples = [Sample(path=f"{n}.mp4", labels=tuple(sorted(several))) for n, several in enumerate(labels)]
    manifest = table(*samples, classes=tuple("abcdef"), multi_label=True)
    videos_of = Counter(itertools.chain.from_iterable(several or {6} for several in labels))
    if all(min(videos_of[label] for label in several or {6}) == 1 for several in labels):
        with pytest.raises(ValueError, match="no video can be held out"):
            hold_out(manifest, part, seed=seed)
        return
    rest, held = hold_out(manifest, part, seed=seed)
    assert len(rest.samples) + len(held.samples) == len(samples)
    assert [count > 0 for count in counts(rest)] == [count > 0 for count in counts(manifest)]


def test_a_class_whose_videos_other_classes_hold_out_gets_one_back() -> None:
    # Classes 0 and 1 may hold out one video of class 2 each: all that it has.
    samples = [
        Sample(path=f"{n}.mp4", labels=labels) for n, labels in enumerate([(0,), (0, 2), (1,), (1, 2)])
    ]
    manifest = table(*samples, classes=("a", "b", "c"), multi_label=True)
    for seed in range(20):
        assert min(counts(hold_out(manifest, 0.5, seed=seed)[0])) >= 1


def test_a_multi_label_table_is_held_out_in_about_the_same_proportion_of_every_class() -> None:
    rng = random.Random(0)
    samples = [
        Sample(path=f"{n}.mp4", labels=tuple(sorted(rng.sample(range(6), rng.randint(1, 3)))))
        for n in range(300)
    ]
    manifest = table(*samples, classes=tuple("abcdef"), multi_label=True)
    held = counts(hold_out(manifest, 0.2, seed=0)[1])
    assert all(0.14 < part / whole < 0.26 for part, whole in zip(held, counts(manifest), strict=True))


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no video can be held out .* set data.val_fraction=0"):
        hold_out(of_classes(1, 1), 0.5, seed=0)
    for part in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="fraction must be > 0 and < 1, got"):
            hold_out(of_classes(5), part, seed=0)


# Writing

NAMES = st.text(st.sampled_from("aß1 |;\\\"',.-"), min_size=1, max_size=6).filter(
    lambda name: name == name.strip()
)
FILES = st.text(st.sampled_from("aß1 |;\\\"',-\n\r\t"), min_size=1, max_size=8)
TIMES = st.none() | st.floats(0, 1e4)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any table whose videos lie in /videos or below the working directory."""
    multi_label = draw(st.booleans())
    classes = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    several = st.lists(st.integers(0, len(classes) - 1), unique=True, min_size=0 if multi_label else 1)
    samples = []
    for number in range(draw(st.integers(1, 5))):
        start = draw(TIMES)
        samples.append(
            Sample(
                path=f"{draw(st.sampled_from(['/videos/', '']))}{draw(FILES)}{number}.mp4",
                labels=tuple(draw(several)[: None if multi_label else 1]),
                start_seconds=start,
                end_seconds=draw(st.none() | st.floats((start or 0) + 0.001, 2e4)),
                split=draw(st.sampled_from([None, "train", "val", "test"])),
                group=draw(st.none() | NAMES),
            )
        )
    order = draw(st.sampled_from([sorted, list]))
    return Manifest(source="", classes=tuple(order(classes)), samples=tuple(samples), multi_label=multi_label)


@given(manifest=manifests())
def test_what_is_written_is_read_back_equal(
    manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round")
    samples = [replace(sample, path=os.path.join(folder, sample.path)) for sample in manifest.samples]
    Path(folder / "there.mp4").touch()
    samples.append(Sample(path=str(folder / "there.mp4"), labels=(0,)))
    manifest = replace(manifest, source=str(folder / "list.csv"), samples=tuple(samples))
    write_manifest(manifest, folder / "list.csv")
    assert read_manifest(folder / "list.csv") == manifest


def test_a_manifest_of_a_folder_becomes_a_csv_that_can_be_moved_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for name in ("train/walk/a, b.mp4", "val/run/c.mp4"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    write_manifest(read_manifest(folder), folder / "clean.csv")
    assert (folder / "clean.csv").read_text() == (
        'path,label,split\n"train/walk/a, b.mp4",walk,train\nval/run/c.mp4,run,val\n'
    )
    moved = folder.rename(tmp_path / "moved")
    assert read_manifest(moved / "clean.csv").samples == read_manifest(moved).samples


def test_a_csv_beside_other_folders_names_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("videos/x/a.mp4", "videos-too/x/b.mp4"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    Path("lists").mkdir()
    write_manifest(read_manifest("videos-too"), "lists/clean.csv")
    assert [s.path for s in read_manifest("lists/clean.csv").samples] == [
        str(tmp_path / "videos-too/x/b.mp4")
    ]
    write_manifest(read_manifest("videos-too"), "videos/clean.csv")
    assert [s.path for s in read_manifest("videos/clean.csv").samples] == [
        str(tmp_path / "videos-too/x/b.mp4")
    ]


def test_a_file_that_begins_with_a_space_is_found_again(tmp_path: Path) -> None:
    (tmp_path / " a.mp4").touch()
    write_manifest(table(Sample(path=str(tmp_path / " a.mp4"), labels=(0,))), tmp_path / "list.csv")
    assert read_manifest(tmp_path / "list.csv").samples[0].path == str(tmp_path / " a.mp4")


def test_class_names_get_a_file_of_their_own_only_where_they_do_not_follow(tmp_path: Path) -> None:
    sample, names = Sample(path="a.mp4", labels=(0,)), tmp_path / "list.csv.classes.txt"
    write_manifest(table(sample, classes=("walk", "run")), tmp_path / "list.csv")
    assert names.read_text() == "walk\nrun\n"
    write_manifest(table(sample, classes=("walk",)), tmp_path / "list.csv")
    assert not names.exists()
    write_manifest(table(sample, classes=("7",)), tmp_path / "list.csv")
    assert names.read_text() == "7\n"


def test_the_class_names_of_another_list_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list.txt.classes.txt").write_text("walk\n")
    write_manifest(table(Sample(path="a.mp4", labels=(0,)), classes=("walk",)), tmp_path / "list.csv")
    assert (tmp_path / "list.txt.classes.txt").read_text() == "walk\n"


def test_a_list_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    write_manifest(table(Sample(path="a.mp4", labels=(0,)), classes=("x",)), path)
    before = path.read_text()
    broken = table(Sample(path=os.fsdecode(b"caf\xe9.mp4"), labels=(0,)), classes=("x",))
    with pytest.raises(ValueError, match=r"list.csv: .*caf.udce9.mp4.* cannot be written as UTF-8"):
        write_manifest(broken, path)
    with pytest.raises(ValueError, match=r"the class name 'x.ny'"):
        write_manifest(table(Sample(path="a.mp4", labels=(0,)), classes=("x\ny",)), path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["list.csv"]


def test_no_path_in_a_written_list_is_a_formula(tmp_path: Path) -> None:
    (tmp_path / "=cmd.mp4").touch()
    manifest = Manifest(
        source=str(tmp_path / "list.csv"),
        classes=("walk",),
        samples=(Sample(path=str(tmp_path / "=cmd.mp4"), labels=(0,)),),
    )
    write_manifest(manifest, tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text() == "path,label\n./=cmd.mp4,walk\n"
    assert read_manifest(tmp_path / "list.csv") == manifest
