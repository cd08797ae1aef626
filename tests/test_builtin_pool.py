"""The built-in pool: deterministic, varied, every verifiable answer right by solvers that share no
code with it.
"""

import collections
import json
import math
import re

import pytest

from lib import builtin_pool, builtin_questions, checking, contract

LEGS = {"spider": 8, "ant": 6, "dog": 4, "bird": 2, "cat": 4, "bee": 6, "cow": 4, "hen": 2}
PLANETS = ["mercury", "venus", "earth", "mars", "jupiter", "saturn", "uranus", "neptune"]
SYMBOLS = {
  "iron": "Fe",
  "gold": "Au",
  "silver": "Ag",
  "lead": "Pb",
  "tin": "Sn",
  "copper": "Cu",
  "zinc": "Zn",
  "nickel": "Ni",
  "helium": "He",
  "neon": "Ne",
  "oxygen": "O",
  "argon": "Ar",
}
UNIT_SIZES = {
  ("cm", "m"): 100,
  ("g", "kg"): 1000,
  ("m", "km"): 1000,
  ("minutes", "hours"): 60,
  ("seconds", "minutes"): 60,
  ("days", "weeks"): 7,
}


@pytest.fixture(scope="module")
def pool():
  return builtin_pool.builtin_pool()


def solve_order(question):
  *facts, asked = re.findall(
    r"(\w+) (?:is )?(?:older|taller|faster) than (\w+)|is (\w+) \w+ than (\w+)\?", question
  )
  above = {(x, y) for x, y, *_ in facts}
  for _ in range(4):
    above |= {(x, z) for x, y in above for w, z in above if y == w}
  return "yes" if tuple(filter(None, asked)) in above else "no"


def solve_truth(question):
  given, asked = question.rstrip("?").split(": is ")
  words = given.split()
  said = {name: value == "yes" for name, value in zip(words[::2], words[1::2], strict=True)}
  return "yes" if eval(asked, {}, said) else "no"


def solve_rule(question):
  """Forward chaining over (kind or property) facts about the one who is named."""
  *facts, asked = question.rstrip("?").split(". ")
  who, *_, wanted = asked.removeprefix("is ").split()
  known = {re.fullmatch(rf"{who} is (?:a )?(\w+)", f).group(1) for f in facts if f.startswith(who)}
  refused = set()
  for _ in range(3):
    for quantifier, kind, what in re.findall(
      r"(each|all|no|only) (?:a )?(\w+) (?:is|are) (\w+)", ". ".join(facts)
    ):
      if quantifier in ("each", "all") and kind in known:
        known.add(what)
      if quantifier == "no" and kind in known:
        refused.add(what)
      if quantifier == "only":
        known |= {kind} if what in known else set()
        refused |= {what} if kind not in known else set()
  assert (wanted in known) != (wanted in refused), question
  return "yes" if wanted in known else "no"


def solve_parity(question):
  word = next(
    filter(
      None, re.search(r"number of (\w+)|is (\w+) (?:even|odd)|count (\w+) in", question).groups()
    )
  )
  listed = (
    re.search(
      r"((?:(?:yes|no|red|blue|on|off) ?){3,})", re.sub(r"is the number of \w+ ", "", question)
    )
    .group(1)
    .split()
  )
  return "yes" if (listed.count(word) % 2 == 1) == ("odd" in question) else "no"


def solve_switch(question):
  presses, start, asked = (
    question.count("press"),
    *re.search(r" is (on|off)\b.*is it (on|off)\?", question).groups(),
  )
  return "yes" if (start == asked) == (presses % 2 == 0) else "no"


def solve_swap(question):
  cups = ["x" if c == re.search(r"in ([pqr])", question).group(1) else "" for c in "pqr"]
  for x, y in re.findall(r"\b([pqr]) ([pqr])\b", question):
    i, j = "pqr".index(x), "pqr".index(y)
    cups[i], cups[j] = cups[j], cups[i]
  return "yes" if cups["pqr".index(question[-2])] else "no"


