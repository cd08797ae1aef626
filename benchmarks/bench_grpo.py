"""One GRPO step: ours beside google-tunix's GRPOLearner and TRL's GRPOTrainer, on the same model,
prompts, lengths and LoRA.

Reads   a model folder, and data_dir/train.jsonl of prepare_data.py (or --prompts, a JSONL with a
        `question` a row).
Writes  nothing, but with --lengths=real the model that all start from, under --work_dir; prints a
        table a shape: median s/step, completions/s, tokens/s, CPU seconds, peak memory, ratios.

  python benchmarks/bench_grpo.py --model=MODEL --data_dir=DATA --peer_python=peer/bin/python
  python benchmarks/bench_grpo.py --model=MODEL --data_dir=DATA --peer_python=peer/bin/python \\
    --lengths=real --shapes=8x4 --micro_batch_size=2
  python benchmarks/bench_grpo.py --model=MODEL --data_dir=DATA --seed_shape

Every contestant runs in a process of its own, so that peak memory is its own, and they take turns:
ours, Tunix, TRL, ours, … A process's first step compiles and is reported apart. All have the
reference's KL and no rematerialisation.

--lengths=fixed: all generate exactly max_new_tokens, nothing stops early. --lengths=real: answers
end by themselves. All start from one model after a short SFT, take the same prompts in the same
order and draw up to --max_new_tokens; each draws its own answers, so their completions and tokens
are counted. The machine is measured in the same call, and beside the table stand the seconds that
it needs at the least (floor.py) and each step as a ratio to them.

Ours pads a batch's prompts as train_grpo.py does, to one of two widths; Tunix to the one bucket
that holds them all (in the write-ups to 1,024, which does not fit 24 GiB); TRL to the longest of
the batch. CPU seconds (all threads) stand beside the wall clock: on a busy machine they are the
steadier measure.
"""

import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import floor
from absl import flags
from machine import machine_line

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib import (
  command_line,
  contract,
  devices,
  grpo_settings,
  grpo_start,
  jsonl,
  loading,
  parameters,
  preflight,
  streams,
  tokenization,
)
from lib.errors import InputError

