"""Counts of what was scored 0, or by a fallback, instead of as it should be.

Scoring never stops a run of hours: a bad row, a limit hit or a judge that fails is counted here.
`failed_rows` hands the counts to the training log and the evaluation, which show them.
"""

import collections

COUNTS = collections.Counter()  # what went wrong → how often, since the last reset


def failed_rows(reset: bool = False) -> dict[str, int]:
  """The counts since the last reset: bad rows, limits hit, judge failures."""
  counts = dict(COUNTS)
  if reset:
    COUNTS.clear()
  return counts


def failed(error: Exception) -> None:
  """Counts a row that could not be scored."""
  COUNTS[f"failed_{type(error).__name__}"] += 1