def solve(row):
  """The answer of one verifiable row that is not code, from the question's text alone."""
  question, kind = row["prompt"], row["metadata"]["kind"]
  numbers, words = [int(n) for n in re.findall(r"\d+", question)], re.findall(r"[a-z]+", question)
  if kind in ("total", "journey", "heat"):
    return str(sum(numbers))
  if kind in ("groups", "motion"):
    return str(math.prod(numbers))
  if kind == "difference":
    return str(2 * max(numbers) - sum(numbers))
  if kind == "compare":
    return str(max(numbers) if "more" in question else min(numbers))
  if kind == "sequence":
    return str(2 * numbers[2] - numbers[1])
  if kind == "legs":
    return str(sum(LEGS.get(w, 0) for w in words))
  if kind == "units":
    named = {w for w in words if any(w in pair for pair in UNIT_SIZES)}
    return str(numbers[0] * next(size for pair, size in UNIT_SIZES.items() if set(pair) == named))
  if kind == "rank":
    score = LEGS.get if "legs" in question else PLANETS.index
    pick = max if "more" in question or "further" in question else min
    return pick([w for w in words if w in LEGS or w in PLANETS], key=score)
  if kind == "kind":
    gases = ("helium", "neon", "oxygen", "argon")
    return next(w for w in words if w in SYMBOLS and (w in gases) == ("gas" in words))
  if kind == "fact":
    thing = next(w for w in words if w in LEGS or w in PLANETS or w in SYMBOLS)
    return str(
      LEGS[thing]
      if "legs" in words
      else PLANETS.index(thing) + 1
      if "orbit" in words
      else SYMBOLS[thing]
    )
  return {
    "order": solve_order,
    "truth": solve_truth,
    "rule": solve_rule,
    "parity": solve_parity,
    "switch": solve_switch,
    "swap": solve_swap,
  }[kind](question)


def test_same_seed_same_rows_other_seed_other_rows(pool):
  assert builtin_pool.builtin_pool() == pool
  other = builtin_pool.builtin_pool(seed=1)
  assert len({row["prompt"] for row in pool} & {row["prompt"] for row in other}) < len(pool) / 2


def test_seven_domains_of_distinct_questions(pool):
  counts = collections.Counter(row["domain"] for row in pool)
  assert (
    len({row["prompt"] for row in pool})
    == len({row["metadata"]["id"] for row in pool})
    == len(pool)
    >= 5000
  )
  assert set(counts) == set(contract.DOMAINS) and min(counts.values()) >= 300
  assert json.loads(json.dumps(pool)) == pool


def test_every_verifiable_answer_is_what_an_independent_solver_finds(pool):
  rows = [row for row in pool if row["domain"] in ("math", "science", "logic")]
  assert [row for row in rows if solve(row) != row["answer"]] == []


def test_worked_arithmetic_holds_and_ends_in_the_answer(pool):
  for row in pool:
    for left, right in re.findall(r"([\d+*-]+)=(\d+)", row["reasoning"]):
      assert eval(re.sub(r"\b0+(\d)", r"\1", left)) == int(right), row
    counted = row["domain"] in ("math", "science") and row["metadata"]["kind"] in (
      *builtin_pool.STATEFUL,
      "sequence",
      "difference",
    )
    if row["metadata"]["style_of_solution"] == "worked" and (
      counted or row["metadata"]["kind"] in ("merge", "repeat")
    ):
      assert (
        re.search(r"\d+$", row["reasoning"]).group() == re.search(r"\d+$", row["answer"]).group()
      ), row


def test_terse_rows_jump_and_worked_ones_write_every_state(pool):
  """The two styles that GRPO chooses between: both are there in number for every kind that has
  them.
  """
  styles = collections.defaultdict(collections.Counter)
  for row in pool:
    styles[row["metadata"]["kind"]][row["metadata"]["style_of_solution"]] += 1
    if row["metadata"]["style_of_solution"] == "terse":
      assert not re.search(r"\d|=", row["reasoning"]), row
  assert {kind for kind, n in styles.items() if n["terse"]} == set(builtin_pool.STATEFUL)
  assert all(
    0.4 < styles[kind]["terse"] / styles[kind].total() < 0.7 for kind in builtin_pool.STATEFUL
  )
  verifiable = [row for row in pool if row["domain"] in contract.VERIFIABLE_DOMAINS]
  assert (
    sum(row["metadata"]["kind"] in builtin_pool.STATEFUL for row in verifiable)
    > len(verifiable) / 2
  )


def test_maths_rows_carry_a_true_equation_for_the_answer_and_one_that_checks_it(pool):
  rows = [row for row in pool if row["domain"] == "math"]
  for row in rows:
    assert list(row["sections"]) == list(contract.SECTIONS) and all(row["sections"].values())
    for name in ("Evidence", "Sanity_check"):
      left, right = row["sections"][name].split("=")
      assert eval(left) == int(right), row
    assert row["metadata"]["kind"] == "compare" or row["sections"]["Evidence"].endswith(
      f"={row['answer']}"
    )


