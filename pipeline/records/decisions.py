"""Values decided with their reasons: the reason is written where the value is made, and so cannot drift from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.records.commented_yaml import one_line_yaml


@dataclass(frozen=True)
class Decision:
    """A value and why it is what it is."""

    value: Any
    why: str


class Decisions:
    """Decisions by name, in the order they were made; what a person gave stands and counts for all that follow.

    Args:
        given: values that a person set.
        where: what they were set in.
    """

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self.given = dict(given)
        self.where = where
        self.made: dict[str, Decision] = {}

    def make(self, name: str, value: Any, why: str) -> Any:
        """Notes a decision and returns its value: what was given, else `value`."""
        is_given = name in self.given
        decision = Decision(self.given[name], f"set in {self.where}") if is_given else Decision(value, why)
        self.made[name] = decision
        return decision.value

    def take(self, name: str, decision: Decision) -> Any:
        """Notes a decision that another function made, as `make` does."""
        return self.make(name, decision.value, decision.why)

    def lines(self) -> Iterator[str]:
        """Yields one line a decision, which is YAML: `name: value  # why`."""
        for name, decision in self.made.items():
            yield f"{one_line_yaml(name, decision.value)}  # {decision.why}"
