"""How many records a task leaves out of data, and for which columns."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from p2pfl.gossip.manifest import Column, TabularTask, TaskSpec
from p2pfl.node.training.rows import open_rows
from p2pfl.node.training.table import Table


def missing_cells(path: Path, task: TabularTask) -> Counter[str]:
    """Of the rows left out of the table at ``path``, how many lack a cell in which column; a row may lack
    several.
    """
    found: Counter[str] = Counter()
    with open_rows(path) as rows:
        label = rows.position(task.label)
        places = [(column, rows.position(column.name)) for column in task.columns]
        for row in rows:
            found[task.label] += row[label] in task.missing
            for column, place in places:
                found[column.name] += column.missing == "drop" and _is_missing(row[place], column, task)
    return found


def described(tables: Sequence[Table], task: TaskSpec, cells: Counter[str]) -> str:
    """What was left out of ``tables``, in words; empty if nothing was."""
    dropped = sum(table.dropped for table in tables)
    if not dropped:
        return ""
    if not isinstance(task, TabularTask):
        return f"{dropped:,} {task.left_out}"
    columns = ", ".join(f"{name} ({count:,})" for name, count in cells.most_common() if count)
    return f"{dropped:,} of {dropped + sum(map(len, tables)):,} rows, for missing cells in {columns}"


def _is_missing(cell: str, column: Column, task: TabularTask) -> bool:
    return cell in task.missing or (
        column.kind != "numeric" and column.unknown == "missing" and cell not in column.levels
    )
