"""The limits of a run: what its plan exceeds is refused before anything runs."""

from mdel_assets.errors import LimitError
from mdel_assets.planning.in_words import duration_in_words, size_in_words
from mdel_assets.planning.plan import Plan

_SECONDS_PER_HOUR = 3600.0


def refuse_excess(
    plan: Plan, *, max_hours: float | None = None, max_disk_bytes: float | None = None
) -> None:
    """Refuse a plan that takes more than the limits that are given.

    Raises:
        LimitError: it does; the message has the figures, and what would lower them.

    """
    excess = []
    if max_hours is not None and plan.seconds > max_hours * _SECONDS_PER_HOUR:
        allowed = duration_in_words(max_hours * _SECONDS_PER_HOUR)
        excess.append(f"about {duration_in_words(plan.seconds)}, --max-hours allows {allowed}")
    if max_disk_bytes is not None and plan.disk_bytes > max_disk_bytes:
        allowed = size_in_words(max_disk_bytes)
        needed = size_in_words(plan.disk_bytes)
        excess.append(f"about {needed} of disk, --max-disk allows {allowed}")
    if not excess:
        return
    largest = max(plan.stages, key=lambda stage: stage.seconds).kind
    remedies = "".join(f"\n  {line}" for line in plan.remedies)
    told = f"What would lower it:{remedies}\n" if remedies else ""
    missing = f" (without {', '.join(plan.not_priced)}: not priced)" if plan.not_priced else ""
    raise LimitError(
        f"A run of '{plan.experiment}' takes {'; and '.join(excess)}{missing}. Most time goes into "
        f"{largest}. Nothing was made. {told}Change the experiment, or raise the limit. 'mdel "
        f"plan' shows every stage."
    )
