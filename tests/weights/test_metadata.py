"""Untrusted metadata of a checkpoint is either valid or refused in one line."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from videoswin._errors import InputError
from videoswin.model.config import VideoSwinConfig
from videoswin.video.spec import MAX_VIEW_BYTES, PROTOCOLS, ClipSpec, ViewPlan, apply_protocol
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.convert import parameter_shapes
from videoswin.weights.metadata import MAX_METADATA, Metadata

CONFIG = VideoSwinConfig(embed_dim=8, depths=(1,), num_heads=(1,), window=(1, 2, 2), num_classes=5)
WEIGHTS = {name: torch.zeros(shape) for name, shape in parameter_shapes(CONFIG).items()}
VALID = {
    "version": 2,
    "config": CONFIG.to_dict(),
    "clip": ClipSpec(frames=8, size=64).to_dict(),
    "views": ViewPlan(clips=1).to_dict(),
    "labels": ["走る", "b", "c", "d", "é, with a comma"],
    "multi_label": False,
    "lineage": {"command": "videoswin train\n"},
    "license": "MIT",
    "name": "small",
}


@pytest.fixture
def load(tmp_path):
    """Load a checkpoint whose metadata is this text."""

    def load(text):
        save_file(WEIGHTS, tmp_path / "x.safetensors", metadata={"videoswin": text})
        return Checkpoint.load(tmp_path / "x.safetensors")

    return load


def with_value(path, value):
    """VALID with another value at `path`."""
    changed = json.loads(json.dumps(VALID))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def paths(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(inner, (*path, key))


def test_valid_metadata_is_read(load):
    checkpoint = load(json.dumps(VALID))
    assert checkpoint.labels == tuple(VALID["labels"])
    assert checkpoint.lineage == VALID["lineage"]


NAMES = "must be printable text of 1 to 2000 characters, without control or invisible characters, got"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["labels"], "abcde", "labels must be a list of names, got 'abcde'"),
        (["labels"], {"a": 0}, "labels must be a list of names, got {'a': 0}"),
        (["labels", 1], 7, f"label 1 {NAMES} 7"),
        (["labels", 1], None, f"label 1 {NAMES} None"),
        (["labels", 1], "", f"label 1 {NAMES} ''"),
        (["labels", 1], "x" * 2001, f"label 1 {NAMES} 'xxx"),
        (["labels", 1], "a\x1b[31m", rf"label 1 {NAMES} 'a\\x1b\[31m'"),
        (["labels", 1], "a\nb", rf"label 1 {NAMES} 'a\\nb'"),
        (["labels", 1], "a\u202eb", rf"label 1 {NAMES} 'a\\u202eb'"),
        (["labels", 1], "a\ud800", rf"label 1 {NAMES} 'a\\ud800'"),
        (["labels", 1], "c", "labels must be unique, got 'c' 2 times"),
        (["name"], "a\nb", rf"name {NAMES} 'a\\nb'"),
        (["name"], 3, f"name {NAMES} 3"),
        (["license"], "MIT\x07", rf"license {NAMES} 'MIT\\x07'"),
        (["multi_label"], "yes", "multi_label must be True or False, got 'yes'"),
        (["multi_label"], 1, "multi_label must be True or False, got 1"),
        (["lineage"], ["a"], r"lineage must map names to text, got \['a'\]"),
        (["lineage", "command"], 7, "lineage must map names to text, got 'command': 7"),
        (["config"], 7, "VideoSwinConfig must be an object with embed_dim, .*, got 7"),
        (["config"], None, "missing: config"),
        (["protocol"], ["official-4x3"], "protocol must be text, got"),
        (["config", "embed_dim"], 10**9, "config: embed_dim must be an integer from 1 to 4096, got 10"),
        (["config", "depths"], [10**9], "config: depths must be an integer from 1 to 256, got 1000000000"),
        (["config", "\x1b[2J"], 1, r"VideoSwinConfig has no '\\x1b\[2J'; it has"),
        (["clip", "frames"], 10**9, "frames must be an integer from 1 to 4096, got 1000000000"),
        (["clip", "size"], 10**6, "size must be an integer from 1 to 4096, got 1000000"),
        (["clip", "size"], math.nan, "metadata must have finite numbers, got NaN"),
        (["views", "clips"], 10**9, "clips must be an integer from 1 to 10000, got 1000000000"),
        (["views", "clips"], 10_000, "all views .* must have at most 1073741824 values, got 30000 views"),
        (["views", "margin"], -math.inf, "metadata must have finite numbers, got -Infinity"),
    ],
)  # fmt: skip
def test_value_that_cannot_be_used_is_named(path, value, message, load):
    with pytest.raises(InputError, match=rf"x\.safetensors is .* that does not load: .*{message}") as error:
        load(json.dumps(with_value(path, value)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", sorted(VALID.keys() - {"multi_label", "version"}))
def test_missing_field_is_named(field, load):
    with pytest.raises(InputError, match=f"missing: {field}"):
        load(json.dumps({name: value for name, value in VALID.items() if name != field}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "metadata must be JSON: Expecting value"),
        ("{", "metadata must be JSON: Expecting property name"),
        ("[]", r"metadata must be a JSON object, got \[\]"),
        ("7", "metadata must be a JSON object, got 7"),
        ("[" * 100_000, "metadata must be JSON of few levels"),
        ('{"a":' * 100_000, "metadata must be JSON of few levels"),
        ('{"version": ' + "9" * 5000 + "}", "metadata must be JSON: Exceeds the limit"),
        ('{"version": 1e999}', "version must be an integer >= 1, got inf"),
        (" " * (MAX_METADATA + 1), "metadata must have at most 16777216 characters, got 16777217"),
    ],
)
def test_text_that_is_no_metadata_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Metadata.from_json(text)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_name_of_the_protocol_is_stored_and_follows_a_change_of_the_views(protocol):
    clip, views = apply_protocol(protocol, ClipSpec())
    metadata = Metadata(clip=clip, views=views, labels=())
    assert json.loads(metadata.to_json())["protocol"] == metadata.protocol == protocol
    other = ViewPlan(clips=1, crops=3, placement="mmaction2")
    assert dataclasses.replace(metadata, views=other).protocol == "1x3"


@pytest.mark.parametrize("stored", [None, "", "fast-1x1", "\x1b[2J"])
def test_protocol_that_is_missing_or_does_not_fit_is_the_one_of_clip_and_views(stored):
    fields = json.loads(Metadata(clip=ClipSpec(), views=ViewPlan(), labels=()).to_json())
    fields |= {"protocol": stored}
    if stored is None:
        del fields["protocol"]
    assert Metadata.from_json(json.dumps(fields)).protocol == "official-4x3"


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**8, max_value=10**400)
    | st.floats()
    | st.text(st.characters())  # lone surrogates, controls and all
    | st.sampled_from(["per-clip", "full", "dense", "official", "class"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)
descriptions = st.one_of(
    st.builds(with_value, st.sampled_from(list(paths(VALID))), values),
    st.builds(lambda name, value: VALID | {name: value}, st.sampled_from(list(VALID)), values),
    values,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(descriptions)
def test_any_json_is_a_checkpoint_or_an_input_error(load, tmp_path, description):
    try:
        checkpoint = load(json.dumps(description))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert checkpoint.views.num_views * checkpoint.clip.num_bytes <= MAX_VIEW_BYTES
    checkpoint.save(tmp_path / "again.safetensors")
    again = Checkpoint.load(tmp_path / "again.safetensors")
    assert (again.clip, again.views, again.labels) == (checkpoint.clip, checkpoint.views, checkpoint.labels)
