"""Prompts → answers → scores.

LeanRollout     this project's sampler behind Tunix's rollout interface
sample_rollout  G answers to each prompt of a batch
score_rollout   what each answer earns, and whether it is in the format and right
"""

from typing import NamedTuple

import jax
import numpy as np
from tunix.rl import rl_cluster as rl
from tunix.rl.rollout import base_rollout

from lib import command_line, hosts, logprobs, reward_rows, sampling, scoring, tokenization
from lib.grpo_settings import Settings
from lib.loading import Policy


class Rollout(NamedTuple):
  """A batch of B prompts with G answers each; N = B · G, the answers of a prompt side by side."""

  rows: list[dict]  # B
  prompts: np.ndarray  # (B, P) left-padded ids
  completions: np.ndarray  # (N, L), stop token kept, then padding
  lengths: np.ndarray  # (N,) tokens with the stop token
  stopped: np.ndarray  # (N,) ended with a stop token; False: cut by the limit
  texts: list[str]  # N
  log_p: np.ndarray | None = None  # (N, L) of each drawn token as the sampler saw it; None: unknown


class LeanRollout(base_rollout.BaseRollout):
  """Tunix's rollout interface over `sampling.sample`.

  One prefill per prompt, exact noise, no copy of the weights.
  """

  def __init__(self, rollout_actor, tokenizer, mesh, rollout_config, policy: Policy):
    # The actor as Tunix holds it, so that each rollout samples from the newest weights.
    self.policy = policy._replace(model=rollout_actor)

  def generate(self, prompts, rollout_config, **kwargs):
    """prompts: texts; kwargs: width, sizes, generations and keys of `sampling.sample`."""
    ids = [tokenization.encode(self.policy.tokenizer, text) for text in prompts]
    out, log_p = sampling.sample(
      self.policy,
      ids,
      max_new_tokens=rollout_config.max_tokens_to_generate,
      temperature=rollout_config.temperature,
      with_log_p=True,
      **kwargs,
    )
    return base_rollout.RolloutOutput(
      text=[tokenization.decode(self.policy.tokenizer, row) for row in out],
      logits=None,
      tokens=list(out),
      logprobs=list(log_p),
      left_padded_prompt_tokens=tokenization.pad_left(ids, kwargs["width"]),
    )

  def get_per_token_logps(self, prompt_tokens, completion_tokens):
    logps, _ = logprobs.token_logps(self.policy.model, prompt_tokens, completion_tokens)
    return logps

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
  texts = []
  for completion, length in zip(completions, lengths, strict=True):
    texts.append(tokenization.decode(tokenizer, completion[:length]))
  return Rollout(rows, prompts, completions, lengths, stopped, texts)


def noise_keys(seed: int, draw_index: int, prompts: int, generations: int) -> np.ndarray:
  """(B, G, 2) uint32: the noise of (draw, prompt, generation) follows from --seed alone."""
  # A resume draws batch 7 with the noise it would have had, and needs no state for it.
  key = jax.random.fold_in(jax.random.key(seed), draw_index)
  keys = jax.random.split(key, (prompts, generations))
  return np.asarray(jax.random.key_data(keys))


def shape_for(policy: Policy, settings: Settings, longest: int) -> sampling.Shape:
  """The shape to sample a batch in whose longest prompt has so many tokens."""
  widths = settings.prompt_widths
  shapes = sampling.run_shapes(
    policy, widths, settings.rollout_batch_size, settings.num_generations
  )
  return shapes[widths.index(tokenization.fit(longest, widths))]


