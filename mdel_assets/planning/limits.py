"""The limits of a run: what its plan exceeds, or cannot tell, is refused before anything runs."""

from mdel_assets.errors import LimitError
from mdel_assets.planning.in_words import duration_in_words, size_in_words
from mdel_assets.planning.plan import Plan

_SECONDS_PER_HOUR = 3600.0
_SEED = "seed_model"


def refuse_excess(
    plan: Plan, *, max_hours: float | None = None, max_disk_bytes: float | None = None
) -> None:
    """Refuse a plan that takes more than the limits that are given, or of which that is not known.

    Raises:
        LimitError: it does, and the message has the figures and what would lower them; or something
            to make has no price, and the message says why.

    """
    excess = []
    if max_hours is not None and plan.seconds > max_hours * _SECONDS_PER_HOUR:
        allowed = duration_in_words(max_hours * _SECONDS_PER_HOUR)
        excess.append(f"about {duration_in_words(plan.seconds)}, --max-hours allows {allowed}")
    if max_disk_bytes is not None and plan.disk_bytes > max_disk_bytes:
        allowed = size_in_words(max_disk_bytes)
        needed = size_in_words(plan.disk_bytes)
        excess.append(f"about {needed} of disk, --max-disk allows {allowed}")
    if excess:
        raise _too_much(plan, "; and ".join(excess))
    limits = [("--max-hours", max_hours), ("--max-disk", max_disk_bytes)]
    given = [option for option, limit in limits if limit is not None]
    if given and plan.not_priced:
        raise _not_known(plan, " and ".join(given))


def _too_much(plan: Plan, excess: str) -> LimitError:
    largest = max(plan.stages, key=lambda stage: stage.seconds).kind
    remedies = "".join(f"\n  {line}" for line in plan.remedies)
    told = f"What would lower it:{remedies}\n" if remedies else ""
    missing = f" (without {', '.join(plan.not_priced)}: not priced)" if plan.not_priced else ""
    return LimitError(
        f"A run of '{plan.experiment}' takes {excess}{missing}. Most time goes into {largest}. "
        f"Nothing was made. {told}Change the experiment, or raise the limit. 'mdel plan' shows "
        f"every stage."
    )


def _not_known(plan: Plan, options: str) -> LimitError:
    stages = [stage for stage in plan.stages if stage.not_priced]
    lines = "".join(
        f"\n  {stage.kind} ({len(stage.not_priced)} of {stage.num_to_make}): {stage.why}"
        for stage in stages
    )
    return LimitError(
        f"Whether a run of '{plan.experiment}' keeps within {options} is not known, because not "
        f"everything that it would make has a price:{lines}\n"
        f"Nothing was made. Make reachable what they are reckoned from; or {_other_way(plan)}leave "
        f"out {options}."
    )


def _other_way(plan: Plan) -> str:
    """Return how a run gets at what has a price in spite of the first stage that has none."""
    kinds = [stage.kind for stage in plan.stages]
    first = kinds.index(plan.not_priced[0])
    if _SEED in kinds[first:]:
        # What the later stages are reckoned from is here then.
        return f"run 'mdel run --until {kinds[first]}' first, without a limit; or "
    before = [stage.kind for stage in plan.stages[:first] if stage.num_to_make]
    return f"limit the run up to what has a price ('--until {before[-1]}'); or " if before else ""
