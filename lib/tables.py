"""TODO-DOC tables."""

import json
import pathlib
import re
import sys

from rich.console import Console
from rich.markdown import Markdown

from lib import command_line
from lib.errors import InputError


# ---------------------------------------------------------------------------------------------------- tables and charts
def show(value, ci=None, spec: str = ".1%") -> str:
  """62.5% [51.3, 72.4]. An interval without width (a bootstrap of equal values) is no certainty, and is named instead."""
  if value is None or ci is None:
    return "–" if value is None else f"{value:{spec}}"
  low, high = (f"{x:{spec}}".rstrip("%") for x in ci)
  return f"{value:{spec}} " + (f"[{low}, {high}]" if ci[1] - ci[0] > 1e-9 else "[all equal]")


COLUMNS = {  # of the result table: their names in results.json; the brief ones have intervals and fit a terminal
  "strict format": "format_rate",
  "lenient": "lenient_format_rate",
  "accuracy": "accuracy",
  "of well-formed": "accuracy_well_formed",
  "partial": "partial_credit",
  "mean reward": "mean_reward",
  "truncated": "truncated_rate",
  "tokens": "mean_tokens",
}
BRIEF = ("strict format", "accuracy", "mean reward")
FORMATS = {"mean_reward": ".3f", "mean_tokens": ".0f"}
JUDGED = {"reasoning": 5, "answer": 5, "overall": 10}  # the best score of each


def interval(numbers: dict, key: str) -> list | None:
  return numbers.get(key.removesuffix("_rate") + "_ci")


def table_of(part: dict) -> dict:
  """{domain or "overall": numbers} of results or of their comparison."""
  return {**part["domains"], "overall": part["overall"]}


def domain_table(results: dict, brief: bool = False) -> tuple[list, list]:
  """(header, rows of text): one line per domain and one overall."""
  judged = lambda d: {
    f"judge: {k} /{most}": d["judge"][k] for k, most in JUDGED.items() if "judge" in d
  }
  lines = {name: d | judged(d) for name, d in table_of(results).items()}
  columns = {k: COLUMNS[k] for k in (BRIEF if brief else COLUMNS)}
  columns |= {k: k for k in lines["overall"] if k.startswith(("pass@", "maj@", "judge: "))}
  rows = [
    [
      name,
      str(d["n"]) if d["n"] == d["questions"] else f"{d['n']} ({d['questions']} distinct)",
      *(
        show(
          d.get(key),
          interval(d, key) if column in BRIEF else None,
          ".2f" if key.startswith("judge") else FORMATS.get(key, ".1%"),
        )
        for column, key in columns.items()
      ),
    ]
    for name, d in lines.items()
  ]
  return ["domain", "questions", *columns], rows


def plain(text) -> str:
  """One line of text in which Markdown and HTML mean nothing."""
  return re.sub(
    r"[\\`*|<&~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(str(text).split())
  )


def bullets(items: list) -> str:
  return "\n".join(f"- {plain(item)}" for item in items)


def grid(header: list, rows: list, numbers: bool = True) -> str:
  """A Markdown table, aligned also as plain text."""
  cells = [[plain(cell) for cell in line] for line in (header, *rows)]
  widths = [max(3, *map(len, column)) for column in zip(*cells)]
  cells = [
    [c.rjust(w) if i and numbers else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))]
    for line in cells
  ]
  cells.insert(1, ["-" * (w - 1) + (":" if i and numbers else "-") for i, w in enumerate(widths)])
  return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def print_markdown(text: str):
  """Rendered on a terminal; elsewhere without the marks."""
  if sys.stdout.isatty():
    Console().print(Markdown(text))
  else:
    text = re.sub(r"(?m)^\|[ :|-]+\|\n|^\| | \|$", "", text).replace(" | ", "  ")
    command_line.say(re.sub(r"(?m)\\(.)| +$", r"\1", text))


def read_results(path) -> dict:
  """results.json, given itself or its folder."""
  path = pathlib.Path(path)
  path = path / "results.json" if path.is_dir() else path
  if not path.is_file():
    raise InputError(
      f"{path} does not exist; --compare and --table read what a finished evaluate.py wrote"
    )
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
    return results | {k: results[k] for k in ("overall", "domains")}
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{path} is not a results.json of evaluate.py ({error!r}); check the path, or evaluate again"
    ) from error


def print_run_table(run_dir):
  """The pipeline's last word: every evaluated model under `run_dir`, with intervals, and where the reports are."""
  order = lambda p: (["eval_base", "eval_sft", "eval_grpo", p.parent.name].index(p.parent.name), p)
  paths = sorted(pathlib.Path(run_dir).glob("eval_*/results.json"), key=order)
  if not paths:
    raise InputError(
      f"{run_dir} holds no eval_*/results.json; run evaluate.py with --out_dir={run_dir}/eval_<name>"
    )
  overall = [domain_table(read_results(path), brief=True)[1][-1] for path in paths]
  rows = [
    [path.parent.name.removeprefix("eval_"), *line[1:5]] for path, line in zip(paths, overall)
  ]
  print_markdown(grid(["model", "questions", "format rate", "accuracy", "mean reward"], rows))
  command_line.say(
    "\n".join(
      ["95% intervals in brackets", *(f"report  {path.with_name('report.html')}" for path in paths)]
    )
  )
