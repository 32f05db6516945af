"""`fkdiff rewards` and `fkdiff zoo`: what there is to work with."""

from typing import Any

__all__ = ["REWARDS_EXAMPLE", "ZOO_EXAMPLE", "reward_rows", "rewards", "zoo"]

REWARDS_EXAMPLE = (
    'Example: fkdiff generate "a cat" --reward "emoji-clip + 0.5 * colourfulness". Your own: '
    "--reward my_reward.py:function"
)
ZOO_EXAMPLE = 'Example: fkdiff generate "two penguins on a pink background" --model emoji'


def rewards() -> None:
    """List the rewards that installed packages announce."""
    names = ("name", "scores", "package", "state")
    _print_table(names, [tuple(row[name] for name in names) for row in reward_rows()])


def reward_rows() -> list[dict[str, str]]:
    """Each announced reward: name, package, what it scores, and whether it can be loaded."""
    from fkdiff.terms.reward import RewardError, available, load_reward

    rows = []
    for entry in available():
        try:
            scores, state = load_reward(entry.name).inputs, "ready"
        except RewardError as error:
            scores, state = "", str(error)
        rows.append(
            {"name": entry.name, "scores": scores, "package": entry.package, "state": state}
        )
    return rows


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
