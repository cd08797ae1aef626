"""Draws completions from a model: prefill each prompt once, then a token at a time for all rows.

`sample` is what other files call. It prefills (`_prefill`), decodes (`_decode`) and, on a CPU, lets
rows that have ended leave. `draw` is one token's draw. `completion_lengths` reads the result.

B: prompts, G: answers to each ("generations"), N = B · G rows, P: padded length of the prompts' own
tokens, S: tokens that all prompts begin with ("shared"), L: new tokens at most, V: words of the
vocabulary, K: key-value heads, H: size of a head. A row's slots in the cache lie in this order:

  left padding | shared tokens | its own tokens | room for L new ones
"""

import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import utils as sft_utils

from lib import forward_pass, tokenization
from lib.errors import InputError
from lib.loading import Policy

CPU_PREFILL_ROWS = 8  # prompts of like length that a CPU prefills at a time


# One token from logits.


def blocks_of(logits):
  """logits (V, N) as equal blocks of at most 512 words, (blocks, words, N).

  On a CPU, XLA reduces the whole of V at once on one core, and blocks of it on all. V is not padded
  to a multiple of 512: that would break its cut over devices (4B has 262,208 = 544 · 482).
  """
  vocabulary, rows = logits.shape
  # 262,144 words → 512 blocks of 512; 1,152 → 3 of 384.
  words = max(size for size in range(1, 513) if vocabulary % size == 0)
  return logits.reshape(-1, words, rows)


def first_above(weights, u):
  """The first index (N,) whose cumulative weight exceeds u · total.

  weights: (K, N), not negative. u: (N,) in [0, 1).
  """
  cumulative = jnp.cumsum(weights, 0)
  total = cumulative[-1]
  # Rounding can bring u · total up to the total itself, and the index one past the end. Such a draw
  # would be a word that does not exist: one in some millions of tokens.
  target = jnp.minimum(u * total, jnp.nextafter(total, -1.0))
  # Weights 2, 0, 3 and u = 0.4: target 2, cumulative 2, 2, 5, so index 2; never the 0.
  return jnp.sum(cumulative <= target, 0)


def draw(logits, keys, t, temperature: float):
  """One exact draw (N,) from softmax(logits / temperature), and its log-probability (N,).

  logits (V, N). keys (N, 2) belong to the rows and t to the token, so the noise of a row does not
  depend on how rows are batched. Untruncated: with top-p or top-k the sampler would be another
  distribution than the loss assumes.

  Inverse transform sampling in two steps, first a block of words, then a word in it: one uniform
  number for each. `jax.random.categorical` would draw V Gumbel numbers for each token of each row.
  """
  blocks = blocks_of(logits)  # (blocks, words, N)
  # Weights relative to the highest logit: e^0 at most, so nothing overflows.
  highest = blocks.max(1).max(0)  # (N,)

  def weights_of(x):
    return jnp.exp((x - highest) / temperature)

  def two_uniforms(key):
    return jax.random.uniform(jax.random.fold_in(key, t), (2,))

  # Noise by (row, token), see above: u[0] chooses the block, u[1] the word in it.
  u = jax.vmap(two_uniforms, out_axes=1)(keys)  # (2, N)
  rows = jnp.arange(len(keys))

  block_weights = weights_of(blocks).sum(1)  # (blocks, N)
  block = first_above(block_weights, u[0])
  word_weights = weights_of(blocks[block, :, rows].T)  # (words, N)
  word = first_above(word_weights, u[1])

  # p(word) = its weight ÷ the weight of all words, whichever block it is in.
  log_p = jnp.log(word_weights[word, rows]) - jnp.log(block_weights.sum(0))
  return block * blocks.shape[1] + word, log_p


def first_max(logits):
  """The most likely word (N,) of logits (V, N); the first of equals."""
  blocks = blocks_of(logits)  # (blocks, words, N)
  rows = jnp.arange(logits.shape[1])
  block = blocks.max(1).argmax(0)
  word = blocks[block, :, rows].argmax(-1)
  return block * blocks.shape[1] + word


# The cache of keys and values: {layer: {"k", "v": (N, slots, K, H), "end_index": (N,)}}.


