"""`fkdiff app`: a page that draws, and shows how."""

from typing import Annotated

import typer

from fkdiff.commands.stops import refused

__all__ = ["EXAMPLE", "app"]

EXAMPLE = "Example: fkdiff app --open"
_HERE = ("127.0.0.1", "localhost", "::1")


def app(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. On any but this machine's own, models and rewards can be "
            "chosen from the lists only."
        ),
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="By default the first free from 7860.")] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Draw in the browser: live previews, sample size and lineage, the run as a download."""
    try:
        import gradio  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise refused(f"app needs gradio ({error}); try: pip install 'fkdiff[app]'") from None
    from fkdiff.commands.live_page import build, serve

    page = build(_models(), _rewards(), own=host in _HERE)
    try:
        address = serve(page, host, port, browser=browser)
    except OSError as error:
        raise refused(f"--port: {error}") from None
    print(f"The page: {address} (Ctrl+C ends it)", flush=True)
    page.block_thread()


def _models() -> list[str]:
    """Bundled models that draw."""
    from fkdiff import zoo

    return [name for name, model in zoo.MODELS.items() if model.kind == "pipeline"]


def _rewards() -> list[str]:
    """Rewards of pictures that are ready."""
    from fkdiff.commands.lists import reward_rows

    ready = [r for r in reward_rows() if r["state"] == "ready" and r["scores"] == "pixels"]
    return [row["name"] for row in ready]
