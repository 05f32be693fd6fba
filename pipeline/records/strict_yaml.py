"""YAML that people write, read strictly: no key twice, no key that nobody reads, nothing but `key: value`."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.records.errors import InputError


class DuplicateKeyError(yaml.constructor.ConstructorError):
    """A mapping holds a key twice."""


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that raises `DuplicateKeyError` for a key that a mapping holds twice.

    PyYAML's own loader keeps the last one and says nothing.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Returns the mapping of `node`."""
        seen = set()
        for key_node in (key_node for key_node, _ in node.value if isinstance(key_node, yaml.ScalarNode)):
            if key_node.value in seen:
                raise DuplicateKeyError(None, None, f"the key `{key_node.value}` twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping; an empty file is an empty mapping.

    Raises:
        InputError: the file is missing, is not YAML, has a key twice, or holds something else than a mapping.
    """
    if not path.is_file():
        raise InputError(path, found="no such file", wanted="a YAML file", reason="missing-config",
                         remedy="create it or check the experiment's name")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InputError(f"{path}, line {line}", found=str(error.problem), wanted="each key once",
                         remedy="remove one of them", reason="duplicate-key") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = str(error).replace("\n", " ")
        raise InputError(path, found=f"invalid YAML ({text})", wanted="a YAML mapping", reason="invalid-yaml",
                         remedy="mend the syntax at that line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(path, found=f"a {type(content).__name__}", wanted="`key: value` lines", reason="invalid-yaml",
                         remedy="write one setting a line")
    return content


def read_exactly(path: Path, known: set[str], *, remedy: str) -> dict[str, Any]:
    """Reads what a stage wrote: a YAML mapping with exactly the `known` keys.

    Raises:
        InputError: as `read_yaml`, or a key is missing or unknown.
    """
    content = read_yaml(path)
    refuse_unknown_keys(set(content), known, path)
    for key in sorted(known - set(content)):
        raise InputError(path, found=f"no `{key}`", wanted="every value that a stage writes", remedy=remedy,
                         reason="missing-key")
    return content


def refuse_unknown_keys(given: set[str], known: set[str], path: Path) -> None:
    """Raises `InputError` for the first given key that is not known, and names the nearest one that is."""
    for key in sorted(given - known):
        nearest = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean `{nearest[0]}`?" if nearest else "remove it"
        raise InputError(path, found=f"unknown key `{key}`", wanted=f"one of {', '.join(sorted(known))}", remedy=hint,
                         reason="unknown-key")
