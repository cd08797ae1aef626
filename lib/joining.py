"""Where this process stands among the hosts of a run, from --hosts.

none              alone, and nothing is asked; the default
HOST:PORT,N,I     process I of N; process 0, the lead, is reached at HOST:PORT
auto              what a cluster says of itself: `from_jax`, `from_slurm`, `from_open_mpi`,
                  `from_tpu`; alone where nothing does

`find_place` reads the flag. `python -m lib.joining SPEC` prints the index, for run.sh.
"""

import glob
import os
import re
import sys
from typing import NamedTuple

from lib.errors import InputError

HELP = (
  "Which process of how many this is: none: the only one; HOST:PORT,N,I: number I of N, number 0 "
  "reached at HOST:PORT; auto: as SLURM, Open MPI or a TPU slice says."
)
TPU_PORT = 8476
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
METADATA_SECONDS = 3
# Ports that few services use, one for each job number, so that two jobs of a node do not meet.
FIRST_PORT, PORTS = 61440, 4096


class Place(NamedTuple):
  """A process among those of a run. One process drives all devices of its host."""

  host: str  # of process 0
  port: int
  count: int  # of processes
  index: int
  device: int | None = None  # the only local device it drives, where a node holds several processes

  @property
  def address(self) -> str:
    return f"{self.host}:{self.port}"


ALONE = Place("", 0, count=1, index=0)


def find_place(spec: str) -> Place:
  """The place that --hosts names."""
  if spec == "none":
    return ALONE
  if spec != "auto":
    return read_place(spec)
  # What was started on purpose goes first: a slice may be used through SLURM, too.
  for ask in (from_jax, from_slurm, from_open_mpi, from_tpu):
    place = ask(os.environ)
    if place and place.count > 1:  # a job of one task is a plain machine
      return place
  return ALONE


def read_place(spec: str) -> Place:
  """ "10.0.0.2:9000,4,1" → process 1 of 4."""
  parts = re.fullmatch(r"(.+):(\d+),(\d+),(\d+)", spec)
  if not parts:
    raise InputError(
      f"--hosts={spec}: expected none, auto, or HOST:PORT,N,I such as 10.0.0.2:9000,2,0"
    )
  port, count, index = (int(number) for number in parts.groups()[1:])
  if not 0 < port < 65536 or not index < count:
    raise InputError(
      f"--hosts={spec}: expected a port below 65536, and a number I below N, counted from 0"
    )
  return Place(parts[1], port, count, index)


def split_address(address: str, name: str) -> tuple[str, int]:
  """ "node1:9000" → ("node1", 9000). name: of the variable that holds it."""
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit():
    raise InputError(f"{name}={address}: expected HOST:PORT of process 0")
  return host, int(port)


def from_jax(env) -> Place | None:
  """The variables that JAX's own launchers set."""
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  if not all(name in env for name in names):
    return None
  host, port = split_address(env[names[0]], names[0])
  return Place(host, port, int(env[names[1]]), int(env[names[2]]))


def from_slurm(env) -> Place | None:
  """A step of srun: one task a node, or one a device."""
  nodes = env.get("SLURM_STEP_NODELIST", "")
  if not nodes or "SLURM_PROCID" not in env:
    return None
  count = int(env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"])
  host, port = first_node(nodes), FIRST_PORT + int(env["SLURM_JOB_ID"]) % PORTS
  if "JAX_COORDINATOR_ADDRESS" in env:
    host, port = split_address(env["JAX_COORDINATOR_ADDRESS"], "JAX_COORDINATOR_ADDRESS")
  device = None
  # More tasks than nodes: each drives one device.
  if count > int(env.get("SLURM_STEP_NUM_NODES", count)):
    device = own_device(env, int(env["SLURM_LOCALID"]))
  return Place(host, port, count, int(env["SLURM_PROCID"]), device)


def first_node(nodes: str) -> str:
  """ "gpu[003-005,9],big1" → "gpu003"; "gpu7,gpu8" → "gpu7"."""
  prefix, number = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes).groups()
  return prefix + (number or "")


def own_device(env, local: int) -> int | None:
  """The device of task `local` of a node; None where the scheduler shows each task only its own."""
  shown = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
  return None if len(shown) == 1 and shown[0] else local


def from_open_mpi(env) -> Place | None:
  """A process of mpirun."""
  if "OMPI_COMM_WORLD_SIZE" not in env:
    return None
  count, index = int(env["OMPI_COMM_WORLD_SIZE"]), int(env["OMPI_COMM_WORLD_RANK"])
  if count == 1:
    return None
  # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911": mpirun's own host, where process 0 runs.
  uri = env.get("OMPI_MCA_orte_hnp_uri", "")
  launcher = re.match(r"(\d+)\.\d+;tcp://([^,:]+)", uri)
  if "JAX_COORDINATOR_ADDRESS" in env:
    host, port = split_address(env["JAX_COORDINATOR_ADDRESS"], "JAX_COORDINATOR_ADDRESS")
  elif launcher:
    # Job numbers are multiples of 4096.
    host, port = launcher[2], FIRST_PORT + int(launcher[1]) // 4096 % PORTS
  else:
    raise InputError(
      "this Open MPI does not tell where process 0 runs; set JAX_COORDINATOR_ADDRESS=HOST:PORT"
    )
  device = None
  if int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)) > 1:
    device = own_device(env, int(env["OMPI_COMM_WORLD_LOCAL_RANK"]))
  return Place(host, port, count, index, device)


def from_tpu(env) -> Place | None:
  """A host of a TPU slice: as GKE's variables say, or the machine's metadata."""
  if "TPU_WORKER_HOSTNAMES" in env and "TPU_WORKER_ID" in env:
    workers = env["TPU_WORKER_HOSTNAMES"].split(",")
    return Place(workers[0], TPU_PORT, len(workers), int(env["TPU_WORKER_ID"]))
  # Without the chips this is no slice, and a laptop would wait for a server that it does not have.
  if not glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*"):
    return None
  try:
    endpoints = read_metadata("worker-network-endpoints")
    index = int(read_metadata("agent-worker-number"))
  except (OSError, ValueError):  # no such server, or no slice
    return None
  # "10.0.0.2,10.0.0.3", or older "name:id:10.0.0.2,name:id:10.0.0.3".
  workers = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
  return Place(workers[0], TPU_PORT, len(workers), index)


def read_metadata(name: str) -> str:
  import urllib.request  # on a TPU alone: every script reads this file at its start

  request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
  with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:
    return answer.read().decode().strip()


if __name__ == "__main__":
  try:
    print(find_place(sys.argv[1]).index)
  except InputError as error:
    sys.exit(f"error: {error}")