def test_coding_references_pass_and_other_programs_fail(pool):
  rows = [row for row in pool if row["domain"] == "coding"]
  for row in rows:
    facts = row["metadata"]
    assert facts["shown_test"] in row["prompt"] and facts["shown_test"] == facts["test_cases"][0]
    assert (
      sum(test in row["prompt"] for test in facts["test_cases"]) == 1
      and len(facts["test_cases"]) >= 3
    )
    names = {}
    exec(row["answer"], names)
    assert callable(names[facts["entry_point"]])
    for test in facts["test_cases"]:
      exec(test, names)
    # A constant that satisfies the shown test must not satisfy the hidden ones.
    parameters, value = (
      row["answer"].split(":")[0].split("(")[1],
      facts["shown_test"].split("==")[1],
    )
    exec(f"def {facts['entry_point']}({parameters}: return {value}", names)
    with pytest.raises(AssertionError):
      for test in facts["test_cases"]:
        exec(test, names)


def test_rows_are_not_one_template_with_numbers_swapped(pool):
  """Question shapes: numbers and the words that a draw fills in are replaced by a slot."""
  slots = {
    *LEGS,
    *PLANETS,
    *SYMBOLS,
    *builtin_questions.NAMES,
    *builtin_questions.COUNTED,
    *builtin_questions.THINGS,
  }
  slots |= {"yes", "no", "red", "blue", "on", "off"}
  shapes = collections.defaultdict(set)
  for row in pool:
    words = re.sub(r"\d+", "#", row["prompt"]).split()
    shapes[row["domain"]].add(
      re.sub(r"(_ )+", "_ ", " ".join("_" if w.strip(":.?") in slots else w for w in words))
    )
  assert all(len(shapes[d]) >= 15 for d in contract.VERIFIABLE_DOMAINS), {
    d: len(found) for d, found in shapes.items()
  }
  assert all(len(shapes[d]) >= 3 for d in contract.CREATIVE_DOMAINS)
  kinds = {
    d: {row["metadata"]["kind"] for row in pool if row["domain"] == d}
    for d in contract.VERIFIABLE_DOMAINS
  }
  assert all(len(k) >= 4 for k in kinds.values()), kinds


def test_small_vocabulary_and_balanced_answers(pool):
  words = {
    w
    for row in pool
    for w in re.findall("[A-Za-z]+", f"{row['prompt']} {row['reasoning']} {row['answer']}")
  }
  assert len(words) <= 250
  said = collections.Counter(row["answer"] for row in pool if row["domain"] == "logic")
  assert set(said) == {"yes", "no"} and 0.45 < said["yes"] / said.total() < 0.55


def test_use_and_style_follow_from_the_question_alone(pool):
  """The same question in another seed's pool falls on the same side: SFT rows of one run are never
  GRPO rows of the next.
  """

  def side(row: dict) -> tuple[str, str]:
    return row["metadata"]["use"], row["metadata"]["style_of_solution"]

  sides = {row["prompt"]: side(row) for row in pool}
  shared = [row for row in builtin_pool.builtin_pool(seed=2) if row["prompt"] in sides]
  assert len(shared) > 100
  assert all(sides[row["prompt"]] == side(row) for row in shared)
  for domain in contract.DOMAINS:
    uses = [row["metadata"]["use"] for row in pool if row["domain"] == domain]
    assert 0.53 < uses.count("sft") / len(uses) < 0.67
    styles = [row["metadata"]["style_of_solution"] for row in pool if row["domain"] == domain]
    assert 0.1 < styles.count("terse") / len(styles) < 0.7


def test_answers_satisfy_the_projects_own_check(pool):
  for row in pool[::20]:
    if row["domain"] in ("math", "science", "logic"):
      assert checking.is_correct(row["domain"], row["answer"], row["answer"], row["metadata"])


def test_more_rows_than_there_are_questions_is_an_error(monkeypatch):
  few = builtin_pool.Domain(1, {"sequence": (1, builtin_questions.math_sequence)})
  monkeypatch.setattr(builtin_pool, "BUILTIN", {"math": few})
  with pytest.raises(ValueError, match="distinct questions"):
    builtin_pool.builtin_pool(size=5000)
