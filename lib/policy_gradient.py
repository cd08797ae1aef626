"""From rewards to a loss: advantages, what each token counts, and the one function that all
algorithms share.

  group_advantages → token_weights → make_batch → policy_loss

The four algorithms differ in the advantage (Dr. GRPO), in how tokens are averaged
(`token_weights`), in the ratio (GSPO) and in the clip range (lib/grpo_settings.py); all else is one
formula.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl import function_registry

from lib import answer_packing, forward_pass, logprobs, own_rewards, tokenization
from lib.answer_packing import Packed, Rows
from lib.grpo_settings import Settings
from lib.rollouts import Rollout

# The `curriculum` write-up's weight of each domain; all others count once.
DOMAIN_SCALE = {"math": 1.0, "coding": 1.2, "science": 0.8, "logic": 0.7}
MAX_LOG_RATIO = 20.0  # e^20: far outside any clip range, far inside float32
KL_LINEAR_FROM = 5.0  # log-ratio from which k3 goes on as a line


def advantage_scale(system: str, domains) -> list[float]:
  """Factor on each completion's advantage.

  The write-up scales the reward by domain, but GRPO divides each prompt's group by its standard
  deviation, which cancels any factor that the group shares; on the advantage the scale acts as
  meant.
  """
  if "curriculum" not in own_rewards.system_names(system):
    return [1.0 for _ in domains]
  return [DOMAIN_SCALE.get(domain, 1.0) for domain in domains]


def group_advantages(reward: np.ndarray, num_generations: int, algorithm: str) -> np.ndarray:
  """Advantages (N,) of rewards (N,): reward − mean of its group, over the group's standard
  deviation.

  GRPO (2402.03300) §4.1.2 with the sample deviation (n − 1), as in Tunix and TRL; Dr. GRPO
  (2503.20783) §3.2 does not divide.
  """
  groups = reward.reshape(-1, num_generations)
  centred = groups - groups.mean(-1, keepdims=True)
  if algorithm != "dr_grpo":
    centred = centred / (groups.std(-1, ddof=1, keepdims=True) + 1e-4)
  return centred.reshape(-1)


def zero_std_groups(reward: np.ndarray, num_generations: int) -> np.ndarray:
  """(B,) bool of rewards (N,): all answers of the group are paid alike, so it teaches nothing."""
  groups = reward.reshape(-1, num_generations)
  return np.ptp(groups, -1) <= 1e-6


def token_weights(
  lengths: np.ndarray, counted: np.ndarray, size: int, algorithm: str, max_new_tokens: int
) -> np.ndarray:
  """How much each token counts in the loss, (N, size); the one place where the algorithms' averages
  differ.

  counted (N,) bool: answers that take part (see --mask_truncated).
  """
  mask = (np.arange(size) < lengths[:, None]) & counted[:, None]  # (N, size)
  if algorithm == "dapo":
    # Mean over all tokens (2503.14476 eq. 8), over the whole batch as its authors' code does.
    return mask / max(1, mask.sum())
  if algorithm == "dr_grpo":
    # Sum over tokens ÷ a constant, mean over answers (2503.20783 §3.2, Listing 1).
    per_answer = max_new_tokens
  else:
    # Mean over answers of the mean over their tokens (2402.03300 eq. 3, 2507.18071 eq. 5).
    per_answer = np.maximum(lengths, 1)[:, None]
  return mask / per_answer / max(1, counted.sum())


class Batch(NamedTuple):
  """Packed rows with what the loss needs at each token; stacked (M, R, T) for an update, (R, T) in
  the loss.
  """

  rows: Rows
  weights: jax.Array  # see token_weights; 0 on prompts and padding
  advantages: jax.Array
  beta: jax.Array  # weight of the KL
  ref_logps: jax.Array  # zeros where no reference is loaded
  sampler_logps: jax.Array  # as the sampler saw them; zeros where it gave none
  old_logps: jax.Array  # zeros while on_policy
  on_policy: (
    jax.Array
  )  # (R,) bool: the policy that sampled is the one being updated, so old = current


def pack_rollout(rollout: Rollout, settings: Settings) -> Packed:
  """The rollout's tokens as packed rows (M, R, T), and where its answers lie in them."""
  prompts = [ids[ids != tokenization.PAD_ID] for ids in rollout.prompts]
  return answer_packing.pack_answers(
    prompts,
    rollout.completions,
    rollout.lengths,
    counted_answers(rollout, settings),
    settings.row_shape,
    settings.sliding_window,
  )


def counted_answers(rollout: Rollout, settings: Settings) -> np.ndarray:
  """(N,) bool: the answers that take part in the loss."""
  if settings.mask_truncated:
    return rollout.stopped
  return np.ones(len(rollout.lengths), bool)


def blank_batch(rows: Rows) -> Batch:
  """rows (M, R, T) that count nothing yet."""
  zeros = np.zeros(rows.tokens.shape, np.float32)
  return Batch(
    rows=rows,
    weights=zeros,
    advantages=zeros,
    beta=zeros,
    ref_logps=zeros,
    sampler_logps=zeros,
    old_logps=zeros,
    on_policy=np.ones(zeros.shape[:2], bool),
  )


