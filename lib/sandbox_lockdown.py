"""What a process gives up before it runs a line of a job: files, network, other processes, memory,
time, privileges.

Each layer stands alone, because any of them may be missing on a given machine, and because two must
fail before code escapes:

  an empty root, another user   no file can be named, no process signalled (needs root)
  closed descriptors            nothing that the worker holds open is inherited
  limits                        memory, CPU seconds, size of files, threads (the last needs root,
                                see `too_many_threads`)
  a list of system calls        what is not on it does not exist: no open, socket, exec, kill,
                                ptrace (seccomp)

`lock_down` applies them to the process that calls it, once and for all; `child` forks a process
that begins with that.
"""

import contextlib
import ctypes
import itertools
import os
import re
import resource
import signal
import struct

MEMORY = 512 << 20  # bytes of address space that a job may add to its worker's
MAX_THREADS = 64  # of one process

LIBC = ctypes.CDLL(None)
# os.fork's hooks renew the locks of threads that a worker does not have, and take half its time.
FORK = ctypes.PyDLL(None).fork
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CLONE_THREAD = 0x00010000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
ENOENT, ENOSYS = 2, 38

# What a program needs that computes, allocates, sleeps, starts threads and talks over pipes that
# are open already. machine: (its AUDIT_ARCH, the calls allowed, the calls that answer "no such
# file")
SYSCALLS = {
  "x86_64": (
    0xC000003E,
    """
    read=0 write=1 close=3 fstat=5 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 select=23 sched_yield=24 mremap=25 madvise=28
    nanosleep=35 getpid=39 clone=56 exit=60 uname=63 gettimeofday=96 getrusage=98 sysinfo=99
    times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110 sigaltstack=131 gettid=186
    time=201 futex=202 sched_getaffinity=204 restart_syscall=219 clock_gettime=228 clock_getres=229
    clock_nanosleep=230 exit_group=231 pselect6=270
    ppoll=271 set_robust_list=273 getrandom=318 rseq=334""",
    """
    open=2 stat=4 lstat=6 access=21 readlink=89 openat=257 newfstatat=262 readlinkat=267
    faccessat=269
    statx=332""",
  ),
  "aarch64": (
    0xC00000B7,
    """
    close=57 lseek=62 read=63 write=64 pselect6=72 ppoll=73 fstat=80 exit=93 exit_group=94 futex=98
    set_robust_list=99 nanosleep=101 clock_gettime=113 clock_getres=114 clock_nanosleep=115
    sched_getaffinity=123 sched_yield=124 restart_syscall=128 sigaltstack=132 rt_sigaction=134
    rt_sigprocmask=135 rt_sigreturn=139 times=153 uname=160 getrusage=165 gettimeofday=169
    getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178 sysinfo=179
    brk=214 munmap=215
    mremap=216 clone=220 mmap=222 mprotect=226 madvise=233 getrandom=278 rseq=293""",
    "faccessat=48 openat=56 readlinkat=78 newfstatat=79 statx=291",
  ),
}


def call_numbers(table):
  return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", table)}


def seccomp_filter(machine):
  """The BPF program (seccomp(2)) as bytes; empty on a machine whose call numbers are not known
  here.

  What is not allowed seems not to exist (ENOSYS): libc then uses clone for clone3, whose flags a
  filter cannot read. Opening a file fails as in an empty folder (ENOENT), which honest programs
  expect and handle.
  """
  if machine not in SYSCALLS:
    return b""
  arch, allowed, of_files = SYSCALLS[machine]
  calls = call_numbers(allowed)
  clone = calls.pop("clone")
  load, equal, bits, give = (
    0x20,
    0x15,
    0x45,
    0x06,
  )  # opcodes; the last ends the program with a verdict
  allow, kill, deny = 0x7FFF0000, 0x80000000, 0x00050000  # deny + the errno
  code = [
    (load, 0, 0, 4),
    (equal, 1, 0, arch),
    (give, 0, 0, kill),  # 32-bit calls have other numbers: whoever makes one dies
    (load, 0, 0, 0),
  ]
  for number in calls.values():
    code += [(equal, 0, 1, number), (give, 0, 0, allow)]
  for number in call_numbers(of_files).values():
    code += [(equal, 0, 1, number), (give, 0, 0, deny | ENOENT)]
  # clone for threads only: no second process, so nothing outlives the job
  code += [
    (equal, 0, 3, clone),
    (load, 0, 0, 16),
    (bits, 0, 1, CLONE_THREAD),
    (give, 0, 0, allow),
    (give, 0, 0, deny | ENOSYS),
  ]
  return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def lock_down(config, uid, keep):
  """Irreversible. After it the process has the descriptors 0 to 2 (/dev/null) and `keep`, and
  little else.
  """
  os.setsid()
  if config["chroot"]:
    os.fchdir(config["jail"])
    os.chroot(".")
  for low, high in itertools.pairwise([2, *sorted(keep), 4096]):
    os.closerange(low + 1, high)
  limits = {
    resource.RLIMIT_AS: config["address_space"],
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 16,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_CPU: config["cpu_seconds"],
  }
  for what, limit in limits.items():
    resource.setrlimit(what, (limit, limit))
  if config["uid"]:
    resource.setrlimit(resource.RLIMIT_NPROC, (MAX_THREADS, MAX_THREADS))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
  # The rest holds until exec, which is not among the calls left. The signal comes after the change
  # of user, which clears it.
  LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
  if os.getppid() != config["worker"]:
    os._exit(1)  # the worker died before the line above
  LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
  LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
  if config["seccomp"]:
    if LIBC.prctl(PR_SET_SECCOMP, 2, config["filter"], 0, 0) != 0:
      raise OSError("no seccomp")
    with contextlib.suppress(OSError):
      os.open("/", os.O_RDONLY)
      os._exit(1)  # the filter does not filter


def child(config, uid, run, *fds):
  """Forks a process that locks itself down and does run(*fds) and nothing else; returns its pid."""
  pid = FORK()
  if pid < 0:  # never to be taken for a pid: kill(-1) means everyone
    raise OSError("fork failed")
  if pid == 0:
    try:
      lock_down(config, uid, fds)
      run(*fds)
      os._exit(0)
    finally:
      os._exit(1)
  return pid


def works(config, run=lambda: None):
  """Whether run() succeeds in a child: which layers a machine gives is found by trying."""
  return os.waitpid(child(config, config["uid"], run), 0)[1] == 0


def too_many_threads(pid):
  """Whether a process has more than MAX_THREADS, from /proc/PID/stat (proc(5), field 20).

  RLIMIT_NPROC counts all threads of a user, the trainer's among them, so only a user of the job's
  own can have that limit. Without root the worker looks every few milliseconds instead; memory
  keeps the number in bounds between two looks.
  """
  try:
    with open(f"/proc/{pid}/stat", "rb") as f:
      after_name = (
        f.read().rpartition(b")")[2].split()
      )  # from field 3 on; the name may hold anything
  except OSError:
    return False  # it ended
  return int(after_name[17]) > MAX_THREADS
