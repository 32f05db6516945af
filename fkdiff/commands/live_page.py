"""The page of `fkdiff app`: what is asked on the left, the run on the right."""

import html
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from fkdiff.commands.calls import free_folder
from fkdiff.commands.live_run import Finished, Studio
from fkdiff.commands.live_view import finished_view, glimpse_view, plain_view
from fkdiff.commands.request import Request
from fkdiff.commands.stops import Stop
from fkdiff.report.snippet import python_of

__all__ = ["build", "serve"]

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
_TITLE = """<div class="fk-title"><h1>fkdiff</h1>
<p>Pictures that a reward prefers: the model draws several at once, and the promising ones
multiply on the way.</p></div>"""
_LOOK = """(...asked) => {
  document.getElementById("view").scrollIntoView({behavior: "smooth", block: "nearest"});
  return asked;
}"""  # on a narrow window the view is below the controls
_CACHE = (3600, 86400)  # hourly, downloads older than a day go; all of them when the page ends
_EXAMPLES = [
    "a cat and a pizza on a blue background",
    "two penguins on a pink background",
    "a cat to the left of a pizza on a white background",
    "a blue apple and a red car on a white background",
]


def build(models: list[str], rewards: list[str], *, own: bool) -> gr.Blocks:
    """The page.

    Arguments:
        models: Models to choose from.
        rewards: Rewards to choose from.
        own: Whether others may be typed; files named so are run on this machine.
    """
    studio = Studio()

    def draw(*asked: Any) -> Iterator[tuple[Any, ...]]:
        yield from _draw(studio, *asked)

    with gr.Blocks(title="fkdiff", analytics_enabled=False, delete_cache=_CACHE) as page:
        gr.HTML(_TITLE)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                asked, start, stop = _controls(models, rewards, own=own)
            with gr.Column(scale=5, min_width=320):
                view = gr.HTML(plain_view("ready", "Nothing drawn yet."), elem_id="view")
                python = gr.Code(
                    label="The Python that does the same",
                    language="python",
                    visible=False,
                    interactive=False,
                )
                folder = gr.DownloadButton(
                    "Download the run folder", visible=False, elem_id="folder"
                )
        outputs = [view, python, folder]
        quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
        drawing: Any = {"concurrency_limit": 1, "js": _LOOK, **quiet}
        event = start.click(draw, asked, outputs, **drawing)
        also = asked[0].submit(draw, asked, outputs, **drawing)
        stopped = plain_view("stopped", "Stopped.", "What was made is in its folder below runs/.")
        stop.click(lambda: stopped, None, view, cancels=[event, also], **quiet)
    return page


def serve(page: gr.Blocks, host: str, port: int | None, *, browser: bool) -> str:
    """Serve the page from a thread, until it is closed; nothing is fetched from elsewhere.

    Returns:
        Its address.

    Raises:
        OSError: If the port is taken.
    """
    theme = gr.themes.Base(font=_FONTS, font_mono=_MONO, primary_hue="blue")
    faint = "*neutral_500"  # of gradio's own greys the first that is easy to read on white
    theme = theme.set(body_text_color_subdued=faint, block_info_text_color=faint)
    _, address, _ = page.queue(default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        theme=theme,
        css_paths=Path(__file__).parent.parent / "report" / "app.css",
    )
    return address


def _controls(
    models: list[str], rewards: list[str], *, own: bool
) -> tuple[list[Any], gr.Button, gr.Button]:
    """What is asked, in the order of `_draw`'s arguments, and the two buttons."""
    default = "emoji-clip" if "emoji-clip" in rewards else rewards[0]
    more = "bundled, or type a folder or a Hub id" if own else None
    code = "ready here, or type file.py:function or a formula" if own else None
    prompt = gr.Textbox(_EXAMPLES[0], label="Prompt", lines=2, max_lines=6, elem_id="prompt")
    with gr.Row():
        start = gr.Button("Draw", variant="primary", elem_id="draw", min_width=100)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    model = gr.Dropdown(models, label="Model", info=more, allow_custom_value=own)
    reward = gr.Dropdown(
        [*rewards, "none"], value=default, label="Reward", info=code, allow_custom_value=own
    )
    particles = gr.Slider(1, 32, 8, step=1, label="Particles", info="pictures drawn together")
    scale = gr.Slider(
        0, 20, 4, step=0.5, label="Scale", info="strength, per standard deviation of the reward"
    )
    with gr.Accordion("More", open=False):
        steps = gr.Number(None, label="Steps", info="empty: what suits the model", precision=0)
        guidance = gr.Number(None, label="Guidance", info="empty: what suits the model")
        seed = gr.Number(0, label="Seed", info="the same seed, the same pictures", precision=0)
        window = gr.Textbox(
            "0.7,0.95", label="Window", info="resample between these shares of the run"
        )
        plain = gr.Checkbox(False, label="Draw without the reward too, for the report")
    gr.Examples(_EXAMPLES, prompt, label="Prompts", api_visibility="private")
    asked = [prompt, model, reward, particles, scale, steps, guidance, seed, window, plain]
    return asked, start, stop


def _draw(
    studio: Studio,
    prompt: str,
    model: str,
    reward: str,
    particles: float,
    scale: float,
    steps: float | None,
    guidance: float | None,
    seed: float | None,
    window: str,
    plain: bool,
) -> Iterator[tuple[Any, ...]]:
    """The view, the Python and the download of a run, again and again while it lasts."""
    hidden = gr.update(visible=False)
    yield plain_view("loading", "Loading the model ..."), hidden, hidden
    try:
        request = studio.prepare(
            Request(
                prompts=(prompt,),
                model=model.strip(),
                reward=reward.strip(),
                particles=int(particles),
                scale=float(scale),
                steps=None if steps is None else int(steps),
                guidance=guidance,
                seed=int(seed or 0),
                window=window,
                plain=plain,
                out=free_folder(prompt),
            )
        )
        for event in studio.run(request):
            if isinstance(event, Finished):
                # By the time it asks for more, gradio has a copy of its own.
                with tempfile.TemporaryDirectory(prefix="fkdiff-") as aside:
                    yield _finished(event, Path(aside))
            else:
                yield glimpse_view(event), gr.skip(), gr.skip()
    except Stop as stop:
        yield plain_view("failed", "Nothing was drawn."), hidden, hidden
        raise gr.Error(html.escape(str(stop)), duration=None, print_exception=False) from None
    except Exception as error:
        yield plain_view("failed", "The run failed."), hidden, hidden
        told = f"{type(error).__name__}: {error}; the terminal shows where"
        raise gr.Error(html.escape(told), duration=None) from error


def _finished(event: Finished, aside: Path) -> tuple[Any, ...]:
    folder = event.page.parent
    archive = shutil.make_archive(str(aside / folder.name), "zip", folder)
    return (
        finished_view(event.result, str(folder)),
        gr.update(value=python_of(event.result, folder), visible=True),
        gr.update(value=archive, visible=True),
    )
