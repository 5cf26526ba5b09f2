"""The step that writes the report; `kinds.py` declares it."""

from mdel_assets.line.kind import Task, Written

REPORT_NAME = "report.html"


def write_report(task: Task) -> Written:
    """Write the page from the records and reports that are there."""
    from mdel_assets.reporting.contents import contents_of
    from mdel_assets.reporting.page import render

    page = contents_of(task.lineage, task.identity)
    (task.folder / REPORT_NAME).write_text(render(page), "utf-8")
    verdict = page.verdict
    details = {"verdict": [verdict.headline, verdict.evidence, verdict.intervals]}
    counts = {"num_models": len(page.heats[0].rows), "num_datasets": len(page.heats[0].datasets)}
    return Written(counts=counts, details=details)