HERE = pathlib.Path(__file__).resolve().parent
FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string(
  "data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS
)
flags.DEFINE_string(
  "prompts",
  "",
  "JSONL with a `question` (or a whole `prompt`) a row; empty: data_dir/train.jsonl.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "model",
  "tiny",
  "tiny, a name (gemma-3-1b-it, google/gemma-3-4b-it, hf:…, kaggle:…) or a folder of Gemma 3.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "peer_python",
  "",
  "Python of the environment that benchmarks/requirements.txt describes; empty: no TRL.",
  flag_values=FLAGS,
)
# Size.
flags.DEFINE_list(
  "only", [], "Contestants among ours, tunix, trl; empty: all there are.", flag_values=FLAGS
)
flags.DEFINE_list("shapes", ["2x4"], "Shapes as PROMPTSxGENERATIONS.", flag_values=FLAGS)
flags.DEFINE_bool(
  "seed_shape",
  False,
  "Instead: ours at the write-ups' shape, 2x4, prompts padded to 1,024, 512 new tokens, one "
  "prompt a micro-batch, rematerialised; one step.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "micro_batch_size",
  0,
  "Prompts whose activations are in memory at once in an update; 0: batch_size.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "lengths",
  "fixed",
  ["fixed", "real"],
  "fixed: exactly max_new_tokens; real: answers end by themselves, after a short SFT.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "max_new_tokens",
  0,
  "Completion length, in tokens; 0: 64, with --lengths=real 256.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer("sft_steps", 40, "Updates of that SFT.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string(
  "work_dir",
  "artifacts/bench_grpo",
  "Folder of the model after SFT; used again where it is there.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "lora_rank", 16, "Rank of the LoRA adapters.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
  "lora_alpha", 32.0, "LoRA scale: the update is alpha / rank times A·B.", flag_values=FLAGS
)
# Running.
flags.DEFINE_integer(
  "steps", 3, "Timed steps a process, after one that compiles.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("rounds", 2, "Processes a contestant.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("dtype", "float32", "Base weights: float32 or bfloat16.", flag_values=FLAGS)
flags.DEFINE_string(
  "worker",
  "",
  "Set by this script for the processes it starts: contestant:job file.",
  flag_values=FLAGS,
)


# ---- the race
def race(
  script: str, contestants: list[str], job: dict, rounds: int, peer_python: str
) -> dict[str, list[list[dict]]]:
  """Runs every contestant `rounds` times in turns; contestant → per process its steps, as `Clock`
  wrote them.

  A process that dies (the kernel kills what takes too much memory) leaves the steps it finished,
  and the reason is printed.
  """
  found = {name: [] for name in contestants}
  for _ in range(rounds):
    for name in contestants:
      with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "job.json")
        path.write_text(
          json.dumps(job | {"steps_path": str(path.with_name("steps.jsonl")), "scratch": folder})
        )
        command = (
          [peer_python, str(HERE / "trl_peer.py"), str(path)]
          if name == "trl"
          else [sys.executable, script, f"--worker={name}:{path}"]
        )
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        steps = path.with_name("steps.jsonl")
        found[name].append(
          [json.loads(line) for line in steps.read_text().splitlines()] if steps.is_file() else []
        )
        seconds = ", ".join(f"{step['seconds']:.1f}" for step in found[name][-1])
        peak = max([step["peak"] for step in found[name][-1]], default=0)
        # A race cut short shows these.
        print(f"{name}: {seconds} s a step, peak {peak:.2f} GiB", flush=True)
        if done.returncode:
          reason = (
            "killed, most likely for memory" if done.returncode == -9 else f"exit {done.returncode}"
          )
          last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
          print(
            f"{name}: {reason} after {len(found[name][-1])} steps; {' '.join(last)[:300]}",
            flush=True,
          )
  return found


def run_worker(worker: str, contestants: dict):
  """One of the processes that `race` starts; worker: contestant:job file."""
  name, _, path = worker.partition(":")
  job = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  contestants[name](job, Clock(job["steps_path"]))


class Clock:
  """Appends a line per step: wall and CPU seconds since the last, tokens, and the process's peak
  memory in GiB.
  """

  def __init__(self, path: str):
    self.path = path
    self.restart()

  def restart(self):
    self.wall, self.cpu = time.monotonic(), time.process_time()

  def step(self, **facts):
    wall, cpu = time.monotonic(), time.process_time()
    row = {"seconds": wall - self.wall, "cpu": cpu - self.cpu, "peak": peak_gib(), **facts}
    with open(self.path, "a", encoding="utf-8") as f:
      f.write(json.dumps(row) + "\n")
    self.restart()


def peak_gib() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def summary(processes: list[list[dict]], unit: str) -> dict | None:
  """Medians over all timed steps: s/step, CPU s/step, `unit` and tokens a second; first step and
  peak memory apart.
  """
  timed = [step for process in processes for step in process[1:]]
  if not timed:
    return None
  seconds = statistics.median(step["seconds"] for step in timed)
  cpu = statistics.median(step["cpu"] for step in timed)
  tokens = statistics.mean(step["tokens"] for step in timed)
  return {
    "s/step": seconds,
    "CPU s/step": cpu,
    f"{unit}/s": timed[0][unit] / seconds,
    "tokens/s": tokens / seconds,
    "tokens/CPU s": tokens / cpu,
    "first step s": statistics.median(process[0]["seconds"] for process in processes if process),
    "peak GiB": max(step["peak"] for process in processes for step in process),
  }


def print_table(title: str, found: dict[str, list], unit: str):
  """A Markdown table: a line a contestant, with the ratios of its wall and CPU time a token to
  ours.
  """
  rows = {name: summary(processes, unit) for name, processes in found.items()}
  names = ["s/step", "CPU s/step", f"{unit}/s", "tokens/s", "first step s", "peak GiB"]
  columns = ["", *names, "ours is faster, wall", "by CPU seconds"]
  print(f"\n{title}\n\n| {' | '.join(columns)} |")
  print(f"|---|{'---:|' * (len(columns) - 1)}")

  def ratio(key: str, row: dict) -> str:
    return f"{rows['ours'][key] / row[key]:.2f}×" if rows.get("ours") else ""

  for name, row in rows.items():
    if row is None:
      print(f"| {name} | {' | '.join(['—'] * len(names))} | no timed step | |")
      continue
    cells = [f"{row[column]:.3g}" for column in names]
    cells += [ratio("tokens/s", row), ratio("tokens/CPU s", row)]
    print(f"| {name} | {' | '.join(cells)} |")
  for name, processes in found.items():
    parts = [
      {k: v for k, v in s.items() if k.endswith("_seconds")} for p in processes for s in p[1:]
    ]
    if parts and parts[0]:
      seconds = {
        key.removesuffix("_seconds"): statistics.median(part[key] for part in parts)
        for key in parts[0]
      }
      print(f"{name}: " + ", ".join(f"{key} {value:.2f} s" for key, value in seconds.items()))
  sys.stdout.flush()


# ---- contestants
def variety(prompts, completions, **_) -> list[float]:
  """The reward of all three: the number of distinct characters. It costs nothing and differs within
  a group.
  """
  return [len(set(completion)) / 100 for completion in completions]


def measure_machine(job: dict, clock: Clock):
  """In a process of its own, which takes its memory along."""
  clock.step(machine=list(floor.measure()))


def shape_of(model) -> floor.Model:
  """What the floor needs to know of a model; adapters are too small to count."""
  config = model.config
  embedding = config.num_embed * config.embed_dim
  everything = sum(x.size for x in parameters.flat_params(model).values())
  cached = config.num_layers * 2 * config.num_kv_heads * config.head_dim
  return floor.Model(everything - embedding, embedding, cached)


def run_ours(job: dict, clock: Clock):
  """train_grpo.py's own learner, without its logging and saving."""
  import train_grpo

  devices.enable_compilation_cache()
  if job["lengths"] == "fixed":
    tokenization.STOP_IDS = (-1,)  # no token stops: everybody generates the same number
  names = ("model", "batch_size", "micro_batch_size", "num_generations", "max_new_tokens")
  names += ("lora_rank", "lora_alpha", "temperature", "remat", "dtype")
  flag = train_grpo.FLAGS
  flag(["bench_grpo"] + [f"--{name}={job[name]}" for name in names])
  start = loading.load_policy(flag.model, "", job["data_dir"], "auto", flag.dtype)
  lengths = [len(tokenization.encode(start.tokenizer, row["prompt"])) for row in job["rows"]]
  widths = tokenization.choose_widths(lengths, flag.max_prompt_tokens)
  if job["prompt_width"]:
    widths = (job["prompt_width"],)
  settings = grpo_settings.read_settings(
    flag,
    widths,
    "tags",
    train_grpo.choose_shape(flag, lengths, start.mesh.shape["fsdp"]),
    start.model.config.sliding_window_size,
  )
  policy, reference = grpo_start.starting_policy(
    start, flag.lora_rank, flag.lora_alpha, flag.seed, settings.reference
  )
  learner = train_grpo.build(policy, reference, [variety], settings, flag)
  machine = floor.Machine(*job["machine"])
  shape = shape_of(start.model)
  clock.restart()  # what loads a model is no part of a step
  learner.compile_programs()
  progress = preflight.new_progress()

  def step(rows: list[dict]) -> dict:
    """One batch and one update; what `Clock.step` notes of it."""
    prepared = learner.prepare(streams.make_stream(rows, settings), progress)
    middle = time.monotonic()
    learner.update(prepared.batch, [flag.learning_rate])
    seconds = {name: prepared.facts[name] for name in prepared.facts if name.endswith("_seconds")}
    rollout = prepared.rollout
    prompts = (rollout.prompts != tokenization.PAD_ID).sum(-1)
    return {
      "completions": len(rollout.lengths),
      "tokens": int(rollout.lengths.sum()),
      "floor": floor.seconds(floor.work_of(shape, prompts, rollout.lengths), machine),
      "prompt_width": prepared.rollout.prompts.shape[1],
      **seconds,
      "update_seconds": time.monotonic() - middle,
    }

  for _ in range(1 + job["steps"]):
    clock.step(**step(job["rows"]))


def run_tunix(job: dict, clock: Clock):
  """Tunix's GRPOLearner as the write-ups call it (prompts padded to our bucket, see above)."""
  import jax
  import numpy as np
  import optax
  import qwix
  from flax import nnx
  from tunix.rl import rl_cluster as rl
  from tunix.rl.grpo import grpo_learner
  from tunix.rl.rollout import base_rollout

  devices.enable_compilation_cache()
  start = loading.load_policy(job["model"], "", job["data_dir"], "auto", job["dtype"])
  base, mesh = start.model, start.mesh
  provider = qwix.LoraProvider(
    module_path=parameters.LORA_MODULES, rank=job["lora_rank"], alpha=job["lora_alpha"]
  )
  actor = qwix.apply_lora_to_model(base, provider, **base.get_model_input(), rngs=nnx.Rngs(0))
  width = tokenization.bucket(
    max(len(tokenization.encode(start.tokenizer, row["prompt"])) for row in job["rows"])
  )
  new, groups, size = job["max_new_tokens"], job["num_generations"], job["batch_size"]
  # For fixed lengths the last id of the vocabulary stops: an unused one, so nothing does.
  stops = [base.config.num_embed - 1]
  if job["lengths"] == "real":
    stops = list(tokenization.STOP_IDS)
  rollout_config = base_rollout.RolloutConfig(
    max_tokens_to_generate=new,
    max_prompt_length=width,
    kv_cache_size=width + new,
    temperature=job["temperature"],
    top_p=1.0,
    top_k=None,
    eos_tokens=stops,
  )
  training = rl.RLTrainingConfig(
    actor_optimizer=optax.adamw(3e-6, weight_decay=0.1),
    eval_every_n_steps=10**6,
    max_steps=1 + job["steps"],
    mini_batch_size=size,
    train_micro_batch_size=job["micro_batch_size"],
  )
  cluster = rl.RLCluster(
    actor=actor,
    reference=base,
    tokenizer=start.tokenizer,
    cluster_config=rl.ClusterConfig(
      role_to_mesh=dict.fromkeys((rl.Role.ACTOR, rl.Role.REFERENCE, rl.Role.ROLLOUT), mesh),
      rollout_engine="vanilla",
      offload_to_cpu=False,
      training_config=training,
      rollout_config=rollout_config,
    ),
  )
  learner = grpo_learner.GRPOLearner(
    rl_cluster=cluster,
    reward_fns=[variety],
    algo_config=grpo_learner.GRPOConfig(
      num_generations=groups, num_iterations=1, beta=0.04, epsilon=0.2
    ),
  )
  trainer, lasting = cluster.actor_trainer, cluster.update_actor
  made = []  # completion lengths of the step
  generate = cluster.generate

  @functools.wraps(generate)
  def counting(*args, **options):
    out = generate(*args, **options)
    # It cuts the stop token off, which was drawn all the same.
    made.extend(min(len(tokens) + 1, new) for tokens in out.tokens)
    return out

  @functools.wraps(lasting)
  def timed(*args, **options):
    before = trainer.train_steps
    lasting(*args, **options)
    if trainer.train_steps > before:
      jax.block_until_ready(nnx.state(trainer.model, nnx.LoRAParam))
      clock.step(completions=size * groups, tokens=sum(made), prompt_width=width)
      made.clear()

  cluster.generate, cluster.update_actor = counting, timed
  rows = job["rows"]
  batches = [
    {"prompts": np.array([rows[(i * size + j) % len(rows)]["prompt"] for j in range(size)])}
    for i in range(1 + job["steps"])
  ]
  with mesh:
    learner.train(batches)


CONTESTANTS = {"ours": run_ours, "tunix": run_tunix, "machine": measure_machine}


# ---- main
def read_rows(prompts: str, data_dir: str, count: int = 32) -> list[dict]:
  """Rows of prepare_data.py, or made from a JSONL of questions."""
  if not prompts:
    return jsonl.read_rows(os.path.join(data_dir, "train.jsonl"))[:count]
  rows = jsonl.read_rows(prompts)[:count]
  return [
    {
      "id": str(i),
      "domain": "math",
      "question": row.get("question", ""),
      "answer": "0",
      "metadata": {},
      "prompt": row.get("prompt") or contract.format_prompt(row["question"], "tags"),
    }
    for i, row in enumerate(rows)
  ]


def choose(only: list[str], peer_python: str) -> list[str]:
  """The contestants that take part; an unknown name, or TRL without its interpreter, is refused."""
  names = only or ["ours", "tunix"] + ["trl"] * bool(peer_python)
  unknown = set(names) - {"ours", "tunix", "trl"}
  if unknown or "trl" in names and not peer_python:
    raise InputError(
      f"--only={','.join(names)}: expected names among ours, tunix, trl, and --peer_python for trl"
    )
  return names


def make_start(flag) -> str:
  """A model folder after a short SFT, which has learned to end its answers."""
  folder = pathlib.Path(flag.work_dir)
  merged = folder / "export" / "merged"
  if (folder / "export" / "config.json").is_file():
    print(f"all start from {merged}, made before")
    return str(merged)
  common = [f"--model={flag.model}", f"--data_dir={flag.data_dir}"]
  sft = [f"--out_dir={folder / 'sft'}", f"--max_steps={flag.sft_steps}", "--batch_size=8"]
  sft += ["--micro_batch_size=2", "--check_rows=0", "--eval_every=0", "--save_every=0"]
  export = [f"--model={flag.model}", f"--checkpoint={folder / 'sft'}", "--formats=merged"]
  export += [f"--out_dir={folder / 'export'}"]
  for script, options in (("train_sft.py", common + sft), ("export_lora.py", export)):
    subprocess.run([sys.executable, str(HERE.parent / script), *options], check=True)
  return str(merged)


def print_floor(processes: list[list[dict]], found: dict[str, list]):
  """Ours as a ratio to the least seconds of its own steps, and all by the completion."""
  timed = [step for process in processes for step in process[1:]]
  if not timed:
    return
  least = statistics.median(step["floor"] for step in timed)
  ratio = statistics.median(step["seconds"] / step["floor"] for step in timed)
  print(f"floor of our steps: {least:.2f} s a step; ours takes {ratio:.2f} times that")
  ours = summary(processes, "completions")
  for name, others in found.items():
    row = summary(others, "completions")
    if row:
      faster = ours["completions/s"] / row["completions/s"]
      print(f"{name}: {1 / row['completions/s']:.3f} s a completion, ours is {faster:.2f}× as fast")


def make_job(flag) -> dict:
  """What all contestants are told."""
  real = flag.lengths == "real"
  job = {
    "model": make_start(flag) if real else flag.model,
    "data_dir": flag.data_dir,
    "rows": read_rows(flag.prompts, flag.data_dir),
    "lengths": flag.lengths,
    "max_new_tokens": flag.max_new_tokens or (256 if real else 64),
    "lora_rank": flag.lora_rank,
    "lora_alpha": flag.lora_alpha,
    "temperature": 1.0,
    "dtype": flag.dtype,
    "steps": flag.steps,
    "remat": False,
    "prompt_width": 0,
  }
  if flag.seed_shape:
    job |= {"max_new_tokens": 512, "prompt_width": 1024, "remat": True, "steps": 1}
  return job


def run_shape(flag, job: dict, size: int, groups: int, contestants: list[str], rounds: int):
  """Races one shape and prints its table."""
  micro = 1 if flag.seed_shape else flag.micro_batch_size or size
  job |= {"batch_size": size, "num_generations": groups, "micro_batch_size": micro}
  found = race(__file__, contestants, job, rounds, flag.peer_python)
  widths = set()
  for process in found.get("ours", []):
    widths |= {step["prompt_width"] for step in process}
  width = " or ".join(str(width) for width in sorted(widths))
  limit = "up to " if flag.lengths == "real" else ""
  print_table(
    f"GRPO {size} prompts × {groups} answers, prompts padded to {width}, "
    f"{limit}{job['max_new_tokens']} new tokens, micro-batch {micro}, LoRA {flag.lora_rank}, "
    f"{flag.dtype}",
    found,
    "completions",
  )
  print_floor(found.get("ours", []), found)


def main():
  flag = FLAGS
  if flag.worker:
    return run_worker(flag.worker, CONTESTANTS)
  contestants = ["ours"] if flag.seed_shape else choose(flag.only, flag.peer_python)
  print(machine_line(), flush=True)
  job = make_job(flag)
  rates = race(__file__, ["machine"], job, 1, "")["machine"][0][0]["machine"]
  print(f"this machine: {rates[0] / 1e9:.0f} GFLOP/s, {rates[1] / 1e9:.1f} GB/s", flush=True)
  job["machine"] = rates
  shapes, rounds = (["2x4"], 1) if flag.seed_shape else (flag.shapes, flag.rounds)
  for shape in shapes:
    size, groups = map(int, shape.split("x"))
    run_shape(flag, job, size, groups, contestants, rounds)


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
