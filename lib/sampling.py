"""TODO-DOC sampling."""

import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import utils as sft_utils

from lib import forward_pass, tokenization
from lib.errors import InputError
from lib.loading import Policy


def blocks_of(logits):
  """logits (V, N) in equal blocks of at most 512 words, (K, V / K, N): XLA reduces the whole of V at once on one core of a CPU.

  No padding: it would break the cut over devices where V is no multiple of 512 (4B: 262,208 = 544 × 482)."""
  size = max(n for n in range(1, 513) if len(logits) % n == 0)
  return logits.reshape(-1, size, logits.shape[1])


def draw(logits, keys, t, temperature: float):
  """One exact draw (N,) from softmax(logits / temperature), logits (V, N): inverse CDF over blocks, two uniforms a row.

  Untruncated: with top-p or top-k the sampler's distribution would differ from the one the loss assumes. `keys` (N, 2)
  belong to the row, so the noise does not depend on how rows are batched.
  """
  blocks = blocks_of(logits)
  top = blocks.max(1).max(0)
  weights = lambda x: jnp.exp((x - top) / temperature)
  u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, t), (2,)), out_axes=1)(
    keys
  )  # (2, N)

  def pick(w, u):  # w (K, N): the first index whose cumulative weight exceeds u · total
    c = jnp.cumsum(w, 0)
    return jnp.sum(c <= jnp.minimum(u * c[-1], jnp.nextafter(c[-1], -1.0)), 0)

  block = pick(weights(blocks).sum(1), u[0])
  return block * blocks.shape[1] + pick(weights(blocks[block, :, jnp.arange(len(keys))].T), u[1])


def first_max(logits):
  """argmax (N,) of logits (V, N)."""
  blocks = blocks_of(logits)
  block = blocks.max(1).argmax(0)
  return block * blocks.shape[1] + blocks[block, :, jnp.arange(logits.shape[1])].argmax(-1)


def join_heads(x):
  """A cache between decoded tokens, (N, S, K · H): kept as Tunix has it, (N, S, K, H), XLA copies all of it four times a token
  on a CPU instead of once, as it fuses the update twice, into attention and into the next state."""
  return x.reshape(*x.shape[:2], -1) if x.ndim == 4 else x


@forward_pass.jit_reading(static_argnames=("generations", "slots", "new"))
def _prefill(model, prefix, prompts, keys, *, generations: int, slots: int, new: int) -> dict:
  """State of `_decode` before the first of `new` tokens, of B·G rows: `prefix` (F, S; equal rows), then a row of `prompts` (B, P).

  slots: S + P, and more left padding where other rows are longer. The prefix runs once for all. Its keys and values then move
  behind the left padding of each row, next to the row's own tokens, because Tunix's sliding window counts slots.
  """
  view, (rows, width), shared = forward_pass.compute_view(model), prompts.shape, prefix.shape[1]
  positions, causal = sft_utils.build_positions_from_mask, sft_utils.make_causal_attn_mask
  kv = lambda: jnp.zeros(
    (len(prefix), shared, model.config.num_kv_heads, model.config.head_dim),
    model.config.param_dtype,
  )
  cache = {
    f"layer_{i}": {"k": kv(), "v": kv(), "end_index": jnp.zeros(len(prefix), jnp.int32)}
    for i in range(model.config.num_layers)
  }
  if shared:
    everywhere = jnp.ones(prefix.shape, bool)
    _, cache = forward_pass.forward(view, prefix, positions(everywhere), causal(everywhere), cache)
  enlarge = lambda x, left, right: (
    jnp.pad(x, ((0, 0), (left, right), (0, 0), (0, 0))) if x.ndim == 4 else x + left
  )
  cache = jax.tree.map(lambda x: enlarge(jnp.repeat(x[:1], rows, 0), 0, width), cache)
  own = prompts != tokenization.PAD_ID
  mask = jnp.pad(causal(own), ((0, 0), (0, 0), (shared, 0)), constant_values=True)  # (B, P, S + P)
  h, cache = forward_pass.forward(view, prompts, positions(own) + shared, mask, cache)
  slot, padding = jnp.arange(shared + width), (~own).sum(-1, keepdims=True)
  if shared:
    source = jnp.where(slot < shared + padding, jnp.maximum(slot - padding, 0), slot)  # (B, S + P)
    cache = jax.tree.map(
      lambda x: jax.vmap(lambda x, i: x[i])(x, source) if x.ndim == 4 else x, cache
    )
  spread = lambda x: jnp.repeat(x, generations, axis=0)
  rows, left = rows * generations, slots - shared - width
  cache = jax.tree.map(lambda x: join_heads(enlarge(spread(x), left, new)), cache)
  return {
    "t": 0,
    "h": spread(h[:, -1]),
    "cache": cache,
    "keys": keys,
    "real": jnp.pad(spread(slot >= padding), ((0, 0), (left, new))),
    "out": jnp.full((rows, new), tokenization.PAD_ID, jnp.int32),
    "done": jnp.zeros(rows, bool),
  }


