"""What SFT costs: validation rows answered before and after it, and a warning where it hurt.

SFT can teach the format and lose accuracy (61 → 43 on GSM8K was published). `compare` is called
once before and once after training; `answer_rows` measures; `warn_if_damaged` says it loudly.
"""

import functools
import os
from typing import NamedTuple

import jax
import numpy as np

from lib import (
  batching,
  checking,
  command_line,
  hosts,
  jsonl,
  sampling,
  scoring,
  tokenization,
)
from lib.loading import Policy

AT_ONCE = 32  # answers sampled together; 0.3 GB each at 1,536 tokens with 1B
SHOWN = 4  # answers written to samples.jsonl


class Check(NamedTuple):
  """How the rows are answered."""

  style: str
  max_new_tokens: int
  samples: int  # draws a row for the majority vote; 0: greedy answers only
  seed: int
  code_rewards: str  # on or off


def answer_rows(policy: Policy, rows: list[dict], check: Check) -> tuple[dict, list[str]]:
  """({"format", "pass@1", "maj@k"}, the greedy texts).

  pass@1 is greedy, maj@k the vote of k draws at temperature 0.7; both leave out the domains that
  have no right answer, and programs cannot vote. Answers are read leniently
  (`scoring.Reading`): a model that knows much and no tags must not look ignorant before SFT.
  """
  answer = make_answerer(policy, rows, check)
  # Indices, not rows: they also choose a row's noise, whichever rows are answered.
  everything = list(range(len(rows)))
  texts = answer(everything, 1, 0.0)
  readings = scoring.read_texts(texts, check.style)
  judged = {"format": float(np.mean([reading.strict is not None for reading in readings]))}

  domains = checking.checked_domains(check.code_rewards)
  checked = [i for i in everything if rows[i]["domain"] in domains]
  if checked:
    right = right_answers(
      [rows[i] for i in checked], [readings[i].lenient for i in checked], check.code_rewards
    )
    judged["pass@1"] = float(right.mean())

  # Two programs that do the same are written differently, so no two would vote as one.
  voting = [i for i in checked if rows[i]["domain"] != "coding"]
  if voting and check.samples:
    k = check.samples
    # k texts to a row lie side by side: row n has drawn[n * k : (n + 1) * k].
    drawn = answer(voting, k, 0.7)
    repeated = [rows[i] for i in voting for _ in range(k)]
    answers = [reading.lenient for reading in scoring.read_texts(drawn, check.style)]
    votes = list(zip(answers, right_answers(repeated, answers, "on"), strict=True))
    # A row is won when the answer that most of its k texts give is right (2203.11171 §2).
    won = [
      checking.majority(rows[i]["domain"], votes[n * k : (n + 1) * k]) for n, i in enumerate(voting)
    ]
    judged[f"maj@{k}"] = float(np.mean(won))
  return judged, texts


def right_answers(rows: list[dict], answers: list[str], code_rewards: str) -> np.ndarray:
  """`scoring.right_answers` (N,); of several hosts each checks some of the rows."""
  part = hosts.own_share(len(rows))
  mine = scoring.right_answers(rows[part], answers[part], code_rewards)
  return np.concatenate(hosts.gather(mine))


def make_answerer(policy: Policy, rows: list[dict], check: Check):
  """f(indices of rows, k, temperature) → k texts to each of those rows, side by side."""
  ids = [tokenization.encode(policy.tokenizer, row["prompt"]) for row in rows]
  # A key for each row and draw, (rows, k, 2): before and after SFT the noise is the same, so
  # a difference is the model's.
  shape = (len(rows), max(1, check.samples))
  split = jax.random.split(jax.random.key(check.seed), shape)
  keys = np.asarray(jax.random.key_data(split))
  sample = functools.partial(
    sampling.sample,
    policy,
    width=tokenization.bucket(max(map(len, ids))),
    max_new_tokens=check.max_new_tokens,
  )

  def answer(chosen: list[int], k: int, temperature: float) -> list[str]:
    # Rows at once, so that their k answers come to AT_ONCE: 4 rows at k = 8.
    size = min(len(chosen), max(1, AT_ONCE // k))
    completions = []
    for part in batching.filled_batches(chosen, size):
      prompts = [ids[i] for i in part]
      completions.extend(
        sample(prompts, generations=k, temperature=temperature, keys=keys[part, :k])
      )
    # Without those of the rows that filled up.
    wanted = completions[: len(chosen) * k]
    return [tokenization.decode(policy.tokenizer, tokens) for tokens in wanted]

  return answer


def show_samples(path: str, step: int, rows: list[dict], texts: list[str]):
  """Writes the first answers to samples.jsonl, and prints two."""
  shown = [
    {"step": step, **{name: row[name] for name in ("id", "domain", "question")}, "response": text}
    for row, text in zip(rows[:SHOWN], texts, strict=False)
  ]
  jsonl.append_rows(path, shown)
  for row in shown[:2]:
    question = row["question"][:100]
    response = row["response"][:200]
    command_line.say(f"  [{row['domain']}] {question!r} -> {response!r}")


def warn_if_damaged(before: dict, after: dict):
  """A warning for each measure of right answers that fell."""
  for name in after:
    # pass@1 and maj@k; the format is what SFT is meant to change.
    if "@" in name and name in before and after[name] < before[name]:
      command_line.say(
        f"WARNING: SFT lowered {name} on validation rows from {before[name]:.3f} to "
        f"{after[name]:.3f}; train fewer steps, at a lower --learning_rate, or on targets closer "
        "to what the model says itself"
      )


def compare(policy: Policy, rows: list[dict], check: Check, out_dir: str, step: int) -> dict:
  """The measures of the model as it is after `step` updates; its answers go to samples.jsonl."""
  if not rows:
    return {}
  judged, texts = answer_rows(policy, rows, check)
  path = os.path.join(out_dir, "samples.jsonl")
  # Rows of `step` itself go; those of an earlier step, from before training, stay.
  jsonl.trim_rows(path, step - 1)  # a kill after these rows were written must not leave them twice
  show_samples(path, step, rows, texts)
  # Before training, step is 0.
  when = "after" if step else "before"
  numbers = ", ".join(f"{name} {value:.3f}" for name, value in judged.items())
  command_line.say(f"sft: {when} on {len(rows)} validation rows: {numbers}")
  return judged
