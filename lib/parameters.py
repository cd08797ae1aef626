"""TODO-DOC lora."""

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from tunix.models.gemma3 import model as gemma3

LORA_MODULES = ".*q_einsum|.*kv_einsum|.*gate_proj|.*down_proj|.*up_proj|.*attn_vec_einsum"  # the seeds' choice: all of them


@jax.custom_vjp
def settled(x):
  """x, whose cotangent is computed once. LoRA's gradients need it transposed, and XLA on a CPU would work out the MLP's backward
  pass again inside that strided copy, at 0.2 s of processor time a layer. It fuses nothing through a branch: here is one."""
  return x


def settle(_, slope):
  first = slope[(0,) * slope.ndim]
  return (
    jax.lax.cond(
      jnp.isnan(first) | (jnp.abs(first) <= jnp.inf), lambda x: x, jnp.zeros_like, slope
    ),
  )  # always the first


settled.defvjp(lambda x: (x, None), settle)


class SettledLora(qwix.LoraProvider):
  """qwix's LoRA with `settled` outputs: a third less processor time for a gradient on a CPU."""

  def dot_general(self, *args, **options):
    return settled(super().dot_general(*args, **options))

  def einsum(self, *args, **options):
    return settled(super().einsum(*args, **options))


def apply_lora(base: nnx.Module, mesh, rank: int, alpha: float, seed: int = 0) -> nnx.Module:
  """`base` with LoRA on every projection (A random, B zero); `base` itself stays as it is and serves as the reference.

  The adapters are float32 whatever the base: at the seeds' learning rate of 3e-6 a bfloat16 weight does not move.
  """
  kind = SettledLora if jax.default_backend() == "cpu" and mesh.size == 1 else qwix.LoraProvider
  provider = kind(module_path=LORA_MODULES, rank=rank, alpha=alpha)
  model = qwix.apply_lora_to_model(base, provider, **base.get_model_input(), rngs=nnx.Rngs(seed))
  model = with_params(
    model, flat_params(base)
  )  # qwix returns copies of the base weights: share them again
  adapters = jax.tree.map(lambda x: x.astype(jnp.float32), nnx.state(model, nnx.LoRAParam))
  with mesh:
    nnx.update(model, jax.lax.with_sharding_constraint(adapters, nnx.get_partition_spec(adapters)))
  return model


def float32_masters(base: nnx.Module) -> nnx.Module:
  """A model of its own to train in full: float32 parameters, arithmetic still in the base's dtype (see `compute_view`)."""
  return with_params(
    base, {name: jnp.array(x, jnp.float32) for name, x in flat_params(base).items()}
  )


def merge_lora(model: nnx.Module, base: nnx.Module, alpha: float) -> nnx.Module:
  """A float32 model without adapters: the weights of `base` plus those of `model`'s, W + (alpha / rank) · A·B per projection."""
  flat, adapters = flat_params(base, nnx.Param), flat_params(model, nnx.LoRAParam)
  merged = {name: x.astype(jnp.float32) for name, x in flat.items() if "_lora_" not in name}
  for name in [n.removesuffix("_lora_a") for n in adapters if n.endswith("_lora_a")]:
    a, b = adapters[name + "_lora_a"], adapters[name + "_lora_b"]
    with jax.default_matmul_precision("highest"):  # a TPU would multiply float32 in bfloat16
      merged[name] = merged[name] + lora_delta(name, a, b) * (alpha / a.shape[-1])
  return with_params(nnx.eval_shape(lambda: gemma3.Gemma3(base.config, rngs=nnx.Rngs(0))), merged)


def lora_delta(name: str, a, b):
  """A·B in the weight's own layout; qwix factors each einsum at the axes it contracts."""
  if "kv_einsum" in name:  # a (D, r), b (r, 2, K, H) -> (2, K, D, H)
    return jnp.einsum("dr,rckh->ckdh", a, b)
  if "q_einsum" in name:  # a (D, r), b (r, N, H) -> (N, D, H)
    return jnp.einsum("dr,rnh->ndh", a, b)
  if "attn_vec_einsum" in name:  # a (N, H, r), b (r, D) -> (N, H, D)
    return jnp.einsum("nhr,rd->nhd", a, b)
  return a @ b  # MLP kernels: a (in, r), b (r, out)


def flat_params(model: nnx.Module, kind=nnx.Param) -> dict[str, jax.Array]:
  """{"layers.0.attn.q_einsum.w": array, …}: the stable names under which parameters are saved and exported."""
  return {
    ".".join(map(str, path)): leaf.get_value()
    for path, leaf in nnx.to_flat_state(nnx.state(model, kind))
  }


def with_params(model: nnx.Module, flat: dict[str, jax.Array]) -> nnx.Module:
  """A new model with the structure of `model` and the values of `flat` (names missing from it keep theirs)."""
  graph, state = nnx.split(model)
  value = lambda path, leaf: flat.get(".".join(map(str, path)), leaf.get_value())
  copies = [(path, leaf.replace(value(path, leaf))) for path, leaf in nnx.to_flat_state(state)]
  return nnx.merge(graph, nnx.from_flat_state(copies))


def trainable(model: nnx.Module):
  """The variable type that training changes: the adapters where there are any, else everything."""
  return nnx.LoRAParam if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) else nnx.Param


def count_parameters(model, kind=nnx.Param) -> int:
  return sum(x.size for x in jax.tree.leaves(nnx.state(model, kind)))
