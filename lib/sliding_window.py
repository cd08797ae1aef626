"""Local layers that keep the slots of their sliding window alone while a model decodes.

Five of six layers of a Gemma 3 look back 512 or 1,024 tokens, but Tunix keeps a slot for every
token in all of them: of 1,024 + 512 tokens that is 56% of what decoding reads of keys and values.

  keep_windows  a cache's local layers as rings of W slots, W: the window
  read_rings    has a model's local layers attend to such rings

A ring's slot j holds the newest token whose place in the whole cache is j modulo W; Tunix's
attention writes so already.
"""

import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma3 import model as gemma3

LOCAL = gemma3.AttentionType.LOCAL_SLIDING


def ring_sources(newest, window: int):
  """(W,) the place in the whole cache of what each slot holds; negative where there is none yet.

  W = 4 and newest 6 → places 4 5 6 3.
  """
  slot = jnp.arange(window)
  return newest - (newest - slot) % window


def local_layers(config) -> list[str]:
  """Their names in a cache."""
  pattern = gemma3.GEMMA3_ATTENTION_PATTERN
  return [f"layer_{i}" for i in range(config.num_layers) if pattern[i % len(pattern)] == LOCAL]


def keep_windows(cache: dict, config, filled: int) -> dict:
  """`cache` {layer: …} whose local layers keep W of their slots, of which the first `filled` are
  written; as it is where it has no more than W."""
  window = config.sliding_window_size
  if cache["layer_0"]["k"].shape[1] <= window:
    return cache
  # Nothing stands before the first slot; what is read there instead, the mask hides.
  source = jnp.maximum(ring_sources(filled - 1, window), 0)
  kept = dict(cache)
  # By name: a dictionary that went through jax.jit is sorted, layer_10 before layer_2.
  for name in local_layers(config):
    layer = cache[name]
    kept[name] = layer | {"k": layer["k"][:, source], "v": layer["v"][:, source]}
  return kept


class RingAttention(gemma3.Attention):
  """Tunix's attention of one new token over a ring: the same slots in another order."""

  def block(self, x, segment_pos, cache, attn_mask):
    source = ring_sources(cache["end_index"][0], cache["k"].shape[1])
    # (N, 1, slots of the whole cache) → (N, 1, W)
    mask = attn_mask[:, :, jnp.maximum(source, 0)] & (source >= 0)
    return super().block(x, segment_pos, cache, mask)


def read_rings(model: nnx.Module, cache: dict, slots: int):
  """Changes `model`, a copy that lives for one trace. slots: of the whole cache."""
  for i, layer in enumerate(model.layers):
    if cache[f"layer_{i}"]["k"].shape[1] < slots:
      layer.attn.__class__ = RingAttention
      # A ring is its window: Tunix's own mask, which counts slots from the left, would be wrong.
      layer.attn.attn_type = gemma3.AttentionType.GLOBAL
