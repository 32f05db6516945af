"""`--prompts FILE`: one request a line, from text, CSV or JSON lines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fkdiff.commands.prompt_lines import read_rows
from fkdiff.commands.request import Request, checked
from fkdiff.commands.reward_code import code_in
from fkdiff.commands.stops import Stop, refused

__all__ = ["SETTINGS", "read_prompts"]

SETTINGS: dict[str, type] = {
    "steps": int,
    "guidance": float,
    "negative_prompt": str,
    "height": int,
    "width": int,
    "particles": int,
    "reward": str,
    "scale": float,
    "potential": str,
    "seed": int,
    "micro_batch": int,
    "select": str,
    "images": int,
}
"""What a line may set for itself; everything else is the same for the whole file."""


def read_prompts(file: Path, common: Request) -> list[Request]:
    """The checked request of each line.

    Arguments:
        file: `.txt`, a prompt a line; `.csv` with a column "prompt" and columns of `SETTINGS`, an
            empty cell for what is common; `.jsonl`, an object a line with the same names.
        common: What lines leave out; its prompts are not used.

    Raises:
        Stop: With code 2 and the line, if one can't be met.
    """
    found = read_rows(file)
    if not found:
        raise refused(f"--prompts {file} holds no prompt; write one a line")
    return [_request(f"{file}, line {line}", row, common) for line, row in found]


def _request(where: str, row: dict[str, Any], common: Request) -> Request:
    row = dict(row)
    if not isinstance(row.get("prompt"), str):
        raise refused(
            f'--prompts: {where} must have a "prompt", got {", ".join(row) or "nothing"}'
        )
    prompt, changes = row.pop("prompt"), {}
    for name, value in row.items():
        if name not in SETTINGS:
            known = ", ".join(SETTINGS)
            raise refused(f"{where} can't set {name!r}; a line may set {known}")
        changes[name] = _value(where, name, value)
    _check_code(where, changes.get("reward"), common)
    try:
        return checked(replace(common, prompts=(prompt,), out=None, **changes))
    except Stop as stop:
        raise refused(f"{where}: {stop}") from None


def _check_code(where: str, reward: str | None, common: Request) -> None:
    """Code that a file of prompts names is run only if the command line names it too."""
    named = [place for text in (common.reward, *common.monitor) for place in code_in(text)]
    unnamed = [place for place in code_in(reward) if place not in named]
    if unnamed:
        raise refused(
            f"{where}: reward {unnamed[0]!r} runs code, which the command line must name too: "
            f"--reward or --monitor {unnamed[0]}"
        )


def _value(where: str, name: str, value: Any) -> Any:
    kind = SETTINGS[name]
    right = isinstance(value, str) or (
        isinstance(value, int | float) and not isinstance(value, bool) and kind is not str
    )
    try:
        found = kind(value) if right else None
    except (ValueError, OverflowError):  # no number, or none that a computer has
        found = None
    if found is None or (kind is int and not isinstance(value, str) and value != found):
        raise refused(f"{where}: {name} must be {_ARTICLE[kind]}, got {str(value)!r:.60}")
    return found


_ARTICLE = {int: "a whole number", float: "a number", str: "text"}
