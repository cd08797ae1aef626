"""TODO-DOC readers."""

import contextlib
import csv
import functools
import hashlib
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable

from lib import contract
from lib.errors import InputError

MAX_LINE = 16 << 20  # bytes
READABLE = (".jsonl", ".json", ".csv", ".parquet", ".zip")
UNREADABLE = (
  LookupError,
  TypeError,
  AttributeError,
  ValueError,
  SyntaxError,
  RecursionError,
  EOFError,
  OSError,
  csv.Error,
  zlib.error,
  zipfile.BadZipFile,
)
say = functools.partial(print, flush=True)


# ---------------------------------------------------------------------------------------------------------- reading files
DECODER = json.JSONDecoder(parse_constant=int)  # int("NaN") is a ValueError: no NaN, no Infinity


def json_lines(path, file):
  """Yields (place, value) of each line that is not blank, one line in memory."""
  for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
    place = f"{path}:{number}"
    if len(line) > MAX_LINE:
      raise InputError(
        f"{place} is longer than {MAX_LINE >> 20} MiB; expected one JSON row a line; delete it"
      )
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8")
      if text.strip():
        value = DECODER.decode(text)
        if b"\\u" in line:
          json.dumps(value, ensure_ascii=False).encode()  # raises on half a surrogate pair
        yield place, value
    except UnicodeDecodeError as error:
      raise InputError(
        f"{place} is not UTF-8 (byte {line[error.start]:#04x}); convert the file to UTF-8"
      ) from None
    except UnicodeEncodeError:
      raise InputError(
        f"{place} holds half of a surrogate pair, which no text file can store; repair it"
      ) from None
    except (ValueError, RecursionError) as error:
      raise InputError(f"{place} is not a JSON row ({error}); repair or delete the line") from None


def records(path: pathlib.Path, file=None):
  """Yields (place, record) of a JSONL, JSON, CSV, parquet or zip file; `file`: the open one, where it stands inside a zip."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path) as archive:
      for member in sorted(archive.namelist()):
        if member.endswith(READABLE[:-1]) and not member.startswith("__MACOSX"):
          yield from records(path / member, archive.open(member))
    return
  with file or open(path, "rb") as file:
    found, first = None, 1
    if path.suffix == ".parquet":
      import pyarrow.parquet

      found = (
        row
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(2048)
        for row in batch.to_pylist()
      )
    elif path.suffix == ".csv":
      csv.field_size_limit(MAX_LINE)
      found, first = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")), 2
    elif path.suffix == ".json":
      text = file.read().decode("utf-8-sig")
      with contextlib.suppress(ValueError):  # JSON lines go by the name .json too
        found = DECODER.decode(text)
      json.dumps(found, ensure_ascii=False).encode()  # as above
      if isinstance(found, dict):
        found = next(
          (v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)),
          [found],
        )
      file.seek(0)
    yield from (
      json_lines(path, file)
      if found is None
      else ((f"{path}:{i}", row) for i, row in enumerate(found, first))
    )


def read_file(path: pathlib.Path, convert: Callable, expected: str, digests: dict, *label: str):
  """Yields (place, converted record) and notes the file's digest; what is not as expected raises InputError with its place."""
  if not path.is_file():
    found = "is a folder" if path.is_dir() else "does not exist"
    raise InputError(
      f"{path} {found}; expected a JSONL file of {expected}, or several with commas between"
    )
  place = path
  try:
    with open(path, "rb") as file:
      digests["/".join((*label, *path.parts[-2:]))] = hashlib.file_digest(
        file, "sha256"
      ).hexdigest()
    for place, record in records(path):
      yield place, convert(record)
  except InputError:
    raise
  except UNREADABLE as error:
    raise InputError(
      f"{place}: not {expected} ({type(error).__name__}: {error}); repair the file or take it away"
    ) from error


OPTIONAL = {
  "reasoning": str,
  "solution": str,
  "sections": dict,
  "facts": list,
  "test_cases": list,
  "test_setup_code": str,
  "entry_point": str,
}


def unified(row, place: str) -> dict:
  """A checked row of the unified schema, as the rest of this file uses it. Raises InputError naming the place."""
  if not isinstance(row, dict):
    raise InputError(
      f'{place}: expected a JSON object with "domain", "prompt", "answer", found {type(row).__name__}'
    )
  domain, question, answer, metadata = (
    row.get("domain"),
    row.get("prompt"),
    row.get("answer"),
    row.get("metadata") or {},
  )
  if answer is None and domain in contract.CREATIVE_DOMAINS:
    answer = ""  # only SFT would read it
  if isinstance(answer, int | float):
    answer = ("no", "yes")[answer] if isinstance(answer, bool) else str(answer)
  if domain not in contract.DOMAINS:
    raise InputError(f"{place}: unknown domain {domain!r}; valid: {', '.join(contract.DOMAINS)}")
  if not isinstance(question, str) or not question.strip():
    raise InputError(f'{place}: "prompt" is {question!r:.60}; expected the question\'s text')
  if not isinstance(answer, str) or not answer.strip() and domain in contract.VERIFIABLE_DOMAINS:
    raise InputError(
      f'{place}: "answer" is missing or empty ({answer!r:.60}); a {domain} row needs a reference answer as text'
    )
  if not isinstance(metadata, dict):
    raise InputError(f'{place}: "metadata" is {type(metadata).__name__}; expected an object')
  for name, kind in OPTIONAL.items():
    found = row.get(name) or metadata.get(name)
    if found and not isinstance(found, kind):
      raise InputError(
        f'{place}: "{name}" is {found!r:.60}; expected a {kind.__name__}, or nothing'
      )
  source, number = str(metadata.get("source") or domain), row.get("id", metadata.get("id"))
  if number is None:
    number = hashlib.blake2b(question.encode(), digest_size=8).hexdigest()
  number = str(number) if str(number).startswith(source) else f"{source}-{number}"
  return {
    "id": number,
    "domain": domain,
    "question": question.strip(),
    "answer": answer.strip(),
    "metadata": metadata,
    "reasoning": row.get("reasoning") or metadata.get("solution"),
    "sections": row.get("sections"),
    "place": place,
  }