@forward_pass.jit_reading(static_argnames=("temperature",), donate=True)
def _decode(model, state: dict, few, *, temperature: float) -> dict:
  """`state` at the end of all its rows (N,), or once no more than `few` of them are still writing."""
  view, new = forward_pass.whole_layers(forward_pass.compute_view(model)), state["out"].shape[1]
  head = forward_pass.vocabulary_head(view)
  stops, slot = jnp.array(tokenization.STOP_IDS), jnp.arange(state["real"].shape[1])
  keys, real = state.pop("keys"), state.pop("real")
  split_heads = lambda x: (
    x.reshape(*x.shape[:2], model.config.num_kv_heads, -1) if x.ndim == 3 else x
  )

  def step(s):
    logits = jnp.einsum(
      "vd,nd->vn", head, forward_pass.lay_out(s["h"]), preferred_element_type=jnp.float32
    )  # "nd,vd->nv": slower on a CPU
    token = first_max(logits) if temperature == 0 else draw(logits, keys, s["t"], temperature)
    token = jnp.where(s["done"], tokenization.PAD_ID, token).astype(jnp.int32)
    seen = real | (
      (slot >= len(slot) - new) & (slot <= len(slot) - new + s["t"])
    )  # the prompt, the completion up to this token
    h, cache = forward_pass.forward(
      view,
      token[:, None],
      real.sum(-1, keepdims=True) + s["t"],
      seen[:, None],
      jax.tree.map(split_heads, s["cache"]),
    )
    return {
      "t": s["t"] + 1,
      "h": h[:, 0],
      "cache": jax.tree.map(join_heads, cache),
      "out": s["out"].at[:, s["t"]].set(token),
      "done": s["done"] | jnp.isin(token, stops),
    }

  return jax.lax.while_loop(lambda s: (s["t"] < new) & ((~s["done"]).sum() > few), step, state) | {
    "keys": keys,
    "real": real,
  }


def sample(
  policy: Policy,
  prompts: list[list[int]],
  *,
  width: int,
  generations: int = 1,
  max_new_tokens: int,
  temperature: float,
  keys=None,
  shared: int = 0,
) -> np.ndarray:
  """Completions (B·G, max_new_tokens) of B prompts of token ids: the stop token is kept, padding follows it.

  width: padded prompt length, at least the longest prompt (`bucket`, or `fit` over `choose_widths`). keys: (B, G, 2) uint32,
  unused when greedy. shared: how many tokens all prompts begin with; those run once. On several devices the rows are padded to a
  multiple of the fsdp axis and each generation prefills its own prompt. A CPU is bound by arithmetic: there prompts of like
  length, so sorted by the caller, are prefilled 8 at a time without much padding, and rows that are done leave.
  """
  longest, new = max(map(len, prompts)), max_new_tokens
  if longest > width:
    raise InputError(
      f"a prompt has {longest} tokens, the limit is {width}; prepare the data with --max_prompt_tokens={width}"
    )
  if width > policy.model.config.sliding_window_size:
    shared = 0  # Tunix's prefill counts its window from the first slot
  keys = np.zeros((len(prompts), generations, 2), np.uint32) if keys is None else np.asarray(keys)
  own, keys, wanted = (
    [row[shared:] for row in prompts],
    keys.reshape(-1, 2),
    len(prompts) * generations,
  )
  fsdp, lean = policy.mesh.shape["fsdp"], jax.default_backend() == "cpu" and policy.mesh.size == 1
  if policy.mesh.size > 1:
    own, generations = [row for row in own for _ in range(generations)], 1
    own += own[:1] * (-len(own) % fsdp)
    keys = np.concatenate([keys, keys[:1].repeat(len(own) - wanted, 0)])
  prefix, rows = (
    np.array([prompts[0][:shared]] * fsdp, np.int32).reshape(fsdp, shared),
    np.arange(len(keys)),
  )
  out, states = np.full((len(rows), new), tokenization.PAD_ID, np.int32), []
  with policy.mesh:
    at_once = 8 if lean else len(own)
    for i in range(0, len(own), at_once):
      part = own[i : i + at_once]
      tight = tokenization.bucket(max(map(len, part)), width - shared) if lean else width - shared
      states.append(
        _prefill(
          policy.model,
          prefix,
          tokenization.pad_left(part, tight),
          keys[i * generations : (i + len(part)) * generations],
          generations=generations,
          slots=width,
          new=new,
        )
      )
    state = (
      jax.tree.map(lambda *x: jnp.concatenate(x) if x[0].ndim else x[0], *states)
      if len(states) > 1
      else states[0]
    )
    del states
    while True:
      few = len(rows) // 2 if lean and len(rows) > 8 else 0
      state = _decode(policy.model, state, few, temperature=float(temperature))
      done, out[rows] = np.asarray(state["done"]), np.asarray(state["out"])
      if done.all() or int(state["t"]) == new:
        return out[:wanted]
      stay = np.argsort(done, kind="stable")[:few]  # those still writing, then others to fill up
      rows, state = rows[stay], jax.tree.map(lambda x, stay=stay: x[stay] if x.ndim else x, state)


def completion_lengths(completions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """completions (N, L) of `sample` -> (tokens up to and with the stop token (N,), ended with a stop token (N,) bool)."""
  stops = np.isin(completions, tokenization.STOP_IDS)
  stopped = stops.any(-1)
  return np.where(stopped, stops.argmax(-1) + 1, completions.shape[-1]), stopped
