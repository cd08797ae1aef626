"""Files of JSON rows, and files that are written whole or not at all.

A process may die between any two bytes: `write_text` replaces a file in one move, `append_rows` may
leave half a line behind, which `read_rows(torn=True)` skips and `trim_rows` removes.
"""

import json
import os
import pathlib

from lib import hosts
from lib.errors import InputError

PREPARED = ("id", "domain", "question", "prompt")  # what every row of prepare_data.py has


def read_rows(path, torn: bool = False, needed: tuple[str, ...] = ()) -> list[dict]:
  """Rows of a JSONL file; a line that is none is named.

  torn: the writer may have been killed, or still writes; a last line without its end is no row.
  needed: names that every row has to have.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(
      f"{path} does not exist; the stage that writes it has not run "
      "(see the table of files in README.md)"
    )
  data = path.read_bytes()
  if torn:
    data = data[: data.rfind(b"\n") + 1]
  rows = []
  for number, line in enumerate(data.splitlines(), 1):
    try:
      row = json.loads(line)
    except ValueError as error:  # JSON and UTF-8 errors alike
      raise InputError(
        f"{path}:{number} is not a JSON row ({error}); repair or delete the line"
      ) from error
    missing = [name for name in needed if not isinstance(row, dict) or name not in row]
    if missing:
      raise InputError(
        f"{path}:{number} has no {', '.join(missing)}, which every row there has; make the file "
        "again with the script that writes it"
      )
    rows.append(row)
  return rows


def write_text(path, text: str):
  """Writes a whole file or nothing: a reader never sees half of it."""
  path = pathlib.Path(path)
  # Beside it: a rename is one step only within a file system.
  partial = path.with_name(f".{path.name}.partial")
  partial.write_text(text, encoding="utf-8")
  os.replace(partial, path)


@hosts.lead_writes
def write_rows(path, rows: list[dict]):
  """A whole JSONL file or nothing, its rows as they are."""
  write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def without_nan(row: dict) -> dict:
  """The row with null for NaN and infinity, which JSON has no word for."""
  return json.loads(json.dumps(row), parse_constant=as_null)


def as_null(name: str) -> None:
  """For a constant such as "NaN"."""


@hosts.lead_writes
def append_rows(path, rows: list[dict]):
  """Appends JSON lines in one write."""
  # One write: a kill cuts at most the last line, which `trim_rows` drops.
  lines = [json.dumps(without_nan(row), ensure_ascii=False, allow_nan=False) for row in rows]
  with open(path, "a", encoding="utf-8") as f:
    f.write("".join(line + "\n" for line in lines))


@hosts.lead_writes
def trim_rows(path, last_step: int):
  """Drops rows after `last_step` and a half-written last line: a resumed run writes those again."""
  path = pathlib.Path(path)
  if not path.is_file():  # stopped before its first step
    return
  kept = []
  for line in path.read_bytes().splitlines(keepends=True):
    try:
      row = json.loads(line)
    except ValueError:
      continue  # the line that a kill cut short
    if line.endswith(b"\n") and row["step"] <= last_step:
      kept.append(line.decode())
  write_text(path, "".join(kept))
