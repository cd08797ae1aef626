"""TODO-DOC logprobs."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.sft import utils as sft_utils

from lib import forward_pass, parameters, tokenization

HEAD_CHUNK = 128  # positions whose logits exist at once on a CPU, four times as many elsewhere, which a chip's matrix unit wants:
# 512 × 262,144 float32 = 537 MB, divided by the devices, and as much for their probabilities


def completion_hidden(
  view, sliding_window: int, prompts, completions, generations: int, remat: bool
):
  """Hidden states that predict each completion token, (N, L, D); prompts (N / G, P), completions (N, L).

  Answers to one prompt share its sequence, [prompt | c1 | c2 | …], so that the prompt runs once for them: each sees the prompt
  and itself, and positions restart at each. As many share as fit in the sliding window, because Tunix's local mask goes by
  index: there it hides nothing. A sequence longer than the window holds one answer.
  """
  length = completions.shape[1]
  share = max(
    g
    for g in range(1, generations + 1)
    if generations % g == 0 and (g == 1 or prompts.shape[1] + g * length <= sliding_window)
  )
  prompts = jnp.repeat(prompts, generations // share, 0)
  rows, width = prompts.shape
  tokens = jnp.concatenate(
    [prompts, completions.reshape(rows, share * length)], 1
  )  # (N / share, T)
  # Every completion position is real, not only "id != 0": a policy can draw the padding id, and what follows the stop token is
  # masked in the loss and seen by nothing before it.
  real = jnp.pad(
    prompts != tokenization.PAD_ID, ((0, 0), (0, share * length)), constant_values=True
  )
  owner = jnp.concatenate([jnp.full(width, -1), jnp.repeat(jnp.arange(share), length)])
  same = (owner[:, None] == owner[None]) | (
    owner[None] == -1
  )  # (T, T): same completion, or a key in the prompt
  mask = jnp.tril(same)[None] & real[:, None]
  start = real[:, :width].sum(-1, keepdims=True)
  positions = jnp.concatenate(
    [
      sft_utils.build_positions_from_mask(real[:, :width]),
      start + jnp.tile(jnp.arange(length), share),
    ],
    1,
  )
  h, _ = forward_pass.forward(view, tokens, positions, mask, remat=remat)
  last = jnp.repeat(h[:, width - 1 : width], share, 0)  # (N, 1, D), the prompt's last token
  return jnp.concatenate([last, h[:, width:].reshape(rows * share, length, -1)[:, :-1]], 1)


def head_logps(h, ids, head, temperature: float):
  """h (C, D), ids (C,), head (V, D) -> log p(id) and entropy (C,), and p (V, C) without its gradient.

  The vocabulary leads, as in `_decode`: on a CPU the product itself, its softmax and p · head take 30% less time so.
  """
  logits = jnp.einsum("vd,cd->vc", head, h, preferred_element_type=jnp.float32) / temperature
  log_z = jax.nn.logsumexp(logits, 0)
  free, free_z = jax.lax.stop_gradient((logits, log_z))
  p = jnp.exp(free - free_z)
  return jnp.take_along_axis(logits, ids[None], 0)[0] - log_z, free_z - jnp.sum(p * free, 0), p


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def frozen_head(h, ids, head, temperature: float):
  """`head_logps` without p, for a head that does not train: the forward pass finds d log p / d h = (head[id] − p · head) / T
  while it has the logits, so the backward pass needs neither them nor the head."""
  return head_logps(h, ids, head, temperature)[:2]


def frozen_head_forward(h, ids, head, temperature):
  logps, entropy, p = head_logps(h, ids, head, temperature)
  expected = jnp.einsum(
    "vd,vc->dc", head, p.astype(head.dtype), preferred_element_type=jnp.float32
  ).T
  return (logps, entropy), ((head[ids] - expected) / temperature).astype(h.dtype)


frozen_head.defvjp(
  frozen_head_forward,
  lambda temperature, slope, cotangent: (
    (cotangent[0][:, None] * slope).astype(slope.dtype),
    None,
    None,
  ),
)


def chunked_head(model, view, h, ids, live, temperature: float):
  """h (N, L, D), ids and live (N, L) -> log p(id) and entropy (N, L), 0 where not live.

  HEAD_CHUNK live positions at a time, and chunks without one are skipped, so padding costs nothing. No chunk's logits are
  kept: where the head trains, the backward pass rebuilds them (with LoRA it needs none).
  """
  head, shape = forward_pass.vocabulary_head(view), ids.shape
  chunk = min(HEAD_CHUNK * (1 if jax.default_backend() == "cpu" else 4), ids.size)
  flat = lambda x: jnp.pad(x.reshape(ids.size, -1), ((0, -ids.size % chunk), (0, 0)))
  h, ids, live = flat(h), flat(ids)[:, 0], flat(live)[:, 0]
  order = jnp.argsort(~live)  # stable: live positions first
  frozen = parameters.trainable(model) is nnx.LoRAParam
  score = frozen_head if frozen else lambda *x: head_logps(*x)[:2]

  def part(x):
    h, ids, live = x
    return jax.lax.cond(
      live.any(),
      lambda: score(forward_pass.lay_out(h), ids, head, temperature),
      lambda: (jnp.zeros(chunk), jnp.zeros(chunk)),
    )

  split = lambda x: x[order].reshape(-1, chunk, *x.shape[1:])
  parts = jax.lax.map(part if frozen else jax.checkpoint(part), (split(h), split(ids), split(live)))
  back = lambda x: jnp.where(live, jnp.zeros(len(order)).at[order].set(x.ravel()), 0)[
    : math.prod(shape)
  ].reshape(shape)
  return tuple(map(back, parts))


def token_logps(
  model: nnx.Module,
  prompts,
  completions,
  *,
  temperature: float = 1.0,
  generations: int = 1,
  remat: bool = False,
  live=None,
):
  """log p(token) of each completion token at `temperature` and the entropy there, both (N, L) float32.

  For old, reference and current policy alike; the vocabulary head runs on completion positions only.
  prompts (N / G, P) left-padded, each followed by its G rows of completions (N, L). live (N, L): where the result is wanted,
  0 elsewhere; None: everywhere.
  """
  view = forward_pass.compute_view(model)
  h = completion_hidden(
    view, model.config.sliding_window_size, prompts, completions, generations, remat
  )
  return chunked_head(
    model,
    view,
    h,
    completions,
    jnp.ones(completions.shape, bool) if live is None else live,
    temperature,
  )


def packed_logps(model: nnx.Module, tokens, positions, live, *, remat: bool = False):
  """log p(token | the tokens of its row before it), (B, T) float32, of rows packed end to end; 0 where `live` is False.

  tokens, positions (B, T): positions restart at 0 with each row and stay 0 on padding; live (B, T) marks the tokens to score,
  never a row's first. A row sees itself alone, and lies in one piece, so Tunix's sliding window (by index) is exact too.
  """
  view = forward_pass.compute_view(model)
  row = jnp.cumsum(positions == 0, -1)
  h, _ = forward_pass.forward(
    view, tokens, positions, jnp.tril(row[:, :, None] == row[:, None]), remat=remat
  )
  logps, _ = chunked_head(model, view, h[:, :-1], tokens[:, 1:], live[:, 1:], 1.0)
  return jnp.pad(logps, ((0, 0), (1, 0)))
