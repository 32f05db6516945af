"""The page of `fkdiff app`: a form on the left, the run on the right."""

import html
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from fkdiff.commands.calls import free_folder
from fkdiff.commands.live_run import Finished, Studio
from fkdiff.commands.live_server import Runs
from fkdiff.commands.live_settings import BOUNDS, request_of
from fkdiff.commands.live_view import finished_view, glimpse_view, plain_view
from fkdiff.commands.stops import Stop
from fkdiff.report.snippet import python_of

__all__ = ["WAITING", "build"]

WAITING = 8
"""Runs that may wait; further ones are refused."""

_TITLE = """<div class="fk-title"><h1>fkdiff</h1>
<p>Pictures that a reward prefers: the model draws several at once, and the promising ones
multiply on the way.</p></div>"""
_SHOW = """(...settings) => {
  document.getElementById("view").scrollIntoView({behavior: "smooth", block: "nearest"});
  return settings;
}"""  # on a narrow window the view is below the controls
_EXAMPLES = [
    "a cat and a pizza on a blue background",
    "two penguins on a pink background",
    "a cat to the left of a pizza on a white background",
    "a blue apple and a red car on a white background",
]


def build(
    models: Sequence[str],
    rewards: Sequence[str],
    runs: Runs,
    *,
    own: bool,
    code: Sequence[str] = (),
) -> gr.Blocks:
    """The page.

    Arguments:
        models: Models to choose from.
        rewards: Rewards to choose from.
        runs: Takes the folder of each finished run, to be downloaded.
        own: Whether other models and formulas of rewards may be typed.
        code: Rewards of the user's own code, named when the page was started; no other code runs.
    """
    studio = Studio(code)
    rewards = [*code, *rewards, "none"]
    lists = {} if own else {"model": models, "reward": rewards}

    def draw(*settings: Any) -> Iterator[tuple[Any, ...]]:
        yield from _draw(studio, runs, settings, lists)

    with gr.Blocks(title="fkdiff", analytics_enabled=False) as page:
        gr.HTML(_TITLE)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                settings, start, stop = _controls([*models], rewards, own=own)
            with gr.Column(scale=5, min_width=320):
                view = gr.HTML(plain_view("ready", "Nothing drawn yet."), elem_id="view")
                python = gr.Code(
                    label="The Python that does the same",
                    language="python",
                    visible=False,
                    interactive=False,
                )
        quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
        # Values come as they are sent: all their rules are those of `request_of`.
        drawing: Any = {"concurrency_limit": 1, "js": _SHOW, "preprocess": False, **quiet}
        event = start.click(draw, settings, [view, python], **drawing)
        also = settings[0].submit(draw, settings, [view, python], **drawing)
        stopped = plain_view("stopped", "Stopped.", "What was made is in its folder below runs/.")
        stop.click(lambda: stopped, None, view, cancels=[event, also], **quiet)
    return page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)


def _controls(
    models: list[str], rewards: list[str], *, own: bool
) -> tuple[list[Any], gr.Button, gr.Button]:
    """The form's fields, in the order of `FIELDS`, and the two buttons."""
    default = "emoji-clip" if "emoji-clip" in rewards else rewards[0]
    more = "bundled, or type a folder or a Hub id" if own else None
    formula = "ready here, or type a formula of them" if own else None
    most = BOUNDS["particles"].high
    prompt = gr.Textbox(_EXAMPLES[0], label="Prompt", lines=2, max_lines=6, elem_id="prompt")
    with gr.Row():
        start = gr.Button("Draw", variant="primary", elem_id="draw", min_width=100)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    model = gr.Dropdown(models, label="Model", info=more, allow_custom_value=own)
    reward = gr.Dropdown(
        rewards, value=default, label="Reward", info=formula, allow_custom_value=own
    )
    particles = gr.Slider(1, most, 8, step=1, label="Particles", info="pictures drawn together")
    scale = gr.Slider(
        0,
        BOUNDS["scale"].high,
        4,
        step=0.5,
        label="Scale",
        info="strength, per standard deviation of the reward",
    )
    with gr.Accordion("More", open=False):
        steps = gr.Number(None, label="Steps", info="empty: what suits the model")
        guidance = gr.Number(None, label="Guidance", info="empty: what suits the model")
        seed = gr.Number(0, label="Seed", info="the same seed, the same pictures")
        window = gr.Textbox(
            "0.7,0.95", label="Window", info="resample between these shares of the run"
        )
        plain = gr.Checkbox(False, label="Draw without the reward too, for the report")
    gr.Examples(_EXAMPLES, prompt, label="Prompts", api_visibility="private")
    settings = [prompt, model, reward, particles, scale, steps, guidance, seed, window, plain]
    return settings, start, stop


def _draw(
    studio: Studio,
    runs: Runs,
    settings: tuple[Any, ...],
    lists: Mapping[str, Collection[str]],
) -> Iterator[tuple[Any, ...]]:
    """The view and the Python of a run, again and again while it lasts."""
    hidden = gr.update(visible=False)
    yield plain_view("loading", "Loading the model ..."), hidden
    try:
        request = request_of(settings, free_folder(str(settings[0])), lists)
        request = studio.prepare(request)
        for event in studio.run(request):
            if isinstance(event, Finished):
                folder = event.page.parent
                shown = finished_view(event.result, str(folder), runs.offer(folder))
                yield shown, gr.update(value=python_of(event.result, folder), visible=True)
            else:
                yield glimpse_view(event), gr.skip()
    except Stop as stop:
        yield plain_view("failed", "Nothing was drawn."), hidden
        raise gr.Error(html.escape(str(stop)), duration=None, print_exception=False) from None
    except Exception as error:
        yield plain_view("failed", "The run failed."), hidden
        message = f"{type(error).__name__}: {error}; the terminal shows where"
        raise gr.Error(html.escape(message), duration=None) from error
