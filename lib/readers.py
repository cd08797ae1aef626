"""Files of rows, whatever form they come in, as one stream of records.

`list_files` finds the files under a folder and inside zips, `read_file` yields a file's records,
each with its place (for messages) and its split. JSON lines, JSON, CSV, TSV and parquet are read,
the text forms also as .gz. What a record's columns mean is the business of `columns` and
`public_sources`.
"""

import csv
import decimal
import functools
import gzip
import hashlib
import io
import itertools
import json
import pathlib
import re
import zipfile
import zlib
from typing import Any, NamedTuple

from lib import splits
from lib.errors import InputError

# A file without line ends would else be read whole, and the machine run out of memory.
MAX_LINE = 16 << 20  # bytes
FORMS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".ndjson")
# Forms to name in messages: to say "not read" helps more than "nothing found".
NOT_FORMS = (
  *(".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".docx", ".pdf", ".html"),
  *(".arrow", ".feather", ".avro", ".pkl", ".pickle", ".npy", ".npz", ".db", ".sqlite"),
  *(".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"),
)
# First bytes that belie the name of a text: a download that was saved under another name.
BINARY = {
  b"PK\x03\x04": "an Excel workbook or a zip",
  b"\xd0\xcf\x11\xe0": "an old Excel workbook",
  b"\x1f\x8b": "compressed by gzip",
  b"PAR1": "parquet",
  b"<!": "a web page",
}
BOM = "\N{BYTE ORDER MARK}".encode()  # Windows' editors put it before the first line
SEPARATORS = ",;\t|"
EXPECTED = "JSONL, JSON, CSV, TSV (each also .gz), parquet or zip"
# Parts of public sets that hold no rows, or copies of them: another wording, options, web pages.
NOT_ROWS = re.compile(
  r"socratic|distract|paragraphs|(?:^|/)\.|readme|license|dataset_info|__MACOSX", re.I
)
# What a damaged file, or a record that is not as published, can raise on its way to a row.
UNREADABLE = (
  LookupError,
  TypeError,
  AttributeError,
  ValueError,
  SyntaxError,
  RuntimeError,  # a zip with a password; too deep a nesting
  EOFError,
  OSError,
  csv.Error,
  zlib.error,
  zipfile.BadZipFile,
)
TO_UTF_8 = "save it as UTF-8, in Excel as CSV UTF-8"
# At once, also into a pipe: a notebook shows progress while a large file is read.
say = functools.partial(print, flush=True)


class DataFile(NamedTuple):
  """A file of rows on disk, or inside a zip on disk."""

  path: pathlib.Path
  name: str  # relative to where the search began, with the member's path below a zip's
  member: str = ""  # of the zip at `path`

  @property
  def place(self) -> str:
    return f"{self.path}/{self.member}" if self.member else str(self.path)


class Record(NamedTuple):
  place: str  # "pool.jsonl:7"
  split: str | None
  value: Any  # a dict, in a sound file


def form_of(name: str) -> str:
  """ ".jsonl" for "A.JSONL" and "a.jsonl.gz"; ".zip" for a zip; "" for a form that is not read."""
  # "a.csv.gz" has the suffix .gz; what counts is what is inside.
  suffix = pathlib.PurePosixPath(name.lower().removesuffix(".gz")).suffix
  return suffix if suffix in FORMS or name.lower().endswith(".zip") else ""


def list_files(root: pathlib.Path, wanted: str = "") -> list[DataFile]:
  """Files of rows under a folder, or in one file, training files first (see `splits`).

  wanted: a pattern for a file's relative path, lower case, letters and digits only: "arceasy" finds
  ARC-Easy/train.csv, and archive.zip that holds it.
  """
  paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
  files = []
  for path in paths:
    name = path.name if path == root else path.relative_to(root).as_posix()
    form = form_of(name)
    if form == ".zip":
      files += list_members(path, name, wanted)
    elif form and matches(name, wanted):
      files.append(DataFile(path, name))
  # A file that the user names is read whatever its name: my_distractors.csv may be the pool.
  kept = [file for file in files if root.is_file() and not file.member or is_rows(file, root)]
  return sorted(kept, key=lambda file: splits.split_of(None, path=file.name) != "train")


def named_files(path: pathlib.Path) -> list[DataFile]:
  """The files of rows that a path names: itself, or a zip's members.

  Of an unknown suffix the first bytes tell the form. Raises InputError where there is nothing to
  read.
  """
  if not path.is_file():
    found = "does not exist"
    if path.exists():
      found = "is a folder" if path.is_dir() else "is no file"
    raise InputError(
      f"{path} {found}; expected a JSONL file of rows or another form that is read ({EXPECTED}), "
      "several with commas between, or hf:OWNER/NAME"
    )
  if path.name.lower().endswith(NOT_FORMS):
    raise InputError(f"{path} is of a form that is not read; save it as {EXPECTED}")
  if not form_of(path.name):
    return [DataFile(path, path.name)]
  files = list_files(path)
  if not files:
    raise InputError(f"{path} holds no file of rows; expected {EXPECTED} in it")
  return files


def short_name(file: DataFile) -> str:
  """ "data/My.jsonl.gz" → "My"."""
  return pathlib.PurePosixPath(file.name).name.split(".")[0]


def is_rows(file: DataFile, root: pathlib.Path) -> bool:
  return not NOT_ROWS.search(file.member if root.is_file() else file.name)


def matches(name: str, wanted: str) -> bool:
  # "ARC-Easy/train.csv" → "arceasytraincsv": sets are spelled in many ways.
  return bool(re.search(wanted, re.sub(r"[\W_]", "", name.lower())))


def list_members(path: pathlib.Path, name: str, wanted: str) -> list[DataFile]:
  """The files of rows in a zip; a zip of anything else that is broken is none of our business."""
  try:
    with zipfile.ZipFile(path) as archive:
      members = sorted(archive.namelist())
  except (zipfile.BadZipFile, OSError) as error:
    if matches(name, wanted):
      raise InputError(
        f"{path} is no readable zip ({type(error).__name__}: {error}); download it again"
      ) from error
    return []
  # With the zip's own name: "gsm8k.zip/train.csv" is gsm8k by the first half alone.
  inside = [DataFile(path, f"{name}/{member}", member) for member in members]
  return [file for file in inside if form_of(file.member) in FORMS and matches(file.name, wanted)]


def unread(root: pathlib.Path, wanted: str) -> list[str]:
  """Names of the files that would match but are of a form that is not read, for messages."""
  names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
  return [name for name in names if name.lower().endswith(NOT_FORMS) and matches(name, wanted)]


def note_digest(path: pathlib.Path, digests: dict[str, str], *label: str):
  """Notes the SHA-256 of an input under its last two names, as config.json tells it."""
  # Not the whole path: the same data on another machine get the same config.json.
  key = "/".join((*label, *path.parts[-2:]))
  # Each member of a zip asks for it, and hashing a large zip takes seconds.
  if key not in digests:
    with open(path, "rb") as file:
      digests[key] = hashlib.file_digest(file, "sha256").hexdigest()


def read_file(file: DataFile, expected: str):
  """Yields the file's Records. Damage raises InputError, one line with its place.

  expected: what stands in messages, such as "rows of questions and answers".
  """
  place = file.place
  try:
    with open_file(file) as stream:
      reader = reader_of(form_of(file.member or file.path.name), stream.peek(8), place)
      # `place` moves on with the rows, so that damage is told with the last row that was sound.
      for place, key, value in reader(file.place, stream):
        yield Record(place, splits.split_of(value, key, file.name), value)
  except InputError:
    raise
  except UNREADABLE as error:
    raise not_as_expected(place, expected, error) from error


def reader_of(form: str, head: bytes, place: str):
  """The reader of a file, by its suffix's form and by its first bytes."""
  head = head.removeprefix(BOM).lstrip()
  if form == ".parquet":
    return read_parquet
  for first, found in BINARY.items():
    if head.startswith(first):
      raise InputError(
        f"{place} is {found}, by its first bytes; expected what its name says; rename it, or save "
        f"it as {EXPECTED}"
      )
  if form in (".jsonl", ".ndjson", "") and head.startswith(b"["):
    return read_json  # one list under the name of lines
  if not form and head and not head.startswith(b"{"):
    return read_csv  # a table named .txt, or without a suffix
  return READERS.get(form, read_json_lines)


def not_as_expected(place: str, expected: str, error: Exception) -> InputError:
  # str(KeyError("a")) is "'a'", with quotes that look odd in a sentence.
  kind = type(error).__name__
  text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  todo = "repair the file or take it away"
  if isinstance(error, UnicodeDecodeError):  # Excel's plain CSV and "Unicode text"
    todo = TO_UTF_8
  if isinstance(error, csv.Error):
    todo = 'in the row after it, close the quotes and double those inside: "an ""odd"" cell"'
  return InputError(f"{place}: not {expected} ({kind}: {text}); {todo}")


def open_file(file: DataFile):
  """The file's bytes, unpacked; closed with the stream that is returned."""
  if not file.member:
    stream = open(file.path, "rb")  # noqa: SIM115 - the caller closes it
  else:
    # The archive stays open as long as the member's stream lives.
    stream = zipfile.ZipFile(file.path).open(file.member)  # noqa: SIM115
  gzipped = (file.member or file.path.name).lower().endswith(".gz")
  return gzip.GzipFile(fileobj=stream) if gzipped else stream


# A reader takes the file's place and its bytes, and yields (place, key, value); key is the JSON key
# that a list of rows stands under, else "".


# Python's JSON takes NaN and Infinity; no other reader of what we write would.
def refuse_constant(name: str):
  raise InputError(f"{name} is no JSON value")


DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def check_surrogates(place: str, value):
  """Half of a surrogate pair, "\\ud83d" alone, is JSON but no text that a file can store."""
  try:
    json.dumps(value, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    raise InputError(
      f"{place} holds half of a surrogate pair (surrogates not allowed in text); repair it"
    ) from None


def read_json_lines(path: str, stream):
  """One line in memory at a time; blank lines are skipped."""
  # One byte more than the longest allowed tells a line at the limit from one beyond it.
  for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
    place = f"{path}:{number}"
    if len(line) > MAX_LINE:
      raise InputError(
        f"{place} is longer than {MAX_LINE >> 20} MiB; expected one JSON row a line; delete it"
      )
    try:
      text = (line.removeprefix(BOM) if number == 1 else line).decode()
      value = DECODER.decode(text) if text.strip() else None
    except UnicodeDecodeError as error:
      raise InputError(
        f"{place} is not UTF-8 (byte {line[error.start]:#04x}); convert the file to UTF-8"
      ) from None
    except (ValueError, RecursionError) as error:
      raise InputError(f"{place} is not a JSON row ({error}); repair or delete the line") from None
    # Only an escape can make one, as UTF-8 cannot hold it; it is slow, so only then checked.
    if b"\\u" in line:
      check_surrogates(place, value)
    if text.strip():
      yield place, "", value


def read_json(path: str, stream):
  """A list of rows, an object that holds lists of rows, or JSON lines by the name of .json."""
  data = stream.read()
  text = data.decode("utf-8-sig")
  try:
    found = DECODER.decode(text)
  except InputError as error:
    raise InputError(f"{path} is not JSON ({error}); repair or delete the value") from None
  except json.JSONDecodeError as error:
    # A list that breaks off is damaged; anything else may be JSON lines, also of lists.
    if text.lstrip().startswith("[") and error.msg != "Extra data":
      raise InputError(
        f"{path}:{error.lineno} is not a JSON row ({error.msg}); repair the file"
      ) from None
    yield from read_json_lines(path, io.BytesIO(data))
    return
  number = 0
  for key, rows in row_lists(found):
    for row in rows:
      number += 1
      place = f"{path}:{number}"
      if "\\u" in text:
        check_surrogates(place, row)
      yield place, key, row


def row_lists(found, key: str = "") -> list[tuple[str, list]]:
  """(key, rows) of each list of rows in a JSON value, training rows first.

  {"train": [...], "test": [...]} gives both under their names, and nothing else that stands beside
  them; {"version": 2, "data": [...]} gives the list that holds rows. An object of columns,
  {"question": [...], "answer": [...]} or pandas' {"question": {"0": ...}}, and one of rows by
  their id give their rows.
  """
  if isinstance(found, list):
    return [(key, found)]
  if not isinstance(found, dict) or is_conversation(found):
    return [(key, [found])]
  # The names of splits come first: beside them stand versions and citations.
  named = [name for name in found if splits.name_split(name) and may_hold_rows(found[name])]
  if named:
    lists = []
    for name in sorted(named, key=lambda name: splits.name_split(name) != "train"):
      lists += row_lists(found[name], name)
    return lists
  # Tried before lists of rows: a column of texts is a list as well.
  if columns := column_values(found):
    names = list(found)
    return [(key, [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)])]
  lists = [(key or name, rows) for name, rows in found.items() if is_list_of_objects(rows)]
  if lists:
    return lists
  inner = list(found.values())
  if len(inner) == 1 and isinstance(inner[0], dict):  # {"data": {"train": […]}}
    return row_lists(inner[0], key)
  # Rows by id: {"q1": {…}, "q2": {…}}. A single one may be a row with an object in it.
  if len(found) > 1 and is_list_of_objects(list(found.values())):
    return [(key, list(found.values()))]
  return [(key, [found])]


def may_hold_rows(value) -> bool:
  return isinstance(value, dict) or is_list_of_objects(value)


def is_list_of_objects(value) -> bool:
  return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def is_conversation(found: dict) -> bool:
  """One row whose list holds turns, not rows."""
  return any(
    isinstance(value, list)
    and value
    and isinstance(value[0], dict)
    and value[0].keys() & {"role", "from"}
    for value in found.values()
  )


def column_values(found: dict) -> list[list] | None:
  """The columns of an object of columns, each a list of cells; None for any other object."""
  columns = []
  for value in found.values():
    # pandas' to_json: {"0": "first cell", "1": "second cell"}.
    numbered = isinstance(value, dict) and all(name.isdigit() for name in value)
    cells = list(value.values()) if numbered else value
    if not isinstance(cells, list) or any(isinstance(cell, dict) for cell in cells):
      return None
    columns.append(cells)
  same_length = len({len(cells) for cells in columns}) == 1
  return columns if len(columns) > 1 and same_length and columns[0] else None


def read_csv(path: str, stream, separator: str = ","):
  """Rows of text by the first line's column names; an empty cell is "", a missing one None.

  Columns without a name are left out: pandas' row numbers, or commas at the ends of lines.
  """
  # The module's own limit, 128 KiB, is less than a long article.
  csv.field_size_limit(MAX_LINE)
  # newline="": line ends inside quotes belong to the cell, so the csv module must see them.
  text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
  first = text.readline()
  if "\0" in first:
    raise InputError(f"{path}:1 holds NUL bytes, as UTF-16 does; {TO_UTF_8}")
  if told := re.fullmatch(r'"?sep=(.)"?\s*', first, re.I):  # Excel's own word
    separator, first = told[1], text.readline()
  else:
    separator = find_separator(first, separator)
  # Strict: a quote that is never closed would else take all further rows into its cell.
  table = csv.reader(itertools.chain([first], text), delimiter=separator, strict=True)
  header = [name.strip() for name in next(table, [])]
  check_header(path, header)
  number = 1
  for cells in table:
    if not cells:
      continue
    number += 1
    while len(cells) > len(header) and not cells[-1].strip():
      cells.pop()  # separators at the end of a line
    if len(cells) > len(header):
      raise InputError(
        f"{path}:{number} has {len(cells)} cells, its header {len(header)}; put quotes around "
        "a cell that holds the separator"
      )
    # Short rows are common in sheets, whose last cells are empty; long ones mean a shift.
    cells += [None] * (len(header) - len(cells))
    row = dict(zip(header, cells, strict=True))
    row.pop("", None)
    yield f"{path}:{number}", "", row


def find_separator(header: str, usual: str) -> str:
  """The character that makes the most cells of a header, of equal ones the usual.

  Spreadsheets of half of Europe write semicolons; tables named .csv may hold tabs or bars.
  """

  def count(separator: str) -> int:
    return len(next(csv.reader([header], delimiter=separator), []))

  return max((usual, *SEPARATORS), key=count)


def check_header(path: str, header: list[str]):
  """Refuses two columns of one name: the second would silently win in the row's dict."""
  seen = set()
  for name in filter(None, header):
    # Answer and answer are one column to `columns`.
    if name.lower() in seen:
      raise InputError(f"{path}:1 names the column {name!r} twice; rename or delete one of them")
    seen.add(name.lower())


def read_tsv(path: str, stream):
  return read_csv(path, stream, separator="\t")


def read_parquet(path: str, stream):
  """2,048 rows in memory at a time. NaN, which pandas writes for no value, is None; JSON has no
  decimals, so that one is its text.
  """
  import pyarrow.parquet

  number = 0
  for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(2048):
    for row in batch.to_pylist():
      number += 1
      for name, value in row.items():
        # Only NaN differs from itself.
        if isinstance(value, float) and value != value:
          row[name] = None
        elif isinstance(value, decimal.Decimal):
          row[name] = str(value)
      yield f"{path}:{number}", "", row


READERS = {
  ".jsonl": read_json_lines,
  ".ndjson": read_json_lines,
  ".json": read_json,
  ".csv": read_csv,
  ".tsv": read_tsv,
  ".parquet": read_parquet,
}
