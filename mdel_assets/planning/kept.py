"""The last plan of an experiment, kept for the web UI, which must not take the time to make one.

A kept plan counts as long as the experiment is the one that was planned. It says itself what was
up to date when it was made.
"""

import dataclasses
import hashlib
import json
import time
from typing import Any

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.lineage import Lineage
from mdel_assets.planning.plan import Plan, StagePlan
from mdel_assets.store.durable_files import write_text_atomically

_NAME = "plan.json"


@dataclasses.dataclass(frozen=True)
class KeptPlan:
    """A plan, and when it was made (UTC)."""

    plan: Plan
    made_at: str


def keep_plan(lineage: Lineage, plan: Plan) -> None:
    """Keep ``plan``, which is of everything and on this machine, for pages."""
    lineage.root.mkdir(parents=True, exist_ok=True)
    content = {
        "experiment": _digest(lineage.experiment),
        "made_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "plan": dataclasses.asdict(plan),
    }
    write_text_atomically(lineage.root / _NAME, json.dumps(content, indent=2) + "\n")


def kept_plan(lineage: Lineage) -> KeptPlan | None:
    """Return the last plan of this very experiment; None if there is none."""
    try:
        content: dict[str, Any] = json.loads((lineage.root / _NAME).read_text("utf-8"))
        if content["experiment"] != _digest(lineage.experiment):
            return None
        plan = content["plan"]
        stages = tuple(
            StagePlan(**{**stage, "not_priced": tuple(stage["not_priced"])})
            for stage in plan["stages"]
        )
        lists = {name: tuple(plan[name]) for name in ("notes", "remedies")}
        return KeptPlan(Plan(**{**plan, **lists, "stages": stages}), content["made_at"])
    except (OSError, ValueError, TypeError, KeyError):
        # One that another version wrote is as good as none.
        return None


def _digest(experiment: Experiment) -> str:
    return hashlib.sha256(experiment.model_dump_json().encode()).hexdigest()[:32]
