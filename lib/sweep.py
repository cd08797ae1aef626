"""Several runs in one table: what differs between them, how well each did, and its change against
the first.

`evaluate.py --table=A,B,C` reads each run's last evaluation; `read_entries` finds it, `sweep_table`
compares, `write_table` prints Markdown for a reader, CSV for a spreadsheet or LaTeX for a paper.
"""

import csv
import io
import json
import pathlib
import re
from typing import NamedTuple

from lib import command_line, comparison, jsonl, lineage, summary, tables
from lib.errors import InputError

FORMATS = ("text", "markdown", "csv", "latex")
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
    path = path / "results.json" if path.is_dir() else path
    results = tables.read_results(path)
    entries.append(Entry(name, path, results, read_settings(results, path)))
  return entries


def read_settings(results: dict, path: pathlib.Path) -> dict:
  """Flags of the run's last training stage; older results, which do not hold them, lie beside the
  checkpoint that does.
  """
  # Recorded when it was evaluated, so that the run's own folder may be gone.
  stages = results.get("trained")
  if stages is None and results.get("checkpoint"):
    beside = path.parent.parent / pathlib.Path(results["checkpoint"]).name
    stages = lineage.trained_stages(str(beside) if beside.is_dir() else results["checkpoint"])
  return lineage.resolved(stages[-1]) if stages else {}


def differing(entries: list[Entry]) -> list[str]:
  """Settings that are not the same in all runs; paths, which always differ, left out."""
  # JSON text compares lists and numbers alike.
  names = {name for entry in entries for name in entry.settings} - lineage.NO_SETTING
  return sorted(
    name for name in names if len({json.dumps(entry.settings.get(name)) for entry in entries}) > 1
  )


def sweep_table(entries: list[Entry]) -> tuple[list[str], list[list]]:
  """(header, rows). Numbers are raw (rates in [0, 1], None where there is none); `as_text` makes
  them readable.
  """
  # One column a setting that varies, then three cells a measure: value, low, high.
  varied = differing(entries)
  header = ["run", *varied, "questions"]
  for name in ("format_rate", "accuracy", "mean_reward"):
    header += [name, f"{name}_low", f"{name}_high"]
  header += ["accuracy_change", "accuracy_change_low", "accuracy_change_high", "p"]
  rows = []
  for entry in entries:
    numbers = entry.results["overall"]
    row = [entry.name, *(entry.settings.get(name) for name in varied), numbers["n"]]
    for name in ("format_rate", "accuracy", "mean_reward"):
      row += [numbers[name], *(numbers[summary.interval_key(name)] or (None, None))]
    rows.append(row + paired_change(entries[0], entry))
  return header, rows


def paired_change(first: Entry, other: Entry) -> list:
  """[difference of accuracy, low, high, exact p] on the rows that both answered; None where the two
  cannot be paired.
  """
  # The first is what the others are compared with.
  if other is first:
    return [None] * 4
  # The responses themselves, since only they can be paired row by row.
  sides = []
  for entry in (first, other):
    path = entry.path.with_name("responses.jsonl")
    if not path.is_file():
      command_line.say(f"{entry.name}: no {path.name} beside its results, so no paired change")
      return [None] * 4
    sides.append(jsonl.read_rows(path))
  seed = other.results.get("seed") or 0
  pairs = comparison.pair_rows(*sides)
  change = comparison.difference(pairs, summary.metrics("")["accuracy"], seed)
  if change is None:
    return [None] * 4
  return [change["difference"], *change["ci"], change["p"]]


def as_text(header: list[str], rows: list[list]) -> tuple[list[str], list[list[str]]]:
  """The table for a reader: each number with its interval in one cell, changes in points."""
  # Where each raw column stands; what varies lies between the run and its questions.
  columns = dict(zip(header, range(len(header)), strict=True))
  varied = header[1 : columns["questions"]]
  titles = {"format_rate": "strict format", "accuracy": "accuracy", "mean_reward": "mean reward"}
  first = rows[0][0]
  out = []
  for row in rows:
    cells = [row[0], *(lineage.setting_text(name, row[columns[name]]) for name in varied)]
    cells.append(str(row[columns["questions"]]))
    for name in titles:
      at = columns[name]
      ci = row[at + 1 : at + 3] if row[at + 1] is not None else None
      cells.append(tables.show(row[at], ci, tables.FORMATS.get(name, ".1%")))
    at = columns["accuracy_change"]
    change = {"difference": row[at], "ci": row[at + 1 : at + 3]} if row[at] is not None else None
    p = row[columns["p"]]
    cells += [tables.points(change), "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"]
    out.append(cells)
  words = [lineage.SHOWN.get(name, tables.named(name)) for name in varied]
  return ["run", *words, "questions", *titles.values(), f"points against {first}", "exact p"], out


def print_sweep(names: list[str], table_format: str):
  """Prints the table of these runs; a run beside others on other rows is refused."""
  entries = read_entries(names)
  for entry in entries[1:]:
    check_same_rows(entries[0], entry)
  # CSV holds the raw numbers, for a spreadsheet or a plot; the others are for reading.
  header, rows = sweep_table(entries)
  if table_format == "csv":
    command_line.say(csv_text(header, rows))
    return
  header, rows = as_text(header, rows)
  if table_format == "latex":
    command_line.say(latex_text(header, rows))
  elif table_format == "markdown":
    command_line.say(tables.grid(header, rows))
  else:
    tables.print_markdown(tables.grid(header, rows))
    command_line.say("95% intervals in brackets; changes are paired by row against the first run")


def check_same_rows(first: Entry, other: Entry):
  # The digest of questions, answers and tests: what was asked, whatever the folder's name.
  mine, theirs = other.results.get("rows"), first.results.get("rows")
  if mine != theirs:
    raise InputError(
      f"{other.name} was evaluated on other rows than {first.name} ({mine} and {theirs}); evaluate "
      "both on one data_dir "
      "and split, with the same --limit"
    )


def csv_text(header: list[str], rows: list[list]) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerows([header, *rows])
  return text.getvalue().rstrip("\n")


def latex_text(header: list[str], rows: list[list[str]]) -> str:
  """A booktabs tabular."""
  # The header is the first of the lines.
  lines = [" & ".join(map(latex_escape, line)) + r" \\" for line in (header, *rows)]
  columns = "l" + "r" * (len(header) - 1)
  body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
  return "\n".join([*body, r"\bottomrule", r"\end{tabular}"])


def latex_escape(text: str) -> str:
  text = "".join(LATEX_SPECIAL.get(character, character) for character in text)
  # A minus in front of a number is a sign, one between words a hyphen.
  text = text.replace("–", "--").replace("β", r"$\beta$")
  return re.sub(r"(?<![\w\d-])-(?=\d)", "$-$", text)
