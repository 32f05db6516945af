"""The command `fkdiff`. Nothing heavy is imported before a command runs."""

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fkdiff._version import __version__
from fkdiff.commands import app as page
from fkdiff.commands import (
    bench,
    doctor,
    generate,
    lists,
    paste,
    policy,
    rgba,
    sequence,
    show,
    sweep,
)
from fkdiff.commands.launched import speaks
from fkdiff.commands.stops import Stop, disk_full

__all__ = ["app", "main"]

# Typer carries click along or brings a copy of its own, depending on its version.
_CLICK_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="fkdiff",
    help="Steer diffusion and flow models at inference time, as one weighted cloud.",
    epilog=generate.EXAMPLE,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug shows its traceback as Python writes it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=generate.EXAMPLE)(generate.generate)
app.command(epilog=sweep.EXAMPLE)(sweep.sweep)
app.command(epilog=rgba.EXAMPLE)(rgba.rgba)
app.command(epilog=paste.EXAMPLE)(paste.paste)
app.add_typer(sequence.app, name="sequence")
app.command(epilog=show.EXAMPLE)(show.show)
app.add_typer(policy.app, epilog=policy.EVAL_EXAMPLE)
app.command(epilog=lists.REWARDS_EXAMPLE)(lists.rewards)
app.command(epilog=lists.ZOO_EXAMPLE)(lists.zoo)
app.command(epilog=bench.EXAMPLE)(bench.bench)
app.command(epilog=page.EXAMPLE)(page.app)
app.command(epilog=doctor.EXAMPLE)(doctor.doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Arguments:
        arguments: Words after `fkdiff`, by default those of the process.

    >>> main(["--version"]) == 0  # doctest: +ELLIPSIS
    fkdiff ...
    True
    """
    words = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        # Its own are lines of its output, whatever Python was asked to do with warnings.
        warnings.filterwarnings("default", module=r"fkdiff\b")
        warnings.showwarning = partial(_note, usual=warnings.showwarning)
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        code = app(words or ["--help"], prog_name="fkdiff", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what can't be written is told here, not by Python at its exit
    except Stop as stop:
        return _say(str(stop), stop.code)
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except BrokenPipeError:
        _let_go()
        return 1  # whoever reads has gone, as `head` does: nobody is left to be told
    except OSError as error:
        if disk_full(error) is not None:
            return _say(f"{disk_full(error)} and give the command again", 1)
        if error.filename is None:
            raise  # no file of the user's: a bug
        return _say(f"{error.filename}: {error.strerror}", 1)
    except _CLICK_ERROR as error:
        return _say(" ".join(error.format_message().split()), 2)
    return code if isinstance(code, int) else 0


def _let_go() -> None:
    """Point the standard output nowhere, so that Python doesn't write to it again at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _say(message: str, code: int) -> int:
    print(f"fkdiff: {message}", file=sys.stderr)
    return code


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    *rest: Any,
    usual: Callable[..., None],
) -> None:
    """The package's own warnings as a line of the command; others as Python shows them."""
    if not speaks():
        return  # the first of several processes says the same
    if Path(filename).is_relative_to(Path(__file__).parent):
        _say(f"note: {message}", 0)
    else:
        usual(message, category, filename, *rest)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fkdiff {__version__}")
        raise typer.Exit


@app.callback()
def _fkdiff(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
