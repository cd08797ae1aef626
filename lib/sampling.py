"""Draws completions from a model: prefill each prompt once, then a token at a time for all rows.

`sample` is what other files call. It prefills (`_prefill`), decodes (`_decode`) and, on a CPU, lets
rows that have ended leave. `rehearse` compiles what it will need. `draw` is one token's draw.
`completion_lengths` reads the result.

B: prompts, G: answers to each ("generations"), N = B · G rows, P: padded length of the prompts' own
tokens, S: tokens that all prompts begin with ("shared"), L: new tokens at most, V: words of the
vocabulary, K: key-value heads, H: size of a head. A row's slots in the cache lie in this order:

  left padding | shared tokens | its own tokens | room for L new ones
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import utils as sft_utils

from lib import batching, forward_pass, hosts, sliding_window, tokenization
from lib.errors import InputError
from lib.loading import Policy

CPU_PREFILL_ROWS = 8  # prompts of like length that a CPU prefills at a time
FEW_ROWS = 8  # decoding so many together takes a CPU hardly longer than decoding one


class Sizes(NamedTuple):
  """What `sample` compiles: a prefill for each of `widths`, a decoding for each of `rows`."""

  prompts: int  # prefilled at a time, padded to the smallest of the widths that holds them
  widths: tuple[int, ...]
  rows: tuple[int, ...]  # decoded at first, and once no more of them are still writing: 32, 16, 8


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


# The cache of keys and values: {layer: {"k", "v": (N, slots, K, H), "end_index": (N,)}}. While
# decoding, local layers have the slots of their window alone (lib/sliding_window.py).


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


@forward_pass.jit_reading(static_argnames=("slots", "new"))
def _prefill(model, prefix, prompts, *, slots: int, new: int) -> dict:
  """The state of `_decode` before the first of `new` tokens, of one answer to each of B prompts.

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

  # Padding goes in front, so that the new tokens of all rows share their slots.
  left = slots - shared - width
  cache = sliding_window.keep_windows(pad_cache(cache, left, new), model.config, slots)
  return {
    "t": jnp.zeros((), jnp.int32),
    "hidden": hidden[:, -1],  # (B, D), predicts the next token
    "cache": join_heads(cache),
    "real": jnp.pad(real, ((0, 0), (left, new))),  # (B, slots + L), the prompts' slots
    "out": jnp.full((rows, new), tokenization.PAD_ID, jnp.int32),
    "log_p": jnp.zeros((rows, new)),
    "done": jnp.zeros(rows, bool),
  }


@jax.jit
def take_rows(states: list[dict], rows) -> dict:
  """One state of the given rows of all `states`, counted through: [4 rows, 4 rows] and 5 → the
  second's second."""

  def take(*parts):
    # t is the same in all.
    return jnp.concatenate(parts)[rows] if parts[0].ndim else parts[0]

  return jax.tree.map(take, *states)


@forward_pass.jit_reading(static_argnames=("temperature",), donate=True)
def _decode(model, state: dict, keys, few, greedy, *, temperature: float) -> dict:
  """`state` when all its rows have ended, or once no more than `few` of them are still writing.

  keys: (N, 2), see `draw`. greedy: the most likely word instead, and the same program.
  """
  # Collected once before the loop, not once a token.
  view = forward_pass.whole_layers(forward_pass.compute_view(model))
  head = forward_pass.vocabulary_head(view)
  stops = jnp.array(tokenization.STOP_IDS)
  new = state["out"].shape[1]

  # It does not change, so it stays out of the loop's state.
  real = state.pop("real")
  slot = jnp.arange(real.shape[1])
  first_new = len(slot) - new
  prompt_length = real.sum(-1, keepdims=True)  # (N, 1)

  def pick(hidden, t):
    hidden = forward_pass.lay_out(hidden)
    # The vocabulary leads: "nd,vd->nv" is slower on a CPU.
    logits = jnp.einsum("vd,nd->vn", head, hidden, preferred_element_type=jnp.float32)

    def most_likely():
      # log p is not asked for here.
      return first_max(logits), jnp.zeros(logits.shape[1])

    def drawn():
      return draw(logits, keys, t, temperature)

    return most_likely() if temperature == 0 else jax.lax.cond(greedy, most_likely, drawn)

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
  return jax.lax.while_loop(goes_on, step, state) | {"real": real}


