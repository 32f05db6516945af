"""`fkdiff rewards` and `fkdiff zoo`: what there is to work with."""

from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.terms.reward_finding import RewardEntry

__all__ = ["REWARDS_EXAMPLE", "ZOO_EXAMPLE", "reward_rows", "rewards", "zoo"]

REWARDS_EXAMPLE = (
    'Example: fkdiff generate "a cat" --reward "emoji-clip + 0.5 * colourfulness". Your own: '
    "--reward my_reward.py:function"
)
ZOO_EXAMPLE = 'Example: fkdiff generate "two penguins on a pink background" --model emoji'


def rewards() -> None:
    """List the rewards that installed packages announce, and what each needs."""
    names = ("name", "scores", "gradients", "weights", "package", "state")
    _print_table(names, [tuple(str(row[name]) for name in names) for row in reward_rows()])


def reward_rows() -> list[dict[str, Any]]:
    """Each announced reward: what it scores and needs, and whether it is usable here and now."""
    from fkdiff.terms.reward import available

    return [_reward_row(entry) for entry in available()]


def _reward_row(entry: "RewardEntry") -> dict[str, Any]:
    from fkdiff.rewards.weights import absence
    from fkdiff.terms.reward import RewardError, load_reward
    from fkdiff.terms.reward_finding import argument_of

    row = {"name": entry.name, "package": entry.package, "weights": "", "usable": False}
    try:
        needed = argument_of(entry)
        reward: Any = needed[0] if needed else load_reward(entry.name)
    except RewardError as error:
        return {**row, "scores": "", "gradients": "", "state": str(error)}
    row["scores"] = getattr(reward, "inputs", "")
    row["gradients"] = {True: "yes", False: "no"}.get(reward.differentiable, "as its reward")
    lacking = _lacking(entry)
    if lacking:
        return {**row, "state": f"needs {lacking}; try: pip install '{entry.package}'"}
    if needed:
        told = {"weights": "as named", "state": f"write {entry.name}:{needed[1]}"}
        return {**row, **told, "usable": True}
    sources = getattr(reward, "weights", ())
    absent = next(filter(None, map(absence, sources)), None)
    row["weights"] = ", ".join(map(_source, sources))
    return {**row, "state": absent or "ready", "usable": absent is None}


def _source(weights: str) -> str:
    """Where weights lie, in words; of a path only the end.

    >>> _source("zoo:emoji-clip"), _source("hf-hub:owner/name/a.pt"), _source("weights/b.pt")
    ('bundled', 'Hub owner/name', 'b.pt')
    """
    if weights.startswith("zoo:"):
        return "bundled"
    if weights.startswith("hf-hub:"):
        return "Hub " + "/".join(weights.removeprefix("hf-hub:").split("/")[:2])
    return weights if ":" in weights else Path(weights).name


def _lacking(entry: "RewardEntry") -> str:
    """Packages of the reward's extras that aren't installed."""
    from packaging.requirements import Requirement

    if not entry.extras:
        return ""
    stated = [Requirement(line) for line in requires(entry.distribution) or ()]
    wanted = [
        requirement.name
        for requirement in stated
        for extra in entry.extras
        if requirement.marker and requirement.marker.evaluate({"extra": extra})
    ]
    return ", ".join(name for name in wanted if not _installed(name))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def zoo() -> None:
    """List the bundled models: what they are, size, licence and measured quality."""
    from fkdiff import zoo as models

    rows = []
    for name in models.MODELS:
        try:
            model, card = models.MODELS[name], models.card(name)
        except FileNotFoundError:
            rows.append((name, "", "", "", "missing from this installation"))
            continue
        about = f"{model.summary} {_worded(card.get('quality', {}))}".strip()
        rows.append(
            (name, model.kind, f"{model.megabytes:g}", str(card.get("licence", "")), about)
        )
    _print_table(("name", "kind", "MB", "licence", "about"), rows)


def _worded(value: Any) -> str:
    """Nested measurements in one line.

    >>> _worded({"accuracy": {"two objects": 0.91234}, "prompts": 150})
    'accuracy: two objects 0.912, prompts 150'
    """
    if isinstance(value, dict):
        return ", ".join(
            f"{k}: {_worded(v)}" if isinstance(v, dict) else f"{k} {_worded(v)}"
            for k, v in value.items()
        )
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
