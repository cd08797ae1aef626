"""How the processes of a run find each other, and make sure that it is one run.

join         a script that was started on every host: commands and code are compared
meet         the same for lib/following.py, which takes the lead's command
end_early    for what went wrong before that
leaves_to_lead   for a stage of one host
"""

import re
import sys

from lib import errors, host_lines, hosts, joining
from lib.errors import InputError
from lib.joining import Place

TRIED = []  # holds something once this process has looked for the others


def join(spec: str, describe):
  """Joins the hosts that --hosts names; before the first use of a device.

  Commands that differ between hosts are refused, and so is other code. describe: a function that
  gives this process's command as `find_difference` compares it.
  """
  place = joining.find_place(spec)
  if place.count == 1 or hosts.several():  # alone, or lib/following.py has joined already
    return
  if "ipykernel" in sys.modules:
    raise InputError(
      f"--hosts={spec} in a notebook's kernel: each host needs a process of its own; "
      "start the script with !python in the cell"
    )
  meet(place, describe())


def meet(place: Place, command: dict, wait: float = host_lines.WAIT) -> dict:
  """Finds the other hosts and starts JAX among them; returns the lead's command.

  command: of a host that follows, whatever it is, only its code.
  """
  TRIED.append(place)
  if place.index == 0:
    lines, commands = host_lines.gather_hosts(place, host_lines.WAIT)
    missing = host_lines.missing_hosts(place, commands)
    if refusal := missing or find_difference(command, commands):
      host_lines.end_lines(lines, errors.EXIT_BAD_INPUT)
      raise InputError(refusal)
    # Not the port that was named: an earlier run's coordinator may still be closing there.
    port = host_lines.free_port()
    for line in lines:
      host_lines.send(line, {"port": port, "command": command})
  else:
    line, answer = host_lines.call_lead(place, command, wait)
    if "end" in answer:
      host_lines.leave(answer["end"])
    if "last" in answer:
      return answer
    lines, command = [line], answer["command"]
    port = host_lines.start_relay(place.host, answer["port"])
  hosts.HERE["place"] = place
  # First: one that is lost from here on would leave the others waiting in JAX.
  host_lines.start_watching(lines)
  start_jax(place, port)
  return command


def end_early(words: list[str], status: int, said: str):
  """Ends a process that failed before it joined the others, such as by a wrong flag.

  The others have failed likewise, or wait for this one: either way they are told, and the lead
  alone speaks. words: of the command line. Returns where this process is the only one.
  """
  spec = next((word.split("=")[1] for word in words if re.match("--?hosts=", word)), "none")
  try:
    place = joining.find_place(spec)
  except InputError:  # --hosts itself is wrong
    return
  if place.count == 1 or TRIED:
    return
  if place.index == 0:
    host_lines.speak(said)
    # Others with the same fault come within moments; what waits for this run is there already.
    lines, _ = host_lines.gather_hosts(place, host_lines.EARLY)
    host_lines.end_lines(lines, status)
    host_lines.leave(status)
  # A lead without a fault waits for all, and then says what went wrong here.
  try:
    _, answer = host_lines.call_lead(place, {"said": said}, host_lines.EARLY)
    host_lines.leave(answer["end"])
  except InputError:  # the lead is not there, and so has not spoken
    return


def dismiss(place: Place, status: int, wait: float):
  """The lead of run.sh tells the hosts that follow it that nothing more comes. wait: seconds."""
  lines, _ = host_lines.gather_hosts(place, wait)
  for line in lines:
    host_lines.send(line, {"last": status})


def start_jax(place: Place, port: int):
  import jax  # only here: run.sh asks for places in its first second

  # Its C++ handler would swallow SIGTERM; ours is in lib/runs.py.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    f"127.0.0.1:{port}",  # a relay's, but on the lead, where the coordinator itself listens
    place.count,
    place.index,
    # One process drives all devices of its host, whatever SLURM's variables make JAX guess.
    cluster_detection_method="deactivate",
    local_device_ids=place.device,
  )


def find_difference(lead: dict, others: dict[int, dict]) -> str:
  """What keeps these commands from being one run, in words; "" where nothing does."""
  for index, command in sorted(others.items()):
    if "said" in command:  # it failed before it came here
      return f"host {index}: {command['said']}"
    for what in ("code", "script"):
      # A host that follows names its code alone.
      if what in command and command[what] != lead[what]:
        return (
          f"host {index} runs {what} {command[what]}, host 0 {lead[what]}; bring all hosts to the "
          "same"
        )
    flags = command.get("flags", lead["flags"])
    differing = [
      f"--{name} is {flags.get(name)!r} on host {index} and {value!r} on host 0"
      for name, value in lead["flags"].items()
      if flags.get(name) != value
    ]
    if differing:
      return f"{'; '.join(differing)}; start the same command on every host"
  return ""


def leaves_to_lead(spec: str) -> bool:
  """Whether --hosts makes this a process for which there is nothing to do, in a stage of one host.

  The lead then works on its CPU: the chips of a slice start only on all hosts at once.
  """
  place = joining.find_place(spec)
  if place.count > 1:
    import jax

    jax.config.update("jax_platforms", "cpu")
  return place.index > 0
