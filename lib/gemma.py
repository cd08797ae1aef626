"""The base model: Gemma 3 as Tunix computes it, from a Hugging Face folder, or the tiny one that
every example can train.

`load_base` gives either, laid out over a mesh; `tiny_config` and `create_tiny` make the tiny one,
`read_weights` reads a folder; `fingerprint` names a base model, so that an adapter never lands on
another. The folder's config.json is read in gemma_config.py, its files in weight_files.py.
"""

import hashlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.gemma3 import model as gemma3

from lib import devices, gemma_config, hosts, hugging_face, parameters, tokenization, weight_files
from lib.errors import InputError
from lib.gemma_config import ModelConfig

TINY_STD = 0.06  # of the tiny model's random matrices


def tiny_config(vocab_size: int) -> ModelConfig:
  """0.9M parameters of the real architecture: learns the built-in pool in minutes on two cores."""
  return ModelConfig(
    num_layers=4,
    num_embed=-(-vocab_size // 64) * 64,  # rounded up: meshes divide it
    embed_dim=128,
    hidden_dim=384,
    num_heads=4,
    head_dim=32,
    num_kv_heads=1,
    sliding_window_size=512,
    local_base_frequency=10_000,
    global_base_frequency=10_000,
    param_dtype=jnp.float32,
  )


def create_tiny(config: ModelConfig) -> nnx.Module:
  """Random weights that can train: Tunix starts MLP kernels at zero, where every gradient is zero.

  So all matrices are drawn; the norms' scales, the vectors, stay zero, which is a factor of one
  (Gemma scales by 1 + w). The draw ignores --seed: the base model must be the same for SFT, GRPO
  and evaluation.
  """
  model = gemma3.Gemma3(config, rngs=nnx.Rngs(0))
  leaves, tree = jax.tree.flatten(nnx.state(model))
  drawn = []
  for number, leaf in enumerate(leaves):
    if leaf.ndim > 1:  # (in, out), (N, D, H), …: a matrix
      key = jax.random.fold_in(jax.random.key(0), number)
      leaf = TINY_STD * jax.random.normal(key, leaf.shape, leaf.dtype)
    drawn.append(leaf)
  nnx.update(model, jax.tree.unflatten(tree, drawn))
  return model


def load_base(model: str, tokenizer, mesh, dtype: str = "auto") -> nnx.Module:
  """The pretrained (or tiny) model, sharded over `mesh`; the tiny one is float32 always.

  model: "tiny" or a folder, as `model_names.resolve_model` gives it.
  """
  dtype = devices.compute_dtype(dtype)
  if model == "tiny":
    config = tiny_config(tokenizer.GetPieceSize())
    check_mesh(config, mesh)
    with mesh:  # Tunix reads the devices from this context
      return shard(nnx.jit(lambda: create_tiny(config))())
  config = gemma_config.gemma_config(model, dtype)
  check_mesh(config, mesh)
  check_vocabulary(model, tokenizer, config)
  return read_weights(model, config, mesh)


def check_mesh(config: ModelConfig, mesh):
  """Tunix cuts weights along the width over fsdp and along the heads over tp."""
  cuts = (("fsdp", "width", config.embed_dim), ("tp", "heads", config.num_heads))
  for axis, what, size in cuts:
    if size % mesh.shape[axis]:
      raise InputError(
        f"--mesh has {mesh.shape[axis]} devices on {axis}, which do not divide the model's "
        f"{what}, {size}; choose another, such as 1x1"
      )


def check_vocabulary(model: str, tokenizer, config: ModelConfig):
  """A tokenizer of another model family gives ids that mean other words here, without an error."""
  turn = tokenizer.PieceToId("<end_of_turn>")
  if tokenizer.GetPieceSize() > config.num_embed or turn != tokenization.END_OF_TURN_ID:
    raise InputError(
      f"the tokenizer in {model} has {tokenizer.GetPieceSize()} pieces, <end_of_turn> is number "
      f"{turn}; the model has {config.num_embed} and {tokenization.END_OF_TURN_ID}; they do not "
      "belong together"
    )


def read_weights(folder: str, config: ModelConfig, mesh) -> nnx.Module:
  """A folder's model in config.param_dtype; one parameter at a time in host memory."""
  tensors = weight_files.text_tensors(folder)
  weight_files.check_tensors(tensors, hugging_face.hf_shapes(config), folder)
  sources = {}  # Tunix parameter → the Hugging Face tensors it is made of, keys before values
  for name, (parameter, _) in hugging_face.hf_names(config).items():
    sources.setdefault(parameter, []).append(name)

  def read(parameter: str) -> np.ndarray:
    parts = []
    for name in sources[parameter]:
      stored = weight_files.read_tensor(tensors[name])
      part = hugging_face.from_hf(name, stored, config)  # a view: nothing is moved yet
      parts.append(part.astype(config.param_dtype))
    if "kv_einsum" in parameter:
      return np.stack(parts)  # two of (K, D, H) → (2, K, D, H)
    return parts[0]

  with mesh:
    model = nnx.eval_shape(lambda: gemma3.Gemma3(config, rngs=nnx.Rngs(0)))  # shapes, no numbers
  shapes = jax.tree.leaves(nnx.state(model))
  size = sum(leaf.size for leaf in shapes) * np.dtype(config.param_dtype).itemsize
  devices.check_memory(size, f"the weights in {folder}")
  layout = nnx.to_flat_state(nnx.get_named_sharding(nnx.state(model), mesh))
  # One at a time: few hosts have room for all of 27B beside what the devices hold.
  values = {}
  sums = {}
  for path, leaf in layout:
    parameter = parameters.dotted(path)
    value = read(parameter)
    values[parameter] = hosts.spread(value, leaf.get_value())
    if hosts.several():
      sums[parameter] = zlib.crc32(np.ascontiguousarray(value).view(np.uint8))
  # Each host reads its own copy of the folder, and gives its devices their parts of it.
  hosts.same(hashlib.sha256(repr(sums).encode()).hexdigest()[:16], f"the model in {folder}")
  return parameters.with_params(model, values)


def shard(model: nnx.Module) -> nnx.Module:
  """Lays a model's parameters out as their partition specs say; call inside `with mesh:`."""
  state = nnx.state(model)
  specs = nnx.get_partition_spec(state)
  nnx.update(model, jax.lax.with_sharding_constraint(state, specs))
  return model


def fingerprint(model: nnx.Module) -> str:
  """16 hex digits of a base model: its shape and some weights, in bfloat16 for any --dtype."""
  config = model.config
  shape = (
    config.num_layers,
    config.num_embed,
    config.embed_dim,
    config.hidden_dim,
    config.num_heads,
    config.head_dim,
  )
  some = [
    model.embedder.input_embedding.get_value()[:8],  # (8, D): fine-tuning changes some of these
    model.layers[0].attn.kv_einsum.w.get_value(),  # (2, K, D, H)
    model.final_norm.scale.get_value(),  # (D,)
  ]
  # In bfloat16: float32 masters of a base, and the base in either dtype, are the same model.
  digest = hashlib.sha256(repr(shape).encode())
  for x in some:
    digest.update(hosts.whole(x.astype(jnp.bfloat16)).tobytes())
  return digest.hexdigest()[:16]
