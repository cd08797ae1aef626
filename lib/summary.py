"""One model's responses as numbers: rates, rewards and lengths, each with its interval.

`summarize` is what results.json holds for a domain and overall; `metrics` lists what is measured on
a single response. To add a measure of your own, add a line to `metrics`: its mean and its interval
then stand in results.json under its name.
"""

import collections
import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib import checking, contract, intervals

JUDGED = {"reasoning": 5, "answer": 5, "overall": 10}  # what a judge grades, and the best grade


class Metric(NamedTuple):
  value: Callable[[dict], float | bool | None]  # of one response; None: not defined for it
  is_rate: bool  # a yes or no: its interval is Wilson's, otherwise a bootstrap's


class Estimate(NamedTuple):
  mean: float | None
  ci: list[float] | None  # [low, high], 95%


def grouped(items: list, key: Callable) -> dict[str, list]:
  """{key(item): the items of that key}, both in the order of `items`."""
  # A dict keeps the order of first appearance.
  groups = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return groups


# Keys of `grouped`.
row_of = operator.itemgetter("id")
domain_of = operator.itemgetter("domain")


def field_of(response: dict, field: str) -> str:
  """The value of a metadata field as text; "none" where a row lacks it."""
  value = response["metadata"].get(field)
  return "none" if value is None else str(value)


def by_metadata(responses: list[dict], field: str, recipe: str, seed: int = 0) -> dict[str, dict]:
  """{value of a metadata field: its numbers}, by name; {} without a field."""
  if not field:
    return {}
  groups = grouped(responses, lambda response: field_of(response, field))
  return {value: summarize(groups[value], recipe, seed) for value in sorted(groups)}


def domain_order(domain: str) -> tuple[int, str]:
  """Sorts domains as the project lists them, those of a user after them by name."""
  known = contract.DOMAINS
  place = known.index(domain) if domain in known else len(known)
  return place, domain


def total_reward(response: dict, recipe: str) -> float | None:
  """Sum of the components under --rewards=`recipe`; None where the answer could not be checked, or
  was evaluated under other rewards.
  """
  parts = (response["rewards"] or {}).get(recipe)
  return sum(parts.values()) if parts else None


def metrics(recipe: str) -> dict[str, Metric]:
  """{name in results.json: what it is of a response}."""

  # What a response already holds under a name.
  def field(name: str):
    return lambda response: response[name]

  # Accuracy is right and well formed; this one asks how often the well formed are right.
  def right_if_well_formed(response: dict) -> bool | None:
    return response["correct"] if response["format"] else None

  def reward(response: dict) -> float | None:
    return total_reward(response, recipe)

  return {
    "format_rate": Metric(field("format"), is_rate=True),
    "lenient_format_rate": Metric(field("lenient_format"), is_rate=True),
    "truncated_rate": Metric(field("truncated"), is_rate=True),
    "accuracy": Metric(field("correct"), is_rate=True),
    "accuracy_lenient": Metric(field("correct_lenient"), is_rate=True),
    "accuracy_well_formed": Metric(right_if_well_formed, is_rate=True),
    "mean_reward": Metric(reward, is_rate=False),
  }


def interval_key(name: str) -> str:
  """Where results.json keeps an interval: format_rate → format_ci, accuracy → accuracy_ci."""
  return name.removesuffix("_rate") + "_ci"


def estimate(values, questions, is_rate: bool, seed: int) -> Estimate:
  """Mean and interval of the known values. Distinct questions count: samples and repeats of one are
  no new evidence.
  """
  known = [
    (float(value), question)
    for value, question in zip(values, questions, strict=True)
    if value is not None
  ]
  if not known:
    return Estimate(None, None)
  values = [value for value, _ in known]
  questions = [question for _, question in known]
  # E.g. 10 questions of 4 samples each are 10 observations, not 40.
  rate = intervals.mean(values)
  if is_rate:
    # Wilson wants a count of successes: the rate over distinct questions, perhaps a fraction.
    distinct = len(set(questions))
    return Estimate(rate, intervals.wilson(rate * distinct, distinct))
  return Estimate(rate, intervals.bootstrap(values, questions, seed))