def map_keys_values(function, cache):
  """`cache` with function(x) in the place of each of its keys and values; end_index stays."""

  def change(x):
    return function(x) if x.ndim > 1 else x

  return jax.tree.map(change, cache)


def empty_cache(config, rows: int, slots: int) -> dict:
  """What Tunix's Gemma 3 takes as `cache`, before its first token."""
  shape = (rows, slots, config.num_kv_heads, config.head_dim)

  def layer():
    return {
      "k": jnp.zeros(shape, config.param_dtype),
      "v": jnp.zeros(shape, config.param_dtype),
      "end_index": jnp.zeros(rows, jnp.int32),  # the slot that the next token goes to
    }

  return {f"layer_{i}": layer() for i in range(config.num_layers)}


def pad_cache(cache, left: int, right: int):
  """`cache` with so many more slots on either side, and its next slot moved along."""

  def pad(x):
    if x.ndim == 1:
      # end_index, the only one with one axis.
      return x + left
    return jnp.pad(x, ((0, 0), (left, right), (0, 0), (0, 0)))

  return jax.tree.map(pad, cache)


def repeat_first_row(cache, rows: int):
  return jax.tree.map(lambda x: jnp.repeat(x[:1], rows, 0), cache)


def shift_behind_padding(cache, shared: int, padding):
  """Moves the shared tokens' keys and values from the front to behind each row's padding.

  They were computed once, at slots 0 to S - 1; a row's own tokens stand behind `padding` (B, 1)
  empty slots. Tunix's sliding window counts slots, so the two must lie next to each other.
  """
  slots = cache["layer_0"]["k"].shape[1]
  slot = jnp.arange(slots)
  # S = 2, padding 1: slots a b _ own become a a b own; the mask hides the first.
  moved = jnp.maximum(slot - padding, 0)
  source = jnp.where(slot < shared + padding, moved, slot)  # (B, slots): whose content comes here

  def gather(x):
    return jax.vmap(lambda row, index: row[index])(x, source)

  return map_keys_values(gather, cache)


def join_heads(cache):
  """Keys and values (N, slots, K, H) as (N, slots, K · H), the form between two decoded tokens.

  Kept as Tunix has it, XLA copies all of it four times a token on a CPU instead of once: it fuses
  the cache's update twice, into the attention and into the next state.
  """
  return map_keys_values(lambda x: x.reshape(*x.shape[:2], -1), cache)


def split_heads(cache, heads: int):
  """Inverse of `join_heads`."""
  return map_keys_values(lambda x: x.reshape(*x.shape[:2], heads, -1), cache)


# Prefill and decoding.


@forward_pass.jit_reading(static_argnames=("generations", "slots", "new"))
def _prefill(model, prefix, prompts, keys, *, generations: int, slots: int, new: int) -> dict:
  """The state of `_decode` before the first of `new` tokens, for N = B · G rows.

  prefix (F, S): the shared tokens, F equal rows, one for each device of the fsdp axis; they run
  once for all. prompts (B, P): each prompt's own tokens, left-padded. slots: S + P or more; the
  further ones become left padding, where other prompts of the same decoding are longer.
  """
  view = forward_pass.compute_view(model)
  positions_of = sft_utils.build_positions_from_mask
  causal_mask = sft_utils.make_causal_attn_mask
  rows, width = prompts.shape
  shared = prefix.shape[1]

  # The shared tokens, once.
  cache = empty_cache(model.config, len(prefix), shared)
  if shared:
    real = jnp.ones(prefix.shape, bool)
    _, cache = forward_pass.forward(view, prefix, positions_of(real), causal_mask(real), cache)

  # Each prompt's own tokens behind them.
  # (F, S) → (B, S + P): all prompts begin with the same keys and values.
  cache = pad_cache(repeat_first_row(cache, rows), 0, width)
  own = prompts != tokenization.PAD_ID  # (B, P)
  # A prompt's own tokens see all shared ones: (B, P, S + P).
  mask = jnp.pad(causal_mask(own), ((0, 0), (0, 0), (shared, 0)), constant_values=True)
  hidden, cache = forward_pass.forward(view, prompts, positions_of(own) + shared, mask, cache)
  padding = (~own).sum(-1, keepdims=True)  # (B, 1)
  if shared:
    cache = shift_behind_padding(cache, shared, padding)
  real = jnp.arange(shared + width) >= padding  # (B, S + P)

  # G rows for each prompt, with room for what they will write.
  def spread(x):
    return jnp.repeat(x, generations, axis=0)

  # Padding goes in front, so that the new tokens of all rows share their slots.
  left = slots - shared - width
  rows *= generations
  return {
    "t": 0,
    "hidden": spread(hidden[:, -1]),  # (N, D), predicts the next token
    "cache": join_heads(pad_cache(jax.tree.map(spread, cache), left, new)),
    "keys": keys,  # (N, 2)
    "real": jnp.pad(spread(real), ((0, 0), (left, new))),  # (N, slots + L), the prompts' slots
    "out": jnp.full((rows, new), tokenization.PAD_ID, jnp.int32),
    "log_p": jnp.zeros((rows, new)),
    "done": jnp.zeros(rows, bool),
  }


