"""Groups from the names of folders and files, and what holding out does with groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.camera_motion.clips import write_h264
from videoswin.data.manifest import Manifest, Sample, read_manifest, write_manifest
from videoswin.data.splits import describe_sharing, group_by_folder, group_by_pattern, hold_out, make_groups


def table(*samples: Sample, num_classes: int = 3) -> Manifest:
    classes = tuple(f"class {label}" for label in range(num_classes))
    return Manifest(source="list.csv", classes=classes, samples=samples)


def named(*paths: str) -> Manifest:
    return table(*(Sample(path=path, labels=(number % 2,)) for number, path in enumerate(paths)))


def groups_of(manifest: Manifest) -> list[str | None]:
    return [sample.group for sample in manifest.samples]


# Making groups


def test_folders_of_one_name_are_one_group_wherever_they_are() -> None:
    manifest = named("v/walk/kitchen/a.mp4", "v/run/kitchen/b.mp4", "v/walk/garden/c.mp4", "v/run/hall/d.mp4")
    assert groups_of(group_by_folder(manifest)) == ["kitchen", "kitchen", "garden", "hall"]
    manifest = named("v/anna/walk/a.mp4", "v/anna/run/b.mp4", "v/ben/walk/c.mp4", "v/ben/run/d.mp4")
    assert groups_of(group_by_folder(manifest, level=2)) == ["anna", "anna", "ben", "ben"]


def test_folders_of_classes_are_no_groups() -> None:
    with pytest.raises(ValueError, match=r"level 1 selects the class folders.*another level"):
        group_by_folder(named("v/walk/a.mp4", "v/run/b.mp4", "v/walk/c.mp4"))
    with pytest.raises(ValueError, match="no folder 99 levels above it"):
        group_by_folder(named("v/walk/a.mp4"), level=99)
    with pytest.raises(ValueError, match="level must be >= 1, got 0"):
        group_by_folder(named("v/walk/a.mp4"), level=0)


def test_a_pattern_finds_the_group_in_the_name() -> None:
    manifest = named("x_9/v_Run_g08_c01.avi", "v_Run_g12_c02.avi", "v_Walk_g08_c03.avi")
    assert groups_of(group_by_pattern(manifest, r"g\d+")) == ["g08", "g12", "g08"]
    assert groups_of(group_by_pattern(manifest, r"_g(\d+)_")) == ["08", "12", "08"]
    assert groups_of(group_by_pattern(manifest, r"v_(\w+?)_g(\d+)")) == ["Run 08", "Run 12", "Walk 08"]


def test_a_pattern_that_does_not_match_every_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must match every name, got 1 of 2 without a match, such as 'b.mp4'"
    ):
        group_by_pattern(named("x/a1.mp4", "1/b.mp4"), r"\d+(?=\.)")
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression: missing"):
        group_by_pattern(named("a.mp4"), "(")


def test_groups_are_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    samples = [
        Sample(path=str(tmp_path / "a.mp4"), labels=(0,), group="anna, ben"),
        Sample(path=str(tmp_path / "b.mp4"), labels=(0,)),
    ]
    manifest = replace(table(*samples, num_classes=1), source=str(tmp_path / "list.csv"))
    write_manifest(manifest, tmp_path / "list.csv")
    assert (
        tmp_path / "list.csv"
    ).read_text() == 'path,label,group\na.mp4,class 0,"anna, ben"\nb.mp4,class 0,\n'
    assert read_manifest(tmp_path / "list.csv").samples == manifest.samples


def test_groups_do_not_change_the_digest() -> None:
    manifest = named("a.mp4", "b.mp4")
    assert group_by_pattern(manifest, ".").digest == manifest.digest


# Holding out


def in_places(places: int, classes: int, each: int) -> Manifest:
    """`each` videos of every class in every place."""
    return table(
        *(
            Sample(path=f"{place}/{label}/{n}.mp4", labels=(label,), group=f"place {place}")
            for place in range(places)
            for label in range(classes)
            for n in range(each)
        ),
        num_classes=classes,
    )


def test_a_group_is_never_on_both_sides() -> None:
    for seed in range(10):
        rest, held = hold_out(in_places(5, 3, 4), 0.2, seed=seed)
        places = [{sample.group for sample in side.samples} for side in (rest, held)]
        assert [len(side) for side in places] == [4, 1]
        assert not places[0] & places[1]
        assert Counter(sample.labels for sample in held.samples) == {(0,): 4, (1,): 4, (2,): 4}


def test_a_group_of_many_videos_counts_as_many() -> None:
    sizes = {"a": 1, "b": 1, "c": 2, "d": 16}
    samples = [
        Sample(path=f"{g}{n}.mp4", labels=(0,), group=g) for g, size in sizes.items() for n in range(size)
    ]
    for seed in range(20):
        held = hold_out(table(*samples), 0.2, seed=seed)[1]
        assert {sample.group for sample in held.samples} == {"a", "b", "c"}


def test_a_class_that_was_filmed_in_two_places_holds_out_the_smaller_one() -> None:
    samples = [Sample(path=f"{n}.mp4", labels=(0,), group="a" if n < 9 else "b") for n in range(13)]
    for seed in range(5):
        held = hold_out(table(*samples), 0.1, seed=seed)[1]
        assert {sample.group for sample in held.samples} == {"b"}


def test_parts_of_one_file_join_the_groups_that_they_are_in() -> None:
    samples = [
        Sample(path="film.mp4", labels=(0,), end_seconds=1.0, group="anna"),
        Sample(path="./film.mp4", labels=(0,), start_seconds=1.0, group="ben"),
        Sample(path="a.mp4", labels=(0,), group="anna"),
        Sample(path="b.mp4", labels=(0,), group="ben"),
        Sample(path="c.mp4", labels=(0,), group="carl"),
    ]
    for seed in range(5):
        held = hold_out(table(*samples), 0.3, seed=seed)[1]
        assert held.samples == (samples[4],)


def test_classes_with_one_group_each_cannot_be_held_out() -> None:
    samples = [Sample(path=f"{n}.mp4", labels=(n % 2,), group=str(n % 2)) for n in range(8)]
    with pytest.raises(
        ValueError,
        match=r"no group .*2 groups, the largest with 4 of 8 samples.*data.group_by.*data.val_fraction=0",
    ):
        hold_out(table(*samples), 0.5, seed=0)


def test_classes_that_are_not_validated_are_named() -> None:
    manifest = in_places(4, 2, 1)
    manifest = replace(
        manifest, samples=(*manifest.samples, Sample(path="x.mp4", labels=(0,), group="place 9"))
    )
    assert hold_out(manifest, 0.25, seed=0)[1].notes == ()
    lonely = [Sample(path=f"y{n}.mp4", labels=(2,), group="hall") for n in range(4)]
    manifest = replace(manifest, samples=(*manifest.samples, *lonely), classes=("run", "walk", "sit"))
    (note,) = hold_out(manifest, 0.25, seed=0)[1].notes
    assert note == "list.csv: 1 class not in the validation split, because there is no second group: 'sit'"


def test_the_same_groups_are_held_out_in_whatever_order() -> None:
    manifest = in_places(6, 2, 3)
    held = hold_out(manifest, 0.3, seed=4)[1]
    backwards = replace(manifest, samples=manifest.samples[::-1])
    assert set(hold_out(backwards, 0.3, seed=4)[1].samples) == set(held.samples)


@settings(max_examples=40)
@given(
    samples=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 6), st.sampled_from([None, "a", "b", "c", "d"])),
        min_size=2,
    ),
    part=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_no_group_is_split_and_no_class_taken_from_the_rest(samples, part, seed) -> None:
    manifest = table(
        *(Sample(path=f"{file}.mp4", labels=(label,), group=group) for label, file, group in samples),
        num_classes=4,
    )
    try:
        rest, held = hold_out(manifest, part, seed=seed)
    except ValueError:
        # Every class has all its videos in one group, or together with those of such a class.
        return
    assert len(rest.samples) + len(held.samples) == len(samples)
    for shared in ("group", "path"):
        sides = [{getattr(sample, shared) for sample in side.samples} - {None} for side in (rest, held)]
        assert not sides[0] & sides[1]
    assert {s.labels for s in rest.samples} == {s.labels for s in manifest.samples}


# Rules and words of training


def test_a_rule_is_one_of_the_ready_ways() -> None:
    manifest = named("v/anna/walk/a1.mp4", "v/anna/run/b2.mp4", "v/ben/walk/c1.mp4", "v/ben/run/d2.mp4")
    assert groups_of(make_groups(manifest, "folder:2")) == ["anna", "anna", "ben", "ben"]
    assert groups_of(make_groups(manifest, r"pattern:\d")) == ["1", "2", "1", "2"]
    for rule in ("folders", "folder:x", "pattern:", "similarity:3", ""):
        with pytest.raises(ValueError, match=r"data\.group_by must be folder"):
            make_groups(manifest, rule)


def films(folder: Path, walls: int) -> list[str]:
    """Four films of somebody who moves before one of so many walls."""
    paths = []
    for number in range(4):
        random = torch.Generator().manual_seed(number % walls)
        film = torch.randint(0, 255, (1, 6, 8, 3), generator=random).float()
        film = torch.nn.functional.interpolate(film.permute(0, 3, 1, 2), size=(48, 64)).repeat(8, 1, 1, 1)
        for frame in range(8):
            film[frame, :, 10:30, 4 * frame + 8 * (number // 2) : 4 * frame + 16] = 255 * (number // 2)
        paths.append(folder / f"{number}.mp4")
        write_h264(paths[-1], film.permute(0, 2, 3, 1).to(torch.uint8).contiguous(), fps=8, crf=20)
    return list(map(str, paths))


def test_films_before_one_background_are_one_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = films(tmp_path, walls=2)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    manifest = make_groups(named(*paths, str(tmp_path / "broken.mp4")), "similarity")
    made = groups_of(manifest)
    assert made[0] == made[2] != made[1] == made[3]
    assert len(set(made)) == 3
    assert manifest.notes == (
        "list.csv: data.group_by=similarity finds 3 scenes, the largest with 2 of 5 videos",
    )
    assert capsys.readouterr().err == "find scenes: 5 videos\n"
    make_groups(named(*paths, str(tmp_path / "broken.mp4")), "similarity")
    assert capsys.readouterr().err == ""  # the choices of fine-tuning and the run ask for the same


def test_videos_that_are_all_one_scene_are_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"finds 1 scene, with all of the 4 videos.*data.group_by=folder"):
        make_groups(named(*films(tmp_path, walls=1)), "similarity")


def test_a_scene_of_most_videos_comes_with_other_rules(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    manifest = named(*films(tmp_path, walls=1), str(tmp_path / "broken.mp4"))
    (note,) = make_groups(manifest, "similarity").notes
    assert "finds 2 scenes, the largest with 4 of 5 videos; if it holds several places, use" in note


def test_groups_of_the_list_are_not_replaced_without_a_word() -> None:
    groups = {"v/x/a.mp4": "anna", "v/y/b.mp4": "ben", "v/x/c.mp4": "ben", "v/y/d.mp4": "anna"}
    samples = (Sample(path=path, labels=(n // 2,), group=groups[path]) for n, path in enumerate(groups))
    listed = table(*samples)
    (note,) = make_groups(listed, "folder").notes
    assert note == "list.csv: 2 groups of the list replaced, because data.group_by is folder"


def test_what_validation_shares_with_training_is_one_sentence() -> None:
    def side(*groups: str | None) -> Manifest:
        return table(*(Sample(path="a.mp4", labels=(0,), group=group) for group in groups))

    assert describe_sharing(side("a", "b"), side("c")) == (
        "no group is in both training (2 groups) and validation (1 group)"
    )
    assert describe_sharing(side("a", "b"), side("b", "c")).startswith(
        "warning: 1 of the 2 validation groups are also in training (b)"
    )
    assert describe_sharing(side(None, None), side(None)).startswith("warning: no groups are known")
