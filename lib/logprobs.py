"""Log-probs of tokens that are already there, for old, reference and current policy alike.

  packed_logps  of rows packed end to end (SFT)
  answer_logps  of answers that share their prompts in packed rows (GRPO), with each token's entropy
  token_logps   the same of prompts and completions that are not packed yet
  chunked_head  the vocabulary head on the positions that are asked for, a few at a time

With 262,144 words the logits of a batch would be the largest array of all; only the log-prob of one
word and the entropy are wanted, so no chunk's logits are kept.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lib import answer_packing, forward_pass, parameters, tokenization
from lib.answer_packing import Rows

# Positions whose logits exist at once on a CPU; four times as many elsewhere, which a chip's matrix
# unit wants: 512 × 262,144 float32 = 537 MB, divided by the devices, and as much for their
# probabilities.
HEAD_CHUNK = 128


def head_logps(h, ids, head, temperature: float):
  """h (C, D), ids (C,), head (V, D) -> log p(id) and entropy (C,), and p (V, C), a constant.

  The vocabulary leads, as in decoding: on a CPU the product, its softmax and p · head take 30% less
  time so.
  """
  logits = jnp.einsum("vd,cd->vc", head, h, preferred_element_type=jnp.float32) / temperature
  log_z = jax.nn.logsumexp(logits, 0)  # (C,)
  logps = jnp.take_along_axis(logits, ids[None], 0)[0] - log_z
  # The entropy is only logged: no gradient is to flow through it, nor through p.
  free, free_z = jax.lax.stop_gradient((logits, log_z))
  p = jnp.exp(free - free_z)  # (V, C)
  entropy = free_z - jnp.sum(p * free, 0)
  return logps, entropy, p


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def frozen_head(h, ids, head, temperature: float):
  """`head_logps` without p, for a head that does not train.

  The forward pass finds d log p / d h = (head[id] − p · head) / T while it has the logits, so the
  backward pass needs neither them nor the head.
  """
  logps, entropy, _ = head_logps(h, ids, head, temperature)
  return logps, entropy


def frozen_head_forward(h, ids, head, temperature):
  logps, entropy, p = head_logps(h, ids, head, temperature)
  expected = jnp.einsum(
    "vd,vc->dc", head, p.astype(head.dtype), preferred_element_type=jnp.float32
  ).T  # (C, D)
  # d log softmax(z)[id] / dz = onehot(id) − p, and z = head · h / T.
  slope = (head[ids] - expected) / temperature
  return (logps, entropy), slope.astype(h.dtype)


def frozen_head_backward(temperature, slope, cotangent):
  by_logp, _ = cotangent  # the entropy is logged, never trained on
  by_h = (by_logp[:, None] * slope).astype(slope.dtype)
  return by_h, None, None


frozen_head.defvjp(frozen_head_forward, frozen_head_backward)


def trained_head(h, ids, head, temperature: float):
  """`head_logps` without p, for a head that trains."""
  logps, entropy, _ = head_logps(h, ids, head, temperature)
  return logps, entropy


def in_chunks(x, chunk: int):
  """x (P, …) with zeros to a multiple of `chunk` behind it."""
  # 1,000 positions in chunks of 512: 24 zeros, two chunks.
  behind = -len(x) % chunk
  return jnp.pad(x, ((0, behind), *[(0, 0)] * (x.ndim - 1)))


def chunked_head(model, view, h, ids, live, temperature: float):
  """h (N, L, D), ids and live (N, L) -> log p(id) and entropy (N, L), 0 where not live.

  The live positions are sorted to the front and go through the head HEAD_CHUNK at a time; chunks
  without one are skipped, so padding costs nothing. Where the head trains, the backward pass
  rebuilds the logits.
  """
  shape, count = ids.shape, ids.size
  at_once = HEAD_CHUNK if jax.default_backend() == "cpu" else 4 * HEAD_CHUNK
  chunk = min(at_once, count)
  head = forward_pass.vocabulary_head(view)  # (V, D)
  h = in_chunks(h.reshape(count, -1), chunk)  # (P, D)
  ids = in_chunks(ids.reshape(count), chunk)  # (P,)
  live = in_chunks(live.reshape(count), chunk)
  order = jnp.argsort(~live)  # stable: live positions first

  # LoRA leaves the head as it is; training all parameters changes it, for it is the embedding.
  head_frozen = parameters.trainable(model) is nnx.LoRAParam
  score = frozen_head if head_frozen else trained_head

  def score_chunk(part):
    h, ids, live = part

    def scored():
      return score(forward_pass.lay_out(h), ids, head, temperature)

    def skipped():
      return jnp.zeros(chunk), jnp.zeros(chunk)

    return jax.lax.cond(live.any(), scored, skipped)

  def split(x):
    return x[order].reshape(-1, chunk, *x.shape[1:])

  def put_back(sorted_values):
    values = jnp.zeros(len(order)).at[order].set(sorted_values.ravel())
    return jnp.where(live, values, 0)[: math.prod(shape)].reshape(shape)

  chunks = (split(h), split(ids), split(live))
  logps, entropy = jax.lax.map(score_chunk if head_frozen else jax.checkpoint(score_chunk), chunks)
  return put_back(logps), put_back(entropy)


def packed_logps(model: nnx.Module, tokens, positions, live, *, remat: bool = False):
  """log p(token | its text before it), (B, T) float32, of packed texts; 0 where not `live`.

  tokens, positions (B, T): positions restart at 0 with each text and stay 0 on padding; live (B, T)
  marks the tokens to score, never a text's first. A text sees itself alone, and lies in one piece,
  so Tunix's sliding window, which counts slots, is exact too.
  """
  view = forward_pass.compute_view(model)
  # positions 0 1 2 0 1 0 0 → texts 1 1 1 2 2 3 4: each text a number, padding one a slot.
  text = jnp.cumsum(positions == 0, -1)  # (B, T)
  mask = jnp.tril(text[:, :, None] == text[:, None])  # (B, T, T)
  h, _ = forward_pass.forward(view, tokens, positions, mask, remat=remat)
  # The state at slot t predicts the token at t + 1.
  logps, _ = chunked_head(model, view, h[:, :-1], tokens[:, 1:], live[:, 1:], 1.0)
  return jnp.pad(logps, ((0, 0), (1, 0)))


def answer_mask(rows: Rows):
  """(R, T, T) bool, [row, query, key]: what a token of packed answers may look at.

  That is a key at or before it, in its piece, of the prompt or of the same answer.
  """
  piece = jnp.cumsum(rows.positions == 0, -1)  # (R, T)
  same_piece = piece[:, :, None] == piece[:, None]
  same_answer = rows.answer[:, :, None] == rows.answer[:, None]
  # Siblings lie one behind the other after their prompt, but must not see each other.
  of_prompt = rows.answer[:, None] == -1
  return jnp.tril(same_piece & (same_answer | of_prompt))


def answer_logps(model: nnx.Module, rows: Rows, *, temperature: float, remat: bool = False):
  """log p(token | its prompt and answer before it) and the entropy there, (R, T) float32.

  rows of `answer_packing.pack_answers`, (R, T). Both are at `temperature`, and 0 on prompts and
  padding.
  """
  view = forward_pass.compute_view(model)
  h, _ = forward_pass.forward(
    view, rows.tokens, rows.positions, answer_mask(rows), remat=remat
  )  # (R, T, D)
  h = jnp.take_along_axis(h, rows.previous[..., None], 1)  # what predicts each token
  return chunked_head(model, view, h, rows.tokens, rows.answer >= 0, temperature)


def token_logps(
  model: nnx.Module, prompts, completions, *, temperature: float = 1.0, remat: bool = False
):
  """log p of all tokens of completions (N, L) and the entropy there, both (N, L) float32.

  prompts (B, P) of ids, left-padded, each followed by its N / B completions. A run packs by true
  length itself and keeps one shape; here the shape is that of these rows.
  """
  count, length = completions.shape
  ids = [row[row != tokenization.PAD_ID] for row in np.asarray(prompts)]
  longest = max(len(row) for row in ids)
  shape = answer_packing.row_shape(longest, length, count // len(ids), len(ids), len(ids), 1)
  packed = answer_packing.pack_answers(
    ids,
    np.asarray(completions),
    np.full(count, length),
    np.ones(count, bool),
    shape,
    model.config.sliding_window_size,
  )
  turns = answer_packing.turns_of(packed.rows)
  row, begin = packed.place.T[..., None]  # (N, 1) each
  slots = begin + np.arange(length)  # (N, L)
  rows = Rows(*(x[:turns].reshape(-1, shape.width) for x in packed.rows))
  logps, entropy = answer_logps(model, rows, temperature=temperature, remat=remat)
  return logps[row, slots], entropy[row, slots]
