"""What the site adds to its pages: tutorials from notebooks, code that is named, formulas, arrows.

Formulas become MathML and pictures SVG while the site is built, so that its pages need neither
scripts nor fonts of others.
"""

import ast
import base64
import html
import re
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"`((?:tests|fkdiff|rewards|pipelines|notebooks)/[\w/]+\.py)`")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what isn't written by hand: tutorials, a page for each file named, the picture."""
    named = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = tutorial(path)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=data))
    for file in files.documentation_pages():
        named |= set(CODE.findall(file.content_string))
    for path in sorted(path for path in named if (ROOT / path).is_file()):
        head = "---\nsearch: {exclude: true}\n---\n"
        text = f"{head}# `{path}`\n\n```python\n{(ROOT / path).read_text()}\n```\n"
        page = f"code/{path.removesuffix('.py')}.md"
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "arrows.svg", content=arrows(imports())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let code that is named lead to its page."""
    if page.file.src_uri.startswith("code/"):
        return markdown
    up = "../" * page.file.src_uri.count("/")

    def linked(match: re.Match[str]) -> str:
        target = f"code/{match[1].removesuffix('.py')}.md"
        known = files.get_file_from_path(target) is not None
        return f"[{match[0]}]({up}{target})" if known else match[0]

    return CODE.sub(linked, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""

    def formula(match: re.Match[str]) -> str:
        text = html.unescape(match["text"])
        block = text.startswith(r"\[")
        return convert(text[2:-2].strip(), display="block" if block else "inline")

    pattern = r'<(?P<tag>span|div) class="arithmatex">(?P<text>.*?)</(?P=tag)>'
    return re.sub(pattern, formula, content, flags=re.DOTALL)


def tutorial(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page, and its pictures by name."""
    parts, pictures = [], {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace(".ipynb)", ".md)"))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the code above draws]({name})")
            else:
                text = output.get("text") or data.get("text/plain", "")
                parts.append(f"```text\n{ANSI.sub('', text).rstrip()}\n```")
    told = f"*This page is the notebook `notebooks/{path.stem}.ipynb`; the tests run it.*"
    first, *rest = parts
    head, _, body = first.partition("\n")
    return "\n\n".join([head, told, body.strip(), *rest]), pictures


def imports() -> dict[str, set[str]]:
    """Packages and modules of fkdiff, and which others each imports."""
    package = ROOT / "fkdiff"
    paths = {p.stem: p for p in package.iterdir() if not p.name.startswith("_")}
    paths = {name: p for name, p in paths.items() if p.suffix == ".py" or p.is_dir()}
    exported = ast.walk(ast.parse((package / "__init__.py").read_text()))
    homes = {a.name: n.module for n in exported if isinstance(n, ast.ImportFrom) for a in n.names}
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                    if node.module == "fkdiff":
                        modules = [homes.get(a.name) or f"fkdiff.{a.name}" for a in node.names]
                    found[name] |= {m.split(".")[1] for m in modules if m.startswith("fkdiff.")}
        found[name] &= set(paths) - {name}
    found["result"].discard("report")  # a result saves itself: the one arrow upwards
    return found


def levels(found: dict[str, set[str]]) -> dict[str, int]:
    """How high each package stands above those that it imports."""
    height = dict.fromkeys(found, 0)
    for _ in found:
        for name, others in found.items():
            height[name] = max([height[name], *(height[o] + 1 for o in others)])
    return height


STYLE = """path { fill: none; stroke: #8a97a8; stroke-width: 1.3 }
rect { fill: #e8eef5; fill-opacity: .8; stroke: #2f5d8c }
text { font: 15px system-ui, sans-serif; text-anchor: middle; fill: #1d2127 }
marker path { fill: #8a97a8 }"""
TIP = (
    '<marker id="tip" markerWidth="8" markerHeight="8" refX="5" refY="3" orient="auto">'
    '<path d="M0,0L6,3L0,6z"/></marker>'
)
WIDE, STEP, BOX = 900, 80, (112, 34)  # of the picture, its rows and its boxes
SHIFTS = (0, -70, 90, -40, 60)  # of rows, so that few arrows pass behind a box


def arrows(found: dict[str, set[str]]) -> str:
    """What imports as boxes above what is imported; arrows that follow from others left out."""
    height = levels(found)
    rows = [sorted(n for n in found if height[n] == h) for h in range(max(height.values()) + 1)]
    tall = STEP * len(rows)
    place = {
        name: ((i + 0.5) * WIDE / len(row) + SHIFTS[h % 5], tall - STEP * (h + 0.5))
        for h, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    parts = [
        _arrow(place[name], place[other])
        for name, others in sorted(found.items())
        for other in sorted(others - {o for via in others for o in reach(found, via)})
    ]
    parts += [_box(name, *place[name]) for name in sorted(place)]
    size = f'viewBox="0 0 {WIDE} {tall}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
    return f"{head}<defs>{TIP}</defs>{''.join(parts)}</svg>"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = start, end
    y0, y1, bend = y0 + BOX[1] / 2, y1 - BOX[1] / 2 - 5, STEP / 2.4
    curve = f"M{x0:.0f},{y0:.0f} C{x0:.0f},{y0 + bend:.0f} {x1:.0f},{y1 - bend:.0f}"
    return f'<path d="{curve} {x1:.0f},{y1:.0f}" marker-end="url(#tip)"/>'


def _box(name: str, x: float, y: float) -> str:
    corner = f'x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}"'
    shape = f'<rect {corner} width="{BOX[0]}" height="{BOX[1]}" rx="6"/>'
    return f'{shape}<text x="{x:.0f}" y="{y + 5:.0f}">{name}</text>'


def reach(found: dict[str, set[str]], name: str) -> set[str]:
    """Everything that a package imports, directly or not."""
    seen: set[str] = set()
    open_ = [*found[name]]
    while open_:
        other = open_.pop()
        if other not in seen:
            seen.add(other)
            open_ += found[other]
    return seen
