"""The queries of sql/ in the words of Spark SQL. sqlglot translates; what it does not know is a rule here.

A rule takes the tree of a query and gives it back changed. Rules know DuckDB's words, never a query of ours: columns('...')
is written out as the columns it matches, a call of a table macro as the macro's body, $parameters as their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.tokens import Token, TokenType
from sqlglot.transforms import eliminate_qualify

from atlas.store.contents import our_tables

SORTED_LIST = "transform(array_sort(collect_list(struct({key} as k, {value} as v))), x -> x.v)"
DISTANCE = "sqrt(aggregate(zip_with({a}, {b}, (x, y) -> power(cast(x as double) - y, 2)), 0d, (s, v) -> s + v))"


@dataclass(frozen=True)
class Statement:
    """A statement in Spark SQL.

    Attributes:
        select: what it selects.
        kind: "select"; "create" or "insert" when the rows are to go into a table.
        target: that table; None for a plain select.
        columns: the columns it fills by position; empty for all.
    """

    select: str
    kind: str
    target: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Macro:
    """A table macro of sql/macros.sql: its parameters with the defaults they have, and the query it stands for."""

    parameters: tuple[str, ...]
    defaults: Mapping[str, exp.Expr]
    body: exp.Expr


def read_tables(text: str, macros: Mapping[str, Macro]) -> list[str]:
    """The tables and views that a statement reads, through its macros too."""
    tree = _expand_macros(_parse(text), macros)
    own = {cte.alias for cte in tree.find_all(exp.CTE)}
    target = _target(tree)
    return sorted({table.name for table in tree.find_all(exp.Table) if table is not target} - own)


def translate(
    text: str, parameters: Mapping[str, Any], *, columns: Sequence[str] = (), macros: Mapping[str, Macro] | None = None
) -> Statement:
    """A statement of sql/ in Spark SQL.

    Args:
        text: one statement in DuckDB's SQL.
        parameters: values of its $names.
        columns: the columns of the tables it reads; columns('...') matches these.
        macros: the table macros it may call.
    """
    tree = _expand_macros(_parse(text), macros or {})
    for hole in list(tree.find_all(exp.Placeholder)):
        hole.replace(exp.convert(parameters[hole.name]))
    columns = [*columns, *_renamed(tree, columns)]
    for rule in RULES:
        tree = rule(tree, columns)
    target = _target(tree)
    kind = "create" if isinstance(tree, exp.Create) else "insert" if isinstance(tree, exp.Insert) else "select"
    filled = tuple(name.name for name in tree.this.expressions) if isinstance(tree.this, exp.Schema) else ()
    select = tree if kind == "select" else tree.expression
    if kind == "insert" and tree.args.get("with_"):
        select.set("with_", tree.args["with_"])
    return Statement(select.sql("spark", comments=False), kind, target.name if target else None, filled)


@cache
def read_macros(text: str) -> dict[str, Macro]:
    """Name -> table macro, of the text of sql/macros.sql.

    The words are told apart by sqlglot's tokenizer, which knows strings and comments; sqlglot has no tree for
    `create macro name(parameter := default) as table query`, whose head is read as a call of the macro.
    """
    found = {}
    for tokens in _statements(sqlglot.tokenize(text, read="duckdb")):
        kinds = [token.token_type for token in tokens]
        name = kinds.index(TokenType.FUNCTION) + 1
        closed = next(i for i in range(name, len(kinds)) if _depth(kinds[name : i + 1]) == 0 and i > name)
        if kinds[closed + 1 : closed + 3] != [TokenType.ALIAS, TokenType.TABLE]:
            raise ValueError(f"macro {tokens[name].text} is no table macro")
        call = sqlglot.parse_one(text[tokens[name].start : tokens[closed].end + 1], read="duckdb")
        given = {one.this.name if isinstance(one, exp.PropertyEQ) else one.name: one for one in call.expressions}
        defaults = {key: one.expression for key, one in given.items() if isinstance(one, exp.PropertyEQ)}
        body = _parse(text[tokens[closed + 3].start : tokens[-1].end + 1])
        found[tokens[name].text] = Macro(tuple(given), defaults, body)
    return found


def _statements(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    for is_end, group in groupby(tokens, lambda token: token.token_type == TokenType.SEMICOLON):
        if not is_end:
            yield list(group)


def _depth(kinds: Sequence[TokenType]) -> int:
    """How many parentheses are open after some tokens."""
    return kinds.count(TokenType.L_PAREN) - kinds.count(TokenType.R_PAREN)


def read_views(text: str) -> dict[str, str]:
    """Name -> select in Spark SQL, of the text of sql/views.sql."""
    trees = [tree for tree in sqlglot.parse(text, read="duckdb") if isinstance(tree, exp.Create)]
    return {tree.this.name: tree.expression.sql("spark", comments=False) for tree in trees}


def _parse(text: str) -> exp.Expr:
    tree = sqlglot.parse_one(text, read="duckdb")
    if isinstance(tree, exp.Command):
        raise ValueError(f"sqlglot cannot read this statement: {text}")
    return tree


def _target(tree: exp.Expr) -> exp.Table | None:
    """The table that a `create` or `insert` fills."""
    return tree.this.find(exp.Table) if isinstance(tree, exp.Create | exp.Insert) else None


def _expand_macros(tree: exp.Expr, macros: Mapping[str, Macro]) -> exp.Expr:
    for call in [table for table in tree.find_all(exp.Table) if isinstance(table.this, exp.Anonymous)]:
        name = call.this.name.lower()
        if name in macros:
            call.replace(exp.Subquery(this=_body(macros[name], call.this.expressions), alias=call.args.get("alias")))
    return tree


def _body(macro: Macro, arguments: Sequence[exp.Expr]) -> exp.Expr:
    """A macro's body with the arguments in the place of its parameters."""
    given = dict(macro.defaults)
    free = iter(macro.parameters)
    for argument in arguments:
        named = isinstance(argument, exp.PropertyEQ)
        given[argument.this.name if named else next(free)] = argument.expression if named else argument
    body = macro.body.copy()
    for column in list(body.find_all(exp.Column)):
        if not column.table and column.name in given:
            column.replace(given[column.name].copy())
    return body


