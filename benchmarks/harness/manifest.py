"""What makes two runs the same run, and what a reader needs to repeat it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.accept import revision
from benchmarks.harness.machine import cpu_name
from benchmarks.harness.plan import Groups, Member
from benchmarks.harness.runner import Plan
from benchmarks.systems import SYSTEMS
from mygo.workloads.trace import Trace


def manifest_of(plan: Plan) -> dict[str, Any]:
    """JSON; a folder whose manifest differs holds another run."""
    settings = plan.settings
    most = max(SYSTEMS[member.system].workers for members in plan.groups for member in members)
    engine = settings.model.model_dump(mode="json", exclude={"engine", "name"})
    return {
        "commit": revision(),
        "machine": f"{cpu_name()}, {len(settings.cores)} cores",
        "trace": plan.trace.name,
        "trace_parameters": dict(plan.trace.parameters),
        "trace_digest": digest(plan.trace),
        "requests": len(plan.trace.requests),
        "longest_answer": plan.output_tokens,
        "seed": plan.seed,
        "loads": [
            asdict(load) | {"name": load.name, "per_round": plan.length(load), "rounds": plan.rounds(load)}
            for load in plan.loads
        ],
        "systems": [
            [
                asdict(member)
                | {
                    "summary": SYSTEMS[member.system].summary,
                    "workers": SYSTEMS[member.system].workers,
                    "keeps_order": SYSTEMS[member.system].keeps_order,
                }
                for member in members
            ]
            for members in plan.groups
        ],
        "engine": engine,
        "device_kv_tokens": settings.model.kv_cache_bytes // settings.kv_bytes_per_token,
        "host_kv_tokens": settings.host_kv_bytes // settings.kv_bytes_per_token,
        "engine_cores": list(settings.worker_cores(most)),
        "other_cores": list(settings.spare_cores(most)),
        "tenants": len(settings.tenants),
        "throttle": asdict(plan.throttle) if plan.throttle else None,
    }


def known_groups(manifest: dict[str, Any] | None, systems: Sequence[str], baseline: str) -> Groups | None:
    """The groups of a run that goes on, if it has these systems: free memory may have changed since."""
    if manifest is None:
        return None
    found = [
        [Member(member["label"], member["system"], member["group"]) for member in members]
        for members in manifest["systems"]
    ]
    rest = list(systems)
    rest.remove(baseline)
    # the head of every group is the baseline
    if [member.system for members in found for member in members[1:]] != rest or found[0][
        0
    ].system != baseline:
        return None
    return found


def digest(trace: Trace) -> str:
    """Twelve hex digits over requests, texts and updates."""
    facts = {
        "texts": {name: asdict(text) for name, text in trace.texts.items()},
        "requests": [asdict(request) for request in trace.requests],
        "updates": [asdict(update) for update in trace.updates],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
