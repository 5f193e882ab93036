"""What is shown of a run: a table on the terminal, and the parts of docs/performance.md that are between its marks."""

import pathlib
import re

import figures

PAGE = pathlib.Path("docs/performance.md")


def table(head, rows, right=()):
    """A Markdown table that can also be read as it is."""
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row):
        padded = (cell.rjust(width) if column in right else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(row, widths)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + (":" if column in right else "-") for column, width in enumerate(widths))
    return "\n".join([line(head), f"|{rule}|", *(line(row) for row in cells[1:])])


def targets(rows):
    head = ["figure", "target", "measured: median (range of the rounds)", "beside", "reached"]
    return table(head, [(row.name, row.target, row.measured, row.beside, "yes" if row.reached else "**no**") for row in rows])


def details(rounds):
    head = ["asked", "connections", "per second", "range", "p50 ms", "p99 ms", "server CPU µs per request", "resident MiB"]
    rows = [(detail.name, detail.connections, f"{detail.rate:,.0f}", f"{detail.slowest:,.0f}–{detail.fastest:,.0f}",
             f"{detail.p50:.2f}", f"{detail.p99:.2f}", f"{detail.cpu:.0f}", f"{detail.resident:.1f}")
            for detail in figures.details(rounds)]
    return table(head, rows, right=range(1, 8))


def machine(description):
    return "\n".join(f"- {name}: {value}" for name, value in description)


def quiet(rounds):
    median, worst = figures.others(rounds)
    said = f"While it was measured, other programs had {median:.1%} of the cores (median), {worst:.1%} at the worst."
    if median > 0.03:
        said += " **The machine was not quiet: these figures are worth little.**"
    return said


def voided(rounds):
    faults = [fault for round in rounds for fault in round.faults]
    return "".join(f"\n\nA round with errors is not counted: {fault}." for fault in faults)


def summary(rounds, floods, rows, description, seconds):
    """The part of the page that every run writes."""
    everything = [*rounds, *floods]
    return "\n\n".join([
        machine(description),
        f"{len(rounds)} rounds of {seconds} s for each line. {quiet(everything)}{voided(everything)}",
        targets(rows),
        details(everything),
    ])


def write(part, text):
    """Puts `text` between the marks of `part` in the page."""
    page = PAGE.read_text()
    marks = rf"(<!-- {part}: written by scripts/bench -->\n).*?(<!-- end of {part} -->)"
    changed, count = re.subn(marks, lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise RuntimeError(f"{PAGE} has no place for {part}")
    PAGE.write_text(changed)