def summarize(responses: list[dict], recipe: str, seed: int = 0) -> dict:
  """One domain's (or the overall) numbers. Rates are in [0, 1]; accuracy is over rows with an
  answer, None without any.

  `accuracy` needs strict format and a right answer; `accuracy_lenient` reads the answer out of
  ill-formed text too.
  """
  # "n" counts rows, "questions" distinct ones, "scored" the rows that have an answer to check.
  by_row = grouped(responses, row_of)
  questions = [response["question"] for response in responses]
  answered = [samples for samples in by_row.values() if samples[0]["correct"] is not None]
  out = {"n": len(by_row), "questions": len(set(questions)), "scored": len(answered)}
  # The measures, each with its interval.
  for name, metric in metrics(recipe).items():
    values = [metric.value(response) for response in responses]
    out[name], out[interval_key(name)] = estimate(values, questions, metric.is_rate, seed)
  # Every reward system is computed on every response, whichever one trained the model.
  out["rewards"] = mean_rewards(responses)
  tokens = [response["tokens"] for response in responses]
  out |= {
    # The four_component write-up reports this sum under the name composite.
    "composite": out["rewards"].get("four_component", {}).get("total"),
    "partial_credit": intervals.mean(response["partial"] for response in responses),
    "mean_tokens": intervals.mean(tokens),
    "p95_tokens": float(np.quantile(tokens, 0.95)),
  }
  out |= most_frequent_answer(answered)
  out |= over_samples(by_row, answered)
  return out | judged(responses)


def mean_rewards(responses: list[dict]) -> dict[str, dict[str, float]]:
  """{reward system: {component: mean, "total": their sum}} over the responses that could be
  checked.
  """
  scored = [response["rewards"] for response in responses if response["rewards"]]
  if not scored:
    return {}
  # All responses have the same systems and components: the first names them.
  means = {}
  for system, components in scored[0].items():
    parts = {name: intervals.mean(r[system][name] for r in scored) for name in components}
    means[system] = parts | {"total": sum(parts.values())}
  return means


def most_frequent_answer(answered: list[list[dict]]) -> dict:
  """{"top_answer": …}: how often one and the same answer is given, and how often it is right.

  A policy that says B to everything is right as often as B is: that is a constant, no ability.
  """
  # Compared without case and outer spaces: "B" and "b " are one answer.
  given = []
  for samples in answered:
    for response in samples:
      # Programs are all different by their wording.
      if response["parsed_answer"] is not None and response["domain"] != "coding":
        given.append((response["parsed_answer"].casefold().strip(), response["correct"]))
  if not given:
    return {}
  top, count = collections.Counter(text for text, _ in given).most_common(1)[0]
  right = intervals.mean(correct for text, correct in given if text == top)
  share = count / len(given)
  return {"top_answer": {"text": top[:40], "n": len(given), "share": share, "right": right}}


def over_samples(by_row: dict[str, list[dict]], answered: list[list[dict]]) -> dict:
  """pass@k for k = 1, 2, 4, … and the majority vote; {} unless every row has several samples."""
  # A row that was left half done has fewer samples; k cannot exceed them.
  samples = min(len(responses) for responses in by_row.values())
  if samples < 2 or not answered:
    return {}
  out = {}
  # 4 samples: k = 1, 2, 4. 6 samples: k = 1, 2, 4, 6.
  powers = {2**i for i in range(samples.bit_length())}
  for k in sorted(powers | {samples}):
    chances = [
      intervals.pass_at_k(len(row), sum(response["correct"] for response in row), k)
      for row in answered
    ]
    out[f"pass@{k}"] = intervals.mean(chances)
  # maj@k (self-consistency, arXiv:2203.11171): the answer that most samples gave.
  votes = []
  for row in answered:
    domain = row[0]["domain"]
    if domain != "coding":  # programs cannot vote: two right ones differ
      vote = [(response["parsed_answer"], response["correct"]) for response in row]
      votes.append(checking.majority(domain, vote))
  out[f"maj@{samples}"] = intervals.mean(votes)
  return out


def judged(responses: list[dict]) -> dict:
  """{"judge": mean grades} of the responses that a judge graded; {} without any."""
  grades = [response["judge"] for response in responses if response.get("judge")]
  if not grades:
    return {}
  means = {name: intervals.mean(grade[name] for grade in grades) for name in JUDGED}
  return {"judge": {"n": len(grades), **means}}
