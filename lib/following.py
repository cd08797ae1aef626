"""A host of run.sh that is not the lead: it runs whatever stage the lead's run.sh comes to.

  python -m lib.following SPEC FILE          waits for the lead, runs one stage with it
  python -m lib.following SPEC FILE STATUS   the lead: there is no further stage

So the lead alone decides what is complete, what follows and with which flags; a follower needs
the code and the model, and none of the run's files. FILE gets the status to exit with once there
is nothing more to run. Only the three scripts below are ever run.
"""

import pathlib
import runpy
import sys

from lib import command_line, errors, folders, host_lines, joining, meeting
from lib.errors import InputError

SCRIPTS = ("train_sft.py", "train_grpo.py", "evaluate.py")
# The lead may be preparing data, or exporting, for much longer than it takes to start.
PATIENCE = 12 * host_lines.WAIT
FAREWELL = 20  # seconds in which those that still follow come for their last word


def follow(spec: str, file: str):
  """Runs one stage; does not return where the lead has told this host to end."""
  place = joining.find_place(spec)
  try:
    command = meeting.meet(place, {"code": folders.git_commit()}, PATIENCE)
    errors.check_option("the lead's script", command.get("script", SCRIPTS[0]), SCRIPTS)
  except InputError as error:
    pathlib.Path(file).write_text("2")
    sys.exit(command_line.say_ending(error, ""))
  # Not an exit status: those of the stages are run.sh's business.
  if "last" in command:
    pathlib.Path(file).write_text(str(command["last"]))
    host_lines.leave(0)
  # As if it had been typed here; the script's own `join` finds that it has joined.
  sys.argv = [command["script"], *command["words"], f"--hosts={spec}"]
  runpy.run_path(command["script"], run_name="__main__")


def dismiss(spec: str, status: int):
  """Tells the followers how run.sh ended here; those that do not come are not waited for long."""
  place = joining.find_place(spec)
  if place.count > 1:
    meeting.dismiss(place, status, FAREWELL)


if __name__ == "__main__":
  if len(sys.argv) == 4:
    dismiss(sys.argv[1], int(sys.argv[3]))
  else:
    follow(sys.argv[1], sys.argv[2])