def make_batch(
  rollout: Rollout, packed: Packed, advantages: np.ndarray, settings: Settings
) -> Batch:
  """Packed micro-batches (M, R, T) with what each token counts; log-probs are still to come."""
  weights = token_weights(
    rollout.lengths,
    counted_answers(rollout, settings),
    rollout.completions.shape[1],
    settings.algorithm,
    settings.max_new_tokens,
  )  # (N, L)
  beta = np.repeat(
    [settings.domain_beta.get(row["domain"], settings.beta) for row in rollout.rows],
    settings.num_generations,
  )  # (N,)
  sampler_logps = rollout.log_p
  if sampler_logps is None:
    sampler_logps = np.zeros_like(weights)
  return blank_batch(packed.rows)._replace(
    weights=answer_packing.spread(weights, packed),
    advantages=answer_packing.spread(advantages, packed),
    beta=answer_packing.spread(beta, packed),
    sampler_logps=answer_packing.spread(sampler_logps, packed),
  )


def later_batch(batch: Batch, logps) -> Batch:
  """The batch for the updates after the first, whose log-probs (M, R, T) are the old ones."""
  return batch._replace(old_logps=logps, on_policy=np.zeros(batch.on_policy.shape, bool))


def answer_means(values, mask, rows: Rows):
  """(R, T): at each token the mean of `values` over the tokens of its answer, where `mask` (R, T)
  is 1.
  """
  width = values.shape[1]
  slot = jnp.maximum(rows.answer, 0)  # of prompts and padding the mask is 0

  def sums(values, slot):
    return jax.ops.segment_sum(values, slot, num_segments=width)

  total = jax.vmap(sums)(values * mask, slot)  # (R, T) by the slot where an answer begins
  count = jax.vmap(sums)(mask, slot)
  mean = total / jnp.maximum(count, 1)
  return jnp.take_along_axis(mean, slot, 1)


def bounded_k3(gap):
  """k3 = r − log r − 1 of gap = log r = log π_ref/π; beyond KL_LINEAR_FROM along its tangent.

  k3 grows as e^gap: without an end, one token that the reference likes e^12 times better than the
  policy outweighs a whole batch. The tangent keeps it pulling, with a slope of e^5 − 1 at most.
  """
  inside = jnp.minimum(gap, KL_LINEAR_FROM)
  k3 = jnp.exp(inside) - inside - 1
  slope = math.exp(KL_LINEAR_FROM) - 1
  return k3 + slope * (gap - inside)


def importance_weights(old, sampler, cap: float):
  """min(π_old / π_sampler, cap) a token (R, T), of log-probs; exactly 1 where the two agree.

  A sampler that rounds otherwise draws from another policy than the one that the loss calls old.
  Truncated, as a token that it found unlikely would count without bound: Yao et al. 2025,
  https://fengyao.notion.site/off-policy-rl; TRL's vllm_importance_sampling_correction.
  """
  return jnp.minimum(jnp.exp(jnp.minimum(old - sampler, MAX_LOG_RATIO)), cap)


@function_registry.register_policy_loss_fn("lean")
def policy_loss(
  model, train_example: Batch, algo_config, pad_id=tokenization.PAD_ID, eos_id=tokenization.EOS_ID
):
  """−Σ weights · (min(ratio · A, clip(ratio) · A) − β · k3), and what to log of it.

  ratio: π/π_old per token (2402.03300 eq. 3); for gspo the geometric mean over the answer's tokens
  (2507.18071 eq. 7). clip: [1 − epsilon, 1 + epsilon_high] (clip-higher: 2503.14476 eq. 10). The
  weights already average, so micro-batches add up exactly.
  """
  batch, options = train_example, algo_config.options
  logps, entropy = logprobs.answer_logps(
    model, batch.rows, temperature=options.temperature, remat=options.remat
  )  # (R, T) each
  live = batch.rows.answer >= 0
  mask = live.astype(jnp.float32)

  old = jnp.where(batch.on_policy[:, None], jax.lax.stop_gradient(logps), batch.old_logps)
  log_ratio = logps - old
  if options.algorithm == "gspo":
    log_ratio = answer_means(log_ratio, mask, batch.rows)
  ratio = jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
  clipped = jnp.clip(ratio, 1 - options.epsilon, 1 + options.epsilon_high)
  advantage = batch.advantages
  surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
  if options.importance_cap:
    surrogate *= importance_weights(old, batch.sampler_logps, options.importance_cap)

  k3 = jnp.zeros_like(logps)
  if options.reference:
    # k3 = r − log r − 1 with r = π_ref/π (2402.03300 eq. 4); Tunix's default log-ratio has no
    # gradient on average.
    k3 = bounded_k3(batch.ref_logps - logps)
  loss = -(batch.weights * (surrogate - batch.beta * k3)).sum()

  too_low = (ratio < 1 - options.epsilon) & (advantage < 0)
  too_high = (ratio > 1 + options.epsilon_high) & (advantage > 0)
  return loss, {
    "tokens": mask.sum(),
    "kl": (k3 * mask).sum(),
    "entropy": (entropy * mask).sum(),
    "ratio_max": jnp.max(jnp.where(live, ratio, 0)),
    "clip_low": (too_low * mask).sum(),
    "clip_high": (too_high * mask).sum(),
    "sampler_gap": (jnp.abs(logps - batch.sampler_logps) * mask).sum(),
    "logps": jax.lax.stop_gradient(logps),
  }


@forward_pass.jit_reading(static_argnames=("temperature",))
def reference_logps(model, rows: Rows, count, *, temperature: float):
  """log p of the answers' tokens under a model that is only read, of rows (M, R, T).

  Micro-batches from `count` on hold nothing: they are skipped, and their log-probs are 0.
  """

  def one(turn, found):
    micro_batch = jax.tree.map(lambda x: x[turn], rows)
    logps, _ = logprobs.answer_logps(model, micro_batch, temperature=temperature)
    return found.at[turn].set(logps)

  return jax.lax.fori_loop(0, count, one, jnp.zeros(rows.tokens.shape))
