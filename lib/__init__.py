"""What the stage scripts share: one subject a file. Nothing here reads flags, and nothing here
imports a script.
"""

import os
import sys

# A notebook's kernel hands MPLBACKEND, the name of its own chart backend, on to `!./run.sh` and
# `!python evaluate.py`. Where that package is not installed matplotlib does not even import. Charts
# here go to files, so outside the kernel itself the backend that needs no screen will do.
if "MPLBACKEND" in os.environ and "ipykernel" not in sys.modules:
  os.environ["MPLBACKEND"] = "agg"
