"""TODO-DOC summary."""

import collections

import numpy as np

from lib import checking, contract, intervals, tables
from lib.errors import InputError


def grouped(responses: list[dict], key: str) -> dict[str, list[dict]]:
  out = {}
  for r in responses:
    out.setdefault(r[key], []).append(r)
  return out


def domain_order(domain: str) -> tuple:
  return (
    contract.DOMAINS.index(domain) if domain in contract.DOMAINS else len(contract.DOMAINS),
    domain,
  )


def metrics(recipe: str) -> dict:
  """{name in results.json: (value of a response or None, whether it is a yes or no)}."""
  return {
    "format_rate": (lambda r: r["format"], True),
    "lenient_format_rate": (lambda r: r["lenient_format"], True),
    "truncated_rate": (lambda r: r["truncated"], True),
    "accuracy": (lambda r: r["correct"], True),
    "accuracy_lenient": (lambda r: r["correct_lenient"], True),
    "accuracy_well_formed": (lambda r: r["correct"] if r["format"] else None, True),
    "mean_reward": (lambda r: sum(r["rewards"][recipe].values()) if r["rewards"] else None, False),
  }


def estimate(values, questions, is_rate: bool, seed: int) -> tuple:
  """(mean, 95% interval) over distinct questions: samples and repeats of one are no new evidence. (None, None) without any."""
  known = [(float(v), q) for v, q in zip(values, questions) if v is not None]
  if not known:
    return None, None
  values, questions = zip(*known)
  p, units = intervals.mean(values), len(set(questions))
  return p, intervals.wilson(p * units, units) if is_rate else intervals.bootstrap(
    values, questions, seed
  )


def summarize(responses: list[dict], recipe: str, seed: int = 0) -> dict:
  """One domain's (or the overall) numbers. Rates are in [0, 1]; accuracy is over rows with an answer, None without any.

  `accuracy` needs strict format and a right answer; `accuracy_lenient` reads the answer out of ill-formed text too.
  """
  by_row, questions = grouped(responses, "id"), [r["question"] for r in responses]
  answered = [rs for rs in by_row.values() if rs[0]["correct"] is not None]
  out = {"n": len(by_row), "questions": len(set(questions)), "scored": len(answered)}
  for name, (value, is_rate) in metrics(recipe).items():
    out[name], out[name.removesuffix("_rate") + "_ci"] = estimate(
      map(value, responses), questions, is_rate, seed
    )
  scored, tokens = (
    [r["rewards"] for r in responses if r["rewards"]],
    [r["tokens"] for r in responses],
  )
  means = {
    system: {name: intervals.mean(r[system][name] for r in scored) for name in parts}
    for system, parts in (scored[0] if scored else {}).items()
  }
  out["rewards"] = {
    system: {**parts, "total": sum(parts.values())} for system, parts in means.items()
  }
  out |= {
    "composite": out["rewards"]["four_component"]["total"]
    if scored
    else None,  # seed 004's name for that system's sum
    "partial_credit": intervals.mean(r["partial"] for r in responses),
    "mean_tokens": intervals.mean(tokens),
    "p95_tokens": float(np.quantile(tokens, 0.95)),
  }
  given = [
    (r["parsed_answer"].casefold().strip(), r["correct"])
    for rs in answered
    for r in rs
    if r["parsed_answer"] is not None and r["domain"] != "coding"
  ]
  if given:
    top, count = collections.Counter(text for text, _ in given).most_common(1)[0]
    right = intervals.mean(correct for text, correct in given if text == top)
    out["top_answer"] = {
      "text": top[:40],
      "n": len(given),
      "share": count / len(given),
      "right": right,
    }
  samples = min(map(len, by_row.values()))
  if samples > 1 and answered:
    for k in sorted({2**i for i in range(samples.bit_length())} | {samples}):
      out[f"pass@{k}"] = intervals.mean(
        intervals.pass_at_k(len(rs), sum(r["correct"] for r in rs), k) for rs in answered
      )
    out[f"maj@{samples}"] = intervals.mean(
      checking.majority(rs[0]["domain"], [(r["parsed_answer"], r["correct"]) for r in rs])
      for rs in answered
      if rs[0]["domain"] != "coding"
    )  # programs cannot vote
  if judged := [r["judge"] for r in responses if r.get("judge")]:
    out["judge"] = {
      "n": len(judged),
      **{k: intervals.mean(j[k] for j in judged) for k in tables.JUDGED},
    }
  return out


def difference(pairs: list[tuple], value, is_rate: bool, seed: int) -> dict | None:
  """Paired change of `value(response)` over (responses before, responses after) of each row; None when no row has it.

  The exact test is McNemar's with one response a row and no repeated question, else the sign test on questions.
  """
  rows = [
    (new[0]["question"], intervals.mean(map(value, old)), intervals.mean(map(value, new)))
    for old, new in pairs
  ]
  rows = [row for row in rows if None not in row]
  if not rows:
    return None
  questions, before, after = zip(*rows)
  delta = np.subtract(after, before)
  by_question = np.bincount(np.unique(questions, return_inverse=True)[1], weights=delta)
  gained, lost = int((by_question > 1e-9).sum()), int((by_question < -1e-9).sum())
  out = {"n": len(rows), "gained": gained, "lost": lost, "p": intervals.mcnemar(gained, lost)}
  for name, values, rate in (
    ("before", before, is_rate),
    ("after", after, is_rate),
    ("difference", delta, False),
  ):
    out[name], out[name + "_ci"] = estimate(values, questions, rate, seed)
  return {**out, "ci": out.pop("difference_ci")}


def compare_responses(before: list[dict], after: list[dict], recipe: str, seed: int = 0) -> dict:
  """Pairs two models' responses by row id. The accuracy gain is split exactly in two, row by row:

  correct = correct_lenient - (correct_lenient - correct): the change of the first term is *answers improved* (a right answer
  appears, whatever its tags), the fall of the second is *format learned* (a right answer is no longer lost to its tags).
  """
  old, new, known = grouped(before, "id"), grouped(after, "id"), metrics(recipe)
  ids = [i for i in new if i in old and old[i][0]["question"] == new[i][0]["question"]]
  if not ids:
    raise InputError(
      "the two evaluations share no row; compare models on the same data_dir and split"
    )
  values = {
    "format": known["format_rate"],
    "accuracy": known["accuracy"],
    "mean_reward": known["mean_reward"],
    "answers_improved": known["accuracy_lenient"],
    "format_learned": (
      lambda r: None if r["correct"] is None else r["correct"] - r["correct_lenient"],
      False,
    ),
  }
  domain, names = (
    lambda i: new[i][0]["domain"],
    sorted({new[i][0]["domain"] for i in ids}, key=domain_order),
  )
  table = lambda ids: {
    k: difference([(old[i], new[i]) for i in ids], *value, seed) for k, value in values.items()
  }
  right = {
    i: [intervals.mean(r["correct"] for r in side[i]) or 0 for side in (old, new)] for i in ids
  }
  return {
    "n": len(ids),
    "overall": table(ids),
    "domains": {d: table([i for i in ids if domain(i) == d]) for d in names},
    "flipped": {
      way: [i for i, (b, a) in right.items() if sign * (a - b) > 0]
      for way, sign in (("gained", 1), ("lost", -1))
    },
  }
