"""Rules made of rules: both, one of two, and not.

T tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

from deepseemoe.labels.reading import BoolArray, Reading, Vocabulary
from deepseemoe.labels.rules.rule import Rule


@dataclass(frozen=True)
class BothRule:
    """Two rules hold at once."""

    kind: ClassVar[str] = "both"
    one: Rule
    other: Rule

    def applies(self, reading: Reading) -> BoolArray:
        """Return where both hold."""
        return self.one.applies(reading) & self.other.applies(reading)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token “bank” in domain finance`, `digits, but not right after “of”`."""
        one, other = self.one.label(vocabulary), self.other.label(vocabulary)
        if isinstance(self.other, NotRule):
            return f"{one}, but {other}"
        is_of_token = self.one.kind not in _JOINTS
        joint = _JOINTS.get(self.other.kind) if is_of_token or self.other.kind == "domain" else None
        return f"{one}{joint or ', and '}{other}"


@dataclass(frozen=True)
class EitherRule:
    """One of two rules holds."""

    kind: ClassVar[str] = "either"
    one: Rule
    other: Rule

    def applies(self, reading: Reading) -> BoolArray:
        """Return where one holds."""
        return self.one.applies(reading) | self.other.applies(reading)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token “of”; or digits`."""
        return f"{self.one.label(vocabulary)}; or {self.other.label(vocabulary)}"


@dataclass(frozen=True)
class NotRule:
    """A rule does not hold."""

    kind: ClassVar[str] = "not"
    rule: Rule

    def applies(self, reading: Reading) -> BoolArray:
        """Return where it does not."""
        return ~self.rule.applies(reading)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `not digits`."""
        return f"not {self.rule.label(vocabulary)}"


_JOINTS = {
    "domain": " in ",
    "inside": " ",
    "after": " ",
    "previous": " ",
    "since": " ",
    "line": " ",
}
