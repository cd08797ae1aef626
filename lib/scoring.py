"""The one scorer of a text: is it in the format, and is its answer right?

GRPO, SFT's check and evaluation share it, so that their numbers mean the same.
"""

import numpy as np

from lib import checking, contract


def formatted_answers(texts: list[str], style: str) -> list[str | None]:
  """The answer of each text in exactly the format of `style`; None for any other text."""
  answers = []
  for text in texts:
    # "<reasoning>…</reasoning>\n<answer>4</answer>" → "4"; a bare "4" → None.
    response = contract.parse_response(text, style)
    answers.append(response.answer if response else None)
  return answers


def right_answers(
  rows: list[dict], answers: list[str | None], code_rewards: str = "on"
) -> np.ndarray:
  """(N,) bool: whether the answer to each of N rows is right.

  False for None, and where a domain has no right answer or no code may run.
  """
  # All at once: programs share one call of the sandbox.
  right = checking.is_correct_batch(
    [row["domain"] for row in rows],
    answers,
    [row["answer"] for row in rows],
    [row["metadata"] for row in rows],
    code_rewards,
  )
  return np.array(right, bool)
