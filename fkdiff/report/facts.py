"""What is written about a run: the same facts for its JSON, its pictures and its page."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fkdiff._version import __version__
from fkdiff.report.folder import plain_json
from fkdiff.report.pictures import has_pictures, kind
from fkdiff.report.snippet import brief, call_of, model_name

if TYPE_CHECKING:
    from fkdiff.result import Result

__all__ = ["FORMAT", "about_image", "about_run", "ranked", "trace_rows"]

FORMAT = 1
"""Version of the run folders that are written; `docs/run-folder.md` describes it."""


def ranked(result: "Result") -> list[dict[str, Any]]:
    """One row for each final particle, prompts in turn, best first."""
    rows, ancestors = [], result.ancestors()
    for prompt, order in enumerate(result.order.tolist()):
        returned = result.selected[prompt].tolist()
        for slot in order:
            rows.append(
                {
                    "file": f"images/{len(rows):04d}.png",
                    "prompt": prompt,
                    "slot": slot,
                    "ancestor": int(ancestors[prompt, slot]),
                    "returned": slot in returned,
                    "weight": float(result.weights[prompt, slot]),
                    "log_twist": float(result.log_twist[prompt, slot]),
                    "rewards": {n: float(v[prompt, slot]) for n, v in result.rewards.items()},
                }
            )
    return rows


def about_run(result: "Result", command: str, python: str) -> dict[str, Any]:
    """Everything but the per-step traces, ready for JSON."""
    settings = {k: v for k, v in result.settings.items() if k != "versions"}
    return plain_json(
        {
            "fkdiff": __version__,
            "format": FORMAT,
            "complete": result.complete,
            "transitions": len(result.trace),
            "prompts": result.prompts,
            "seed": result.seed,
            "target": result.target,
            "log_z": result.log_z,
            "ess": result.ess,
            **({} if result.repair is None else {"repair": result.repair}),
            "samples": kind(result),
            "size": _size(result),
            "reward_names": list(result.rewards),
            "cost": vars(result.cost),
            "settings": {**settings, "model": model_name(settings), "call": call_of(result)},
            "versions": {**_versions(), **result.settings.get("versions", {})},
            "command": command,
            "python": python,
            "particles": ranked(result),
        }
    )


def about_image(run: dict[str, Any], particle: dict[str, Any]) -> dict[str, Any]:
    """What one picture says of itself: its own numbers, and how to make it again."""
    settings = run["settings"]
    return {
        "fkdiff": run["fkdiff"],
        "prompt": run["prompts"][particle["prompt"]],
        "seed": _seed_of(run, particle),
        "size": run["size"],
        **{name: particle[name] for name in ("slot", "returned", "weight", "rewards")},
        "model": settings.get("model"),
        "scheduler": settings.get("scheduler"),
        "terms": [brief(term) for term in settings.get("terms") or ()],
        "particles": len(run["particles"]) // max(len(run["prompts"]), 1),
        "resample": brief(str(settings.get("resample"))),
        "call": _call_for(run, particle["prompt"]),
        "target": run["target"],
        "complete": run["complete"],
        "command": run["command"],
        "python": run["python"],
        "versions": run["versions"],
    }


def _seed_of(run: dict[str, Any], particle: dict[str, Any]) -> int | None:
    """The seed of a picture, where each prompt or each particle has its own."""
    seeds, prompt = run["settings"].get("seeds") or [run["seed"]], particle["prompt"]
    if len(seeds) == len(run["particles"]):
        each = len(seeds) // len(run["prompts"])
        return seeds[prompt * each + particle["slot"]]
    return seeds[prompt] if len(seeds) == len(run["prompts"]) else run["seed"]


def _call_for(run: dict[str, Any], prompt: int) -> dict[str, Any]:
    """The call's arguments as they were for one of its prompts."""
    call = {k: v for k, v in run["settings"]["call"].items() if k != "prompt"}
    per_prompt = isinstance(call.get("negative_prompt"), list)
    return {**call, "negative_prompt": call["negative_prompt"][prompt]} if per_prompt else call


def trace_rows(result: "Result") -> list[dict[str, Any]]:
    """One row for each transition, ready for JSON."""
    return [plain_json({**vars(entry), "rewards": dict(entry.rewards)}) for entry in result.trace]


def _size(result: "Result") -> list[int] | None:
    """Width and height of the pictures."""
    if not has_pictures(result) or result.samples is None:
        return None
    return [result.samples.shape[-1], result.samples.shape[-2]]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
