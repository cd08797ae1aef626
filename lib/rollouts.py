"""TODO-DOC rollouts."""

import json
from typing import NamedTuple

import jax
import numpy as np
from tunix.rl import rl_cluster as rl
from tunix.rl.rollout import base_rollout

from lib import checking, command_line, contract, logprobs, sampling, tokenization
from lib.grpo_settings import Settings
from lib.loading import Policy


# -------------------------------------------------------------------------------------------------------- tokens → rollouts
class Rollout(NamedTuple):
  """A batch of B prompts with G answers each; N = B · G rows, the answers of a prompt side by side."""

  rows: list[dict]  # B
  prompts: np.ndarray  # (B, P) left-padded ids
  completions: np.ndarray  # (N, L), stop token kept, then padding
  lengths: np.ndarray  # (N,) tokens with the stop token
  stopped: np.ndarray  # (N,) ended with a stop token; False: cut by the limit
  texts: list[str]  # N


class LeanRollout(base_rollout.BaseRollout):
  """Tunix's rollout interface over `model.sample`: one prefill per prompt, exact noise, no copy of the weights."""

  def __init__(self, rollout_actor, tokenizer, mesh, rollout_config, policy: Policy):
    self.policy = policy._replace(model=rollout_actor)

  def generate(self, prompts, rollout_config, **kwargs):
    """prompts: texts; kwargs: width, generations and keys of `model.sample`."""
    ids = [tokenization.encode(self.policy.tokenizer, text) for text in prompts]
    out = sampling.sample(
      self.policy,
      ids,
      max_new_tokens=rollout_config.max_tokens_to_generate,
      temperature=rollout_config.temperature,
      **kwargs,
    )
    texts = [tokenization.decode(self.policy.tokenizer, row) for row in out]
    return base_rollout.RolloutOutput(
      text=texts,
      logits=None,
      tokens=list(out),
      logprobs=None,
      left_padded_prompt_tokens=tokenization.pad_left(ids, kwargs["width"]),
    )

  def get_per_token_logps(self, prompt_tokens, completion_tokens):
    return logprobs.token_logps(self.policy.model, prompt_tokens, completion_tokens)[0]

  def update_params(self, params, filter_types=None):
    """Nothing to do: this rollout reads the trainer's own model."""

  def pad_id(self):
    return tokenization.PAD_ID

  def eos_id(self):
    return tokenization.EOS_ID

  def model(self):
    return self.policy.model


def read_answers(
  tokenizer, rows: list[dict], prompts: np.ndarray, completions: np.ndarray
) -> Rollout:
  """Completions (N, L) with their lengths, ends and texts."""
  lengths, stopped = sampling.completion_lengths(completions)
  texts = [tokenization.decode(tokenizer, c[:n]) for c, n in zip(completions, lengths)]
  return Rollout(rows, prompts, completions, lengths, stopped, texts)


def sample_rollout(
  cluster: rl.RLCluster, tokenizer, rows: list[dict], draw_index: int, settings: Settings
) -> Rollout:
  """G answers to each row's prompt. The noise of (draw, prompt, generation) follows from --seed alone."""
  groups, ids = (
    settings.num_generations,
    [tokenization.encode(tokenizer, row["prompt"]) for row in rows],
  )
  width, size = (
    tokenization.fit(max(map(len, ids)), settings.prompt_widths),
    settings.rollout_batch_size,
  )
  config = cluster.get_rollout_config(rl.Mode.TRAIN)
  if isinstance(cluster.rollout, LeanRollout):
    key = jax.random.fold_in(jax.random.key(settings.seed), draw_index)
    keys = np.asarray(jax.random.key_data(jax.random.split(key, (len(rows), groups))))  # (B, G, 2)
    parts = [
      cluster.rollout.generate(
        [row["prompt"] for row in rows[i : i + size]],
        config,
        width=width,
        generations=groups,
        keys=keys[i : i + size],
      ).tokens
      for i in range(0, len(rows), size)
    ]
    completions = np.concatenate([np.stack(part) for part in parts])
  else:  # an engine that cuts the stop token off gets it back; after one that keeps it, nobody reads a second
    tokens = cluster.generate([row["prompt"] for row in rows for _ in range(groups)]).tokens
    ended = [[*map(int, t), tokenization.END_OF_TURN_ID][: settings.max_new_tokens] for t in tokens]
    completions = tokenization.pad_right(ended, settings.max_new_tokens)
  return read_answers(tokenizer, rows, tokenization.pad_left(ids, width), completions)


# ------------------------------------------------------------------------------------------------------- rollouts → rewards
class Scores(NamedTuple):
  rewards: np.ndarray  # (N,) the sum of the components
  components: dict[str, np.ndarray]  # reward function name → (N,)
  formatted: np.ndarray  # (N,) bool, strict format
  correct: np.ndarray  # (N,) bool; False where the domain has no right answer
  failed: int  # reward functions that raised on this batch


def score_rollout(reward_fns, rollout: Rollout, settings: Settings) -> Scores:
  """Rewards of N answers. A function that raises pays 0 to the whole batch and is counted, it does not end the run."""
  rows = [row for row in rollout.rows for _ in range(settings.num_generations)]
  columns = {name: [row[name] for row in rows] for name in ("domain", "question", "answer")}
  columns["metadata"] = [json.dumps(row["metadata"]) for row in rows]
  components, failed = {}, 0
  for function in reward_fns:
    try:
      values = np.array(
        function([row["prompt"] for row in rows], rollout.texts, **columns), np.float64
      )
      if values.shape != (len(rows),) or not np.isfinite(values).all():
        raise ValueError(f"returned {values.shape} values, finite: {np.isfinite(values).all()}")
    except Exception as error:  # whatever a user's reward function raises
      command_line.say(
        f"reward {function.__name__} failed on this batch ({type(error).__name__}: {error}); it pays 0 here"
      )
      values, failed = np.zeros(len(rows)), failed + 1
    components[function.__name__] = values
  if settings.overlong_buffer:  # DAPO (2503.14476) eq. 13, by tokens; Tunix's counts characters
    begin = settings.max_new_tokens - settings.overlong_buffer
    components["overlong"] = -np.clip((rollout.lengths - begin) / settings.overlong_buffer, 0, 1)
  answers = [
    parsed.answer if (parsed := contract.parse_response(text, settings.style)) else None
    for text in rollout.texts
  ]
  checked = checking.checked_domains(settings.code_rewards)
  checkable = [
    i for i, row in enumerate(rows) if answers[i] is not None and row["domain"] in checked
  ]
  pick = lambda values: [values[i] for i in checkable]
  correct = np.zeros(len(rows), bool)
  correct[checkable] = checking.is_correct_batch(
    pick(columns["domain"]),
    pick(answers),
    pick(columns["answer"]),
    [rows[i]["metadata"] for i in checkable],
  )
  return Scores(
    sum(components.values()),
    components,
    np.array([a is not None for a in answers]),
    correct,
    failed,
  )
