"""One pass through Tunix's Gemma 3, as sampling, log-probs and every loss call it.

A *view* is (graph, state): the model split by nnx, in the dtype that it computes in. `compute_view`
makes one, `forward` runs it, `vocabulary_head` and `whole_layers` say how it lies over several
devices, and `jit_reading` compiles functions that read a model without changing it. `flatten`
splits a module once, and after that its arrays are read and written in a hundredth of the time.

B: rows, T: positions, D: width of the model, V: words of the vocabulary.
"""

import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters import pxla
from tunix.models.gemma3 import model as gemma3

from lib import sliding_window


def compute_view(model: nnx.Module):
  """(graph, state) of `model` in its compute dtype.

  Trained weights are float32 masters; the arithmetic is the config's dtype, bfloat16 on a TPU or a
  GPU. Gradients flow through the cast, so an update smaller than bfloat16 can tell still counts.
  """
  graph, state = nnx.split(model)

  def cast(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
      return x.astype(model.config.param_dtype)
    return x

  return graph, jax.tree.map(cast, state)


def forward(view, tokens, positions, mask, cache=None, remat=False):
  """Final hidden states (B, T, D) and the new cache.

  tokens, positions: (B, T). mask: (B, T, keys), True where a position may look. cache: keys and
  values of earlier positions by layer, or None. remat: recompute activations in the backward pass.
  """
  # Through model.__call__, because qwix adds LoRA by intercepting exactly that method: calling
  # model.layers by hand runs without the adapters, and nothing says so. The logits that __call__
  # builds too are not used, so XLA drops them.
  model = nnx.merge(*view)
  if model.config.param_dtype != jnp.float32:
    compute_norms_in_float32(model)
  if cache is not None:
    sliding_window.read_rings(model, cache, mask.shape[-1])

  # Tunix's rematerialisation breaks any call with a cache, so it is on for this trace alone.
  before = model.config.remat_config
  if remat:
    model.config.remat_config = gemma3.RematConfig.DECODER
  else:
    model.config.remat_config = gemma3.RematConfig.NONE
  try:
    _, cache = model(tokens, positions, cache, mask, output_hidden_states=True)
  finally:
    model.config.remat_config = before

  hidden = nnx.pop(model, nnx.Intermediate)["all_hidden_states"].get_value()
  return hidden[-1], cache


class Float32Norm(gemma3.RMSNorm):
  """Tunix's RMSNorm with its statistics in float32, as transformers has them.

  In bfloat16 the mean of squares and the scale are rounded to 8 bits in each of a layer's six
  norms.
  """

  def __call__(self, x):
    return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


class Float32QueryNorm(gemma3.RMSNorm):
  """The same for queries, which stay float32: so do their products with the keys, and the softmax
  over them, without a change to Tunix's attention."""

  def __call__(self, x):
    return super().__call__(x.astype(jnp.float32))


def compute_norms_in_float32(model: nnx.Module):
  """Changes `model`, a copy that lives for one trace: its parameters stay as they are."""
  for _, module in nnx.iter_graph(model):
    if type(module) is gemma3.RMSNorm:
      module.__class__ = Float32Norm
  for layer in model.layers:
    layer.attn._query_norm.__class__ = Float32QueryNorm


class Structure:
  """What a module is without its numbers, hashed once.

  jax.jit asks for the hash with each call, and nnx's own takes 9 ms for 26 layers with LoRA.
  """

  def __init__(self, graph, treedef):
    self.graph = graph
    self.treedef = treedef
    self.hash = hash((graph, treedef))

  def __hash__(self):
    return self.hash

  def __eq__(self, other):
    if self is other:
      return True
    return self.graph == other.graph and self.treedef == other.treedef

  def merge(self, arrays: list) -> nnx.Module:
    """The module with these numbers."""
    return nnx.merge(self.graph, jax.tree.unflatten(self.treedef, arrays))


class Flat(NamedTuple):
  """A module's structure and its variables themselves, not copies."""

  structure: Structure
  variables: list[nnx.Variable]


# nnx.split walks the whole module in Python: 43 ms for 26 layers with LoRA, while a device waits.
# A run's modules keep their structure and their variables; only the numbers change.
FLAT = weakref.WeakKeyDictionary()


def flatten(module: nnx.Module) -> Flat:
  """The module's structure and variables; found once for each module."""
  if module not in FLAT:
    graph, state = nnx.split(module)
    FLAT[module] = Flat(Structure(graph, jax.tree.structure(state)), variables_of(module, state))
  return FLAT[module]


def variables_of(module: nnx.Module, state: nnx.State) -> list[nnx.Variable]:
  """The module's own variables, in the order of the leaves of `state`, a part of its state."""
  found = {}
  for path, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Variable):
      found[path] = node
  return [found[path] for path, _ in nnx.to_flat_state(state)]


def read(variables: list[nnx.Variable]) -> list[jax.Array]:
  return [variable.get_value() for variable in variables]


def write(variables: list[nnx.Variable], arrays: list[jax.Array]):
  for variable, array in zip(variables, arrays, strict=True):
    variable.set_value(array)


def jit_reading(static_argnames: tuple[str, ...] = (), donate: bool = False):
  """jax.jit for functions of (model, …) that only read the model.

  nnx.jit returns every variable it was given, for the caller's model to be updated: a copy of all
  weights with each call. donate: the function may reuse the memory of its second argument.
  """

  def wrap(function):
    def merged(structure, arrays, *args, **options):
      return function(structure.merge(arrays), *args, **options)

    merged.__name__ = function.__name__  # what logs and profiles call the program
    compiled = jax.jit(
      merged,
      static_argnums=0,  # the structure: what the model is, without its numbers
      static_argnames=static_argnames,
      donate_argnums=(2,) if donate else (),
    )

    def call(model, *args, **options):
      flat = flatten(model)
      return compiled(flat.structure, read(flat.variables), *args, **options)

    def lower(model, *args, **options):
      flat = flatten(model)
      return compiled.lower(flat.structure, read(flat.variables), *args, **options)

    call.lower = lower  # for compiling ahead of time, as jax.jit's own functions have it
    return call

  return wrap


def lay_out(x, *axes):
  """`x` laid out along `axes` of the mesh in context (`with mesh:`), one for each dimension.

  As it is where the mesh is one device or none.
  """
  mesh = pxla.thread_resources.env.physical_mesh
  if mesh.empty or mesh.size == 1:
    return x
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  return jax.lax.with_sharding_constraint(x, sharding)


def vocabulary_head(view):
  """The head (V, D), cut along V over all devices.

  Each device then finds the logits of its own words, and what is left to reduce is small. Cut along
  D, as Tunix stores it, a chunk's logits would be summed over the links, or the head collected.
  """
  _, state = view
  head = state["embedder"]["input_embedding"].get_value()  # (V, D); Gemma 3 ties the two
  return lay_out(head, ("fsdp", "tp"), None)


def whole_layers(view):
  """The view with its layers whole along fsdp, for a loop that reads all of them at each turn.

  Left as they are stored, XLA collects the slices inside decoding's loop: 2 GB over the links for
  each token of a 1B model and its head. Whole layers cost 1.2 GB a chip there.
  """
  graph, state = view
  unconstrained = jax.sharding.PartitionSpec.UNCONSTRAINED

  def collect(spec, x):
    axes = [None if axis == "fsdp" else unconstrained for axis in spec]
    return lay_out(x, *axes)

  layers = state["layers"]
  state["layers"] = jax.tree.map(collect, nnx.get_partition_spec(layers), layers)
  return graph, state
