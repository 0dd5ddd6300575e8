"""Tables as plain text, for reports in a terminal and in a notebook."""

import html
import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table


class Printed:
    """Mixin of what shows itself as the text that `str` returns, in a notebook too.

    A dataclass needs `repr=False` for it.
    """

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def format_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str | None = None,
    width: int = 120,
) -> str:
    """Returns `rows` under `columns` as aligned text that fits `width` characters.

    Numbers are right-aligned and printed with four significant digits, everything else as `str`.
    """
    rows = [list(row) for row in rows]
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 2, 0, 0),
    )
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, markup=False, emoji=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().strip("\n").splitlines()]
    # Rich would break a title that is longer than the table.
    return "\n".join(lines if title is None else [title, *lines])
