"""A plan as a table: for a terminal, and in Markdown for a page."""

from collections.abc import Sequence

from mdel_assets.planning.in_words import amount_in_words, duration_in_words, size_in_words
from mdel_assets.planning.plan import Plan, StagePlan, warnings_of

_HEADINGS = ("stage", "to make", "up to date", "tokens", "FLOPs", "time", "disk", "peak memory")


def plan_lines(plan: Plan) -> list[str]:
    """Return the plan as lines of text: the table, warnings, notes, and what would change it."""
    rows = _rows(plan)
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [f"Plan of '{plan.experiment}' on {plan.device}", ""]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines += ["", *(f"Warning: {told}." for told in warnings_of(plan))]
    lines += plan.notes
    if plan.remedies:
        lines += ["", "What would change the bill", *(f"  {line}" for line in plan.remedies)]
    return lines


def plan_markdown(plan: Plan) -> str:
    """Return the plan as a page shows it."""
    heading, *rows = _rows(plan)
    lines = [_row(heading), _row(["---", *["---:"] * (len(heading) - 1)]), *map(_row, rows)]
    more = [*(f"**{told}.**" for told in warnings_of(plan)), *plan.notes]
    more += [f"{line}." for line in plan.remedies]
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {line}" for line in more) + "\n"


def stage_in_words(stage: StagePlan) -> str:
    """Return what a stage takes in one sentence."""
    if not stage.num_to_make:
        return f"{stage.num_up_to_date} up to date, nothing to make"
    figures = [
        f"{stage.num_to_make} to make",
        f"{stage.num_up_to_date} up to date",
        f"{amount_in_words(stage.num_tokens)} tokens" if stage.num_tokens else "",
        f"{amount_in_words(stage.operations)} FLOPs" if stage.operations else "",
        f"about {duration_in_words(stage.seconds)}" if stage.seconds else "",
        f"{size_in_words(stage.disk_bytes)} of disk" if stage.disk_bytes else "",
        f"{size_in_words(stage.memory_bytes)} of memory at most" if stage.memory_bytes else "",
        f"in {stage.jobs}" if stage.jobs else "",
        f"{len(stage.not_priced)} not priced: {stage.why}" if stage.not_priced else "",
    ]
    return ", ".join(filter(None, figures))


def _rows(plan: Plan) -> list[list[str]]:
    rows = [list(_HEADINGS), *map(_stage, plan.stages)]
    total = [
        "in sum",
        f"{plan.num_to_make:,}",
        f"{sum(stage.num_up_to_date for stage in plan.stages):,}",
        amount_in_words(plan.num_tokens),
        amount_in_words(plan.operations),
        duration_in_words(plan.seconds),
        size_in_words(plan.disk_bytes),
        size_in_words(plan.memory_bytes),
    ]
    return [*rows, total]


def _stage(stage: StagePlan) -> list[str]:
    counts = [stage.kind, f"{stage.num_to_make:,}", f"{stage.num_up_to_date:,}"]
    if not stage.num_to_make:
        return [*counts, *[""] * 5]
    if len(stage.not_priced) == stage.num_to_make:
        return [*counts, *["not priced"] * 5]
    mark = "" if stage.fits else " !"
    return [
        *counts,
        amount_in_words(stage.num_tokens) if stage.num_tokens else "",
        amount_in_words(stage.operations) if stage.operations else "",
        duration_in_words(stage.seconds),
        size_in_words(stage.disk_bytes),
        size_in_words(stage.memory_bytes) + (" a job" if stage.jobs else "") + mark,
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
