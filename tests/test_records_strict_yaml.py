"""A key that stands twice in one YAML mapping is refused, with its line, and so is what is no mapping."""

from pathlib import Path

import pytest

from pipeline.records.errors import InputError
from pipeline.records.strict_yaml import read_yaml


@pytest.mark.parametrize(("text", "line", "key"), [
    ("a: 1\nb: 2\na: 3\n", 3, "a"), ("a:\n  b: 1\n  b: 2\n", 3, "b"), ("a: [{b: 1, b: 2}]\n", 1, "b"),
    ('a: 1\n"a": 2\n', 2, "a"),
])
def test_a_key_twice(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(caught.value) == (f"{path}, line {line}: the key `{key}` twice; expected each key once; "
                                 "remove one of them")


def test_the_same_key_in_two_mappings(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: {b: 1}\nc: {b: 1}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("content", [b"a: [\n", b"\xff\xfe\x00", b"- a\n- a\n"])
def test_what_is_no_mapping_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert caught.value.reason == "invalid-yaml"
    assert "\n" not in str(caught.value)
