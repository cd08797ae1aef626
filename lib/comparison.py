"""Two models on the same rows: what changed, by how much, and could it be luck?

`compare_responses` pairs them row by row, which sees far smaller changes than two separate
intervals do; `difference` measures one metric over the pairs; `is_sure` and `describe` say it in
words. A rate "rose" only if its exact test agrees.
"""

from typing import NamedTuple

import numpy as np

from lib import intervals, summary
from lib.errors import InputError
from lib.summary import Metric

SMALLEST_SHOWN = 5e-4  # a change below the last digit of a report is none
# 0.7 - 0.3 - 0.4 is -5.6e-17 in floating point, and no change.
TINY = 1e-9  # what rounding leaves of an equal pair


class Pair(NamedTuple):
  """The responses of two models to one row."""

  row_id: str
  domain: str
  before: list[dict]
  after: list[dict]


def pair_rows(before: list[dict], after: list[dict]) -> list[Pair]:
  """The rows that both hold, in the order of `after`: the same id with the same question."""
  # The same id with another question is another row: the data was prepared anew.
  old = summary.grouped(before, summary.row_of)
  pairs = []
  for row_id, new in summary.grouped(after, summary.row_of).items():
    if row_id in old and old[row_id][0]["question"] == new[0]["question"]:
      pairs.append(Pair(row_id, new[0]["domain"], old[row_id], new))
  if not pairs:
    raise InputError(
      "the two evaluations share no row; compare models on the same data_dir and split"
    )
  return pairs


def compare_responses(
  before: list[dict], after: list[dict], recipe: str, seed: int = 0, by: str = ""
) -> dict:
  """What results.json holds under "compare"; the change of accuracy is split exactly in two.

  correct = correct_lenient − (correct_lenient − correct). The change of the first term is *answers
  improved*: a right answer appears, whatever its tags. The fall of the second is *format learned*:
  a right answer is no longer lost to its tags.

  by: metadata field whose values are compared apart as well; "" for none.
  """
  pairs = pair_rows(before, after)
  # Accuracy may rise for two reasons, and only one of them is reasoning.
  measured = compared_metrics(recipe)

  def changes(part: list[Pair]) -> dict:
    return {name: difference(part, metric, seed) for name, metric in measured.items()}

  # In the order of the reports' other tables.
  domains = sorted({pair.domain for pair in pairs}, key=summary.domain_order)
  groups = {}
  if by:
    groups = summary.grouped(pairs, lambda pair: summary.field_of(pair.after[0], by))
  # With several samples a row is gained when a larger share of them is right.
  gained = [pair.row_id for pair in pairs if share_right(pair.after) > share_right(pair.before)]
  lost = [pair.row_id for pair in pairs if share_right(pair.after) < share_right(pair.before)]
  return {
    "n": len(pairs),
    "overall": changes(pairs),
    "domains": {d: changes([pair for pair in pairs if pair.domain == d]) for d in domains},
    "groups": {value: changes(part) for value, part in sorted(groups.items())},
    "flipped": {"gained": gained, "lost": lost},
  }


def compared_metrics(recipe: str) -> dict[str, Metric]:
  """{name under results["compare"]: metric}."""
  # The three headline numbers, then the two parts of the change of accuracy.
  known = summary.metrics(recipe)

  def minus_what_tags_cost(response: dict) -> int | None:
    if response["correct"] is None:
      return None
    return response["correct"] - response["correct_lenient"]  # −1: right, but not in its tags

  return {
    "format": known["format_rate"],
    "accuracy": known["accuracy"],
    "mean_reward": known["mean_reward"],
    "answers_improved": known["accuracy_lenient"],
    "format_learned": Metric(minus_what_tags_cost, is_rate=False),
  }


def share_right(samples: list[dict]) -> float:
  """Share of a row's samples that are right; 0 where nothing can be right."""
  return intervals.mean(response["correct"] for response in samples) or 0.0