def sample(
  policy: Policy,
  prompts: list[list[int]],
  *,
  width: int,
  generations: int = 1,
  max_new_tokens: int,
  temperature: float,
  greedy: bool = False,
  keys=None,
  shared: int = 0,
  sizes: Sizes | None = None,
  with_log_p: bool = False,
):
  """Completions (N, L) of B prompts of token ids: the stop token is kept, padding follows it.

  width: padded prompt length, at least the longest prompt (`tokenization.bucket`, or `fit` over
  `choose_widths`). temperature: 0 is greedy; so is `greedy`, by the program that draws at
  `temperature`. keys: (B, G, 2) uint32, unused when greedy. shared: how many tokens all prompts
  begin with; those run once. sizes: None: what takes the least time, compilation left out.
  with_log_p: also returns the log-probability of each drawn token at `temperature`, (N, L)
  float32, as the sampler saw it; 0 when greedy.
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
  wanted = len(keys)
  prefix = first_tokens(policy, prompts[0][:shared])
  own = [row[shared:] for row in prompts]

  if policy.mesh.size > 1:
    # Rows divide over the devices: each answer prefills its own prompt, copies fill the last place.
    own = [row for row in own for _ in range(generations)]
    generations = 1
    missing = -len(own) % policy.mesh.shape["fsdp"]
    own += own[:1] * missing
    keys = np.concatenate([keys, keys[:1].repeat(missing, 0)])
    sizes = Sizes(len(own), (width,), (len(own),))

  sizes = sizes or fastest_sizes(policy, len(own), generations, width)
  with policy.mesh:
    state = prefill(policy, prefix, own, sizes, width, generations, max_new_tokens)
    out, log_p = decode(policy, state, keys, sizes.rows, float(temperature), greedy)
  if with_log_p:
    return out[:wanted], log_p[:wanted]
  return out[:wanted]


def computes_on_cpu(policy: Policy) -> bool:
  """Whether arithmetic takes the time: padding and ended rows then cost like real tokens."""
  return jax.default_backend() == "cpu" and policy.mesh.size == 1


def first_tokens(policy: Policy, tokens: list[int]) -> np.ndarray:
  """The shared tokens (F, S), an equal row for each device: a single one could not be divided."""
  rows = policy.mesh.shape["fsdp"]
  return np.array([tokens] * rows, np.int32).reshape(rows, len(tokens))


def fastest_sizes(policy: Policy, prompts: int, generations: int, width: int) -> Sizes:
  """All at once; a CPU prefills few at a time, each few padded to its own longest, and halves the
  rows of a decoding whenever half of them have ended.

  A device that is bound by reading the weights gains nothing by that.
  """
  answers = prompts * generations
  if not computes_on_cpu(policy):
    return Sizes(prompts, (width,), (answers,))
  rows = [answers]
  while rows[-1] > FEW_ROWS:
    rows.append(rows[-1] // 2)
  return Sizes(min(CPU_PREFILL_ROWS, prompts), tokenization.LENGTH_BUCKETS, tuple(rows))


class Shape(NamedTuple):
  """Of all shapes that a run samples with, those for one width of prompts."""

  prompt: int  # the padded width
  cache: int  # `width` of `sample`
  sizes: Sizes


def run_shapes(
  policy: Policy, widths: tuple[int, ...], prompts: int, generations: int
) -> list[Shape]:
  """What a run compiles to sample prompts × generations answers together, a shape for each width.

  At most four programs: two widths are two prefills and two decodings. Where ended rows leave, all
  decode with the wider cache, and a second number of rows is the second decoding. A quarter loses
  least: of 32 answers that end one by one it decodes 8% longer than halves do.
  """
  answers = prompts * generations
  if not computes_on_cpu(policy):
    return [Shape(width, width, Sizes(prompts, (width,), (answers,))) for width in widths]
  at_once = min(CPU_PREFILL_ROWS, prompts)
  if answers <= FEW_ROWS:
    return [Shape(width, width, Sizes(at_once, (width,), (answers,))) for width in widths]
  sizes = Sizes(at_once, widths, (answers, answers // 4))
  return [Shape(width, widths[-1], sizes) for width in widths]


def prefill(
  policy: Policy,
  prefix: np.ndarray,
  own: list[list[int]],
  sizes: Sizes,
  width: int,
  generations: int,
  new: int,
) -> dict:
  """The state of `_decode` for G answers to each prompt, in the order of the prompts."""
  room = width - prefix.shape[1]
  order = list(range(len(own)))
  if len(sizes.widths) > 1:
    # Those of like length together: a part is as wide as its longest.
    order.sort(key=lambda i: len(own[i]))
  states = []
  for part in batching.filled_batches([own[i] for i in order], sizes.prompts):
    longest = max(map(len, part))
    fitting = [size for size in sizes.widths if longest <= size < room]
    padded = tokenization.pad_left(part, min(fitting, default=room))
    # Whatever its own width, a part has `width` slots, so that parts can be joined.
    states.append(_prefill(policy.model, prefix, padded, slots=width, new=new))
  # One part in the order of the prompts, as on several devices: there is nothing to move.
  if len(states) == 1 and generations == 1 and order == list(range(sizes.prompts)):
    return states[0]
  # The place of each prompt in the parts, G times.
  return take_rows(states, np.argsort(order).repeat(generations))


def decode(
  policy: Policy,
  state: dict,
  keys: np.ndarray,
  sizes: tuple[int, ...],
  temperature: float,
  greedy: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Runs `state` to the end of all its rows -> (completions, log-probabilities), both (N, L).

  sizes: see `Sizes.rows`. What has left costs nothing more.
  """
  everyone, new = state["out"].shape
  rows = np.arange(everyone)  # which row each of the state's is
  out = np.full((everyone, new), tokenization.PAD_ID, np.int32)
  log_p = np.zeros((everyone, new), np.float32)
  # (128, 32): 128 rows until 32 are left, those until none is.
  for few in (*sizes[1:], 0):
    state = _decode(policy.model, state, keys[rows], few, greedy, temperature=temperature)
    t, done, *written = hosts.fetch([state[name] for name in ("t", "done", "out", "log_p")])
    # At the place of the row, whatever has left before it.
    out[rows], log_p[rows] = written
    if done.all() or t == new:
      break
    stay = np.argsort(done, kind="stable")[:few]  # those still writing, then others to fill up
    rows = rows[stay]
    state = take_rows([state], stay)
  return out, log_p


