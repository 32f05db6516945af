"""The Python that does the same as a run, written from its settings."""

import ast
import dataclasses
import io
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.result import Result

__all__ = ["brief", "call_of", "model_name", "python_of"]

_WIDTH = 88
_WEIGHTLESS = (
    "Anneal(",
    "Correct(",
    "Cutout(",
    "Product(",
    "Regions(",
    "RLGuidance(",
)  # they rank no particles
_GIVEN_TO = {
    "sample": ("denoisers", "path"),
    "sample_tokens": ("denoisers",),
    "sample_sequences": ("net",),
}
_GIVEN = {
    "denoisers": "the functions that were sampled from, by name",
    "path": "their noise levels, a Grid",
    "net": "the network that was sampled from",
    "template": "tokens that were given, -1 where drawn",
    "text": "tokens to texts, as given to the run",
    "labels": "class numbers, as given to the run",
    "alphabet": "the letters, an Alphabet",
    "generators": "one for each particle, as they were before the call",
}
_OWN = "yours; import or define it"
_POLICY = (
    "# A decision of a policy goes on from those before it: make the SteeredPolicy with the same\n"
    "# terms and seed, and give it the same observations.\n"
)
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")


def python_of(result: "Result", folder: str | Path) -> str:
    """A program that repeats a run; what has no name in code has one in a comment above it."""
    settings = result.settings
    loop = settings.get("loop")
    if loop == "policy":
        return _POLICY
    body = _loop_code(result, loop, folder) if loop else _pipeline_code(result, folder)
    code, unnamed = _without_reprs("\n".join(body))
    code = _double_quoted(code)
    imports = _imports(code)
    missing = _missing("\n".join([*imports, code]))
    notes = [f"# {name}: {unnamed.get(name, _GIVEN.get(name, _OWN))}" for name in missing]
    return "\n".join([*imports, "", *notes, code]) + "\n"


def _pipeline_code(result: "Result", folder: str | Path) -> list[str]:
    settings = result.settings
    return [
        f"pipe = DiffusionPipeline.from_pretrained({_model_code(settings)})",
        *_adapter_code(settings),
        _steer_code(result),
        _call("out = steered", _call_arguments(result)),
        f"out.steering.save({str(folder)!r})",
    ]


def _loop_code(result: "Result", loop: str, folder: str | Path) -> list[str]:
    """The call of one of the functions that need no pipeline."""
    settings, parts = result.settings, list(_GIVEN_TO[loop])
    if "path" in settings:
        parts.append(brief(settings["path"]))
    parts += map(brief, settings.get("terms", ()))
    if loop == "sample":
        shape = tuple(result.latents.shape[2:])
        texts = result.prompts if any(result.prompts) else len(result.prompts)
        parts += [f"shape={shape}", f"prompts={texts!r}", f"dtype={result.latents.dtype}"]
    elif loop == "sample_tokens":
        parts += ["template=template", *(["text=text"] if settings.get("text") else [])]
        parts += [f"prompts={result.prompts!r}"] if any(result.prompts) else []
    else:
        parts += [f"{name}={settings[name]!r}" for name in ("lengths", "steps")]
        parts += [f"{name}={name}" for name in ("labels", "alphabet") if settings.get(name)]
        parts.append(f"eta={settings['eta']!r}" if settings["eta"] else "stochastic=False")
    named = ("guidance", "stochastic", "micro_batch")
    parts += [f"{n}={settings[n]!r}" for n in named if n in settings]
    parts += [f"particles={result.log_w.shape[1]}", f"resample={brief(settings['resample'])}"]
    parts += _monitor_code(settings)
    parts += [f"select={settings['select']!r}"]
    parts.append(f"seed={settings.get('seeds', result.seed)}")
    return [_call(f"out = {loop}", parts), f"out.save({str(folder)!r})"]


