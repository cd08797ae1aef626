"""What a table's cell holds where it is more than text: a list or an object that somebody saved as
CSV, and the value of the first of several columns.
"""

import ast
import io
import json
import re
import tokenize


def text(record: dict, *names: str) -> str:
  """The first of these columns that holds something, as text; "" where they are empty or null.

  Raises KeyError, naming what is there, where the record has none of the columns.
  """
  there = [name for name in names if name in record]
  if not there:
    raise KeyError(f"no column {' or '.join(names)} among {', '.join(map(str, record))}")
  for name in there:
    if record[name] is not None and str(record[name]).strip():
      return str(record[name])
  return ""


def texts(value) -> list[str]:
  """The texts of a list, or of a list that a CSV holds as text.

  '["a", "b"]' as JSON has it, "['a', 'b']" as Python has it and "['a' 'b']" as numpy prints it all
  give ["a", "b"]; a text that is no list is a list of one; nothing gives [].
  """
  if value is None or value == "":
    return []
  if not isinstance(value, str):
    return [str(item) for item in value]
  if not value.lstrip().startswith("["):
    return [value]
  try:
    return [str(item) for item in json.loads(value)]
  except ValueError:
    # Python would join numpy's 'a' 'b' into 'ab': so each string is taken as a token.
    tokens = tokenize.generate_tokens(io.StringIO(value.strip()).readline)
    return [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]


def value(cell):
  """A list or an object that a CSV holds as JSON or as Python prints it; anything else as it is.

  pandas prints a column of arrays as `array(['a', 'b'], dtype=object)`, and objects in an array
  without commas between them.
  """
  if not isinstance(cell, str) or cell.strip()[:1] not in ("[", "{"):
    return cell
  try:
    return json.loads(cell)
  except ValueError:
    # array(['a', 'b'], dtype=object) → ['a', 'b']
    plain = re.sub(r"\barray\((\[.*?\]), dtype=\w+\)", r"\1", cell, flags=re.S)
    # [{'a': 1} {'b': 2}] → [{'a': 1}, {'b': 2}]
    plain = re.sub(r"\}\s+\{", "}, {", plain)
    try:
      # Literals only: a cell is somebody else's text and must never run.
      return ast.literal_eval(plain.strip())
    except (ValueError, SyntaxError):
      return cell  # a text that begins with a bracket
