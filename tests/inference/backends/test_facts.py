"""The metadata of an exported file is validated."""

import json
from typing import Any

import pytest

from videoswin._errors import InputError
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.weights.metadata import Metadata

FACTS = Metadata(
    name="small",
    precision="fp32",
    clip=ClipSpec(),
    views=ViewPlan(),
    labels=("a", "b"),
    multi_label=False,
    license="MIT",
    lineage={"started from": "random weights"},
)


def test_facts_come_back_from_json() -> None:
    assert vars(Metadata.of_exported_file(FACTS.to_json(), "model.onnx")) == vars(FACTS)


def test_unknown_fields_are_ignored_as_in_a_checkpoint() -> None:
    text = json.dumps(json.loads(FACTS.to_json()) | {"unknown": 1})
    assert vars(Metadata.of_exported_file(text, "model.onnx")) == vars(FACTS)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "ab"},
        {"labels": [1, 2]},
        {"labels": None},
        {"labels": 3},
        {"multi_label": "no"},
        {"precision": "float8"},
        {"precision": ["fp32"]},
        {"precision": None},
        {"precision": "fp16"},
        {"protocol": ["official-4x3"]},
        {"name": 3},
        {"license": None},
        {"lineage": "none"},
        {"lineage": {"a": 1}},
        {"clip": {"frames": "many"}},
        {"clip": 3},
        {"views": {"clips": 0}},
        {"views": None},
        {"version": "1"},
        {"version": None},
        {"labels": ["a", "a"]},
        {"labels": ["a", "b\x1b[2J"]},
        {"clip": {"frames": 10**9}},
        {"views": {"clips": 10**9}},
    ],
    ids=str,
)
def test_facts_of_wrong_types_are_one_error(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^model\.onnx is an exported model that does not load: ") as error:
        Metadata.of_exported_file(json.dumps(json.loads(FACTS.to_json()) | change), "model.onnx")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "{", "null", "[" * 100_000 + "]" * 100_000], ids=lambda t: t[:9])
def test_text_that_is_no_object_is_one_error(text: str) -> None:
    with pytest.raises(InputError, match=r"^model\.onnx is an exported model that does not load: "):
        Metadata.of_exported_file(text, "model.onnx")
