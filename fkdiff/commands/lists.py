"""`fkdiff rewards` and `fkdiff zoo`: what there is to work with."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fkdiff.commands.stops import refused

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
    rows = []
    for row in reward_rows():
        origin = "" if row["package"] == "fkdiff" else f" ({row['package']})"
        rows.append((row["name"], row["scores"], row["gradients"], row["state"] + origin))
    _print_table(("name", "scores", "gradients", "state"), rows)


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
    lost = [(source, told) for source in sources if (told := absence(source))]
    row["weights"] = ", ".join(map(_source, sources))
    told = f"{lost[0][1]} ({', '.join(_source(source) for source, _ in lost)})" if lost else ""
    return {**row, "state": told or "ready", "usable": not lost}


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


def zoo(
    name: Annotated[
        str | None, typer.Argument(help="A model: tells its data, recipe and measured quality.")
    ] = None,
) -> None:
    """List the bundled models: what they are, size, hash and licence; or tell all about one."""
    if name is not None:
        _print_table(("", name), _card_rows(name))
        return
    from fkdiff import zoo as models

    rows = []
    for known in models.MODELS:
        try:
            model, card = models.MODELS[known], models.card(known)
        except FileNotFoundError:
            rows.append((known, "", "", "", "missing from this installation"))
            continue
        about = f"{model.summary}; {card.get('licence', 'licence not stated')}"
        rows.append((known, model.kind, f"{model.megabytes:g}", models.digest(known), about))
    _print_table(("name", "kind", "MB", "weights", "about"), rows)


def _card_rows(name: str) -> list[tuple[str, str]]:
    """The card of a bundled model, a measurement a line."""
    from fkdiff import zoo as models

    try:
        model, card = models.MODELS[name], models.card(name)
    except (KeyError, FileNotFoundError):
        known = ", ".join(models.MODELS)
        raise refused(f"NAME must be a bundled model, got {name!r}; there are {known}") from None
    size = f"{model.megabytes:g} MB, hash {models.digest(name)}"
    rows = [("what", model.summary), ("kind", model.kind), ("weights", size)]
    for key in ("about", "licence", "data", "recipe", "seed", "defaults"):
        if key in card:
            value = card[key]
            rows.append((key, "; ".join(value) if isinstance(value, list) else _worded(value)))
    quality = card.get("quality", {})
    rows += [("quality", f"{key}: {_worded(value)}") for key, value in quality.items()]
    return rows


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


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table whose first column is never broken: names are there to be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
