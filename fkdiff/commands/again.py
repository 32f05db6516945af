"""How to make a picture again, from what it says: nothing of a stranger's is offered to be run.

A picture's settings are whatever its file holds. A command is taken apart, known options are put
together anew and quoted; Python is shown if it does no more than fkdiff's own snippets do.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from fkdiff.commands.cutting import Cut
from fkdiff.commands.request import UNTOLD, Request
from fkdiff.commands.reward_code import code_in

__all__ = ["own_command", "own_python"]

_OPTIONS = {"generate": Request, "rgba": Cut}
_PLACES = ("--out", "--report")
_MODULES = re.compile(
    r"diffusers|torch|fkdiff(\.(rewards|terms|processes|rgba|tokens|sequences))?"
)
_FUNCTIONS = {"as_reward", "load_reward", "minimum", "sample", "sample_tokens", "steer", "zoo"}
_TORCH = {"Generator", "bfloat16", "float16", "float32", "manual_seed", "torch"}
_STATEMENTS = (ast.Module, ast.ImportFrom, ast.Import, ast.Assign, ast.Expr, ast.alias)
_VALUES = (
    *(ast.Call, ast.Attribute, ast.Name, ast.Constant, ast.keyword, ast.List, ast.Tuple, ast.Dict),
    *(ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop, ast.expr_context),
)


def own_command(text: Any) -> tuple[str, frozenset[str]] | None:
    """A command of fkdiff, quoted for a shell and without its folder; None for anything else.

    Arguments:
        text: What a picture says that it was made by.

    Returns:
        The command, and the code that its rewards name.

    Example:
        >>> own_command("fkdiff generate 'a cat' --seed 7 --out runs/cat")
        ("fkdiff generate 'a cat' --seed 7", frozenset())
        >>> own_command("fkdiff generate 'a cat'; reboot")
    """
    if not (isinstance(text, str) and text.isprintable()):
        return None
    # Without what shlex.join quotes, and how it quotes quotes.
    bare = re.sub(r"""'[^']*'|"'\"""", "", text)
    try:
        words = shlex.split(text)
        if not re.fullmatch(r"[\w\s./~:=,+%@-]*", bare) or words[0] != "fkdiff":
            return None
        kept = [*words[:2], *_known(words[2:], _OPTIONS[words[1]])]
    except (ValueError, LookupError):
        return None
    values = [kept[i + 1] for i, word in enumerate(kept) if word in ("--reward", "--monitor")]
    return shlex.join(kept), frozenset[str]().union(*map(code_in, values))


def _known(words: list[str], kind: type[Request] | type[Cut]) -> Iterator[str]:
    """Prompts and options of a command, those that name folders left out.

    Raises:
        LookupError: If a word is no prompt and no option, or a value is missing.
    """
    names = {f"--{f.name.replace('_', '-')}": f.type for f in fields(kind)[1:]}
    flags = {name for name, type_ in names.items() if "bool" in str(type_)}
    flags |= {name.replace("--", "--no-") for name in flags}
    untold = {f"--{name.replace('_', '-')}" for name in UNTOLD}
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word in flags:
            yield word
            continue
        if word not in names or word in untold:
            raise LookupError(word)
        value = next(rest, None)
        if value is None:
            raise LookupError(word)
        if word not in _PLACES:
            yield from (word, value)


def own_python(text: Any) -> str | None:
    """Python that does no more than fkdiff's own snippets; None for anything else.

    >>> own_python("from fkdiff import steer\\n\\nsteered = steer(1)\\n")
    'from fkdiff import steer\\n\\nsteered = steer(1)\\n'
    >>> own_python("import os\\nos.remove('a')\\n")
    """
    if not (isinstance(text, str) and all(c.isprintable() or c == "\n" for c in text)):
        return None
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    bound = {name for node in ast.walk(tree) for name in _bound(node)}
    return text if tree.body and all(_harmless(node, bound) for node in ast.walk(tree)) else None


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _harmless(node: ast.AST, bound: set[str]) -> bool:
    match node:
        case ast.Import():
            return all(alias.name == "torch" and not alias.asname for alias in node.names)
        case ast.ImportFrom():
            known = node.level == 0 and _MODULES.fullmatch(node.module or "")
            names = [alias.name for alias in node.names]
            return bool(known) and all(n[0].isupper() or n in _FUNCTIONS for n in names)
        case ast.Name():
            return node.id in bound
        case ast.Attribute(value=ast.Name(id="torch")):
            return node.attr in _TORCH
        case ast.Attribute():
            return not node.attr.startswith("_")
    return isinstance(node, (*_STATEMENTS, *_VALUES))
