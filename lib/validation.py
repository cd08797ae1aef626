"""Greedy answers to validation rows while a GRPO run goes on.

They are scored by the functions that train, so that validation and training reward compare.
"""

import numpy as np

from lib import batching, checking, rollouts, sampling, tokenization
from lib.grpo_learner import LeanGRPOLearner


def answer_greedily(learner: LeanGRPOLearner, prompts: list[list[int]]) -> np.ndarray:
  """Completions (N, L) of N prompts of ids; as many at once as a training batch holds answers."""
  settings = learner.settings
  policy = learner.policy
  # As many rows as a rollout decodes: memory has held these.
  at_once = settings.rollout_batch_size * settings.num_generations
  completions = []
  for batch in batching.filled_batches(prompts, at_once):
    # In a rollout's shape and at its temperature: the same programs, told to be greedy.
    shape = rollouts.shape_for(policy, settings, max(len(prompt) for prompt in batch))
    out = sampling.sample(
      policy,
      batch,
      width=shape.cache,
      sizes=shape.sizes,
      max_new_tokens=settings.max_new_tokens,
      temperature=settings.temperature,
      greedy=True,
    )
    completions.append(out)
  return np.concatenate(completions)[: len(prompts)]


def validation_metrics(learner: LeanGRPOLearner, rows: list[dict]) -> dict:
  """{"eval_reward", "eval_format", "eval_accuracy", "eval_truncated"} of the model as it is.

  All are means over the rows; eval_accuracy is None where nothing can be checked.
  """
  if not rows:
    return {}
  # Like lengths share a batch; means do not mind the order.
  rows = sorted(rows, key=lambda row: len(row["prompt"]))
  ids = [tokenization.encode(learner.tokenizer, row["prompt"]) for row in rows]
  # (N, L), greedy: no sampling noise, so two validations differ by the policy alone.
  completions = answer_greedily(learner, ids)
  prompts = tokenization.pad_left(ids, max(learner.settings.prompt_widths))
  rollout = rollouts.read_answers(learner.tokenizer, rows, prompts, completions)
  # One answer a prompt; and no length penalty, which shapes training and measures nothing.
  settings = learner.settings._replace(num_generations=1, overlong_buffer=0)
  scores = rollouts.score_rollout(learner.reward_fns, rollout, settings)
  domains = [row["domain"] for row in rows]
  # A poem has no right answer: counted as wrong, it would hide what the others do.
  checked = np.isin(domains, checking.checked_domains(settings.code_rewards))
  return {
    "eval_reward": float(scores.rewards.mean()),
    "eval_format": float(scores.formatted.mean()),
    "eval_accuracy": float(scores.correct[checked].mean()) if checked.any() else None,
    "eval_truncated": float(1 - rollout.stopped.mean()),
  }
