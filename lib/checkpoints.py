"""A run on disk: parameters for readers, and steps from which a killed run goes on, bit for bit.

`save_params` and `load_params` write and read what was trained. `open_checkpoints`,
`save_checkpoint` and `restore_checkpoint` keep the last steps of a run. Saving goes on in the
background while the next update changes the model, so everything that is handed over is a copy.

Of several hosts all gather the arrays, and the lead alone writes and reads: no shared disk is
needed, and another number of hosts can go on.
"""

import contextlib
import copy
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint._src.multihost import multihost

from lib import command_line, hosts, parameters
from lib.errors import InputError

# Orbax times its own threads by the wall clock and fails a save during which the clock is set
# forward. One process saves here, which cannot deadlock, so no time is too long.
FOREVER = 10**9  # seconds
multihost._DEFAULT_BARRIER_TIMEOUT = FOREVER
NO_TIMEOUT = ocp.AsyncOptions(timeout_secs=FOREVER)
# Left to itself, Orbax waits for all processes of JAX, and the others never call it.
LEAD_ONLY = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix="lead"
)


def processes() -> ocp.options.MultiprocessingOptions:
  """Who takes part in Orbax's reading and writing."""
  return LEAD_ONLY if hosts.several() else ocp.options.MultiprocessingOptions()


def copied(arrays: dict) -> dict:
  """A copy of {name: array} to save; of several hosts the lead's disk is to have all of each."""
  return jax.tree.map(hosts.whole if hosts.several() else jnp.copy, arrays)


def as_target(x):
  """What Orbax is to read an array into: slice by slice to its devices, or whole on the lead."""
  if hosts.several():
    return np.zeros(x.shape, x.dtype)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def trained(model: nnx.Module) -> dict[str, jax.Array]:
  """{name: array} of what training changes: the adapters, or all parameters."""
  return parameters.flat_params(model, parameters.trainable(model))


def moments(optimizer: nnx.Optimizer) -> dict[str, jax.Array]:
  """{name: array} of the optimizer's state: step count, moments, counters of skipped updates."""
  return parameters.flat_params(optimizer, nnx.optimizer.OptState)


def save_params(folder: str, model: nnx.Module):
  """Writes the trained parameters as one Orbax tree {name: array}.

  The folder is whole or is not there.
  """
  arrays = trained(model)
  if hosts.several():
    arrays = copied(arrays)
  write_params(folder, arrays)


@hosts.lead_writes
def write_params(folder: str, arrays: dict):
  folder = os.path.realpath(folder)  # a link stays one: the folder that it names is replaced
  # Written beside it, then renamed: a kill while it writes leaves the old folder as it was.
  partial = folder + ".partial"
  shutil.rmtree(partial, ignore_errors=True)
  # The end of `with` waits for the disk.
  with ocp.StandardCheckpointer(
    async_options=NO_TIMEOUT, multiprocessing_options=processes()
  ) as saver:
    saver.save(partial, arrays)
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(partial, folder)


def load_params(folder: str, model: nnx.Module) -> nnx.Module:
  """`model` with what `save_params` wrote.

  It is laid on the model's own devices: the writer's may have been others.
  """

  def as_saved(x):  # trained parameters are always saved as float32
    return jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding)

  wanted = jax.tree.map(as_saved, trained(model))
  saved = read_params(folder, wanted)
  if hosts.several():
    saved = hosts.from_lead(saved, wanted)
  return parameters.with_params(model, saved)


def read_params(folder: str, wanted: dict) -> dict:
  """{name: array} of a parameters folder; of several hosts on the lead alone, else {}."""
  if not hosts.is_lead():
    return {}
  with ocp.StandardCheckpointer(multiprocessing_options=processes()) as loader:
    return loader.restore(os.path.abspath(folder), jax.tree.map(as_target, wanted))


@contextlib.contextmanager
def open_checkpoints(out_dir: str, keep: int = 2):
  """An Orbax manager of out_dir/checkpoints/STEP; saves are asynchronous and atomic.

  None for a host that does not write. A full disk inside is one clear line.
  """
  if not hosts.is_lead():
    yield None
    return
  folder = os.path.abspath(os.path.join(out_dir, "checkpoints"))
  os.makedirs(folder, exist_ok=True)  # Orbax makes none where only some processes take part
  options = ocp.CheckpointManagerOptions(
    # Two, so that a damaged newest one still leaves one to go on from.
    max_to_keep=keep,
    create=not hosts.several(),
    multiprocessing_options=processes(),
    enable_async_checkpointing=True,
    async_options=NO_TIMEOUT,
    # What a killed save left behind.
    cleanup_tmp_directories=True,
  )
  try:
    with ocp.CheckpointManager(folder, options=options) as manager:
      yield manager
  except (OSError, ValueError) as error:  # ValueError is TensorStore's
    if "No space left" not in str(error):
      raise
    raise InputError(
      f"the disk of {out_dir} is full (no space left); free some and run the same command: "
      "it goes on from the last checkpoint that was written whole"
    ) from error


def save_checkpoint(
  manager: ocp.CheckpointManager, step: int, model, optimizer: nnx.Optimizer, progress: dict
):
  """Saves all that a resume needs: parameters, optimizer state and `progress`, plain JSON.

  Returns before anything is on disk. Meanwhile the next update donates these buffers and the next
  batch changes `progress`: a thread that read them late would save a step that never was. (So it
  happened: `progress` of step 4 under step 3, and the resumed run skipped a batch.)
  """
  # The last step may have been saved already, when save_every divides max_steps.
  if hosts.share(manager is not None and step in manager.all_steps()):
    return
  arrays = copied(trained(model))
  state = copied(moments(optimizer))
  if manager is None:
    return
  parts = ocp.args.Composite(
    params=ocp.args.StandardSave(arrays),
    optimizer=ocp.args.StandardSave(state),
    progress=ocp.args.JsonSave(copy.deepcopy(progress)),
  )
  manager.save(step, args=parts)


def steps_of(root: str) -> list[int]:
  """Steps under a checkpoints folder, the newest first."""
  if not os.path.isdir(root):
    return []
  # Folders such as 50.damaged are no steps.
  return sorted((int(name) for name in os.listdir(root) if name.isdigit()), reverse=True)


def read_step(root: str, step: int, wanted: dict) -> dict:
  """What `save_checkpoint` saved; wanted: {"params", "optimizer"} as they are on the devices.

  Raises whatever a damaged file makes Orbax raise.
  """
  parts = ocp.args.Composite(
    params=ocp.args.StandardRestore(jax.tree.map(as_target, wanted["params"])),
    optimizer=ocp.args.StandardRestore(jax.tree.map(as_target, wanted["optimizer"])),
    progress=ocp.args.JsonRestore(),
  )
  options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=processes())
  with ocp.CheckpointManager(root, options=options) as manager:
    return manager.restore(step, args=parts)


def restore_checkpoint(out_dir: str, model, optimizer: nnx.Optimizer) -> tuple[int, dict]:
  """Puts the newest whole checkpoint of `out_dir` into model and optimizer.

  Returns (step, progress), or (0, {}) without one.
  """
  wanted = {"params": trained(model), "optimizer": moments(optimizer)}
  step, found = read_newest(out_dir, wanted) if hosts.is_lead() else (0, {})
  step, progress = hosts.share((step, found["progress"] if step else {}))
  if not step:
    return 0, {}
  if hosts.several():
    read = found if hosts.is_lead() else dict.fromkeys(wanted, {})
    found = {part: hosts.from_lead(read[part], like) for part, like in wanted.items()}
  update_flat(model, found["params"], parameters.trainable(model))
  update_flat(optimizer, found["optimizer"], nnx.optimizer.OptState)
  return step, progress


def read_newest(out_dir: str, wanted: dict) -> tuple[int, dict]:
  """(step, what `read_step` gives) of the newest whole checkpoint; (0, {}) without one.

  A damaged step is named, the one before it is used, and once that is read the damaged folder is
  set aside as STEP.damaged.
  """
  root = os.path.abspath(os.path.join(out_dir, "checkpoints"))
  steps = steps_of(root)
  damaged = []
  for step in steps:
    try:
      found = read_step(root, step, wanted)
    except Exception as error:  # Orbax, TensorStore, JSON and the OS each raise their own
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
      command_line.say(f"checkpoint {root}/{step} is damaged ({reason}); using the one before it")
      damaged.append(os.path.join(root, str(step)))
      continue
    # Only now: were none readable, nothing would have been moved.
    for folder in damaged:
      shutil.rmtree(folder + ".damaged", ignore_errors=True)
      os.replace(folder, folder + ".damaged")
    return step, found
  # Never from 0 over a run that exists: a new one in its place would destroy what it left.
  if steps:
    raise InputError(f"no checkpoint under {root} can be read; move the folder away to start again")
  return 0, {}


def update_flat(module, flat: dict, kind):
  """Sets the variables of `kind` in `module` in place from {name: array}."""
  for path, leaf in nnx.to_flat_state(nnx.state(module, kind)):
    # The name it was saved under, see `parameters.dotted`.
    name = ".".join(map(str, path))
    nnx.update(module, nnx.from_flat_state([(path, leaf.replace(flat[name]))]))
