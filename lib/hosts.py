"""Several hosts: one process each, the same program in all, one mesh over all their devices.

Every process computes the same host arrays and runs the same compiled programs on the global mesh
(multi-controller JAX). Files belong to process 0, the lead: what it reads it tells the others, and
it alone writes. With one process everything here does nothing.

  is_lead, several              where this process stands
  on_lead, lead_writes          what one process does for all
  gather, share, same           plain values between the hosts; all must call them, in one order
  spread, fetch, from_lead      the same for arrays

No branch on what only one process knows may stand around a call of the last two groups, and no
other thread may make one: the processes would wait for each other for ever. An error needs no
agreement: lib/host_lines.py ends all of them. They have found each other in lib/meeting.py.
"""

import functools
import pickle

from lib import joining
from lib.errors import InputError

# NumPy and JAX are imported where they are used: lib/command_line.py, and with it rewards.py, need
# neither.
HERE = {"place": joining.ALONE}  # of this process; lib/meeting.py notes another


def several() -> bool:
  return HERE["place"].count > 1


def is_lead() -> bool:
  return HERE["place"].index == 0


# Plain values.


def gather(value) -> list:
  """Every process's value (anything that pickles), in their order, on every process."""
  if not several():
    return [value]
  import numpy as np
  from jax.experimental import multihost_utils

  # Arrays are all that a collective carries, and of one size on all processes.
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(data)))
  padded = np.pad(data, (0, padded_size(sizes.max()) - len(data)))
  parts = multihost_utils.process_allgather(padded)  # (processes, bytes)
  return [pickle.loads(part[:size].tobytes()) for part, size in zip(parts, sizes, strict=True)]


def share(value):
  """The lead's value on every process; the others' does not matter."""
  if not several():
    return value
  import numpy as np
  from jax.experimental import multihost_utils

  data = np.frombuffer(pickle.dumps(value if is_lead() else None), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  padded = np.zeros(padded_size(size), np.uint8)
  if is_lead():
    padded[:size] = data
  return pickle.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())


def padded_size(size: int) -> int:
  """A power of two of bytes: a transfer of each size is a program to compile."""
  return 1 << max(8, int(size - 1).bit_length())


def same(value, what: str):
  """`value`, after a look whether all processes have the same; what: its name, for the error."""
  values = gather(value)
  # All raise, or none does: nobody is left waiting.
  for index, other in enumerate(values):
    if other != values[0]:
      raise InputError(
        f"{what} is {other} on host {index}, {values[0]} on host 0; bring all hosts to the same"
      )
  return value


def on_lead(function, *args, **options):
  """function's result of the lead, which alone calls it, on every process.

  It must not call `gather` or `share` itself: nobody else is there to answer.
  """
  return share(function(*args, **options) if is_lead() else None)


def lead_writes(function):
  """For a function that writes files and returns nothing: the other processes skip it."""

  @functools.wraps(function)
  def call(*args, **options):
    if is_lead():
      function(*args, **options)

  return call


def own_share(count: int) -> slice:
  """Which of `count` things this process does; consecutive, as even as can be.

  10 things on 4 hosts: 3, 3, 2 and 2 of them.
  """
  each, more = divmod(count, HERE["place"].count)
  index = HERE["place"].index
  start = index * each + min(index, more)
  return slice(start, start + each + (index < more))


# Arrays.


def spread(tree, sharding):
  """Host arrays that are the same on every process as global ones.

  Each process puts its own shards, so nothing goes over the network. What is on the devices stays.
  """
  import jax
  import numpy as np

  if not several():
    return jax.device_put(tree, sharding)

  def spread_one(x):
    if isinstance(x, jax.Array):
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    # jax.device_put would send all of it to compare the processes' copies.
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(spread_one, tree)


def fetch(tree):
  """All of the arrays on every process, as NumPy's."""
  import jax

  return jax.tree.map(whole, tree) if several() else jax.device_get(tree)


def whole(x):
  """`fetch` of one array."""
  import numpy as np

  # On one process, and where every device holds all of it, nothing has to be collected.
  if not several() or not hasattr(x, "sharding") or x.is_fully_replicated:
    return np.asarray(x)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(x, tiled=True)


def from_lead(arrays: dict, like: dict) -> dict:
  """{name: array} that only the lead has, on all devices and laid out as `like` is."""
  import numpy as np
  from jax.experimental import multihost_utils

  laid_out = {}
  for name, x in like.items():  # one at a time: no host holds two copies of all
    # A broadcast wants an array of everyone, and takes the lead's.
    mine = np.asarray(arrays[name]) if is_lead() else np.zeros(x.shape, x.dtype)
    laid_out[name] = spread(multihost_utils.broadcast_one_to_all(mine), x.sharding)
  return laid_out
