"""An optimizer update: the schedule, AdamW, and one compiled step over micro-batches.

`Updates` changes the model and the optimizer of a Tunix trainer, `make_step` is its compiled part.
M: micro-batches of an update.
"""

import contextlib
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.sft import peft_trainer

from lib import checkpoints, forward_pass, hosts, parameters


def make_schedule(
  learning_rate: float, max_steps: int, final_ratio: float, warmup_ratio: float = 0.1
) -> optax.Schedule:
  """Updates made before → learning rate: linear warm-up, then a cosine to final_ratio × the peak.

  Read one step ahead and ending one step late, so that no batch is thrown away at a rate of zero.
  """
  # 200 updates: 20 of warm-up, then 180 down to final_ratio × the peak.
  warmup_steps = max(1, round(warmup_ratio * max_steps))
  ramp = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=learning_rate,
    warmup_steps=warmup_steps,
    decay_steps=max(max_steps, warmup_steps) + 1,
    end_value=learning_rate * final_ratio,
  )
  # Compiled, because op by op it rounds otherwise, and the last digits of a run would change.
  return jax.jit(lambda count: ramp(count + 1))


def scale_by_argument() -> optax.GradientTransformationExtraArgs:
  """Multiplies the update by `learning_rate`, an argument of the update.

  With the rate inside, as Optax and Tunix have it, another --learning_rate or --max_steps (which
  "auto" chooses anew) would be another program to compile: minutes on a TPU.
  """

  # Nothing to remember: the rate comes with each call.
  def init(params):
    return optax.EmptyState()

  def update(updates, state, params=None, *, learning_rate):
    return jax.tree.map(lambda x: learning_rate * x, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def make_optimizer(
  *, b1: float, b2: float, weight_decay: float, max_grad_norm: float
) -> optax.GradientTransformationExtraArgs:
  """AdamW behind gradient clipping; an update that is not finite leaves everything as it was."""
  never = (
    2**30
  )  # apply_if_finite takes a bad update after so many in a row; the trainer stops before
  return optax.apply_if_finite(
    optax.chain(
      # Clipped before AdamW, whose second moment would remember one huge gradient for long.
      optax.clip_by_global_norm(max_grad_norm),
      # A rate of 1: the real one multiplies the whole update behind it, weight decay included.
      optax.adamw(1.0, b1=b1, b2=b2, eps=1e-8, weight_decay=weight_decay),
      scale_by_argument(),
    ),
    never,
  )


def make_step(trainer: peft_trainer.PeftTrainer):
  """The compiled part of an update: a function of

    (parameters, optimizer state, frozen weights, micro-batches (M, rows, …), count, learning rate)

  that returns (parameters, optimizer state, loss, aux (M, …), gradient norm). The first three are
  lists of arrays, `jax.tree.leaves` of the nnx states. Micro-batches from `count` on are skipped.
  The loss function must give each micro-batch its share of the whole loss.

  Micro-batches are summed inside one program, and old parameters and optimizer state are donated:
  Tunix's own step keeps both and returns a copy of the frozen weights, and its optax.MultiSteps
  stays NaN for ever after one bad micro-batch. Of `trainer` only the structure is read, so its
  arrays may be abstract: `make_step(…).lower(…).compile()` says what an update needs before there
  is a machine.
  """
  # What the program closes over is structure alone; every array comes in as an argument, so that
  # XLA may reuse the memory of what it replaces.
  kind = parameters.trainable(trainer.model)
  # nnx.split parts a module into its structure and its arrays; nnx.merge joins them again.
  graph, params_state, frozen_state = nnx.split(trainer.model, kind, ...)
  # Lists are what jax.jit takes fastest: an nnx state is flattened in Python, 12 ms with each call.
  params_tree = jax.tree.structure(params_state)
  frozen_tree = jax.tree.structure(frozen_state)
  optimizer_graph, state = nnx.split(trainer.optimizer)
  optimizer_structure = forward_pass.Structure(optimizer_graph, jax.tree.structure(state))

  def model_of(params, frozen):
    return nnx.merge(
      graph, jax.tree.unflatten(params_tree, params), jax.tree.unflatten(frozen_tree, frozen)
    )

  def loss(params, frozen, micro_batch):
    inputs = trainer.gen_model_input_fn(micro_batch)
    return trainer.loss_fn(model_of(params, frozen), **inputs)

  gradient_of_loss = jax.value_and_grad(loss, has_aux=True)

  # They lie as they came, so that the second call is the same program: XLA would choose otherwise
  # for some on several devices.
  as_they_came = [[x.sharding for x in jax.tree.leaves(tree)] for tree in (params_state, state)]

  @functools.partial(
    jax.jit,
    donate_argnums=(0, 1),
    out_shardings=(*as_they_came, None, None, None),
    compiler_options=compiler_options(trainer.model),
  )
  def step(params, optimizer_state, frozen, micro_batches, count, learning_rate):
    # ((loss, aux), gradient) of micro-batch i, (rows, …).
    def one(i):
      micro_batch = jax.tree.map(lambda x: x[i], micro_batches)
      return gradient_of_loss(params, frozen, micro_batch)

    size = jax.tree.leaves(micro_batches)[0].shape[0]
    value, aux, gradient = sum_micro_batches(one, size, count, params)
    model = model_of(params, frozen)
    optimizer = optimizer_structure.merge(optimizer_state)
    gradients = jax.tree.unflatten(params_tree, gradient)
    optimizer.update(model, gradients, learning_rate=learning_rate)
    return (
      jax.tree.leaves(nnx.state(model, kind)),
      jax.tree.leaves(nnx.state(optimizer)),
      value,
      aux,
      optax.global_norm(gradient),
    )

  return step


def sum_micro_batches(one, size: int, count, params):
  """(loss, aux (size, …), gradient) of the first `count` micro-batches.

  one: the index of a micro-batch → ((loss, aux), gradient), as value_and_grad gives them.
  """
  # A loop needs an accumulator as large as the parameters; a single micro-batch needs neither.
  if size == 1:
    (value, aux), gradient = one(0)
    # The axis of micro-batches, as the loop has it: (1, …).
    return value, jax.tree.map(lambda x: x[None], aux), gradient

  def add(i, total):
    total_value, rows, total_gradient = total
    (value, aux), gradient = one(i)
    # Losses and gradients add up; aux is kept apart for each micro-batch.
    rows = jax.tree.map(lambda rows, x: rows.at[i].set(x), rows, aux)
    return total_value + value, rows, jax.tree.map(jnp.add, total_gradient, gradient)

  (_, aux), _ = jax.eval_shape(one, 0)  # shapes only, nothing runs
  no_rows = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), aux)
  no_gradient = jax.tree.map(jnp.zeros_like, params)
  # `count` is traced: fewer micro-batches than `size` need no other program.
  return jax.lax.fori_loop(0, count, add, (jnp.zeros(()), no_rows, no_gradient))


