"""What an evaluation found, in sentences: the minute's worth, and the reasons to doubt it.

`minute` says whether training helped, by how much and on what; `fallen` what got worse; `doubts`
gives each reason for doubt with its count. To add a doubt, write a function that returns its
sentences and name it in DOUBTS.
"""

import re

from lib import comparison, summary, tables

MUCH_FALLEN = 0.01  # a domain that lost a point is named, sure or not
FEW_QUESTIONS = 100  # below, an interval of accuracy is wider than 20 points


def minute(results: dict) -> list[str]:
  """What a reader takes away in a minute: did it help, by how much, on what."""
  overall = results["overall"]
  # Named, because 0.7 of one reward system is not 0.7 of another.
  reward = f"Mean reward ({tables.named(results['recipe'])})"
  if "compare" not in results:
    # Without another model there is nothing to compare: the numbers, and that this is so.
    accuracy, form, paid = (
      tables.show(overall[name], overall[summary.interval_key(name)], spec)
      for name, spec in (("accuracy", ".1%"), ("format_rate", ".1%"), ("mean_reward", ".3f"))
    )
    return [
      f"Accuracy {accuracy}; strict format {form}; {reward} {paid}. Compared with nothing "
      "(--compare)."
    ]
  # First whether it helped at all, then why, then where.
  change = results["compare"]["overall"]
  out = []
  # None where no shared row has an answer: creative domains alone, say.
  if change["accuracy"]:
    out.append(comparison.describe(change["accuracy"], "Accuracy"))
    out.append(
      f"Of that, format learned: {tables.points(change['format_learned'])} points; answers "
      f"improved: {tables.points(change['answers_improved'])} points."
    )
  out.append(comparison.describe(change["format"], "Strict format"))
  if change["mean_reward"]:
    out.append(comparison.describe(change["mean_reward"], reward, is_rate=False))
  return out + moved_domains(results)


def moved_domains(results: dict) -> list[str]:
  """Domains whose accuracy changed for certain, and those that fell."""
  # With their intervals: a domain has few questions, so that a large change may be a wide one.
  moved = []
  for domain, change in results["compare"]["domains"].items():
    accuracy = change["accuracy"]
    # Of seven domains some always moved: only those that did so for certain are named.
    if accuracy and comparison.is_sure(accuracy):
      moved.append(f"{tables.named(domain)} ({tables.points(accuracy)})")
  listed = ", ".join(moved) or "none"
  out = [f"Domains with a measurable change of accuracy, in points: {listed}."]
  worse = [
    f"{words.lower()} overall"
    if domain == "overall"
    else f"{words.lower()} in {tables.named(domain)}"
    for domain, words, _ in fallen_numbers(results)
  ]
  if worse:
    out.append(f"Fell by a point or more, see the reasons for doubt: {', '.join(worse)}.")
  return out


def fallen_numbers(results: dict) -> list[tuple[str, str, dict]]:
  """[(domain or "overall", what, its change)] of the rates that got worse by a point or more."""
  if "compare" not in results:
    return []
  out = []
  # Overall too: a model may gain format and lose accuracy.
  for domain, changes in tables.table_of(results["compare"]).items():
    for name, words in (("accuracy", "Accuracy"), ("format", "Strict format")):
      change = changes[name]
      if change and change["difference"] <= -MUCH_FALLEN:
        out.append((domain, words, change))
  return out


# ---- reasons for doubt: each returns its sentences, [] where there is nothing to say
def fallen(results: dict) -> list[str]:
  """What got worse, measurably or not: a gain overall must not hide it."""
  out = []
  for domain, words, change in fallen_numbers(results):
    where = "" if domain == "overall" else f" in {tables.named(domain)}"
    lost = f"{-100 * change['difference']:.1f} points"
    evidence = comparison.describe_evidence(change, is_rate=True)
    # A fall that may be luck is still named: silence would read as no fall.
    sure = "measurable" if comparison.is_sure(change) else "within chance, but not ruled out"
    out.append(f"{words}{where} fell by {lost} ({evidence}): {sure}.")
  return out


def constant_answers(results: dict) -> list[str]:
  out = []
  for domain, numbers in results["domains"].items():
    # Twenty answers at least: one well-formed answer is no habit.
    top = numbers.get("top_answer")
    if not top or min(numbers["scored"], top["n"]) < 20:
      continue
    # Not where it is mostly right: then the questions are one-sided, and not the model.
    if top["share"] > 0.8 > top["right"]:
      # A model's markup is not repeated in a sentence of ours.
      bare = re.fullmatch(r"[\w .-]+", top["text"])
      answer = repr(top["text"]) if bare else "one and the same text"
      out.append(
        f"{top['share']:.0%} of the answers in {tables.named(domain)} are {answer}, right "
        f"{top['right']:.0%} of the time: a constant, not an ability."
      )
  return out