def _without_reprs(code: str) -> tuple[str, dict[str, str]]:
    """Code with a name for each repr that isn't code, and what the names stand for.

    >>> _without_reprs("as_reward(<lambda>, name='<b>')")
    ("as_reward(unnamed_1, name='<b>')", {'unnamed_1': '<lambda>, which has no name in code'})
    """
    found: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        if match[0][0] in "'\"":
            return match[0]
        found[f"unnamed_{len(found) + 1}"] = f"{match[0]}, which has no name in code"
        return f"unnamed_{len(found)}"

    quoted = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
    return re.sub(rf"{quoted}|(?:[\w.]*<[^<>\n]+>[\w.]*)+", name, code), found


def _missing(code: str) -> list[str]:
    """Names that a program uses and doesn't say; none where it isn't Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []
    bound = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return list(dict.fromkeys(node.id for node in names if node.id not in bound))


def brief(code: str) -> str:
    """The repr of a term or setting without the arguments that are at their defaults.

    >>> brief("Resample(scheme='ssp', ess=0.5, window=(0.2, 0.9), every=None)")
    "Resample('ssp')"
    """
    try:
        tree = ast.parse(code, mode="eval").body
    except SyntaxError:
        return code
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        return code
    usual = _defaults(tree.func.id)
    kept = [k for k in tree.keywords if k.arg not in usual or _value(k.value) != usual[k.arg]]
    positional = []
    if usual and kept and kept[0].arg == next(iter(usual)):  # the first field speaks for itself
        positional = [kept.pop(0).value]
    return ast.unparse(ast.Call(tree.func, [*tree.args, *positional], kept))


def model_name(settings: Mapping[str, Any]) -> str:
    """The model as its user would name it: bundled ones by name, the rest by path or Hub id."""
    model = str(settings.get("model") or "")
    zoo = Path(__file__).resolve().parent.parent / "zoo"
    if model and Path(model).is_absolute() and Path(model).resolve().is_relative_to(zoo):
        return Path(model).resolve().relative_to(zoo).parts[0]
    return model


def _model_code(settings: Mapping[str, Any]) -> str:
    model = model_name(settings)
    bundled = model != str(settings.get("model") or "")
    return f"zoo.path({model!r})" if bundled else repr(model or "path or Hub id of the pipeline")


def _adapter_code(settings: Mapping[str, Any]) -> list[str]:
    """Lines that load the LoRA adapters which RL guidance names."""
    from fkdiff import zoo

    lines = []
    for name in _adapters(settings):
        source = settings.get("adapters", {}).get(name, name)
        where = f"zoo.path({name!r})" if source in zoo.adapters() else repr(source)
        lines.append(f"pipe.load_lora_weights({where}, adapter_name={name!r})")
    return lines


def _adapters(settings: Mapping[str, Any]) -> list[str]:
    found: list[Any] = []
    for term in settings.get("terms", ()):
        try:
            call = ast.parse(term, mode="eval").body
        except SyntaxError:
            continue
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "RLGuidance":
            tuned = next((k.value for k in call.keywords if k.arg == "tuned"), None)
            names = tuned.keys if isinstance(tuned, ast.Dict) else [tuned]
            found += [n.value for n in names if isinstance(n, ast.Constant)]
    return [name for name in found if isinstance(name, str)]


def _steer_code(result: "Result") -> str:
    settings = result.settings
    parts = ["pipe", *(brief(term) for term in settings.get("terms", ()))]
    parts.append(f"particles={result.log_w.shape[1]}")
    resample = brief(str(settings.get("resample", "Resample()")))
    if resample != "Resample()":
        parts.append(f"resample={resample}")
    for name in ("stochastic", "micro_batch"):
        if settings.get(name) is not None:
            parts.append(f"{name}={settings[name]!r}")
    parts += _monitor_code(settings)
    ranks = any(not term.startswith(_WEIGHTLESS) for term in settings.get("terms", ()))
    if settings.get("select") != ("best" if ranks else "sample"):
        parts.append(f"select={settings.get('select', 'best')!r}")
    if "generators" not in settings:
        parts.append(f"seed={settings.get('seeds', result.seed)}")
    return _call("steered = steer", parts)


def _monitor_code(settings: Mapping[str, Any]) -> list[str]:
    """The argument that names the monitors, none where there are none."""
    named = [f"load_reward({name!r})" for name in settings.get("monitor") or ()]
    told = settings.get("monitor_code", named)  # older folders have the names alone
    return [f"monitor=[{', '.join(told)}]"] if told else []


def call_of(result: "Result") -> dict[str, Any]:
    """Arguments of the user's call: the recorded one asks for a sample of every particle."""
    prompts, particles = result.log_w.shape
    call = {k: v for k, v in result.settings.get("call", {}).items() if v is not None}
    for key, value in call.items():
        if isinstance(value, list) and len(value) == prompts * particles:
            call[key] = value[::particles]
        if isinstance(call[key], list) and len(call[key]) == 1 and key.endswith("prompt"):
            call[key] = call[key][0]
    kept = {k: v for k, v in call.items() if k not in _COUNTS}
    if result.selected.shape[1] > 1 and result.settings.get("select") != "all":
        kept |= {k: result.selected.shape[1] for k in call if k in _COUNTS}
    return kept


