"""Formulas over reward names, such as `"0.5 * emoji-clip - brightness"`, read without `eval`."""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.terms.reward_algebra import Composable

__all__ = ["read_formula"]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])"
_PLACE = r"[\w./\\-]+:[A-Za-z_]\w*|[\w./\\-]+\.py\b"
_SYMBOL = r"[-+*(),]"
_WORD = r"[A-Za-z_][\w.-]*"
_OPS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.USub: operator.neg,
}


def read_formula(
    text: str, known: Sequence[str], load: Callable[[str], "Composable"]
) -> "Composable":
    """Reads a reward formula of names, places, numbers, `+ - *`, parentheses and `minimum`.

    Names may contain dashes: the longest known name wins, so that `amp-hemolytic` is one reward
    if it is known and a difference if only `amp` and `hemolytic` are.

    Arguments:
        text: The formula.
        known: Known names.
        load: Loads one name or place; called once for each.

    Returns:
        The reward.

    Raises:
        RewardError: If a name is unknown, or the text holds anything else.

    Example:
        >>> from fkdiff.terms.reward import as_reward
        >>> read_formula("2*a-b - a", ["a-b", "a"], lambda name: as_reward(len, name=name)).name
        '2 * a-b - a'
    """
    from fkdiff.terms.reward import RewardError
    from fkdiff.terms.reward_algebra import Composable

    source, names = _placeholders(text, known)
    once = cache(load)
    try:
        tree = ast.parse(source, mode="eval").body
        value = _value(tree, lambda placeholder: once(names[placeholder]))
    except RewardError:
        raise
    except SyntaxError as error:
        raise RewardError(
            f"reward formula {text!r} can't be read ({error.msg}); write names, numbers, + - *, "
            "parentheses and minimum(a, b)"
        ) from error
    except (RecursionError, MemoryError) as error:
        told = f"reward formula {text[:60]!r}... is nested too deeply or too long; shorten it"
        raise RewardError(told) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise RewardError(f"reward formula {text!r} can't be made: {error}") from error
    if not isinstance(value, Composable):
        raise RewardError(f"reward formula {text!r} names no reward; it is the number {value}")
    return value


def _placeholders(text: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Python source in which each reward is a word `r0`, `r1`, ..., and what the words stand for.

    Nothing of the user's text but numbers, symbols and `minimum` reaches the source.
    """
    from fkdiff.terms.reward import RewardError
    from fkdiff.terms.reward_finding import unknown

    longest_first = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    name = rf"(?:{longest_first})(?::[\w.:/-]+)?(?![\w.:])" if known else r"(?!)"
    kinds = {"name": name, "place": _PLACE, "number": _NUMBER, "symbol": _SYMBOL, "word": _WORD}
    token = re.compile(r"\s*(?:" + "|".join(f"(?P<{k}>{v})" for k, v in kinds.items()) + ")")
    names: dict[str, str] = {}
    pieces: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = token.match(text, position)
        if match is None:
            raise RewardError(
                f"reward formula {text!r} has {text[position:].strip()[0]!r} in it; formulas are "
                "made of names, numbers, + - *, parentheses and minimum(a, b)"
            )
        kind, piece = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "word" and piece != "minimum":
            raise unknown(piece, [*known])
        if kind in ("name", "place"):
            names[f"r{len(names)}"] = piece
            piece = f"r{len(names) - 1}"
        pieces.append(piece)
        position = match.end()
    return " ".join(pieces), names


def _value(node: ast.AST, reward: Callable[[str], "Composable"]) -> "Composable | float":
    from fkdiff.terms.reward_algebra import minimum

    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPS:
            return _OPS[type(op)](_value(left, reward), _value(right, reward))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPS:
            return _OPS[type(op)](_value(operand, reward))
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name != "minimum":
            return reward(name)
        case ast.Call(func=ast.Name(id="minimum"), args=args, keywords=[]):
            return minimum(*[_value(arg, reward) for arg in args])
    raise SyntaxError(f"it holds a {type(node).__name__}")