def few_questions(results: dict) -> list[str]:
  overall = results["overall"]
  out = []
  if overall["questions"] < FEW_QUESTIONS:
    out.append(f"Only {overall['questions']} distinct questions: the intervals are wide.")
  # The same question twice is one piece of evidence: see `summary.estimate`.
  if overall["n"] > overall["questions"]:
    out.append(
      f"{overall['n']} rows hold {overall['questions']} distinct questions; intervals and tests "
      "count questions."
    )
  return out


def unlike_comparison(results: dict) -> list[str]:
  out = []
  # Pairs need the same question on both sides.
  rows = results["overall"]["n"]
  shared = results["compare"]["n"] if "compare" in results else rows
  if shared < rows:
    out.append(
      f"Only {shared} of {rows} rows are also in the evaluation compared with: the changes are "
      "over those."
    )
  if results.get("differs"):
    # E.g. a longer --max_new_tokens lets more answers end.
    differs = ", ".join(
      f"{name} {value!r} (here {results[name]!r})" for name, value in results["differs"].items()
    )
    out.append(f"The evaluation compared with had {differs}: a change may come from that.")
  return out


def cut_short(results: dict) -> list[str]:
  # One answer in twenty is a tail; more is a limit set too low.
  share = results["overall"]["truncated_rate"]
  if share <= 0.05:
    return []
  return [
    f"{tables.show(share)} of the responses were cut at {results['max_new_tokens']} tokens, so "
    "they cannot be well "
    "formed; raise --max_new_tokens."
  ]


def equal_rewards(results: dict) -> list[str]:
  # E.g. a base model that never closes a tag: reward 0 in every row.
  equal = []
  for domain, numbers in results["domains"].items():
    ci = numbers["mean_reward_ci"]
    # Resampling equal values gives equal means, however few they are.
    if ci and ci[1] - ci[0] < 1e-9:
      equal.append(tables.named(domain))
  if not equal:
    return []
  return [
    f"All rewards in {', '.join(equal)} are equal: their bootstrap interval has no width, which is "
    "no certainty."
  ]


def unchecked(results: dict) -> list[str]:
  out = []
  if results["unscored_rows"]:
    out.append(
      f"{results['unscored_rows']} rows of verifiable domains could not be checked (no answer, or "
      "--code_rewards=off) and were evaluated for format only."
    )
  # None without a judge.
  judge = results["judge"] or {"malformed": 0, "failed": 0}
  if judge["malformed"] or judge["failed"]:
    out.append(
      f"The judge gave {judge['malformed']} malformed replies and none to {judge['failed']} "
      "responses."
    )
  if results["check_failures"]:
    counts = ", ".join(f"{name} {count}" for name, count in results["check_failures"].items())
    out.append(f"Checks that failed and count as wrong: {counts}.")
  return out


def other_prompt(results: dict) -> list[str]:
  out = []
  # One is on purpose, to measure it; the other a risk that the user took.
  if results["prompt_variant"]:
    out.append(f"Prompts were spoiled on purpose ({results['prompt_variant']}).")
  if results["prompt_mismatch"]:
    out.append("The checkpoint was trained with another prompt text (--allow_prompt_mismatch).")
  return out


def one_draw(results: dict) -> list[str]:
  # The intervals are over questions, and do not see how much another draw would change.
  if results["temperature"] > 0 and results["samples"] == 1:
    return ["One sample at a temperature: another seed gives other answers."]
  return []


def overlap_unknown(results: dict) -> list[str]:
  out = []
  if results.get("trained_elsewhere"):
    out.append(
      "The checkpoint was trained on another train.jsonl than the one beside the evaluated rows: "
      "overlap with its training is unknown."
    )
  if not results["contamination"]:
    out.append(
      "No stats.json of prepare_data.py stands beside the evaluated rows: overlap with training is "
      "unknown."
    )
  return out


DOUBTS = (
  fallen,
  constant_answers,
  few_questions,
  unlike_comparison,
  cut_short,
  equal_rewards,
  unchecked,
  other_prompt,
  one_draw,
  overlap_unknown,
)


def doubts(results: dict) -> list[str]:
  """Reasons to believe the numbers less, each with its count."""
  # In the order of the table: what got worse comes first.
  found = []
  for doubt in DOUBTS:
    found += doubt(results)
  # Silence would read as nothing having been looked for.
  return found or ["Nothing stands out: enough distinct questions, none of them trained on."]
