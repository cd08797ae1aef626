"""TODO-DOC failures."""

import collections

COUNTS = collections.Counter()


def failed_rows(reset: bool = False) -> dict[str, int]:
  """What went wrong and was scored 0 or by a fallback since the last reset: bad rows, limits hit, judge failures."""
  counts = dict(COUNTS)
  if reset:
    COUNTS.clear()
  return counts


def failed(error: Exception) -> None:
  """Counts a row that could not be scored."""
  COUNTS[f"failed_{type(error).__name__}"] += 1
