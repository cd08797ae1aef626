"""TODO-DOC optimization."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.sft import peft_trainer

from lib import checkpoints, parameters


# ---------------------------------------------------------------------------------------------------------------- update
def make_schedule(
  learning_rate: float, max_steps: int, final_ratio: float, warmup_ratio: float = 0.1
) -> optax.Schedule:
  """Updates made before -> learning rate: linear warm-up, cosine to final_ratio × peak.

  Read one step ahead and ending one step late: no batch is thrown away at a rate of zero. Compiled: op by op it rounds otherwise.
  """
  warmup = max(1, round(warmup_ratio * max_steps))
  ramp = optax.warmup_cosine_decay_schedule(
    0.0, learning_rate, warmup, max(max_steps, warmup) + 1, learning_rate * final_ratio
  )
  return jax.jit(lambda count: ramp(count + 1))


def make_optimizer(
  *, b1: float, b2: float, weight_decay: float, max_grad_norm: float
) -> optax.GradientTransformationExtraArgs:
  """AdamW with clipping, whose update takes the learning rate as an argument; a non-finite update leaves all as it was.

  With the rate inside, as Optax and Tunix have it, another --learning_rate or --max_steps, auto's own answer too, would be another
  program to compile: minutes on a TPU.
  """
  at_rate = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(),
    lambda updates, state, params=None, *, learning_rate: (
      jax.tree.map(lambda x: learning_rate * x, updates),
      state,
    ),
  )
  adamw = optax.adamw(1.0, b1=b1, b2=b2, eps=1e-8, weight_decay=weight_decay)
  return optax.apply_if_finite(
    optax.chain(optax.clip_by_global_norm(max_grad_norm), adamw, at_rate), 2**30
  )


def make_step(trainer: peft_trainer.PeftTrainer):
  """The compiled part of an update: f(parameters, optimizer state, frozen weights, micro-batches (M, rows, …), count, learning
  rate) -> (parameters, optimizer state, loss, aux (M, …), gradient norm); micro-batches from `count` on are skipped.

  Micro-batches are summed inside one compiled step, and old parameters and optimizer state are donated. Tunix's own step
  keeps both and returns a copy of the frozen weights, and its optax.MultiSteps stays NaN for ever after one bad micro-batch.
  The loss function must give each micro-batch its share of the whole loss. Of `trainer` only the structure is read, so its
  arrays may be abstract: `make_step(…).lower(…).compile()` says what an update needs before there is a machine for it.
  """
  kind = parameters.trainable(trainer.model)
  graph, _, _ = nnx.split(trainer.model, kind, ...)
  optimizer_graph, _ = nnx.split(trainer.optimizer)

  devices = jax.tree.leaves(nnx.state(trainer.model))[0].sharding.device_set
  # XLA's CPU pipeline drops the barriers of rematerialisation before it merges equal work: --remat would save nothing there.
  options = (
    {"xla_disable_hlo_passes": "cse_barrier_expander"}
    if {d.platform for d in devices} == {"cpu"}
    else None
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1), compiler_options=options)
  def step(params, optimizer_state, frozen, micro_batches, count, learning_rate):
    def loss(params, micro_batch):
      return trainer.loss_fn(
        nnx.merge(graph, params, frozen), **trainer.gen_model_input_fn(micro_batch)
      )

    def one(i):
      return jax.value_and_grad(loss, has_aux=True)(
        params, jax.tree.map(lambda x: x[i], micro_batches)
      )

    def add(i, total):
      (value, aux), gradient = one(i)
      aux = jax.tree.map(lambda rows, x: rows.at[i].set(x), total[1], aux)
      return total[0] + value, aux, jax.tree.map(jnp.add, total[2], gradient)

    size = jax.tree.leaves(micro_batches)[0].shape[0]
    if size == 1:  # no loop, no accumulator
      (value, aux), gradient = one(0)
      aux = jax.tree.map(lambda x: x[None], aux)
    else:
      (_, aux), _ = jax.eval_shape(one, 0)
      rows = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), aux)
      value, aux, gradient = jax.lax.fori_loop(
        0, count, add, (jnp.zeros(()), rows, jax.tree.map(jnp.zeros_like, params))
      )
    model, optimizer = nnx.merge(graph, params, frozen), nnx.merge(optimizer_graph, optimizer_state)
    optimizer.update(model, gradient, learning_rate=learning_rate)
    return nnx.state(model, kind), nnx.state(optimizer), value, aux, optax.global_norm(gradient)

  return step


def make_update(trainer: peft_trainer.PeftTrainer, mesh):
  """The update of a Tunix trainer, f(micro-batches (M, rows, …), learning rate, count=M) -> (loss, aux (M, …), gradient norm);
  changes its model."""
  kind = parameters.trainable(trainer.model)
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  lay = lambda x: (
    x if isinstance(x.sharding, jax.sharding.NamedSharding) else jax.device_put(x, everywhere)
  )
  nnx.update(
    trainer.optimizer, jax.tree.map(lay, nnx.state(trainer.optimizer))
  )  # as the step returns it: else it compiles twice
  step = make_step(trainer)
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))

  def update(micro_batches, learning_rate: float, count=None):
    _, params, frozen = nnx.split(trainer.model, kind, ...)
    with mesh:
      params, state, loss, aux, norm = step(
        params,
        nnx.state(trainer.optimizer),
        frozen,
        jax.tree.map(lambda x: jax.device_put(x, rows), micro_batches),
        len(jax.tree.leaves(micro_batches)[0]) if count is None else count,
        np.float32(learning_rate),
      )
    nnx.update(trainer.model, params)
    nnx.update(trainer.optimizer, state)
    return float(loss), jax.tree.map(np.asarray, aux), float(norm)

  return update


@contextlib.contextmanager
def rehearsal(optimizer: nnx.Optimizer):
  """Updates at a learning rate of 0 inside leave nothing behind: the optimizer's state is put back."""
  before = jax.tree.map(jnp.copy, parameters.flat_params(optimizer, nnx.optimizer.OptState))
  yield
  checkpoints.update_flat(optimizer, before, nnx.optimizer.OptState)
