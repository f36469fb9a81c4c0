"""A document in pieces, as Markdown and as one HTML page with its pictures inside."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Block:
    """A piece of a document: a heading, a text, a table (heads and rows), a list, or a picture in the folder."""

    kind: str
    text: str = ""
    rows: Sequence[Sequence[Any]] = ()


def table(heads: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Block:
    """A table as a piece of a document."""
    return Block("table", rows=[heads, *rows])


# What Markdown reads as something else than itself: emphasis, code, formulas, links, tags and entities. An underscore
# between letters stays one.
MARKUP = re.compile(
    r"[`*$~]|(?<![^\W_])_|_(?![^\W_])|\\(?=[!-/:-@\[-`{-~])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])(?=[(\[])"
)


def literal(text: Any) -> str:
    """The text of one line as Markdown shows it as it is."""
    return MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(str(text).splitlines()))


def markdown_table(heads: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, which cells may use."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_markdown(blocks: Sequence[Block]) -> str:
    """The document as Markdown, with pictures by their file names."""
    parts: list[str] = []
    for block in blocks:
        if block.kind == "heading":
            parts.append(f"{'##' if parts else '#'} {literal(block.text)}")
        elif block.kind == "table":
            heads, *rows = ([literal(cell) for cell in row] for row in block.rows)
            parts.append(markdown_table(heads, rows))
        elif block.kind == "list":
            parts.append("\n".join(f"- {literal(key)}: {literal(value)}" for key, value in block.rows))
        elif block.kind == "picture":
            parts.append(f"![{literal(block.text)}]({block.rows[0][0]})\n\n*{literal(block.text)}*")
        else:
            parts.append(literal(block.text))
    return writable("\n\n".join(parts) + "\n")


def writable(text: str) -> str:
    """The text with a question mark for what no UTF-8 has: bytes of a file name that are no letters."""
    return text.encode("utf-8", "replace").decode()


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; max-width: 24rem; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #666; }
.wide { overflow-x: auto; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
"""


def as_html(blocks: Sequence[Block], folder: Path) -> str:
    """The document as one HTML page that needs no other file: the pictures in `folder` are inside it."""
    parts: list[str] = []
    for block in blocks:
        text = html.escape(block.text)
        if block.kind == "heading":
            level = 2 if parts else 1
            parts.append(f"<h{level}>{text}</h{level}>")
        elif block.kind == "table":
            lines = [
                "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"
                for tag, row in zip(["th"] + ["td"] * (len(block.rows) - 1), block.rows, strict=True)
            ]
            parts.append('<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>")
        elif block.kind == "list":
            rows = (f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>" for key, value in block.rows)
            parts.append("<dl>" + "".join(rows) + "</dl>")
        elif block.kind == "picture":
            data = base64.b64encode((folder / block.rows[0][0]).read_bytes()).decode()
            image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
            parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
        else:
            parts.append(f"<p>{text}</p>")
    body = "\n".join(parts)
    return writable(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Scores</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )
