"""TODO-DOC checkpoints."""

import contextlib
import functools
import os
import shutil

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint._src.multihost import multihost

from lib import command_line, parameters
from lib.errors import InputError

# --------------------------------------------------------------------------------------------------------- keeping a run
# Orbax times its own threads by the wall clock and fails a save during which that is set forward; nothing here can deadlock.
multihost._DEFAULT_BARRIER_TIMEOUT = 10**9  # seconds
NO_TIMEOUT = ocp.AsyncOptions(timeout_secs=10**9)


def save_params(folder: str, model: nnx.Module):
  """Writes the trainable parameters (adapters, or all) as one Orbax tree {name: array}; whole or not at all."""
  folder = os.path.abspath(folder)
  partial = folder + ".partial"
  shutil.rmtree(partial, ignore_errors=True)
  with ocp.StandardCheckpointer(async_options=NO_TIMEOUT) as saver:
    saver.save(partial, parameters.flat_params(model, parameters.trainable(model)))
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(partial, folder)


def load_params(folder: str, model: nnx.Module) -> nnx.Module:
  """`model` with the parameters that `save_params` wrote, on its own devices: the mesh may differ from the writer's."""
  target = parameters.flat_params(model, parameters.trainable(model))
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), target
  )
  with ocp.StandardCheckpointer() as loader:
    saved = loader.restore(os.path.abspath(folder), abstract)
  return parameters.with_params(model, saved)


@contextlib.contextmanager
def open_checkpoints(out_dir: str, keep: int = 2):
  """Asynchronous, atomic step folders under out_dir/checkpoints, as an Orbax manager. A full disk inside is one clear line."""
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    create=True,
    enable_async_checkpointing=True,
    async_options=NO_TIMEOUT,
    cleanup_tmp_directories=True,
  )
  try:
    with ocp.CheckpointManager(
      os.path.abspath(os.path.join(out_dir, "checkpoints")), options=options
    ) as manager:
      yield manager
  except (OSError, ValueError) as error:  # ValueError is TensorStore's
    if "No space left" not in str(error):
      raise
    raise InputError(
      f"the disk of {out_dir} is full (no space left); free some and run the same command: it goes on from the "
      "last checkpoint that was written whole"
    ) from error


def save_checkpoint(
  manager: ocp.CheckpointManager, step: int, model, optimizer: nnx.Optimizer, progress: dict
):
  """Everything a resumed run needs: parameters, optimizer state and `progress` (plain JSON)."""
  if step in manager.all_steps():
    return
  copy = functools.partial(
    jax.tree.map, jnp.copy
  )  # the save goes on while the next update donates these buffers
  manager.save(
    step,
    args=ocp.args.Composite(
      params=ocp.args.StandardSave(
        copy(parameters.flat_params(model, parameters.trainable(model)))
      ),
      optimizer=ocp.args.StandardSave(
        copy(parameters.flat_params(optimizer, nnx.optimizer.OptState))
      ),
      progress=ocp.args.JsonSave(progress),
    ),
  )


def restore_checkpoint(out_dir: str, model, optimizer: nnx.Optimizer) -> tuple[int, dict]:
  """Puts the newest whole checkpoint of `out_dir` into model and optimizer; (0, {}) where there is none.

  A damaged step is set aside under its name + ".damaged", said, and the one before it is used.
  """
  root = os.path.abspath(os.path.join(out_dir, "checkpoints"))
  steps = (
    sorted((int(name) for name in os.listdir(root) if name.isdigit()), reverse=True)
    if os.path.isdir(root)
    else []
  )
  abstract = lambda flat: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), flat
  )
  params, state = (
    parameters.flat_params(model, parameters.trainable(model)),
    parameters.flat_params(optimizer, nnx.optimizer.OptState),
  )
  damaged = []
  for step in steps:
    try:
      with ocp.CheckpointManager(root) as manager:
        found = manager.restore(
          step,
          args=ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract(params)),
            optimizer=ocp.args.StandardRestore(abstract(state)),
            progress=ocp.args.JsonRestore(),
          ),
        )
    except (
      Exception
    ) as error:  # Orbax, TensorStore, JSON and the OS each raise their own for a damaged step
      reason = (
        str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
      )
      command_line.say(f"checkpoint {root}/{step} is damaged ({reason}); using the one before it")
      damaged.append(os.path.join(root, str(step)))
      continue
    for folder in damaged:
      shutil.rmtree(folder + ".damaged", ignore_errors=True)
      os.replace(folder, folder + ".damaged")
    update_flat(model, found["params"], parameters.trainable(model))
    update_flat(optimizer, found["optimizer"], nnx.optimizer.OptState)
    return step, found["progress"]
  if steps:
    raise InputError(f"no checkpoint under {root} can be read; move the folder away to start again")
  return 0, {}


def update_flat(module, flat: dict, kind):
  """Sets variables of `module` in place from {name: array}."""
  for path, leaf in nnx.to_flat_state(nnx.state(module, kind)):
    nnx.update(module, nnx.from_flat_state([(path, leaf.replace(flat[".".join(map(str, path))]))]))