def compiler_options(model) -> dict | None:
  """What keeps --remat working on a CPU; None elsewhere.

  XLA's CPU pipeline drops the barriers of rematerialisation before it merges equal work, so that
  what should be computed twice would be kept instead.
  """
  devices = jax.tree.leaves(nnx.state(model))[0].sharding.device_set
  if {device.platform for device in devices} == {"cpu"}:
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}
  return None


class Done(NamedTuple):
  """What one update reports; still being computed when it is handed over."""

  loss: jax.Array
  aux: dict  # of the loss function, (M, …)
  norm: jax.Array  # of the gradient, before clipping


class Updates:
  """Updates of a Tunix trainer's model.

  `with updates.open() as update:` makes several in a row without waiting for one of them: the
  arrays stay flat between them, and the model has the new ones at the end.
  """

  def __init__(self, trainer: peft_trainer.PeftTrainer, mesh):
    kind = parameters.trainable(trainer.model)
    # Scalars on each device; rows of a micro-batch divided over the fsdp axis.
    self.mesh = mesh
    self.everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    self.by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    # Scalars that lie on one device of several could not meet the other arrays in one program.
    state = nnx.state(trainer.optimizer)
    nnx.update(trainer.optimizer, jax.tree.map(self.lay_scalar, state))
    _, params, frozen = nnx.split(trainer.model, kind, ...)
    self.params = forward_pass.variables_of(trainer.model, params)
    self.frozen = forward_pass.variables_of(trainer.model, frozen)
    self.optimizer = forward_pass.variables_of(trainer.optimizer, state)
    self.step = make_step(trainer)

  def lay_scalar(self, x):
    if isinstance(x.sharding, jax.sharding.NamedSharding):
      return x
    return jax.device_put(x, self.everywhere)

  def place(self, micro_batches):
    """Micro-batches (M, rows, …) on the devices; those that are there stay as they are."""
    return hosts.spread(micro_batches, self.by_rows)

  @contextlib.contextmanager
  def open(self):
    """A function (placed micro-batches, count, learning rate) → `Done`, which returns at once."""
    params = forward_pass.read(self.params)
    state = forward_pass.read(self.optimizer)
    frozen = forward_pass.read(self.frozen)

    def update(micro_batches, count: int, learning_rate: float) -> Done:
      nonlocal params, state
      # It donates parameters and optimizer state: until the end the model's own are invalid.
      with self.mesh:
        params, state, loss, aux, norm = self.step(
          params,
          state,
          frozen,
          micro_batches,
          count,
          np.float32(learning_rate),  # as an array: a Python float would be compiled in
        )
      return Done(loss, aux, norm)

    try:
      yield update
    finally:
      forward_pass.write(self.params, params)
      forward_pass.write(self.optimizer, state)


def make_update(trainer: peft_trainer.PeftTrainer, mesh):
  """One update at a time: a function of

  (micro-batches (M, rows, …), learning rate, count=M) → (loss, aux (M, …), gradient norm)
  """
  updates = Updates(trainer, mesh)

  def update(micro_batches, learning_rate: float, count=None):
    if count is None:
      count = len(jax.tree.leaves(micro_batches)[0])
    with updates.open() as one:
      done = one(updates.place(micro_batches), count, learning_rate)
    loss, aux, norm = hosts.fetch(done)
    return float(loss), aux, float(norm)

  return update


@contextlib.contextmanager
def rehearsal(optimizer: nnx.Optimizer):
  """Updates at a learning rate of 0 inside leave nothing behind.

  The optimizer's state is put back.
  """
  kind = nnx.optimizer.OptState
  # Copies: the updates inside donate the originals.
  before = jax.tree.map(jnp.copy, parameters.flat_params(optimizer, kind))
  yield
  checkpoints.update_flat(optimizer, before, kind)
