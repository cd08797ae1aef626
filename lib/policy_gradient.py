"""TODO-DOC policy_gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl import function_registry

from lib import forward_pass, logprobs, own_rewards, tokenization
from lib.grpo_settings import Settings
from lib.rollouts import Rollout

DOMAIN_SCALE = {"math": 1.0, "coding": 1.2, "science": 0.8, "logic": 0.7}  # seed 003


def advantage_scale(system: str, domains) -> list[float]:
  """Factor on each completion's advantage. Seed 003 scales the reward by domain, but GRPO divides each prompt's group by its
  standard deviation, which cancels any factor that the group shares; on the advantage the scale acts as meant.
  """
  scaled = "curriculum" in own_rewards.system_names(system)
  return [DOMAIN_SCALE.get(d, 1.0) if scaled else 1.0 for d in domains]


# ----------------------------------------------------------------------------------------------------- rewards → advantages
def group_advantages(reward: np.ndarray, num_generations: int, algorithm: str) -> np.ndarray:
  """Advantages (N,) of rewards (N,): reward − mean of its group, over the group's standard deviation.

  GRPO (2402.03300) §4.1.2 with the sample deviation (n − 1), as in Tunix and TRL; Dr. GRPO (2503.20783) §3.2 does not divide.
  """
  groups = reward.reshape(-1, num_generations)
  centred = groups - groups.mean(-1, keepdims=True)
  if algorithm != "dr_grpo":
    centred = centred / (groups.std(-1, ddof=1, keepdims=True) + 1e-4)
  return centred.reshape(-1)


def flat_groups(reward: np.ndarray, num_generations: int) -> np.ndarray:
  """(B,) bool of rewards (N,): all answers of the group are paid alike, so it teaches nothing."""
  return np.ptp(reward.reshape(-1, num_generations), -1) <= 1e-6


def token_weights(
  lengths: np.ndarray, counted: np.ndarray, size: int, algorithm: str, max_new_tokens: int
) -> np.ndarray:
  """How much each token counts in the loss, (N, size); the one place where the algorithms' averages differ.

  grpo, gspo: mean over answers of the mean over their tokens (2402.03300 eq. 3, 2507.18071 eq. 5). dapo: mean over all tokens
  (2503.14476 eq. 8, over the whole batch as its authors' code does). dr_grpo: sum over tokens ÷ the constant max_new_tokens,
  mean over answers (2503.20783 §3.2, Listing 1).
  counted (N,) bool: answers that take part (see --mask_truncated).
  """
  mask = (np.arange(size) < lengths[:, None]) & counted[:, None]
  if algorithm == "dapo":
    return mask / max(1, mask.sum())
  per_answer = max_new_tokens if algorithm == "dr_grpo" else np.maximum(lengths, 1)[:, None]
  return mask / per_answer / max(1, counted.sum())


class Batch(NamedTuple):
  """One micro-batch of b prompts and n = b · G answers; stacked (M, …) for an update."""

  prompts: jax.Array  # (b, P)
  completions: jax.Array  # (n, L)
  weights: jax.Array  # (n, L), see token_weights
  advantages: jax.Array  # (n,)
  beta: jax.Array  # (n,)
  ref_logps: jax.Array  # (n, L); zeros where no reference is loaded
  old_logps: jax.Array  # (n, L); unused while on_policy
  on_policy: (
    jax.Array
  )  # (n,) bool: the policy that sampled is the one being updated, so old = current


def make_batch(rollout: Rollout, advantages: np.ndarray, settings: Settings) -> Batch:
  """Trims completions to their bucket and stacks micro-batches, (M, …)."""
  sizes = sorted(
    {tokenization.bucket(settings.max_new_tokens // d, settings.max_new_tokens) for d in (1, 2)}
  )
  size = tokenization.fit(rollout.lengths.max(), sizes)
  counted = rollout.stopped | (not settings.mask_truncated)
  weights = token_weights(
    rollout.lengths, counted, size, settings.algorithm, settings.max_new_tokens
  )
  beta = np.repeat(
    [settings.domain_beta.get(row["domain"], settings.beta) for row in rollout.rows],
    settings.num_generations,
  )
  zeros = np.zeros(weights.shape, np.float32)
  prompts = (
    rollout.prompts if settings.packed else np.repeat(rollout.prompts, settings.num_generations, 0)
  )
  batch = Batch(
    prompts,
    rollout.completions[:, :size],
    weights.astype(np.float32),
    advantages.astype(np.float32),
    beta.astype(np.float32),
    zeros,
    zeros,
    np.ones(len(advantages), bool),
  )
  count = len(rollout.rows) // settings.micro_batch_size
  return Batch(*(x.reshape(count, -1, *x.shape[1:]) for x in batch))


# ------------------------------------------------------------------------------------------------------- advantages → update
@function_registry.register_policy_loss_fn("lean")
def policy_loss(
  model, train_example: Batch, algo_config, pad_id=tokenization.PAD_ID, eos_id=tokenization.EOS_ID
):
  """−Σ weights · (min(ratio · A, clip(ratio) · A) − β · k3), and what to log of it.

  ratio: π/π_old per token (2402.03300 eq. 3); for gspo the geometric mean over the answer's tokens (2507.18071 eq. 7).
  clip: [1 − epsilon, 1 + epsilon_high] (clip-higher: 2503.14476 eq. 10). k3 = r − log r − 1 with r = π_ref/π: Tunix's default
  log-ratio has no gradient on average. The weights already average, so micro-batches add up exactly.
  """
  batch, options = train_example, algo_config.options
  logps, entropy = logprobs.token_logps(
    model,
    batch.prompts,
    batch.completions,
    temperature=options.temperature,
    generations=len(batch.completions) // len(batch.prompts),
    remat=options.remat,
    live=batch.weights > 0,
  )
  mask = (batch.weights > 0).astype(jnp.float32)
  old = jnp.where(batch.on_policy[:, None], jax.lax.stop_gradient(logps), batch.old_logps)
  log_ratio = logps - old
  if options.algorithm == "gspo":
    log_ratio = (log_ratio * mask).sum(-1, keepdims=True) / jnp.maximum(
      mask.sum(-1, keepdims=True), 1
    )
  ratio = jnp.exp(jnp.clip(log_ratio, -20, 20)) * jnp.ones_like(logps)
  gain = batch.advantages[:, None]
  clipped = jnp.clip(ratio, 1 - options.epsilon, 1 + options.epsilon_high)
  surrogate = jnp.minimum(ratio * gain, clipped * gain)
  gap = jnp.clip(batch.ref_logps - logps, -20, 20)
  k3 = jnp.exp(gap) - gap - 1 if options.reference else jnp.zeros_like(gap)
  loss = -(batch.weights * (surrogate - batch.beta[:, None] * k3)).sum()
  total = lambda x: (x * mask).sum()
  return loss, {
    "tokens": mask.sum(),
    "kl": total(k3),
    "entropy": total(entropy),
    "ratio_max": jnp.max(jnp.where(mask > 0, ratio, 0)),
    "clip_low": total((ratio < 1 - options.epsilon) & (gain < 0)),
    "clip_high": total((ratio > 1 + options.epsilon_high) & (gain > 0)),
    "logps": jax.lax.stop_gradient(logps),
  }


@forward_pass.jit_reading(static_argnames=("temperature", "generations"))
def reference_logps(model, prompts, completions, live, *, temperature: float, generations: int):
  return logprobs.token_logps(
    model, prompts, completions, temperature=temperature, generations=generations, live=live
  )[0]
