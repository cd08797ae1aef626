"""Numbers as tables of text: a terminal's, a report's, and the pipeline's last word.

`show` writes a number with its interval, `domain_table` the numbers of one evaluation, `grid` any
table as Markdown; `print_markdown` shows it on a terminal, `print_run_table` every evaluation of a
run.
"""

import json
import pathlib
import re
import sys

from rich.console import Console
from rich.markdown import Markdown

from lib import command_line, summary
from lib.errors import InputError
from lib.visible import visible

COLUMNS = {  # of the result table: header → name in results.json
  "strict format": "format_rate",
  "lenient": "lenient_format_rate",
  "accuracy": "accuracy",
  "of well-formed": "accuracy_well_formed",
  "partial": "partial_credit",
  "mean reward": "mean_reward",
  "truncated": "truncated_rate",
  "tokens": "mean_tokens",
}
BRIEF = ("strict format", "accuracy", "mean reward")  # shown with intervals; they fit a terminal
FORMATS = {"mean_reward": ".3f", "mean_tokens": ".0f"}  # everything else is a share
STAGES = ("base", "sft", "grpo")  # the evaluations of a pipeline, eval_base first
TITLES = {"base": "Base model", "sft": "After SFT", "grpo": "After GRPO"}


def named(identifier: str) -> str:
  """A name of the code as a reader's word: creative_writing → creative writing.

  A reward of one's own, such as my_reward.py:score, keeps its name.
  """
  return identifier if "." in identifier else identifier.replace("_", " ")


def show(value: float | None, ci: list | None = None, spec: str = ".1%") -> str:
  """62.5% [51.3, 72.4]. An interval without width (a bootstrap of equal values) is no certainty,
  and is named instead.
  """
  if value is None:
    return "–"
  if ci is None:
    return f"{value:{spec}}"
  # The unit stands once, at the value: 62.5% [51.3, 72.4].
  low, high = (f"{bound:{spec}}".rstrip("%") for bound in ci)
  interval = f"[{low}, {high}]" if ci[1] - ci[0] > 1e-9 else "[all equal]"
  return f"{value:{spec}} {interval}"


def points(change: dict | None) -> str:
  """A paired change of a rate in percentage points, with its interval: +15.1 [+10.1, +20.1]."""
  if change is None:
    return "–"
  low, high = change["ci"]
  return show(100 * change["difference"], [100 * low, 100 * high], "+.1f")


def table_of(part: dict) -> dict:
  """{domain or "overall": numbers} of results or of their comparison."""
  return {**part["domains"], "overall": part["overall"]}


def domain_table(results: dict, brief: bool = False) -> tuple[list, list]:
  """(header, rows of text): one line per domain and one overall."""
  lines = table_of(results)
  columns = {title: key for title, key in COLUMNS.items() if not brief or title in BRIEF}
  # pass@k and maj@k are there when rows had several samples.
  columns |= {key: key for key in results["overall"] if key.startswith(("pass@", "maj@"))}
  # Grades have their own scales, which stand in the header.
  grades = summary.JUDGED if "judge" in results["overall"] else {}
  rows = []
  for name, numbers in lines.items():
    row = [named(name), count_text(numbers)]
    for title, key in columns.items():
      # All intervals at once would not fit; the three headline measures keep theirs.
      ci = numbers.get(summary.interval_key(key)) if title in BRIEF else None
      row.append(show(numbers.get(key), ci, FORMATS.get(key, ".1%")))
    row += [show(numbers.get("judge", {}).get(grade), spec=".2f") for grade in grades]
    rows.append(row)
  header = ["domain", "questions", *columns]
  return header + [f"judge: {grade} /{best}" for grade, best in grades.items()], rows


def count_text(numbers: dict) -> str:
  """Rows, and how many distinct questions they hold where some repeat."""
  if numbers["n"] == numbers["questions"]:
    return str(numbers["n"])
  return f"{numbers['n']} ({numbers['questions']} distinct)"


# ---- Markdown
def plain(text) -> str:
  """One line of text in which Markdown and HTML mean nothing."""
  # Line breaks would end a table's row or a list's item.
  one_line = visible(" ".join(str(text).split()))
  # An underscore between letters is no emphasis, and `]` matters only before a link's target.
  return re.sub(r"[\\`*|<&~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", one_line)


def bullets(items: list) -> str:
  return "\n".join(f"- {plain(item)}" for item in items)


def grid(header: list, rows: list, numbers: bool = True) -> str:
  """A Markdown table, aligned also as plain text. numbers: all columns but the first stand
  right-aligned.
  """
  # Widths are counted after escaping, so that the bars stand below each other as text too.
  cells = [[plain(cell) for cell in line] for line in (header, *rows)]
  widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
  right = [numbers and place > 0 for place in range(len(widths))]
  lines = []
  for line in cells:
    padded = [
      cell.rjust(width) if to_right else cell.ljust(width)
      for cell, width, to_right in zip(line, widths, right, strict=True)
    ]
    lines.append(padded)
  # |---|---:|  a colon at the right end aligns a column of numbers.
  rule = [
    "-" * (width - 1) + (":" if to_right else "-")
    for width, to_right in zip(widths, right, strict=True)
  ]
  lines.insert(1, rule)
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_markdown(text: str):
  """Rendered on a terminal; elsewhere without the marks."""
  if sys.stdout.isatty():
    Console().print(Markdown(text))
    return
  # No rule, no outer bars, two spaces for the inner ones, no backslashes.
  text = re.sub(r"(?m)^\|[ :|-]+\|\n|^\| | \|$", "", text).replace(" | ", "  ")
  command_line.say(re.sub(r"(?m)\\(.)| +$", r"\1", text))


# ---- results.json and a run's evaluations
def read_results(path) -> dict:
  """results.json, given itself or its folder."""
  path = pathlib.Path(path).expanduser()
  # Its folder is as good a name.
  path = path / "results.json" if path.is_dir() else path
  if not path.is_file():
    raise InputError(
      f"{path} does not exist; --compare and --table read what a finished evaluate.py wrote"
    )
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
    return results | {key: results[key] for key in ("overall", "domains")}
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{path} is not a results.json of evaluate.py ({error!r}); check the path, or evaluate again"
    ) from error


def find_evaluations(run_dir) -> list[pathlib.Path]:
  """results.json of every eval_* folder of a run: base, SFT, GRPO, then others by name."""

  def place(path: pathlib.Path) -> tuple:
    name = path.parent.name.removeprefix("eval_")
    return STAGES.index(name) if name in STAGES else len(STAGES), name

  paths = pathlib.Path(run_dir).expanduser().glob("eval_*/results.json")
  return sorted(paths, key=place)


def print_run_table(run_dir):
  """The pipeline's last word: every evaluated model under `run_dir`, with intervals, and where the
  reports are.
  """
  paths = find_evaluations(run_dir)
  if not paths:
    raise InputError(
      f"{run_dir} holds no eval_*/results.json; run evaluate.py with "
      f"--out_dir={run_dir}/eval_<name>"
    )
  rows = []
  for path in paths:
    # The last line is the overall one; its domain's name gives way to the model's.
    overall = domain_table(read_results(path), brief=True)[1][-1]
    rows.append([path.parent.name.removeprefix("eval_"), *overall[1:5]])
  print_markdown(grid(["model", "questions", "format rate", "accuracy", "mean reward"], rows))
  command_line.say("95% intervals in brackets")
  for path in paths:
    command_line.say(f"report  {path.with_name('report.html')}")