def rehearse(
  policy: Policy,
  widths: tuple[int, ...],
  prompts: int,
  generations: int,
  max_new_tokens: int,
  temperature: float,
):
  """Compiles all that a run samples with: `prompts` × `generations` answers together, or one answer
  to as many prompts.

  It takes a prefill of each width, and decodings that end before their first token.
  """
  answers = prompts * generations
  # As `sample` fills up the last place on the last device.
  answers += -answers % policy.mesh.shape["fsdp"]
  for shape in run_shapes(policy, widths, prompts, generations):
    at_once = answers if policy.mesh.size > 1 else shape.sizes.prompts
    blank = np.full((at_once, shape.prompt), tokenization.BOS_ID, np.int32)
    with policy.mesh:
      for parts in {-(-prompts // at_once), -(-answers // at_once)}:
        part = _prefill(
          policy.model, first_tokens(policy, []), blank, slots=shape.cache, new=max_new_tokens
        )
        state = part
        if at_once < answers:
          state = take_rows([part] * parts, np.zeros(answers, np.int64))
        for rows in (answers, *shape.sizes.rows[1:]):
          if rows < answers:
            state = take_rows([state], np.zeros(rows, np.int64))
          keys = np.zeros((rows, 2), np.uint32)
          # No more than `rows` are still writing, so it stops at once.
          state = _decode(policy.model, state, keys, rows, False, temperature=temperature)


def completion_lengths(completions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """completions (N, L) -> (tokens up to and with the stop token, is there one), both (N,)."""
  stops = np.isin(completions, tokenization.STOP_IDS)
  stopped = stops.any(-1)
  lengths = np.where(stopped, stops.argmax(-1) + 1, completions.shape[-1])
  return lengths, stopped
