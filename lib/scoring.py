"""The one scorer of a text: is it in the format, and is its answer right?

GRPO, SFT's check and evaluation share it, so that their numbers mean the same. `read_texts` reads,
`credits` and `right_answers` check what was read. What is paid asks for the strict reading; what is
only measured may ask for the lenient one.
"""

from typing import NamedTuple

import numpy as np

from lib import checking, contract


class Reading(NamedTuple):
  """What a text answers."""

  strict: str | None  # by a text in exactly the format of its style; None: another text
  lenient: str  # also by one without tags: what a model can do before it is taught the format


def read_texts(texts: list[str], style: str) -> list[Reading]:
  readings = []
  for text in texts:
    # "<reasoning>…</reasoning>\n<answer>4</answer>" → "4" and "4"; a bare "4" → None and "4".
    response = contract.parse_response(text, style)
    strict = response.answer if response else None
    readings.append(Reading(strict, contract.read_answer(text, response)))
  return readings


def credits(rows: list[dict], answers: list[str | None], code_rewards: str = "on") -> np.ndarray:
  """(N,) in [0, 1]: what the answer to each of N rows is worth (`checking.grade`); 1 is right.

  0 for None, and where a domain has no right answer or no code may run.
  """
  # All at once: programs share one call of the sandbox.
  return np.array(
    checking.grade(
      [row["domain"] for row in rows],
      answers,
      [row["answer"] for row in rows],
      [row["metadata"] for row in rows],
      code_rewards,
    ),
    np.float64,
  )


def right_answers(
  rows: list[dict], answers: list[str | None], code_rewards: str = "on"
) -> np.ndarray:
  """(N,) bool: whether the answer to each of N rows is right."""
  # Only a right answer has the whole credit; a part of one has half at most.
  return credits(rows, answers, code_rewards) == 1.0
