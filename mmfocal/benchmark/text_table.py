"""Tables for the terminal."""


def format_table(rows: list[list[str]]) -> str:
    """Aligns columns, the first to the left and the others to the right; empty columns are dropped."""
    used = [i for i in range(len(rows[0])) if i == 0 or any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in used]
    lines = [
        '  '.join(row[i].ljust(width) if i == 0 else row[i].rjust(width) for i, width in zip(used, widths))
        for row in rows
    ]
    return '\n'.join(line.rstrip() for line in lines)
