"""A JSON file of a model's folder, and how an error shows a value of it.

Apart from `gemma_config`, which needs Tunix: a tokenizer's files are read without it, in no time.
"""

import json

from lib.errors import InputError

NOT_A_MODEL = "--model must be a Hugging Face folder of a Gemma 3 text model"


def read_json(path: str) -> dict:
  """A JSON object from a model's folder."""
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)
  except ValueError as error:  # not JSON, not UTF-8
    raise InputError(f"{path} is not JSON ({error}); download it again") from error
  if not isinstance(found, dict):
    raise InputError(f"{path} holds a {type(found).__name__}, expected a JSON object")
  return found


def is_number(value) -> bool:
  # True is an int in Python, but no number in a config.
  return isinstance(value, int | float) and not isinstance(value, bool)


def short(value) -> str:
  """A value in an error: {"load_in_4bit": …} of bitsandbytes has a dozen keys."""
  text = json.dumps(value)  # as the file spells it: true, null
  return text if len(text) <= 60 else text[:57] + "…"
