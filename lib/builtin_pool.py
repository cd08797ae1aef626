"""The pool that needs no download: seven domains in about 250 words, generated from a seed.

A word is one token of the tiny model, and a question fits in 40. `builtin_pool` draws the rows,
from the kinds in BUILTIN; lib/builtin_questions.py makes a question of each kind.

How a tiny model can learn from it: questions of the STATEFUL kinds have two right solutions.
"worked" carries a running total or state from step to step, so that each token is easy to
predict. "terse" jumps to the answer, which a tiny model mostly cannot do. SFT shows it both, and
GRPO can find out that working pays. These kinds are most of the rows and share their steps (one
small table of sums, one of flips), so minutes are enough to learn to work. The other kinds are a
thin tail for variety.
"""

import random
import zlib
from collections.abc import Callable
from typing import NamedTuple

from lib import builtin_questions, contract

# More than half, so that after SFT working is the rarer habit and GRPO has something to find.
TERSE_SHARE = 0.55  # of the stateful rows that show the terse solution
SFT_SHARE = 0.6  # of the rows that SFT may see; the others are GRPO's


class Domain(NamedTuple):
  share: int  # percent of the rows
  kinds: dict[str, tuple[int, Callable]]  # kind → how often it is drawn, and what makes it


# The first kind of each domain is drawn most: these share their steps (see above).
BUILTIN = {
  "math": Domain(
    31,
    {
      "total": (8, builtin_questions.math_total),
      "groups": (1, builtin_questions.math_groups),
      "difference": (1, builtin_questions.math_difference),
      "compare": (1, builtin_questions.math_compare),
      "sequence": (1, builtin_questions.math_sequence),
    },
  ),
  "coding": Domain(
    19,
    {
      "merge": (7, builtin_questions.code_merge),
      "repeat": (1, builtin_questions.code_repeat),
      "example": (1, builtin_questions.code_example),
      "steps": (1, builtin_questions.code_steps),
      "check": (1, builtin_questions.code_check),
      "list": (1, builtin_questions.code_list),
      "pair": (1, builtin_questions.code_pair),
    },
  ),
  "science": Domain(
    20,
    {
      "journey": (7, builtin_questions.science_journey),
      "heat": (1, builtin_questions.science_heat),
      "legs": (1, builtin_questions.science_legs),
      "motion": (1, builtin_questions.science_motion),
      "fact": (1, builtin_questions.science_fact),
      "kind": (1, builtin_questions.science_kind),
      "rank": (1, builtin_questions.science_rank),
      "units": (1, builtin_questions.science_units),
    },
  ),
  "logic": Domain(
    20,
    {
      "parity": (6, builtin_questions.logic_parity),
      "switch": (2, builtin_questions.logic_switch),
      "swap": (1, builtin_questions.logic_swap),
      "order": (1, builtin_questions.logic_order),
      "rule": (1, builtin_questions.logic_rule),
      "truth": (1, builtin_questions.logic_truth),
    },
  ),
  "creative_writing": Domain(3, {"prose": (1, builtin_questions.creative_prose)}),
  "creative_ideation": Domain(4, {"ideas": (1, builtin_questions.creative_ideas)}),
  "summarization": Domain(3, {"summary": (1, builtin_questions.creative_summary)}),
}
# Kinds whose terse solution is shown too, in TERSE_SHARE of their rows.
STATEFUL = (
  "total",
  "groups",
  "merge",
  "repeat",
  "journey",
  "heat",
  "motion",
  "legs",
  "parity",
  "switch",
  "swap",
  "poem",
  "story",
  "ideas",
  "summary",
)


def builtin_pool(seed: int = 0, size: int = 12000) -> list[dict]:
  """`size` rows with distinct questions, domains in about their shares; a function of (seed, size).

  metadata.use of a row is "sft" or "grpo", decided by its question alone: SFT must not see the
  rows that GRPO trains on, or the model remembers them, every group of answers scores alike and
  nothing is left to learn.
  """
  # A generator of its own: other draws in the process change nothing here.
  r = random.Random(seed)
  shares = [domain.share for domain in BUILTIN.values()]
  rows = []
  asked = set()
  repeats = 0
  while len(rows) < size:
    domain = r.choices(list(BUILTIN), shares)[0]
    kinds = BUILTIN[domain].kinds
    # Weights by repetition, not r.choices, which draws otherwise: the pool's rows must not change.
    tickets = []
    for name, (weight, _) in kinds.items():
      tickets += [name] * weight
    kind = r.choice(tickets)
    make = kinds[kind][1]
    if kind == "prose":
      kind = r.choice(("poem", "story"))
      problem = make(r, kind)
    else:
      problem = make(r)
    question = problem.asks[0]
    # No draw for a single wording, for the same reason.
    if len(problem.asks) > 1:
      question = r.choice(problem.asks)

    repeats = repeats + 1 if question in asked else 0
    # 1,000 repeats in a row: what is left to ask is too little to go on looking for.
    if repeats > 1000:
      raise ValueError(
        f"the built-in pool has about {len(rows)} distinct questions; {size} were asked for"
      )
    if not repeats:
      asked.add(question)
      rows.append(make_row(domain, kind, problem, question, f"builtin-{seed}-{len(rows):05d}"))
  return rows


def make_row(
  domain: str, kind: str, problem: builtin_questions.Problem, question: str, name: str
) -> dict:
  """A row of the unified schema; its part and its style follow from the question alone."""
  terse = kind in STATEFUL and fraction_of("style ", question) < TERSE_SHARE
  reasoning = problem.terse if terse else problem.worked
  row = {
    "domain": domain,
    "prompt": question,
    "answer": str(problem.answer),
    "metadata": {
      "source": "builtin",
      "id": name,
      "kind": kind,
      "style_of_solution": "terse" if terse else "worked",
      "use": "sft" if fraction_of("use ", question) < SFT_SHARE else "grpo",
      **problem.tests,
    },
    "reasoning": reasoning,
  }
  if domain == "math":
    # Plan, Reasoning, Evidence, Sanity_check, in `contract.SECTIONS`' order.
    sections = (problem.terse, reasoning, *problem.equations)
    row["sections"] = dict(zip(contract.SECTIONS, sections, strict=True))
  return row


def fraction_of(salt: str, question: str) -> float:
  """A number in [0, 1) that only the question decides."""
  # Not hash(): Python salts that anew in every process.
  return zlib.crc32((salt + question).encode()) / 2**32
