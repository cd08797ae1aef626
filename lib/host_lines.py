"""A line between the lead and every other host: who is there, who has ended, and why.

A plain TCP connection for each of them, beside JAX's own traffic. Before JAX starts, `gather_hosts`
and `call_lead` bring all together, because JAX itself ends a process that waits in vain with a
C++ stack. Afterwards a thread a line listens (`watch`): an error on any host, or a host that is
gone, ends all of them at once with the same exit status, and the lead alone says why. Such a
thread never computes: a collective outside the main thread could meet another in another order.

Messages are JSON, one a line:

  {"index": 1, "command": {…}}         a host to the lead, first
  {"port": 41234, "command": {…}}      the answer: where JAX's coordinator is, what is to run
  {"last": 0}                          or: nothing more is to run (lib/following.py)
  {"end": 2, "said": "error: …"}       either way: it ends with this status
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import NamedTuple

from lib import errors, hosts
from lib.errors import InputError
from lib.joining import Place

WAIT = float(os.environ.get("HOSTS_WAIT", 300))  # seconds in which all hosts must have come
EARLY = 10  # seconds in which hosts tell each other what went wrong before they had joined
HELLO_SECONDS = 10  # for the first message of whoever connects
PATIENCE = 4  # seconds that a host with an error of its own leaves the lead to say it first
LEAVING = 5  # seconds that the lead, which holds JAX's coordinator, leaves the others to end
KEEPALIVE = {  # a machine without power closes nothing: it is given up after 15 + 3 × 5 seconds
  "TCP_KEEPIDLE": 15,
  "TCP_KEEPINTVL": 5,
  "TCP_KEEPCNT": 3,
}


class Line(NamedTuple):
  """A connection with one other host."""

  index: int
  socket: socket.socket
  messages: object  # the socket as a file of text lines


LINES: list[Line] = []  # the lead's to all others; another host's to the lead
FOLLOWS = os.path.basename(sys.argv[0]) == "following.py"  # with -m: the path of lib/following.py
ENDING = threading.Lock()  # held by the first thread that ends the process


def open_line(connection: socket.socket, index: int) -> Line:
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in KEEPALIVE.items():
    if hasattr(socket, name):  # macOS names one of them otherwise
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
  return Line(index, connection, connection.makefile("r", encoding="utf-8"))


def send(line: Line, message: dict):
  """Sends, or does nothing where the other is gone: its thread notices."""
  with contextlib.suppress(OSError):
    line.socket.sendall((json.dumps(message) + "\n").encode())


def receive(line: Line) -> dict | None:
  """The next message; None at the end of the line."""
  try:
    text = line.messages.readline()
    return json.loads(text) if text.endswith("\n") else None
  except (OSError, ValueError):  # broken off, timed out, or not of this program
    return None


def free_port() -> int:
  with socket.socket() as found:
    found.bind(("", 0))
    return found.getsockname()[1]


def gather_hosts(place: Place, wait: float) -> tuple[list[Line], dict[int, dict]]:
  """The lead waits for all others: (their lines, {index: the command of each}).

  wait: seconds; whoever has come by then is returned.
  """
  try:
    # Dual stack where there is one: a name may stand for either kind of address.
    listener = socket.create_server(("", place.port))
  except OSError as error:
    raise InputError(
      f"port {place.port} of --hosts cannot be opened here ({error.strerror}); is another run "
      "using it? name another"
    ) from error
  lines, commands = {}, {}
  until = time.monotonic() + wait
  with listener:
    while len(lines) < place.count - 1:
      listener.settimeout(max(0.01, until - time.monotonic()))
      try:
        connection, _ = listener.accept()
      except TimeoutError:
        break
      connection.settimeout(HELLO_SECONDS)
      line = open_line(connection, 0)
      hello = receive(line) or {}
      index = hello.get("index")
      # Whoever else finds this port (a scanner, a process of another run) is not answered.
      if not isinstance(index, int) or not 0 < index < place.count or index in lines:
        connection.close()
        continue
      connection.settimeout(None)
      lines[index] = line._replace(index=index)
      commands[index] = hello.get("command")
  return [lines[index] for index in sorted(lines)], commands


def missing_hosts(place: Place, found) -> str:
  """The error about hosts that did not come; "" where all did."""
  missing = [str(index) for index in range(1, place.count) if index not in found]
  if not missing:
    return ""
  return (
    f"waited {WAIT:.0f} s at {place.address} for process {', '.join(missing)} of {place.count}, "
    "which did not come; start the same command on every host"
  )


def call_lead(place: Place, command: dict | None, wait: float) -> tuple[Line, dict]:
  """Another host finds the lead: (its line, the lead's answer). wait: seconds."""
  until = time.monotonic() + wait
  while time.monotonic() < until:
    try:
      connection = socket.create_connection((place.host, place.port), timeout=5)
    except OSError:  # not there yet, or its name is not known yet
      time.sleep(0.2)
      continue
    connection.settimeout(None)  # the lead answers when all are there
    line = open_line(connection, 0)
    send(line, {"index": place.index, "command": command})
    if answer := receive(line):
      return line, answer
    connection.close()  # a lead that was just ending
    time.sleep(0.2)
  raise InputError(
    f"process {place.index} of {place.count} looked for process 0 at {place.address} for "
    f"{wait:.0f} s and did not find it; is the same command running there, and its port open?"
  )


def start_watching(lines: list[Line]):
  LINES[:] = lines
  for line in lines:
    threading.Thread(target=watch, args=[line], daemon=True).start()


def watch(line: Line):
  """Waits for what ends the other side, and then ends this one."""
  message = receive(line)
  if not ENDING.acquire(blocking=False):
    return  # this process is ending already
  if line.index == 0:  # the lead: it has spoken, or it is gone
    if message:
      leave(message["end"])
    speak("stopped: process 0, the lead, was lost; start the same command on every host to go on")
    leave(errors.EXIT_LEAD_LOST if FOLLOWS else errors.EXIT_STOPPED)
  if message:
    speak(f"host {line.index}: {message['said']}")
    end_others(message["end"])
  speak(
    f"stopped: process {line.index} of {len(LINES) + 1} was lost; start the same command on every "
    "host to go on from the last checkpoint"
  )
  end_others(errors.EXIT_STOPPED)


def speak(text: str):
  with contextlib.suppress(OSError):  # a lost terminal
    sys.stderr.write(text.rstrip("\n") + "\n")


def end_lines(lines: list[Line], status: int):
  """Tells the other hosts to end, and waits until they have."""
  for line in lines:
    send(line, {"end": status})
  until = time.monotonic() + LEAVING
  for line in lines:
    with contextlib.suppress(OSError):
      line.socket.settimeout(max(0.01, until - time.monotonic()))
      while line.socket.recv(4096):  # until it closes
        pass


def end_others(status: int):
  """The lead ends the run: all others, then itself."""
  end_lines(LINES, status)
  leave(status)


def leave(status: int):
  """Ends this process now. Python's own end would wait in JAX for hosts that may be gone."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(status)


def end_together(status: int, said: str, agreed: bool):
  """The end of a script's main thread, on every host; does not return.

  said: this process's last line, empty for a good end. agreed: all hosts come to this end by
  themselves, so the lead, which may be writing files still, is waited for.
  """
  if hosts.is_lead():
    ENDING.acquire()  # for good; where a watching thread has it, that one ends the process
    if said:
      speak(said)
    end_others(status)
  if not agreed:
    # The same error is mostly the lead's too, which then says it and ends this process.
    time.sleep(PATIENCE)
    send(LINES[0], {"end": status, "said": said})
  # `watch` ends the process when the lead does.
  threading.Event().wait()


def start_relay(host: str, port: int) -> int:
  """A local port that leads to JAX's coordinator on the lead.

  When the lead dies, its sockets close; JAX's client would notice first and end this process with
  a C++ stack. Through this relay it notices nothing, and `watch` ends the process with a line.
  """
  listener = socket.create_server(("127.0.0.1", 0))
  threading.Thread(target=relay, args=[listener, (host, port)], daemon=True).start()
  return listener.getsockname()[1]


def relay(listener: socket.socket, target: tuple[str, int]):
  while True:
    near, _ = listener.accept()
    try:
      far = socket.create_connection(target)
    except OSError:  # not up yet: JAX tries again
      near.close()
      continue
    for source, sink in ((near, far), (far, near)):
      threading.Thread(target=pump, args=[source, sink], daemon=True).start()


def pump(source: socket.socket, sink: socket.socket):
  """Bytes from one to the other; an end is not passed on."""
  with contextlib.suppress(OSError):
    while data := source.recv(2**16):
      sink.sendall(data)
