"""Greedy answers to validation rows while a GRPO run goes on, scored by the same functions that
train.
"""

import numpy as np

from lib import batching, checking, rollouts, sampling, tokenization
from lib.grpo_learner import LeanGRPOLearner
from lib.loading import Policy


def answer_greedily(learner: LeanGRPOLearner, prompts: list[list[int]]) -> np.ndarray:
  """Completions (N, L) of N prompts of ids; as many at once as a training batch holds answers."""
  settings = learner.settings
  policy = Policy(learner.trainer.model, learner.tokenizer, learner.mesh, "", "", 0, 0.0)
  at_once = settings.rollout_batch_size * settings.num_generations
  completions = []
  for batch in batching.filled_batches(prompts, at_once):
    longest = max(len(prompt) for prompt in batch)
    out = sampling.sample(
      policy,
      batch,
      width=tokenization.fit(longest, settings.prompt_widths),
      max_new_tokens=settings.max_new_tokens,
      temperature=0.0,
    )
    completions.append(out)
  return np.concatenate(completions)[: len(prompts)]


def validation_metrics(learner: LeanGRPOLearner, rows: list[dict]) -> dict:
  """{"eval_reward", "eval_format", "eval_accuracy" (None where nothing can be checked),
  "eval_truncated"}.
  """
  if not rows:
    return {}
  # Like lengths share a batch; means do not mind the order.
  rows = sorted(rows, key=lambda row: len(row["prompt"]))
  ids = [tokenization.encode(learner.tokenizer, row["prompt"]) for row in rows]
  completions = answer_greedily(learner, ids)
  prompts = tokenization.pad_left(ids, max(learner.settings.prompt_widths))
  rollout = rollouts.read_answers(learner.tokenizer, rows, prompts, completions)
  settings = learner.settings._replace(num_generations=1, overlong_buffer=0)
  scores = rollouts.score_rollout(learner.reward_fns, rollout, settings)
  domains = [row["domain"] for row in rows]
  checked = np.isin(domains, checking.checked_domains(settings.code_rewards))
  return {
    "eval_reward": float(scores.rewards.mean()),
    "eval_format": float(scores.formatted.mean()),
    "eval_accuracy": float(scores.correct[checked].mean()) if checked.any() else None,
    "eval_truncated": float(1 - rollout.stopped.mean()),
  }
