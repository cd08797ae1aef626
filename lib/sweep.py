"""Several runs in one table: what differs, how well each did, and its change against the first.

`evaluate.py --table=A,B,C` reads each run's last evaluation: `read_entries` finds it, `sweep_lines`
compares, `print_sweep` prints text to read, CSV for a spreadsheet or LaTeX for a paper.
"""

import csv
import io
import json
import pathlib
import re
from typing import NamedTuple

from lib import command_line, comparison, jsonl, lineage, summary, tables
from lib.errors import InputError

# Key in results.json → the column's heading.
MEASURES = {"format_rate": "strict format", "accuracy": "accuracy", "mean_reward": "mean reward"}
FORMATS = ("text", "markdown", "csv", "latex")
# The backslash is in the same table, read letter by letter: what one escape wrote meets no other.
LATEX_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX_SPECIAL |= {character: "\\" + character for character in "&%$#_{}"}


class Entry(NamedTuple):
  """One run of a sweep, as its last evaluation shows it."""

  name: str  # as the user named it
  path: pathlib.Path  # of its results.json
  results: dict
  settings: dict  # flags of its last training stage, {} of a model that was not trained here


def read_entries(names: list[str]) -> list[Entry]:
  """A run's folder stands for its last evaluation: GRPO's, else SFT's, else the base model's."""
  entries = []
  for name in names:
    # eval_base, eval_sft, eval_grpo and others; the last stage speaks for the run.
    found = tables.find_evaluations(name)
    trained = [path for path in found if path.parent.name.removeprefix("eval_") in tables.STAGES]
    path = (trained or found or [pathlib.Path(name).expanduser()])[-1]
    # A single evaluation may be named as well, by its folder or by its file.
    path = path / "results.json" if path.is_dir() else path
    results = tables.read_results(path)
    entries.append(Entry(name, path, results, read_settings(results, path)))
  return entries


def read_settings(results: dict, path: pathlib.Path) -> dict:
  """Flags of the run's last training stage; {} of a model that was not trained here."""
  # Recorded when it was evaluated, so that the run's own folder may be gone.
  stages = results.get("trained")
  if stages is None and results.get("checkpoint"):
    # Older results lack them: the checkpoint beside knows, else the one at the path noted.
    beside = path.parent.parent / pathlib.Path(results["checkpoint"]).name
    stages = lineage.trained_stages(str(beside) if beside.is_dir() else results["checkpoint"])
  return lineage.resolved(stages[-1]) if stages else {}


def differing(entries: list[Entry]) -> list[str]:
  """Settings that are not the same in all runs; paths, which always differ, left out."""
  # JSON text compares lists and numbers alike.
  names = {name for entry in entries for name in entry.settings} - lineage.NO_SETTING
  # A flag that one run does not have at all counts as None there, so it differs, too.
  return sorted(
    name for name in names if len({json.dumps(entry.settings.get(name)) for entry in entries}) > 1
  )


class Line(NamedTuple):
  """A run with its change against the first run of the table."""

  entry: Entry
  change: dict | None  # of accuracy, as `comparison.difference` gives it


def sweep_lines(entries: list[Entry]) -> list[Line]:
  """The runs in their order; the first has no change, being what the others are compared with."""
  first = entries[0]
  lines = [Line(first, None)]
  for other in entries[1:]:
    # Accuracies over different questions may stand in one table and compare nothing.
    check_same_rows(first, other)
    lines.append(Line(other, paired_change(first, other)))
  return lines


def check_same_rows(first: Entry, other: Entry):
  # The digest of questions, answers and tests: what was asked, whatever the folder's name.
  mine, theirs = other.results.get("rows"), first.results.get("rows")
  if mine != theirs:
    raise InputError(
      f"{other.name} was evaluated on other rows than {first.name} ({mine} and {theirs}); evaluate "
      "both on one data_dir "
      "and split, with the same --limit"
    )


