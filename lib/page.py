"""report.html: the report's Markdown as one self-contained page. No script, no request; images are
inside.

`render` lays out the head, its tiles, the contents and the sections; a folded one opens at its
title. It reads well on a phone, in print and in the dark.
"""

import base64
import html
import pathlib
import re
from typing import NamedTuple

from markdown_it import MarkdownIt

# A model's markup stays text, and a browser refuses whatever slipped through.
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "autolink"])
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
/* Colours by name, so that the dark page differs in these lines only. */
:root {
  color-scheme: light dark;
  --ink: #1c1f23; --soft: #5c646d; --line: #dfe3e7; --page: #fff; --card: #f6f7f9;
  --better: #00618f; --worse: #b34700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e7e9ec; --soft: #a3abb4; --line: #32373d; --page: #121212; --card: #1d2024;
    --better: #6cc3f0; --worse: #ff9d5c;
  }
  /* A chart's white becomes the page's black, and its colours keep their hue. */
  img { filter: invert(.93) hue-rotate(180deg) }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body {
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--ink); background: var(--page);
  max-width: 1152px; margin: 0 auto; padding: 2rem 1.25rem 4rem;
}
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 .5rem }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .75rem }
h1, h2, p, li { overflow-wrap: anywhere }
p { margin: .6rem 0 }
ul { margin: .5rem 0; padding-left: 1.2rem }
li { margin: .3rem 0 }
section p, section li, .lead { max-width: 52rem }
.lead, em, nav a, small { color: var(--soft) }
em { font-style: normal; font-size: .875rem }

.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .75rem; margin: 1.25rem 0;
}
.tile { background: var(--card); border-radius: 10px; padding: .8rem 1rem }
.tile b {
  display: block; font-size: 1.9rem; line-height: 1.25; font-variant-numeric: tabular-nums;
}
.tile span { display: block; font-size: .875rem; line-height: 1.5; color: var(--soft) }
.better b, .better .moved { color: var(--better) }
.worse b, .worse .moved { color: var(--worse) }

nav { font-size: .875rem; line-height: 1.9; border-block: 1px solid var(--line); padding: .5rem 0 }
nav a { margin-right: 1rem; text-decoration: none; white-space: nowrap }
nav a:hover { color: var(--better); text-decoration: underline }

/* A table too wide for the page scrolls inside itself, never the page. */
table {
  display: block; overflow-x: auto; border-collapse: collapse; margin: .75rem 0;
  font-size: .875rem; line-height: 1.4; font-variant-numeric: tabular-nums;
}
th, td {
  padding: .45rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top;
}
th { font-weight: 600; color: var(--soft); vertical-align: bottom }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td small { display: inline-block; white-space: nowrap; font-size: .8125rem }

img { display: block; width: 100%; max-width: 620px; height: auto; margin: 1rem 0 .25rem }
details { border: 1px solid var(--line); border-radius: 10px; padding: .1rem 1rem; margin: .5rem 0 }
details[open] { padding-bottom: .8rem }
summary { cursor: pointer; padding: .5rem 0; font-weight: 600 }
summary:hover { color: var(--better) }
.more { font-size: .9375rem; color: var(--soft); margin: 2.5rem 0 .75rem }
/* A command scrolls rather than break within a flag; what a model wrote wraps. */
pre:has(> code.language-bash) { white-space: pre; overflow-x: auto }
pre {
  white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card);
  padding: .75rem .9rem; border-radius: 8px; margin: .4rem 0;
  font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}

@media (max-width: 600px) {
  body { padding: 1.25rem 1rem 3rem }
  h1 { font-size: 1.45rem }
  th, td { padding: .4rem .15rem; font-size: .75rem }
  td:first-child { hyphens: auto; overflow-wrap: anywhere; min-width: 3.6rem }
  /* An interval may break after its comma: six columns fit a phone. */
  td small { display: block; white-space: normal; font-size: .6875rem }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(6.8rem, 1fr)); gap: .5rem }
  .tile { padding: .65rem .7rem }
  .tile b { font-size: 1.4rem }
  .tile span { font-size: .8125rem }
}
@media print {
  body { max-width: none; padding: 0 }
  nav { display: none }
  details { break-inside: avoid }
}
"""


class Tile(NamedTuple):
  """A large figure at the head of the page."""

  title: str
  value: str
  moved: str  # the change, or the interval
  before: str
  mood: str  # better, worse, or ""


def render(title: str, lead: str, tiles: list[Tile], sections, out_dir: pathlib.Path) -> str:
  """The whole page. lead, and each section's body, are Markdown; `out_dir` holds the images they
  name.
  """
  # A section without content, such as a chart that was not drawn, leaves no trace.
  shown = [(f"s{number}", section) for number, section in enumerate(sections) if section.body]
  # The contents: links that stay on the page.
  links = [f'<a href="#{anchor}">{html.escape(part.title)}</a>' for anchor, part in shown]
  # Title, what was trained, three figures, contents; then proof, then details.
  body = [f"<h1>{html.escape(title)}</h1>", f'<div class="lead">{MARKDOWN.render(lead)}</div>']
  body.append(f'<div class="tiles">{"".join(map(tile_html, tiles))}</div>')
  body.append(f'<nav aria-label="Contents">{" ".join(links)}</nav>')
  body += [section_html(anchor, part) for anchor, part in shown if not part.folded]
  # Below this line a reader looks things up.
  body.append('<p class="more">Details</p>')
  body += [section_html(anchor, part) for anchor, part in shown if part.folded]
  text = embed_images("\n".join(body), out_dir)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
    f"<body>{text}</body></html>\n"
  )


def tile_html(tile: Tile) -> str:
  lines = [f"<span>{html.escape(tile.title)}</span>", f"<b>{html.escape(tile.value)}</b>"]
  lines.append(f'<span class="moved">{html.escape(tile.moved)}</span>')
  lines.append(f"<span>{html.escape(tile.before)}</span>")
  return f'<div class="tile {tile.mood}">{"".join(lines)}</div>'


def section_html(anchor: str, section) -> str:
  """A section, or a folded one; the anchor stands inside it, so that a link to it opens it."""
  # Rendered first: the Markdown is escaped by then, so that only our own tags are found.
  body = unfold_samples(small_intervals(MARKDOWN.render(section.body)))
  title = html.escape(section.title)
  if section.folded:
    return f'<details><summary>{title}</summary><div id="{anchor}">{body}</div></details>'
  return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>'


def small_intervals(text: str) -> str:
  """In a table's cells: 62.0% [57.4, 66.4] with its interval smaller, and below the value on a
  phone.
  """

  # Only a cell that ends with an interval: the rest is left alone.
  def shrink(cell: re.Match) -> str:
    return re.sub(r" (\[[^\]<]*\])</td>", r" <small>\1</small></td>", cell[0])

  return re.sub(r"<td.*?</td>", shrink, text)


def unfold_samples(text: str) -> str:
  """Everything under an h3 folds behind it."""
  # The Markdown of a report has no h3 but the samples' titles.
  first, *samples = text.split("<h3>")
  folded = []
  for sample in samples:
    title, body = sample.split("</h3>", 1)
    folded.append(f"<details><summary>{title}</summary>{body}</details>")
  return first + "".join(folded)


def embed_images(text: str, out_dir: pathlib.Path) -> str:
  """Images of `out_dir` as data in the page."""

  def inside(source: re.Match) -> str:
    # A page that is mailed or moved keeps its pictures.
    data = base64.b64encode((out_dir / source[1]).read_bytes()).decode()
    return f'src="data:image/png;base64,{data}"'

  return re.sub(r'src="(\w+\.png)"', inside, text)
