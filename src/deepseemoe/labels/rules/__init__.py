"""Rules that say on which tokens a feature fires: executable on any text, and put into words.

A rule looks at the token, at what stands before it in its segment, and at the domain of its
document; never ahead, since a model does not either.
"""

from deepseemoe.labels.rules.as_json import RULES, from_json, to_json
from deepseemoe.labels.rules.compound import BothRule, EitherRule, NotRule
from deepseemoe.labels.rules.looks import AffixRule, LengthRule, ShapeRule
from deepseemoe.labels.rules.places import DomainRule, EveryRule, PositionRule
from deepseemoe.labels.rules.rule import Rule, quoted
from deepseemoe.labels.rules.states import InsideRule, LineRule, RepeatedRule
from deepseemoe.labels.rules.tokens import (
    BigramRule,
    PreviousRule,
    TokenRule,
    TrigramRule,
    WordRule,
)
from deepseemoe.labels.rules.triggers import AfterRule, SinceRule

__all__ = [
    "RULES",
    "AffixRule",
    "AfterRule",
    "BigramRule",
    "BothRule",
    "DomainRule",
    "EitherRule",
    "EveryRule",
    "InsideRule",
    "LengthRule",
    "LineRule",
    "NotRule",
    "PositionRule",
    "PreviousRule",
    "RepeatedRule",
    "Rule",
    "ShapeRule",
    "SinceRule",
    "TokenRule",
    "TrigramRule",
    "WordRule",
    "from_json",
    "quoted",
    "to_json",
]
