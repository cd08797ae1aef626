"""TODO-DOC forward_pass."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters import pxla
from tunix.models.gemma3 import model as gemma3


# -------------------------------------------------------------------------------------------- forward, sample, log-probs
def compute_view(model: nnx.Module):
  """(graph, state) of `model` in its compute dtype: float32 masters, bfloat16 arithmetic; gradients flow through the cast."""
  graph, state = nnx.split(model)
  cast = lambda x: (
    x.astype(model.config.param_dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
  )
  return graph, jax.tree.map(cast, state)


def forward(view, tokens, positions, mask, cache=None, remat=False):
  """Final hidden states (B, T, D) and the new cache.

  Goes through model.__call__, because qwix adds LoRA by intercepting exactly that method: calling model.layers by hand
  silently runs without the adapters. The logits that __call__ also builds are unused, so XLA drops them. Tunix's
  rematerialisation breaks any call with a cache, so it is switched on for this trace alone.
  """
  model = nnx.merge(*view)
  before = model.config.remat_config
  model.config.remat_config = gemma3.RematConfig.DECODER if remat else gemma3.RematConfig.NONE
  try:
    _, cache = model(tokens, positions, cache, mask, output_hidden_states=True)
  finally:
    model.config.remat_config = before
  return nnx.pop(model, nnx.Intermediate)["all_hidden_states"].get_value()[-1], cache


def jit_reading(static_argnames: tuple[str, ...] = (), donate: bool = False):
  """jax.jit for functions of (model, …) that only read the model. donate: they may reuse the memory of their second argument.

  nnx.jit returns every variable it was given, for the caller's model to be updated: a copy of all weights with each call.
  """

  def wrap(function):
    compiled = jax.jit(
      lambda graph, state, *args, **options: function(nnx.merge(graph, state), *args, **options),
      static_argnums=0,
      static_argnames=static_argnames,
      donate_argnums=(2,) if donate else (),
    )
    call = lambda model, *args, **options: compiled(*nnx.split(model), *args, **options)
    call.lower = lambda model, *args, **options: compiled.lower(
      *nnx.split(model), *args, **options
    )  # ahead of time
    return call

  return wrap


def lay_out(x, *axes):
  """x laid out so over the mesh of the context (`with mesh:`); as it is where that is one device or none."""
  mesh = pxla.thread_resources.env.physical_mesh
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(
    x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  )


def vocabulary_head(view):
  """The head (V, D), cut along V over all devices: each finds the logits of its words, and what is left to reduce is small.

  Cut along D, as Tunix stores it, a chunk's logits (V, C) would be summed over the links, or the head itself collected.
  """
  return lay_out(view[1]["embedder"]["input_embedding"].get_value(), ("fsdp", "tp"), None)


def whole_layers(view):
  """The view with its layers whole along fsdp, for a loop that reads all of them at each turn.

  Left as they are stored, XLA collects the slices inside decoding's loop: 2 GB over the links a token with 1B and its head. Whole
  layers cost 1.2 GB a chip there.
  """
  graph, state = view
  free = jax.sharding.PartitionSpec.UNCONSTRAINED
  whole = lambda spec, x: lay_out(x, *(None if axis == "fsdp" else free for axis in spec))
  state["layers"] = jax.tree.map(whole, nnx.get_partition_spec(state["layers"]), state["layers"])
  return graph, state