def sample_here(
  cluster: rl.RLCluster, rows: list[dict], shape: sampling.Shape, keys: np.ndarray, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
  """Completions and their log-probs (N, L) of our own sampler, `at_once` prompts at a time."""
  config = cluster.get_rollout_config(rl.Mode.TRAIN)
  completions, log_p = [], []
  # Fewer prompts at a time, smaller cache; noise is the prompt's, so nothing else changes.
  for start in range(0, len(rows), at_once):
    part = slice(start, start + at_once)
    out = cluster.rollout.generate(
      [row["prompt"] for row in rows[part]],
      config,
      width=shape.cache,
      sizes=shape.sizes,
      generations=keys.shape[1],
      keys=keys[part],
    )
    completions.extend(out.tokens)
    log_p.extend(out.logprobs)
  return np.stack(completions), np.stack(log_p)


def sample_by_engine(cluster: rl.RLCluster, rows: list[dict], settings: Settings) -> np.ndarray:
  """Completions (N, L) of one of Tunix's engines."""
  prompts = []
  for row in rows:
    # An engine knows no groups: each prompt comes G times in a row.
    prompts += [row["prompt"]] * settings.num_generations
  ended = []
  for tokens in cluster.generate(prompts).tokens:
    # An engine that cuts the stop token off gets it back; after one that keeps it, nobody reads a
    # second.
    ids = [int(token) for token in tokens] + [tokenization.END_OF_TURN_ID]
    ended.append(ids[: settings.max_new_tokens])
  return tokenization.pad_right(ended, settings.max_new_tokens)


def sample_rollout(
  cluster: rl.RLCluster, tokenizer, rows: list[dict], draw_index: int, settings: Settings
) -> Rollout:
  """G answers to each row's prompt."""
  ids = [tokenization.encode(tokenizer, row["prompt"]) for row in rows]
  longest = max(len(prompt) for prompt in ids)
  width = tokenization.fit(longest, settings.prompt_widths)
  if isinstance(cluster.rollout, LeanRollout):
    keys = noise_keys(settings.seed, draw_index, len(rows), settings.num_generations)
    shape = shape_for(cluster.rollout.policy, settings, longest)
    completions, log_p = sample_here(cluster, rows, shape, keys, settings.rollout_batch_size)
  else:
    completions, log_p = sample_by_engine(cluster, rows, settings), None
  rollout = read_answers(tokenizer, rows, tokenization.pad_left(ids, width), completions)
  return rollout._replace(log_p=log_p)


class Scores(NamedTuple):
  """What N answers earned."""

  rewards: np.ndarray  # (N,) the sum of the components
  components: dict[str, np.ndarray]  # reward function name → (N,)
  formatted: np.ndarray  # (N,) bool, strict format
  correct: np.ndarray  # (N,) bool; False where the domain has no right answer
  failed: int  # reward functions that raised on this batch


def run_reward(function, prompts: list[str], texts: list[str], columns: dict) -> np.ndarray | None:
  """One component (N,); None where the function raised or returned no N finite numbers."""
  try:
    # The columns by name, as in TRL and Tunix: a function takes those it wants.
    values = np.array(function(prompts, texts, **columns), np.float64)
    finite = bool(np.isfinite(values).all())
    # One NaN would turn its whole group's advantages, and the update, into NaN.
    if values.shape != (len(texts),) or not finite:
      raise ValueError(f"returned {values.shape} values, finite: {finite}")
    return values
  except Exception as error:  # whatever a user's reward function raises
    command_line.say_here(
      f"reward {function.__name__} failed on this batch ({type(error).__name__}: {error}); "
      "it pays 0 here"
    )
    return None


def overlong_penalty(lengths: np.ndarray, max_new_tokens: int, buffer: int) -> np.ndarray:
  """(N,) 0 to −1: DAPO (2503.14476) eq. 13, by tokens where Tunix's counts characters.

  0 up to the last `buffer` tokens before the limit, then linear to −1 at the limit.
  """
  # Limit 512, buffer 128: 384 tokens → 0, 448 → −0.5, 512 → −1.
  begin = max_new_tokens - buffer
  return -np.clip((lengths - begin) / buffer, 0, 1)


def score_rollout(reward_fns, rollout: Rollout, settings: Settings) -> Scores:
  """Rewards of N answers.

  Of several hosts each scores some of the prompts, whole groups, and all get all scores: code and
  judge run everywhere, and what one sandbox timed out is the same for everyone.
  """
  if not hosts.several():
    return score_answers(reward_fns, rollout, settings)
  mine = part_of(rollout, hosts.own_share(len(rollout.rows)), settings.num_generations)
  # A host without a prompt (fewer prompts than hosts) has nothing to call the functions with.
  scored = score_answers(reward_fns, mine, settings) if mine.rows else None
  return join_scores([part for part in hosts.gather(scored) if part])


def part_of(rollout: Rollout, prompts: slice, generations: int) -> Rollout:
  """The prompts of a slice with their answers."""
  answers = slice(prompts.start * generations, prompts.stop * generations)
  return Rollout(
    rows=rollout.rows[prompts],
    prompts=rollout.prompts[prompts],
    completions=rollout.completions[answers],
    lengths=rollout.lengths[answers],
    stopped=rollout.stopped[answers],
    texts=rollout.texts[answers],
  )


def join_scores(parts: list[Scores]) -> Scores:
  """The scores of consecutive parts of a rollout as those of all of it."""
  names = parts[0].components
  return Scores(
    rewards=np.concatenate([part.rewards for part in parts]),
    components={name: np.concatenate([part.components[name] for part in parts]) for name in names},
    formatted=np.concatenate([part.formatted for part in parts]),
    correct=np.concatenate([part.correct for part in parts]),
    failed=max(part.failed for part in parts),
  )


def score_answers(reward_fns, rollout: Rollout, settings: Settings) -> Scores:
  """Rewards of N answers, on this host.

  A function that raises pays 0 to the whole batch and is counted, it does not end the run.
  """
  rows = []  # one an answer
  for row in rollout.rows:
    rows += [row] * settings.num_generations
  columns = reward_rows.columns_of(rows)
  prompts = [row["prompt"] for row in rows]

  components, failed = {}, 0
  for function in reward_fns:
    values = run_reward(function, prompts, rollout.texts, columns)
    if values is None:
      values = np.zeros(len(rows))
      failed += 1
    components[function.__name__] = values
  if settings.overlong_buffer:
    components["overlong"] = overlong_penalty(
      rollout.lengths, settings.max_new_tokens, settings.overlong_buffer
    )

  answers = [reading.strict for reading in scoring.read_texts(rollout.texts, settings.style)]
  return Scores(
    rewards=sum(components.values()),
    components=components,
    formatted=np.array([answer is not None for answer in answers]),
    correct=scoring.right_answers(rows, answers, settings.code_rewards),
    failed=failed,
  )
