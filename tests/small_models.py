"""A Gemma 3 that compiles in moments, for tests of what any size does alike."""

import jax.numpy as jnp

from lib import gemma


def small_config(**changes) -> gemma.ModelConfig:
  """One layer, 32 wide; changes: fields that a test has otherwise."""
  fields = dict(
    num_layers=1,
    num_embed=512,
    embed_dim=32,
    hidden_dim=48,
    num_heads=2,
    head_dim=16,
    num_kv_heads=1,
    sliding_window_size=128,
    local_base_frequency=10_000,
    global_base_frequency=10_000,
    param_dtype=jnp.float32,
  )
  return gemma.ModelConfig(**fields | changes)
