"""Which split a row belongs to: the one place where it is decided.

`name_split` reads a word such as a file's name; `split_of` asks the row first, then where it
stands. `evaluates` says which splits must never train.
"""

import functools
import re

# What people call the splits → the name used here. Whole words only: "latest" is no test.
NAMES = {
  "train": "train",
  "training": "train",
  "trainset": "train",
  "test": "test",
  "testing": "test",
  "testset": "test",
  "val": "val",
  "valid": "val",
  "validation": "val",
  "valset": "val",
  "dev": "dev",
  "devset": "dev",
  "eval": "eval",
  "evaluation": "eval",
  "heldout": "eval",
  "holdout": "eval",
}
COLUMNS = ("split", "Split", "SPLIT", "subset", "partition")
# "ARC-Easy-Train" → ARC Easy Train, "trainSplit2" → train Split
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


# Cached: the rows of a file ask about the same few names again and again.
@functools.lru_cache
def name_split(text: str) -> str | None:
  """The split that a text names: "latest_train.jsonl" → "train", "gsm8k_latest.jsonl" → None.

  "train_test_split" names both: what may be an evaluation row never trains.
  """
  words = [word.lower() for word in WORD.findall(text)]
  found = {NAMES[word] for word in words if word in NAMES}
  # False sorts first, so "train" comes last; then by name, as a set has no order.
  return min(found, key=lambda split: (split == "train", split), default=None)


def split_of(record, key: str = "", path: str = "") -> str | None:
  """The split of one record; None where nothing says it.

  The first that names a split decides: a column of the record, the key that its list stands under
  in a JSON file, the file's name, then its folders from the inside out.

  record: the row as it was read. path: of the file, relative to where the search for files began
  (what lies above says nothing), with a zip's members below the zip.
  """
  if isinstance(record, dict):
    for column in COLUMNS:
      if isinstance(record.get(column), str) and (found := name_split(record[column])):
        return found
  for place in (key, *reversed(path.split("/"))):
    if found := name_split(place):
      return found
  return None


def evaluates(split) -> bool:
  """Whether rows of this split only evaluate: True for "test", "dev", "Validation"; False for None.

  A name that starts like an evaluation split counts too: "test-clean", "validation_matched".
  """
  return str(split).strip().lower().startswith(("test", "dev", "val", "eval", "heldout", "holdout"))