@forward_pass.jit_reading(static_argnames=("temperature",), donate=True)
def _decode(model, state: dict, few, *, temperature: float) -> dict:
  """`state` when all its rows have ended, or once no more than `few` of them are still writing."""
  # Collected once before the loop, not once a token.
  view = forward_pass.whole_layers(forward_pass.compute_view(model))
  head = forward_pass.vocabulary_head(view)
  stops = jnp.array(tokenization.STOP_IDS)
  new = state["out"].shape[1]

  # These two do not change, so they stay out of the loop's state.
  keys = state.pop("keys")
  real = state.pop("real")
  slot = jnp.arange(real.shape[1])
  first_new = len(slot) - new
  prompt_length = real.sum(-1, keepdims=True)  # (N, 1)

  def pick(hidden, t):
    hidden = forward_pass.lay_out(hidden)
    # The vocabulary leads: "nd,vd->nv" is slower on a CPU.
    logits = jnp.einsum("vd,nd->vn", head, hidden, preferred_element_type=jnp.float32)
    # Static, so a program is either greedy or draws; log p is not asked for here.
    if temperature == 0:
      return first_max(logits), jnp.zeros(logits.shape[1])
    return draw(logits, keys, t, temperature)

  def step(s):
    t = s["t"]
    token, log_p = pick(s["hidden"], t)
    token = jnp.where(s["done"], tokenization.PAD_ID, token).astype(jnp.int32)
    written = (slot >= first_new) & (slot <= first_new + t)  # up to and with this token
    mask = (real | written)[:, None]  # (N, 1, slots + L)
    cache = split_heads(s["cache"], model.config.num_kv_heads)
    hidden, cache = forward_pass.forward(view, token[:, None], prompt_length + t, mask, cache)
    return {
      "t": t + 1,
      "hidden": hidden[:, 0],
      "cache": join_heads(cache),
      "out": s["out"].at[:, t].set(token),
      "log_p": s["log_p"].at[:, t].set(jnp.where(s["done"], 0.0, log_p)),
      "done": s["done"] | jnp.isin(token, stops),
    }

  def goes_on(s):
    return (s["t"] < new) & ((~s["done"]).sum() > few)

  # A while loop: it ends with its rows, not after all L tokens.
  return jax.lax.while_loop(goes_on, step, state) | {"keys": keys, "real": real}


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
  with_log_p: bool = False,
):
  """Completions (N, L) of B prompts of token ids: the stop token is kept, padding follows it.

  width: padded prompt length, at least the longest prompt (`tokenization.bucket`, or `fit` over
  `choose_widths`). temperature: 0 is greedy. keys: (B, G, 2) uint32, unused when greedy. shared:
  how many tokens all prompts begin with; those run once. with_log_p: also returns the
  log-probability of each drawn token at `temperature`, (N, L) float32, as the sampler saw it; 0
  when greedy.

  Prompts of like length should stand together: a CPU prefills them 8 at a time.
  """
  longest = max(map(len, prompts))
  if longest > width:
    raise InputError(
      f"a prompt has {longest} tokens, the limit is {width}; "
      f"prepare the data with --max_prompt_tokens={width}"
    )
  if width > policy.model.config.sliding_window_size:
    shared = 0  # Tunix's prefill counts its window from the first slot
  if keys is None:
    keys = np.zeros((len(prompts), generations, 2), np.uint32)
  keys = np.asarray(keys).reshape(-1, 2)  # (N, 2)
  # One equal row for each device of the axis: a single row could not be divided.
  prefix = [prompts[0][:shared]] * policy.mesh.shape["fsdp"]
  own = [row[shared:] for row in prompts]
  wanted = len(prompts) * generations

  if policy.mesh.size > 1:
    # Rows divide over the devices: each answer prefills its own prompt, copies fill the last place.
    own = [row for row in own for _ in range(generations)]
    generations = 1
    missing = -len(own) % policy.mesh.shape["fsdp"]
    own += own[:1] * missing
    keys = np.concatenate([keys, keys[:1].repeat(missing, 0)])

  with policy.mesh:
    state = prefill(policy, prefix, own, keys, width, shared, generations, max_new_tokens)
    out, log_p = decode(policy, state, float(temperature))
  if with_log_p:
    return out[:wanted], log_p[:wanted]
  return out[:wanted]


