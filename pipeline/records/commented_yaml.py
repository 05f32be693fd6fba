"""YAML for people: a comment above each value, lists of scalars on one line, the same bytes for the same values."""

from collections.abc import Mapping
from typing import Any

import yaml


def commented_yaml(heading: str, values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Returns `values` as YAML with the heading on top and above each key the comment that it has, if any."""
    lines = [f"# {heading}"]
    for key, value in values.items():
        if key in comments:
            lines.append(f"# {comments[key]}")
        # None: lists of scalars on one line; False: a scalar stays `key: value`.
        style = None if isinstance(value, (dict, list, tuple)) else False
        text = yaml.safe_dump({key: plain(value)}, default_flow_style=style, sort_keys=False, width=110)
        lines.append(text.rstrip())
    return "\n".join(lines) + "\n"


def one_line_yaml(key: str, value: Any) -> str:
    """Returns `key: value` as YAML on one line, however long."""
    text = yaml.safe_dump({key: plain(value)}, default_flow_style=True, sort_keys=False, width=10**9)
    return text.strip()[1:-1]


def plain(value: Any) -> Any:
    """Returns the value with tuples as lists, which is what YAML knows."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
