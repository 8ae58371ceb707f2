"""What a notebook shows of a result in place of its fields: plain, escaped HTML, without a page's charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html(title: str, lines: Iterable[str], columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A title, lines of text and a table.

    Args:
        title: printed small, above.
        lines: paragraphs below it.
        columns: the table's header.
        rows: its cells, each as wide as the header; without any there is no table.

    Example:
        >>> html("a < b", ["more"], ["x"], [["1"]]).count("&lt;")
        1
    """
    told = "".join(f"<p><b>{escape(line)}</b></p>" for line in lines)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f"<div><p><small>{escape(title)}</small></p>{told}{table}</div>"


def text(content: str) -> str:
    """Text of several lines, its columns aligned as on a terminal."""
    return f"<pre>{escape(content)}</pre>"