def computes_on_cpu(policy: Policy) -> bool:
  """Whether arithmetic takes the time: padding and ended rows then cost like real tokens."""
  return jax.default_backend() == "cpu" and policy.mesh.size == 1


def prefill(policy, prefix, own, keys, width: int, shared: int, generations: int, new: int) -> dict:
  """`_prefill` of all prompts; a CPU does few at a time, each few padded to its own longest."""
  at_once = CPU_PREFILL_ROWS if computes_on_cpu(policy) else len(own)
  prefix = np.array(prefix, np.int32).reshape(len(prefix), shared)
  states = []
  for first in range(0, len(own), at_once):
    part = own[first : first + at_once]
    room = width - shared
    if computes_on_cpu(policy):
      room = tokenization.bucket(max(map(len, part)), room)
    part_keys = keys[first * generations : (first + len(part)) * generations]
    padded = tokenization.pad_left(part, room)
    states.append(
      _prefill(
        policy.model, prefix, padded, part_keys, generations=generations, slots=width, new=new
      )
    )
  # Each part has the same number of slots, `width`, so they can be joined along the rows.
  if len(states) == 1:
    return states[0]

  def join(*parts):
    return jnp.concatenate(parts) if parts[0].ndim else parts[0]  # t, the same in all

  return jax.tree.map(join, *states)


def decode(policy: Policy, state: dict, temperature: float) -> tuple[np.ndarray, np.ndarray]:
  """Runs `state` to the end of all its rows -> (completions, log-probabilities), both (N, L).

  On a CPU the rows halve whenever half of them have ended: each size compiles once, and what has
  ended costs nothing more. A device that is bound by reading the weights gains nothing by that.
  """
  everyone, new = state["out"].shape
  rows = np.arange(everyone)  # which row each of the state's is
  out = np.full((everyone, new), tokenization.PAD_ID, np.int32)
  log_p = np.zeros((everyone, new), np.float32)
  while True:
    # 0 runs to the end: for 8 rows or fewer, a further size to compile is not worth it.
    few = len(rows) // 2 if computes_on_cpu(policy) and len(rows) > 8 else 0
    state = _decode(policy.model, state, few, temperature=temperature)
    done = np.asarray(state["done"])
    # At the place of the row, whatever has left before it.
    out[rows] = np.asarray(state["out"])
    log_p[rows] = np.asarray(state["log_p"])
    if done.all() or int(state["t"]) == new:
      return out, log_p
    stay = np.argsort(done, kind="stable")[:few]  # those still writing, then others to fill up
    rows = rows[stay]
    state = keep_rows(state, stay)


def keep_rows(state: dict, stay: np.ndarray) -> dict:
  """The rows `stay` of a decoding state."""

  def keep(x):
    return x[stay] if x.ndim else x

  return jax.tree.map(keep, state)


def completion_lengths(completions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """completions (N, L) -> (tokens up to and with the stop token, is there one), both (N,)."""
  stops = np.isin(completions, tokenization.STOP_IDS)
  stopped = stops.any(-1)
  lengths = np.where(stopped, stops.argmax(-1) + 1, completions.shape[-1])
  return lengths, stopped