def _call_arguments(result: "Result") -> list[str]:
    call = call_of(result)
    first = [repr(call.pop("prompt"))] if "prompt" in call else []
    own = ["generator=generators"] if "generators" in result.settings else []
    return [*first, *(f"{key}={value!r}" for key, value in call.items()), *own]


def _call(head: str, arguments: list[str]) -> str:
    line = f"{head}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        return line
    return f"{head}(\n" + "".join(f"    {part},\n" for part in arguments) + ")"


def _double_quoted(code: str) -> str:
    """Code with double quotes, as formatters write it.

    >>> print(_double_quoted("f('a', 'b')"))
    f("a", "b")
    """
    plain = re.compile(r"'([^'\"\\]*)'")
    lines = code.splitlines()
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (tokenize.TokenError, SyntaxError):
        return code  # a repr that isn't code
    for token in tokens:
        found = plain.fullmatch(token.string) if token.type == tokenize.STRING else None
        if found:
            (row, start), (_, stop) = token.start, token.end
            line = lines[row - 1]
            lines[row - 1] = f'{line[:start]}"{found[1]}"{line[stop:]}'
    return "\n".join(lines)


def _imports(code: str) -> list[str]:
    import fkdiff
    import fkdiff.rewards

    def used(names: list[str]) -> str:
        return ", ".join(name for name in names if re.search(rf"\b{name}\b(?=[(.])", code))

    lines = ["import torch", ""] if "=torch." in code else []
    if "DiffusionPipeline" in code:
        lines += ["from diffusers import DiffusionPipeline", ""]
    lines.append(f"from fkdiff import {used(sorted([*fkdiff.__all__, 'zoo']))}")
    if "sample_sequences(" in code:
        lines.append("from fkdiff.processes.simplex import GumbelPath")
        lines.append("from fkdiff.sequences import sample_sequences")
    if used(fkdiff.rewards.__all__):
        lines.append(f"from fkdiff.rewards import {used(fkdiff.rewards.__all__)}")
    if "load_reward(" in code:
        lines.append("from fkdiff.terms import load_reward")
    return lines


def _defaults(name: str) -> dict[str, Any]:
    """Fields of one of fkdiff's dataclasses, in order, with their defaults."""
    import fkdiff

    known = getattr(fkdiff, name, None) if name in fkdiff.__all__ else None
    if not (isinstance(known, type) and dataclasses.is_dataclass(known)):
        return {}
    return {field.name: field.default for field in dataclasses.fields(known)}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return node  # a call or a name: never a default
