"""Rules as plain data and back."""

from dataclasses import fields
from typing import Any

from deepseemoe.labels.rules.compound import BothRule, EitherRule, NotRule
from deepseemoe.labels.rules.looks import AffixRule, LengthRule, ShapeRule
from deepseemoe.labels.rules.places import DomainRule, EveryRule, PositionRule
from deepseemoe.labels.rules.rule import Rule
from deepseemoe.labels.rules.states import InsideRule, LineRule, RepeatedRule
from deepseemoe.labels.rules.tokens import (
    BigramRule,
    PreviousRule,
    TokenRule,
    TrigramRule,
    WordRule,
)
from deepseemoe.labels.rules.triggers import AfterRule, SinceRule

RULES: dict[str, type] = {
    rule.kind: rule
    for rule in (
        TokenRule,
        WordRule,
        PreviousRule,
        BigramRule,
        TrigramRule,
        AfterRule,
        SinceRule,
        LineRule,
        ShapeRule,
        AffixRule,
        LengthRule,
        DomainRule,
        PositionRule,
        EveryRule,
        InsideRule,
        RepeatedRule,
        BothRule,
        EitherRule,
        NotRule,
    )
}
"""Kinds of rules by name."""


def to_json(rule: Rule) -> dict[str, Any]:
    """Return a rule as plain data; `from_json` makes it executable again."""
    held = {field.name: getattr(rule, field.name) for field in fields(rule)}  # type: ignore[arg-type]
    return {"kind": rule.kind, **{name: _plain(value) for name, value in held.items()}}


def from_json(value: dict[str, Any]) -> Rule:
    """Return the rule that `to_json` wrote down; raise ValueError for an unknown kind."""
    if value.get("kind") not in RULES:
        raise ValueError(f"unknown kind of rule {value.get('kind')!r}; expected one of {[*RULES]}")
    held = {name: _held(field) for name, field in value.items() if name != "kind"}
    rule: Rule = RULES[value["kind"]](**held)
    return rule


def _plain(value: Any) -> Any:
    return to_json(value) if hasattr(value, "applies") else value


def _held(value: Any) -> Any:
    if isinstance(value, dict):
        return from_json(value)
    return tuple(map(_held, value)) if isinstance(value, list | tuple) else value