def difference(pairs: list[Pair], metric: Metric, seed: int) -> dict | None:
  """Paired change of a metric, after minus before; None when no row has it.

  Its interval is a bootstrap's over questions.
  The exact test is McNemar's where a row has one response and no question repeats, otherwise the
  sign test on questions.
  """
  # Samples of a row are averaged: the pair is (before, after) of one row.
  questions = []
  before = []
  after = []
  for pair in pairs:
    old = intervals.mean(metric.value(response) for response in pair.before)
    new = intervals.mean(metric.value(response) for response in pair.after)
    if old is not None and new is not None:
      questions.append(pair.after[0]["question"])
      before.append(old)
      after.append(new)
  if not questions:
    return None
  # Direction by question: repeats of one question are one vote.
  moved = np.subtract(after, before)  # (rows,)
  # np.unique numbers the questions: ["a", "b", "a"] → [0, 1, 0].
  question_of_row = np.unique(questions, return_inverse=True)[1]
  # (questions,): the sum over a question's rows says which way it moved.
  by_question = np.bincount(question_of_row, weights=moved)
  gained = int((by_question > TINY).sum())
  lost = int((by_question < -TINY).sum())
  # Each side has its own interval too, but only the paired one says whether they differ.
  was = summary.estimate(before, questions, metric.is_rate, seed)
  now = summary.estimate(after, questions, metric.is_rate, seed)
  # False: a change may be negative, and Wilson's interval is for rates.
  change = summary.estimate(moved, questions, False, seed)
  return {
    "n": len(questions),
    "gained": gained,
    "lost": lost,
    "p": intervals.mcnemar(gained, lost),
    "before": was.mean,
    "before_ci": was.ci,
    "after": now.mean,
    "after_ci": now.ci,
    "difference": change.mean,
    "ci": change.ci,
  }


def is_sure(change: dict, is_rate: bool = True) -> bool:
  """Whether a change is more than luck: interval off zero, last digit shown, exact test agreeing.

  The bootstrap of four changed questions, or of one row, excludes zero by luck. No test of fewer
  than six changed questions can reach 5%, so a mean, which has no such test, must have moved on
  six.
  """
  # A change that a reader cannot see is not announced.
  if abs(change["difference"]) < SMALLEST_SHOWN:
    return False
  low, high = change["ci"]
  # Both bounds on one side of zero.
  excludes_zero = low * high > 0
  if is_rate:
    return excludes_zero and change["p"] < 0.05
  # Two-sided, five of five coins have p = 2 / 32 = 0.06, six of six 0.03.
  return excludes_zero and change["gained"] + change["lost"] > 5


def describe(change: dict, name: str, is_rate: bool = True) -> str:
  """One sentence: Accuracy rose: 62.0% → 77.1%, +15.1 points (95% interval +10.1 to +20.1; …)."""
  # "did not change" would claim more than a wide interval can show.
  verb = "did not change measurably"
  if is_sure(change, is_rate):
    verb = "rose" if change["difference"] > 0 else "fell"
  # "points", because 10% more of 62% would be 68.2%, not 72%.
  if is_rate:
    moved = (
      f"{change['before']:.1%} → {change['after']:.1%}, {100 * change['difference']:+.1f} points"
    )
  else:
    moved = f"{change['before']:.3f} → {change['after']:.3f}, {change['difference']:+.3f}"
  # What the verb rests on stands beside it.
  return f"{name} {verb}: {moved} ({describe_evidence(change, is_rate)})."


def describe_evidence(change: dict, is_rate: bool) -> str:
  """95% interval +10.1 to +20.1; 87 questions better, 19 worse, exact p < 0.001."""
  interval = describe_interval(change["ci"], is_rate)
  if not is_rate:
    return interval
  counts = f"{change['gained']} questions better, {change['lost']} worse"
  p = p_text(change["p"])
  return f"{interval}; {counts}, exact p {p if p.startswith('<') else f'= {p}'}"


def p_text(p: float) -> str:
  """0.004, or < 0.001: more digits of a small p mean nothing."""
  return "< 0.001" if p < 0.001 else f"{p:.3f}"


def describe_interval(ci: list[float], is_rate: bool) -> str:
  low, high = ci
  # No width: resampling equal changes gives the same mean each time.
  if high - low <= TINY:
    return "the same change in every pair"
  if is_rate:
    return f"95% interval {100 * low:+.1f} to {100 * high:+.1f}"
  return f"95% interval {low:+.3f} to {high:+.3f}"
