"""Time and memory of prepare_data.py on the multi_domain write-up's pool sizes: 43,116 rows to a 10,000-row mix, without a tokenizer and with one.

Makes a pool of random words in a temporary folder (or takes --pool), runs the script as a user would, once to warm the disk and
then --repeats times per setting, and prints median seconds, CPU seconds and peak memory. With --peer it times beside them what
that write-up did for its 10,000 rows (pandas, no cleaning, no split, no checks), in its own process.

  python benchmarks/bench_data.py --tokenizer=/path/to/gemma-3-1b-it
"""

import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from machine import machine_line

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
flags.DEFINE_string("pool", "", "Unified rows to use in the place of random ones.")
flags.DEFINE_string(
  "tokenizer", "", "Folder with Gemma's tokenizer.model; empty: that setting is left out."
)
flags.DEFINE_integer(
  "train_size", 10000, "Training rows of the mix; validation and test get a twentieth each."
)
flags.DEFINE_integer("repeats", 3, "Runs per setting; the median counts.")
flags.DEFINE_bool("peer", True, "Also time the write-up's pandas loader and sampler.")

SIZES = {
  "science": 13610,
  "summarization": 10000,
  "math": 7473,
  "creative_writing": 5968,
  "creative_ideation": 2831,
  "logic": 2260,
  "coding": 974,
}
PEER = """
import sys, pandas
rows = pandas.read_json(sys.argv[1], lines=True)
share = (rows.domain.value_counts() / len(rows)) ** 0.5
parts = [rows[rows.domain == d].sample(n=int(10000 * s / share.sum()), random_state=42) for d, s in share.items()]
pandas.concat(parts).sample(frac=1.0, random_state=42).to_json(sys.argv[2], orient="records", lines=True)
"""


def write_pool(path: pathlib.Path):
  """Rows of about 25 words; summaries of about 300, as articles are."""
  r = random.Random(11)
  words = [
    "".join(r.choices("abcdefghijklmnopqrstuvwxyz", k=r.randrange(3, 9))) for _ in range(20000)
  ]
  with open(path, "w", encoding="utf-8") as file:
    for domain, n in SIZES.items():
      for i in range(n):
        code, text = f"def f{i}(x):\n  return x + {i}", " ".join(r.sample(words, 6))
        answer = {"math": str(i), "logic": "yes", "coding": code}.get(domain, text)
        metadata = {"source": "random", "id": f"{domain}-{i}"}
        if domain == "coding":
          metadata |= {"test_cases": [f"assert f{i}({x}) == {x + i}" for x in range(3)]}
        question = " ".join(r.sample(words, 300 if domain == "summarization" else 25))
        file.write(
          json.dumps({"domain": domain, "prompt": question, "answer": answer, "metadata": metadata})
          + "\n"
        )


def measure(command: list[str]) -> tuple[float, float, float]:
  """Wall seconds, CPU seconds (children included), peak MiB of one process and its children."""
  script = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
    "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss / 1024); sys.exit(code)"
  )
  start = time.time()
  done = subprocess.run(
    [sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True, check=True
  )
  return time.time() - start, *map(float, done.stdout.split())


def main(_):
  with tempfile.TemporaryDirectory() as folder:
    pool = pathlib.Path(FLAGS.pool or f"{folder}/pool.jsonl")
    if not FLAGS.pool:
      write_pool(pool)
    command = [
      sys.executable,
      "prepare_data.py",
      f"--pool={pool.resolve()}",
      f"--train_size={FLAGS.train_size}",
      f"--val_size={FLAGS.train_size // 20}",
      f"--test_size={FLAGS.train_size // 20}",
      f"--out_dir={folder}/out",
    ]
    settings = {
      "no tokenizer, code verified": command,
      "no tokenizer, --verify_code=off": [*command, "--verify_code=off"],
    }
    if FLAGS.tokenizer:
      settings["Gemma's tokenizer, code verified"] = [
        *command,
        f"--tokenizer={os.path.abspath(FLAGS.tokenizer)}",
      ]
    if FLAGS.peer:
      settings["peer: the write-up's pandas sampler"] = [
        sys.executable,
        "-c",
        PEER,
        str(pool.resolve()),
        f"{folder}/peer.jsonl",
      ]
    print(f"{pool.stat().st_size / 2**20:.0f} MiB pool; {machine_line()}")
    measure(command)
    runs = {name: [] for name in settings}
    for _ in range(FLAGS.repeats):  # alternating, so that a busy minute hits all alike
      for name, setting in settings.items():
        runs[name].append(measure(setting))
    print(f"{'setting':36}  wall s  CPU s  peak MiB")
    for name, found in runs.items():
      wall, cpu, peak = (statistics.median(values) for values in zip(*found))
      print(f"{name:36}  {wall:6.1f}  {cpu:5.1f}  {peak:8.0f}")


if __name__ == "__main__":
  app.run(main)