def _write_out_unpivot(tree: exp.Expr, columns: Sequence[str]) -> exp.Expr:
    """unpivot (...) on columns('x') into name a value b -> select * from (...) unpivot (b for a in (x1, x2, ...))."""
    for pivot in [p for p in tree.find_all(exp.Pivot) if p.args.get("unpivot") and p.args.get("into")]:
        names = [
            name
            for pattern in pivot.find_all(exp.Columns)
            if pattern.parent is pivot
            for name in _matched(pattern, columns)
        ]
        into = pivot.args["into"]
        new = exp.Pivot(
            expressions=[exp.to_identifier(into.expressions[0].name)],
            fields=[exp.In(this=exp.to_identifier(into.this.name), expressions=[exp.column(name) for name in names])],
            unpivot=True,
        )
        source = exp.Subquery(this=pivot.this.this, pivots=[new])
        pivot.replace(exp.select("*").from_(source))
    return tree


def _write_out_columns(tree: exp.Expr, columns: Sequence[str]) -> exp.Expr:
    """select f(columns('x')) -> select f(x1) as x1, f(x2) as x2, ..."""
    for select in tree.find_all(exp.Select):
        items: list[exp.Expr] = []
        for item in select.expressions:
            pattern = next((found for found in item.find_all(exp.Columns) if found.parent_select is select), None)
            items += [item] if pattern is None else [_for_column(item, name) for name in _matched(pattern, columns)]
        select.set("expressions", items)
    return tree


def _for_column(item: exp.Expr, name: str) -> exp.Expr:
    r"""The item for one of the columns it matches, under the name that its alias makes of it: 'far_\1', or the same."""
    expression = item.this if isinstance(item, exp.Alias) else item
    found = exp.alias_(expression.copy(), _new_name(item, name))
    for pattern in list(found.find_all(exp.Columns)):
        pattern.replace(exp.column(name))
    return found


def _new_name(item: exp.Expr, name: str) -> str:
    pattern = item.find(exp.Columns)
    match = re.search(pattern.this.name, name) if pattern and item.alias else None
    return match.expand(item.alias) if match else name


def _renamed(tree: exp.Expr, columns: Sequence[str]) -> list[str]:
    r"""The names that columns get inside a query by aliases such as columns('sample_([0-9]+)') as 'far_\1'."""
    items = [(item, item.find(exp.Columns)) for item in tree.find_all(exp.Alias) if "\\" in item.alias]
    return [_new_name(item, name) for item, pattern in items if pattern for name in _matched(pattern, columns)]


def _matched(pattern: exp.Expr, columns: Sequence[str]) -> list[str]:
    names = [name for name in dict.fromkeys(columns) if re.search(pattern.this.name, name)]
    if not names:
        raise ValueError(f"no column matches {pattern.this.name!r}")
    return names


def _write_out_qualify(tree: exp.Expr, columns: Sequence[str]) -> exp.Expr:
    """qualify: sqlglot makes the select a subquery, but leaves the order inside it and the names of its tables outside."""
    for select in [s for s in tree.find_all(exp.Select) if s.args.get("qualify")]:
        order = select.args.get("order")
        if order:
            order.pop()
        wrapped = eliminate_qualify(select.copy())
        wrapped.set("order", order)
        for clause in (order, wrapped.args["where"]):
            for column in list(clause.find_all(exp.Column)) if clause else []:
                column.replace(exp.column(column.name))
        if select is tree:
            return wrapped
        select.replace(wrapped)
    return tree


def _write_out_lists(tree: exp.Expr, columns: Sequence[str]) -> exp.Expr:
    """list(x order by y)[:n] and list_distance, for which sqlglot's words are not Spark's."""
    for part in [p for p in tree.find_all(exp.Bracket) if isinstance(p.expressions[0], exp.Slice)]:
        part.replace(
            exp.func("slice", part.this, exp.Literal.number(1), part.expressions[0].expression, dialect="spark")
        )
    for collected in [a for a in tree.find_all(exp.ArrayAgg) if isinstance(a.this, exp.Order)]:
        order = collected.this
        collected.replace(_spark(SORTED_LIST, key=order.expressions[0].this, value=order.this))
    for distance in list(tree.find_all(exp.EuclideanDistance)):
        distance.replace(_spark(DISTANCE, a=distance.this, b=distance.expression))
    return tree


def _spark(template: str, **parts: exp.Expr) -> exp.Expr:
    return sqlglot.parse_one(template.format(**{name: part.sql("spark") for name, part in parts.items()}), read="spark")


RULES: tuple[Callable[[exp.Expr, Sequence[str]], exp.Expr], ...] = (
    _write_out_unpivot,
    _write_out_columns,
    _write_out_lists,
    _write_out_qualify,
)


def spark_schema(table: str) -> str:
    """The columns of one of our tables, as Spark declares them; it knows no unsigned integers."""
    create = _parse(our_tables()[table])
    columns = [f"`{column.name}` {column.args['kind'].sql('spark')}" for column in create.find_all(exp.ColumnDef)]
    return ", ".join(columns).replace(" UINT", " BIGINT")
