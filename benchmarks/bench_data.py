"""Time and memory of prepare_data.py at the multi_domain write-up's pool sizes: 43,116 rows to a
10,000-row mix, without a tokenizer and with one.

Makes a pool of random words in a temporary folder (or takes --pool), runs the script as a user
would, once to warm the disk and then --repeats times per setting, and prints median seconds, CPU
seconds and peak memory. With --peer it times beside them what that write-up did for its 10,000 rows
(pandas, no cleaning, no split, no checks), in its own process.

  python benchmarks/bench_data.py --tokenizer=MODEL
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
counts = (10000 * share / share.sum()).astype(int)
parts = [rows[rows.domain == d].sample(n=n, random_state=42) for d, n in counts.items()]
mix = pandas.concat(parts).sample(frac=1.0, random_state=42)
mix.to_json(sys.argv[2], orient="records", lines=True)
"""
# Of one process and all its children: CPU seconds and peak MiB.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(code)
"""


def write_pool(path: pathlib.Path):
  """Rows of about 25 words; summaries of about 300, as articles are."""
  rng = random.Random(11)
  letters = "abcdefghijklmnopqrstuvwxyz"
  words = ["".join(rng.choices(letters, k=rng.randrange(3, 9))) for _ in range(20000)]
  with open(path, "w", encoding="utf-8") as file:
    for domain, count in SIZES.items():
      for i in range(count):
        file.write(json.dumps(make_row(rng, words, domain, i)) + "\n")


def make_row(rng: random.Random, words: list[str], domain: str, i: int) -> dict:
  answers = {"math": str(i), "logic": "yes", "coding": f"def f{i}(x):\n  return x + {i}"}
  metadata = {"source": "random", "id": f"{domain}-{i}"}
  if domain == "coding":
    metadata["test_cases"] = [f"assert f{i}({x}) == {x + i}" for x in range(3)]
  text = " ".join(rng.sample(words, 6))
  question = " ".join(rng.sample(words, 300 if domain == "summarization" else 25))
  answer = answers.get(domain, text)
  return {"domain": domain, "prompt": question, "answer": answer, "metadata": metadata}


def measure(command: list[str]) -> tuple[float, float, float]:
  """Wall seconds, CPU seconds and peak MiB of a command, children included."""
  start = time.time()
  measured = [sys.executable, "-c", MEASURED, *command]
  done = subprocess.run(measured, cwd=ROOT, capture_output=True, text=True, check=True)
  cpu, peak = map(float, done.stdout.split())
  return time.time() - start, cpu, peak


def commands(folder: str, pool: str) -> dict[str, list[str]]:
  """Setting → the command that runs it."""
  ours = [
    sys.executable,
    "prepare_data.py",
    f"--pool={pool}",
    f"--train_size={FLAGS.train_size}",
    f"--val_size={FLAGS.train_size // 20}",
    f"--test_size={FLAGS.train_size // 20}",
    f"--out_dir={folder}/out",
  ]
  found = {
    "no tokenizer, code verified": ours,
    "no tokenizer, --verify_code=off": [*ours, "--verify_code=off"],
  }
  if FLAGS.tokenizer:
    tokenizer = f"--tokenizer={os.path.abspath(FLAGS.tokenizer)}"
    found["Gemma's tokenizer, code verified"] = [*ours, tokenizer]
  if FLAGS.peer:
    peer = [sys.executable, "-c", PEER, pool, f"{folder}/peer.jsonl"]
    found["peer: the write-up's pandas sampler"] = peer
  return found


def main(_):
  with tempfile.TemporaryDirectory() as folder:
    pool = pathlib.Path(FLAGS.pool or f"{folder}/pool.jsonl").resolve()
    if not FLAGS.pool:
      write_pool(pool)
    settings = commands(folder, str(pool))
    print(f"{pool.stat().st_size / 2**20:.0f} MiB pool; {machine_line()}")
    measure(next(iter(settings.values())))  # warms the disk
    runs = {name: [] for name in settings}
    for _ in range(FLAGS.repeats):  # alternating, so that a busy minute hits all alike
      for name, command in settings.items():
        runs[name].append(measure(command))
    print(f"{'setting':36}  wall s  CPU s  peak MiB")
    for name, found in runs.items():
      wall, cpu, peak = (statistics.median(values) for values in zip(*found, strict=True))
      print(f"{name:36}  {wall:6.1f}  {cpu:5.1f}  {peak:8.0f}")


if __name__ == "__main__":
  app.run(main)