def paired_change(first: Entry, other: Entry) -> dict | None:
  """Change of accuracy on the rows that both answered; None where the two cannot be paired."""
  sides = []
  for entry in (first, other):
    # The responses themselves, since only they can be paired row by row.
    path = entry.path.with_name("responses.jsonl")
    if not path.is_file():
      command_line.say(f"{entry.name}: no {path.name} beside its results, so no paired change")
      return None
    sides.append(jsonl.read_rows(path))
  accuracy = summary.metrics("")["accuracy"]
  # Seeds the bootstrap, so that the same table comes out again.
  seed = other.results.get("seed") or 0
  return comparison.difference(comparison.pair_rows(*sides), accuracy, seed)


def print_sweep(names: list[str], table_format: str):
  """Prints the table of these runs; a run beside others on other rows is refused."""
  entries = read_entries(names)
  lines = sweep_lines(entries)
  varied = differing(entries)
  # CSV holds the raw numbers, for a spreadsheet or a plot; the others are for reading.
  if table_format == "csv":
    command_line.say(csv_text(lines, varied))
    return
  header, rows = as_text(lines, varied)
  if table_format == "latex":
    command_line.say(latex_text(header, rows))
  elif table_format == "markdown":
    command_line.say(tables.grid(header, rows))
  else:
    tables.print_markdown(tables.grid(header, rows))
    command_line.say("95% intervals in brackets; changes are paired by row against the first run")


def csv_text(lines: list[Line], varied: list[str]) -> str:
  """Raw numbers: rates in [0, 1], an interval as two columns, empty where there is none."""
  rows = []
  for line in lines:
    numbers = line.entry.results["overall"]
    row = {"run": line.entry.name}
    row |= {name: line.entry.settings.get(name) for name in varied}
    row["questions"] = numbers["n"]
    for name in MEASURES:
      # No interval where nothing was measured, such as the accuracy of creative rows.
      low, high = numbers[summary.interval_key(name)] or (None, None)
      row |= {name: numbers[name], f"{name}_low": low, f"{name}_high": high}
    change = line.change or {"difference": None, "ci": (None, None), "p": None}
    low, high = change["ci"]
    row |= {"accuracy_change": change["difference"]}
    row |= {"accuracy_change_low": low, "accuracy_change_high": high, "p": change["p"]}
    rows.append(row)
  text = io.StringIO()
  # "\n", as the csv module would else end its lines the way of Windows.
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue().rstrip("\n")


def as_text(lines: list[Line], varied: list[str]) -> tuple[list[str], list[list[str]]]:
  """(header, rows) for a reader: each number with its interval in one cell, changes in points."""
  rows = []
  for line in lines:
    numbers = line.entry.results["overall"]
    row = [line.entry.name]
    row += [lineage.setting_text(name, line.entry.settings.get(name)) for name in varied]
    row.append(str(numbers["n"]))
    for name in MEASURES:
      ci = numbers[summary.interval_key(name)]
      row.append(tables.show(numbers[name], ci, tables.FORMATS.get(name, ".1%")))
    p = comparison.p_text(line.change["p"]) if line.change else "–"
    rows.append([*row, tables.points(line.change), p])
  # "KL weight β" rather than beta, where there are words for it.
  settings = [lineage.SHOWN.get(name, tables.named(name)) for name in varied]
  against = f"points against {lines[0].entry.name}"
  return ["run", *settings, "questions", *MEASURES.values(), against, "exact p"], rows


def latex_text(header: list[str], rows: list[list[str]]) -> str:
  """A booktabs tabular."""
  # The header is the first of the lines.
  lines = [" & ".join(map(latex_escape, line)) + r" \\" for line in (header, *rows)]
  # The name to the left, numbers to the right: "lrrr".
  columns = "l" + "r" * (len(header) - 1)
  body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
  return "\n".join([*body, r"\bottomrule", r"\end{tabular}"])


def latex_escape(text: str) -> str:
  text = "".join(LATEX_SPECIAL.get(character, character) for character in text)
  # A minus in front of a number is a sign, one between words a hyphen.
  text = text.replace("–", "--").replace("β", r"$\beta$")
  return re.sub(r"(?<![\w\d-])-(?=\d)", "$-$", text)
