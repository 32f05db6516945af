"""`fkdiff app`: a page that draws, and shows how."""

from typing import Annotated

import typer

from fkdiff.commands.stops import refused

__all__ = ["EXAMPLE", "app"]

EXAMPLE = "Example: fkdiff app --open --reward mine.py:score"


def app(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. On any but this machine's own, models and rewards can be "
            "chosen from the lists only."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="By default the first free from 7860."),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="A reward of your own code, file.py:function or module:attr, for the list of the "
            "page; again for more. No other code can be run from the page."
        ),
    ] = None,
) -> None:
    """Draw in the browser: live previews, sample size and lineage, the run as a download."""
    try:
        import gradio  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise refused(f"app needs gradio ({error}); try: pip install 'fkdiff[app]'") from None
    from fkdiff.commands.live_guard import is_local
    from fkdiff.commands.live_page import build
    from fkdiff.commands.live_server import Runs, serve

    code, runs = _code(reward or []), Runs()
    page = build(_models(), _rewards(), runs, own=is_local(host), code=code)
    try:
        site = serve(page, runs, host, port)
    except OSError as error:
        raise refused(f"--host, --port: {error}; choose another port, or 0 for any") from None
    print(f"The page: {site.lock.address} (Ctrl+C ends it)", flush=True)
    print("Whoever has this address can draw with it.", flush=True)
    if browser:
        typer.launch(site.lock.address)
    try:
        site.thread.join()
    except KeyboardInterrupt:
        site.close()


def _code(rewards: list[str]) -> list[str]:
    """The rewards that were named, each of which can be loaded."""
    from fkdiff.commands.drawing import load_reward_of

    for text in rewards:
        try:
            load_reward_of(text)
        except Exception as error:
            raise refused(f"--reward: {error}") from None
    return list(dict.fromkeys(rewards))


def _models() -> list[str]:
    """Bundled models that draw."""
    from fkdiff import zoo

    return [name for name, model in zoo.MODELS.items() if model.kind == "pipeline"]


def _rewards() -> list[str]:
    """Rewards of pictures that are ready."""
    from fkdiff.commands.lists import reward_rows

    ready = [r for r in reward_rows() if r["state"] == "ready" and r["scores"] == "pixels"]
    return [row["name"] for row in ready]
