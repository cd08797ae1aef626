"""The worker: a clean process that forks a locked-down solver and judge for each job.

  python -I -S -B lib/sandbox_worker.py FD SECONDS     started by lib.sandbox, which holds the other
                                                       end of FD

It imports the standard library once, never reads a job itself, and so forks every job from the same
clean memory: a fork takes a millisecond where a new Python takes ten. It belongs to no user's
program: -I and -S keep the environment, the user's site and the current folder out.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
import time

if (
  __name__ == "__main__"
):  # -I leaves this file's folder out of the path; sandbox_imports takes it out again
  sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import sandbox_imports, sandbox_names
from lib.sandbox_judge import judge
from lib.sandbox_lockdown import (
  CLONE_NEWIPC,
  CLONE_NEWNET,
  LIBC,
  MEMORY,
  PR_SET_CHILD_SUBREAPER,
  PR_SET_DUMPABLE,
  PR_SET_PDEATHSIG,
  child,
  seccomp_filter,
  too_many_threads,
  works,
)
from lib.sandbox_solver import solve

GRACE_SECONDS = 2.0  # how much longer than its job a worker may take before it counts as lost
LOOK_SECONDS = 0.01  # how often a running job's threads are counted
LAYERS = ("seccomp", "uid", "chroot", "network")


def configure(seconds):
  """What the children's lockdown needs to know, and the layers that this machine gives, each found
  by trying.
  """
  with open("/proc/self/statm") as f:
    pages = int(f.read().split()[0])  # RLIMIT_AS counts what is mapped already
  code = ctypes.create_string_buffer(seccomp_filter(os.uname().machine))
  jail = tempfile.mkdtemp()
  config = {
    "worker": os.getpid(),
    "seconds": seconds,
    "address_space": pages * resource.getpagesize() + MEMORY,
    "jail": os.open(jail, os.O_RDONLY),
    # the wall clock decides; this one only catches what a lost worker left behind
    "cpu_seconds": int(seconds) + 2,
    "filter": struct.pack("HP", len(code) // 8, ctypes.addressof(code)),  # struct sock_fprog
    "filter_code": code,  # kept alive for the address above
    "uid": 0,
    "chroot": False,
    "seccomp": False,
  }
  # A directory that is gone stays usable as a root, is empty for ever, and leaves nothing behind.
  os.rmdir(jail)
  # Two users of each worker's own; the second choice fits the 65,536 users of a rootless container.
  uids = (2**20 + 2 * os.getpid(), 50000 + 2 * (os.getpid() % 5000))
  config["uid"] = next((uid for uid in uids if works({**config, "uid": uid})), 0)
  config["chroot"] = works({**config, "chroot": True})
  config["seccomp"] = works({**config, "seccomp": True})
  config["network"] = os.geteuid() == 0 and LIBC.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0
  return config


def worker(control_fd, seconds):
  """Serves jobs from the control socket until the client closes it or dies."""
  LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
  LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  sys.setrecursionlimit(1100)
  sandbox_imports.prepare()
  sandbox_names.lent_names()
  config = configure(seconds)
  gc.collect()
  gc.freeze()  # what is here stays: a collection in a job would touch, and so copy, all of it
  control = socket.socket(fileno=control_fd)
  control.send(json.dumps({layer: bool(config[layer]) for layer in LAYERS}).encode())
  while True:
    control.settimeout(None)
    message, fds, _, _ = socket.recv_fds(control, 1, 1)
    if not message:
      break
    if fds:  # else a late word on a job that was given up
      run_job(config, control, fds[0])


def run_job(config, control, client_fd):
  """Forks solver and judge, and kills both when the client says so, is gone, or is stuck."""
  solver_end, judge_end = socket.socketpair()
  with solver_end, judge_end:
    pids = [
      child(config, config["uid"], solve, solver_end.fileno()),
      child(config, config["uid"] + 1, judge, judge_end.fileno(), client_fd),
    ]
  os.close(client_fd)
  wait_for_client(config, control, pids)
  for pid in pids:
    os.kill(pid, signal.SIGKILL)  # unreaped children of ours: the pids cannot have been reused
  for pid in pids:
    os.waitpid(pid, 0)
  if not config["seccomp"]:
    # An answer may have forked: as its user kill all that it may kill, in one call, then reap the
    # orphans.
    works(config, kill_everyone)
    with contextlib.suppress(ChildProcessError):
      while True:
        os.waitpid(-1, 0)
  control.send(b"K")


def wait_for_client(config, control, pids):
  deadline = time.monotonic() + config["seconds"] + GRACE_SECONDS
  control.settimeout(LOOK_SECONDS)
  while time.monotonic() < deadline:
    with contextlib.suppress(TimeoutError):
      control.recv(1)
      return
    for pid in filter(too_many_threads, pids):
      os.kill(pid, signal.SIGKILL)


def kill_everyone():
  os.kill(-1, signal.SIGKILL)


if __name__ == "__main__":
  worker(int(sys.argv[1]), float(sys.argv[2]))
