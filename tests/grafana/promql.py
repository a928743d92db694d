"""What a query asks for, by a parser of PromQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser


@dataclass(frozen=True)
class Selector:
    """One selector of a query.

    Attributes:
        name: of the series.
        matchers: what labels must be, or match; those that must not be something choose nothing.
        function: that it is an argument of; "" when it is none of a function with a range.
        range_seconds: how far it looks back; None: not at all.
    """

    name: str
    matchers: Mapping[str, str]
    function: str
    range_seconds: float | None


def parse(expression: str) -> Any:
    """Parse it.

    Raises:
        ValueError: it is no PromQL.
    """
    return promql_parser.parse(expression)


def selectors(expression: Any, function: str = "") -> list[Selector]:
    """All selectors below it."""
    match expression:
        case promql_parser.VectorSelector():
            return [_selector(expression, function, None)]
        case promql_parser.MatrixSelector():
            seconds = expression.range.total_seconds()
            return [_selector(expression.vector_selector, function, seconds)]
        case promql_parser.Call():
            return [it for each in expression.args for it in selectors(each, expression.func.name)]
        case promql_parser.BinaryExpr():
            return selectors(expression.lhs) + selectors(expression.rhs)
        case (
            promql_parser.AggregateExpr()
            | promql_parser.ParenExpr()
            | promql_parser.SubqueryExpr()
            | promql_parser.UnaryExpr()
        ):
            return selectors(expression.expr)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return []
    raise TypeError(f"{type(expression)} is not known here")


def _selector(it: Any, function: str, range_seconds: float | None) -> Selector:
    positive = (promql_parser.MatchOp.Equal, promql_parser.MatchOp.Re)
    matchers = {each.name: each.value for each in it.matchers.matchers if each.op in positive}
    return Selector(it.name or matchers["__name__"], matchers, function, range_seconds)
