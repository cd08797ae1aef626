"""A model's parameters: LoRA on it, LoRA merged into it, and all of them under stable names.

`apply_lora` and `merge_lora` go there and back, `float32_masters` is a model to train in full,
`flat_params` and `with_params` are how everything else reads and replaces weights. LoRA is that of
Hu et al. 2021 (arXiv 2106.09685), §4.1: W + (alpha / r)·A·B, with B zero at first.
"""

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from tunix.models.gemma3 import model as gemma3

# All projections: LoRA on fewer learns less for the same rank (Dettmers et al. 2023, arXiv
# 2305.14314, §4).
LORA_MODULES = ".*q_einsum|.*kv_einsum|.*gate_proj|.*down_proj|.*up_proj|.*attn_vec_einsum"


@jax.custom_vjp
def settled(x):
  """x, whose cotangent is computed once.

  LoRA's gradients need it transposed, and XLA on a CPU would work out the MLP's backward pass again
  inside that strided copy, at 0.2 s of processor time a layer. It fuses nothing through a branch:
  here is one.
  """
  return x


def settled_forward(x):
  return x, None  # nothing to keep for the backward pass


def settled_backward(_, cotangent):
  first = cotangent[(0,) * cotangent.ndim]
  always = jnp.isnan(first) | (jnp.abs(first) <= jnp.inf)  # true for every number; XLA cannot know
  return (jax.lax.cond(always, keep, jnp.zeros_like, cotangent),)


def keep(x):
  return x


settled.defvjp(settled_forward, settled_backward)


class SettledLora(qwix.LoraProvider):
  """qwix's LoRA with `settled` outputs: a third less processor time for a gradient on a CPU."""

  def dot_general(self, *args, **options):
    return settled(super().dot_general(*args, **options))

  def einsum(self, *args, **options):
    return settled(super().einsum(*args, **options))


def apply_lora(base: nnx.Module, mesh, rank: int, alpha: float, seed: int = 0) -> nnx.Module:
  """`base` with LoRA on every projection (A random, B zero); `base` itself stays as it is and
  serves as the reference.

  The adapters are float32 whatever the base: at a learning rate of 3e-6 a bfloat16 weight does not
  move.
  """
  on_one_cpu = jax.default_backend() == "cpu" and mesh.size == 1
  kind = SettledLora if on_one_cpu else qwix.LoraProvider
  provider = kind(module_path=LORA_MODULES, rank=rank, alpha=alpha)
  model = qwix.apply_lora_to_model(base, provider, **base.get_model_input(), rngs=nnx.Rngs(seed))
  model = with_params(model, flat_params(base))  # qwix copies the base weights: share them again
  adapters = jax.tree.map(to_float32, nnx.state(model, nnx.LoRAParam))
  with mesh:
    specs = nnx.get_partition_spec(adapters)
    nnx.update(model, jax.lax.with_sharding_constraint(adapters, specs))
  return model


def to_float32(x):
  return x.astype(jnp.float32)


def float32_masters(base: nnx.Module) -> nnx.Module:
  """A copy to train in full: float32 parameters; `compute_view` casts them for the arithmetic."""
  masters = {name: jnp.array(x, jnp.float32) for name, x in flat_params(base).items()}
  return with_params(base, masters)


def merge_lora(model: nnx.Module, base: nnx.Module, alpha: float) -> nnx.Module:
  """A float32 model without adapters: W of `base` + (alpha / rank) · A·B of `model`."""
  adapters = flat_params(model, nnx.LoRAParam)
  merged = {}
  for name, weight in flat_params(base, nnx.Param).items():
    if "_lora_" in name:  # where `base` is the model itself: an adapter is a Param, too
      continue
    merged[name] = weight.astype(jnp.float32)
    if f"{name}_lora_a" in adapters:
      a = adapters[f"{name}_lora_a"]
      b = adapters[f"{name}_lora_b"]
      with jax.default_matmul_precision("highest"):  # a TPU would multiply float32 in bfloat16
        delta = lora_delta(name, a, b)
      rank = a.shape[-1]
      merged[name] = merged[name] + delta * (alpha / rank)
  plain = nnx.eval_shape(lambda: gemma3.Gemma3(base.config, rngs=nnx.Rngs(0)))  # shapes, no numbers
  return with_params(plain, merged)


def lora_delta(name: str, a, b):
  """A·B in the weight's own layout; qwix factors each einsum at the axes it contracts."""
  if "kv_einsum" in name:  # a (D, r), b (r, 2, K, H) → (2, K, D, H)
    return jnp.einsum("dr,rckh->ckdh", a, b)
  if "q_einsum" in name:  # a (D, r), b (r, N, H) → (N, D, H)
    return jnp.einsum("dr,rnh->ndh", a, b)
  if "attn_vec_einsum" in name:  # a (N, H, r), b (r, D) → (N, H, D)
    return jnp.einsum("nhr,rd->nhd", a, b)
  return a @ b  # MLP kernels: a (in, r), b (r, out)


def flat_params(model: nnx.Module, kind=nnx.Param) -> dict[str, jax.Array]:
  """{"layers.0.attn.q_einsum.w": array, …}: the names under which parameters are saved."""
  flat = nnx.to_flat_state(nnx.state(model, kind))
  return {dotted(path): leaf.get_value() for path, leaf in flat}


def with_params(model: nnx.Module, flat: dict[str, jax.Array]) -> nnx.Module:
  """A new model like `model` with the values of `flat`; names missing from it keep theirs."""
  graph, state = nnx.split(model)
  replaced = []
  for path, leaf in nnx.to_flat_state(state):
    value = flat.get(dotted(path), leaf.get_value())
    replaced.append((path, leaf.replace(value)))
  return nnx.merge(graph, nnx.from_flat_state(replaced))


def dotted(path: tuple) -> str:
  """("layers", 0, "attn", "q_einsum", "w") → "layers.0.attn.q_einsum.w"."""
  return ".".join(map(str, path))


def trainable(model: nnx.Module):
  """The variable type that training changes: the adapters where there are any, else everything."""
  has_adapters = jax.tree.leaves(nnx.state(model, nnx.LoRAParam))
  return nnx.LoRAParam if has_adapters else nnx.Param


def count_parameters(model, kind=nnx.Param) -> int:
  """How many numbers a model's variables of one kind hold."""
  return sum(x.size for x in jax.tree.leaves(nnx.state(model, kind)))
