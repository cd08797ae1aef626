"""What a good response earns: four reward systems, and the test that no known cheat earns as much.

A system is a function that returns components; GRPO sums what they pay. In reading order:
`component` (what one is), `multi_domain`, `curriculum`, `dual_stream`, `four_component`,
`make_rewards` (which every script calls with its --rewards), `explain`, `self_test`.
A reward of your own needs no edit here: --rewards=my_reward.py:score, see CONTRIBUTING.md.
Standard library and absl only, no JAX: a notebook and data preparation import it in no time.

  python rewards.py --self_test
  python rewards.py --self_test --rewards=my_reward.py:score
  python rewards.py --explain=artifacts/run/eval_grpo/responses.jsonl --rewards=multi_domain
"""

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from lib import (
  cheats,
  command_line,
  contract,
  errors,
  failures,
  jsonl,
  own_checks,
  own_rewards,
  prose,
  reward_rows,
)
from lib.checking import is_correct
from lib.contract import format_prompt, parse_response
from lib.errors import InputError
from lib.reward_rows import Row

# What other programs import from here.
__all__ = ["format_prompt", "is_correct", "make_rewards", "parse_response"]

# Ends of the curriculum's first two phases, as fractions of the run: its write-up learns the form
# in the first quarter, and leaves the last for brevity.
PHASES = (0.25, 0.75)


class RewardRouter(NamedTuple):
  """Which of the curriculum's components count now.

  The phase is a pure function of the trainer's own step, asked for at every call, so a resumed run
  is in the phase it left. With neither callable: the last phase, everything on.
  """

  progress: Callable[[], float] | None = None  # fraction of the run, 0 to 1
  phase: Callable[[], int] | None = None  # 0, 1 or 2; wins over progress

  def current(self) -> int:
    """0: format, to 25% of the run; 1: and correctness, to 75%; 2: and brevity."""
    if self.phase:
      return min(2, max(0, int(self.phase())))
    # 0.1 of the run → 0, 0.25 → 1, 0.8 → 2: the ends that are behind.
    done = self.progress() if self.progress else 1.0
    return sum(done >= end for end in PHASES)


class Weights(NamedTuple):
  """How much each of four_component's parts counts; they sum to 1."""

  format: float = 0.25
  coherence: float = 0.20
  correctness: float = 0.55
  efficiency: float = 0.0


class Options(NamedTuple):
  """What a system is built from; `make_rewards` explains it."""

  style: str = "tags"
  code_rewards: str = "on"
  judge: Callable | None = None
  router: RewardRouter = RewardRouter()
  weights: Weights = Weights()


def component(
  options: Options,
  *,
  low: float,
  high: float,
  advice: str,
  graded: Callable[[Row], bool] | None = None,
  since: int = 0,
) -> Callable:
  """Makes a function of one row the reward function of a batch: the decorator of every component.

  Its name becomes the metric's. low, high: its range, which every value keeps, whatever the text.
  advice: what would earn more, as `explain` says it. graded: rows whose answer it reads as
  row.grade; checking costs, and code runs. since: it pays 0 before this phase of the curriculum.
  A row that fails scores 0 and is counted: it never fails the batch.
  """

  def decorate(score: Callable[[Row], float]) -> Callable:
    def pay(row: Row | None) -> float:
      try:
        return float(score(row)) if row else 0.0
      except Exception as error:  # model text must not end a run of hours, whatever it found
        failures.failed(error)
        return 0.0

    def reward(prompts, completions, **columns) -> list[float]:
      # Asked at every call and not when the run is built: the phase changes under way.
      if since and options.router.current() < since:
        return [0.0] * len(completions)
      rows = reward_rows.read_rows(prompts, completions, columns, options.style)
      if graded:
        rows = reward_rows.with_grades(rows, graded, options.judge, options.code_rewards)
      return [pay(row) for row in rows]

    # The trainer, the report and `explain` know a component by its name alone.
    reward.__name__ = reward.__qualname__ = score.__name__
    reward.range = (low, high)
    reward.advice = advice
    return reward

  return decorate


def multi_domain(options: Options) -> list:
  """`multi_domain` write-up. Sum in [0, 1], and 0 without the exact format.

  With it 0.2, and 0.8 for a right answer, or up to 0.8 for the quality of a creative one.
  """

  @component(options, low=0.0, high=0.2, advice=EXACT_FORMAT)
  def format(row):
    return 0.2 if row.response else 0.0

  @component(
    options,
    low=0.0,
    high=0.8,
    graded=reward_rows.right_or_wrong,
    advice="a right answer, stated once",
  )
  def correctness(row):
    # No credit for being near: this write-up pays right answers alone.
    return 0.8 if row.grade == 1.0 else 0.0

  @component(options, low=0.0, high=0.8, graded=reward_rows.is_creative, advice="a better text")
  def judged_quality(row):
    # `graded` asks only for creative rows, so every other row's grade is 0 here.
    return 0.8 * row.grade

  @component(options, low=0.0, high=0.3, advice="20 to 500 words of reasoning, 10 to 300 of answer")
  def length(row):
    return reward_rows.length_quality(row)

  @component(
    options,
    low=0.0,
    high=0.25,
    advice="more different words in an answer of its own, in sentences",
  )
  def diversity(row):
    return reward_rows.diversity_quality(row)

  @component(
    options,
    low=0.0,
    high=0.25,
    advice="reasoning that takes up the question's keywords beside words of its own",
  )
  def relevance(row):
    return reward_rows.relevance_quality(row)

  # A judge gives one figure in place of the three heuristics.
  if options.judge:
    return [format, correctness, judged_quality]
  return [format, correctness, length, diversity, relevance]


EXACT_FORMAT = "one <reasoning> and then one <answer> block with nothing around them"
# "I can help" and "he was sorry" are no refusals: it must be the speaker who declines.
REFUSAL = re.compile(
  r"\bI(?: am|['’]m) (?:sorry|unable|not able)|\bas an AI\b"
  r"|\bI (?:can(?:not|['’]t| not)|won['’]t|will not) "
  r"(?:help|assist|answer|provide|do that|comply)\b",
  re.I,
)
# Phrases that a policy finds when length pays: second thoughts without a second thought.
RAMBLING = re.compile(
  r"\b(?:wait|hmm+|let me (?:think|check|try) again|actually, (?:no|wait)|as I said"
  r"|in other words|to be honest|on second thought|I hope this helps|let me know if)\b",
  re.I,
)


def curriculum(options: Options) -> list:
  """`curriculum` write-up. Sum in [-8, 8]; the first phases pay less (RewardRouter).

  It gives names, phases and domain scales but no sizes; these are Tunix's GSM8K recipe (3; 0.5 a
  tag; 3, 0.5, 0.25). The scales act on the advantage: `policy_gradient.advantage_scale`.
  """

  @component(options, low=-3.0, high=0.0, advice="an answer in place of a refusal")
  def punish_refusal(row):
    # No answer block, or an empty one, is a refusal too: else leaving it out would be the way out.
    refuses = row.answer is None or REFUSAL.search(row.answer)
    return -3.0 if refuses else 0.0

  @component(options, low=0.0, high=3.0, advice=EXACT_FORMAT)
  def match_format_exactly(row):
    return 3.0 if row.response else 0.0

  @component(options, low=-2.0, high=2.0, advice="each tag exactly once")
  def match_format_approximately(row):
    """+0.5 for each tag that occurs exactly once, -0.5 for each that does not."""
    # 4 tags right → 2, 3 → 1, none → -2: half a point for, or half against.
    return single_tags(row.text) - 2.0

  @component(
    options,
    low=0.0,
    high=3.0,
    since=1,
    graded=reward_rows.every_row,
    advice="a right answer, stated once (creative domains: a better text)",
  )
  def check_answer(row):
    return 3.0 * row.grade

  @component(
    options,
    low=-3.0,
    high=0.0,
    since=2,
    advice="under 300 words, nothing after </answer>, no second thoughts",
  )
  def penalize_length_and_rambling(row):
    """To -1 from 300 to 600 words, -1 for text after </answer>, -0.25 a phrase for up to 4."""
    # Words, as the model's tokens differ between tokenizers; 450 words cost 0.5.
    too_long = min(1.0, max(0, len(row.text.split()) - 300) / 300)
    # Without the tag all of the text is "after", so the tag itself must be there.
    _, end_tag, after = row.text.rpartition(contract.TAGS[3])
    goes_on = 1 if end_tag and contract.says_something(after) else 0
    # Four are enough to know, and a text that loops has thousands.
    phrases = len(list(itertools.islice(RAMBLING.finditer(row.text), 4)))
    # From 0.0: without it a fine text would score -0.0, and print as such.
    return 0.0 - too_long - goes_on - 0.25 * phrases

  return [
    punish_refusal,
    match_format_exactly,
    match_format_approximately,
    check_answer,
    penalize_length_and_rambling,
  ]


def single_tags(text: str) -> int:
  """How many of the four tags occur exactly once."""
  # Once and not at least once: to repeat tags is the first thing a policy finds.
  return sum(text.count(tag) == 1 for tag in contract.TAGS)


def dual_stream(options: Options) -> list:
  """`dual_stream` write-up (DSA-CAST). Sum in [-0.75, 6].

  Its reward cell is missing there, so the sizes are ours: accuracy outweighs all structure.
  The style wants one value as the answer, so it is for math, science and logic.
  """

  @component(
    options, low=0.0, high=1.0, advice=f"{EXACT_FORMAT}, headings in order, one value as the answer"
  )
  def reward_format_exact(row):
    return 1.0 if row.response else 0.0

  @component(
    options, low=-0.75, high=1.0, advice="each tag and heading exactly once, headings in order"
  )
  def reward_format_soft(row):
    """1/8 a tag and 1/16 a heading that occurs once, as much off otherwise; 1/4 for the order."""
    # Of a text that repeats its headings without end, the first 64 tell enough.
    found = [match[1] for match in itertools.islice(contract.HEADING.finditer(row.text), 64)]
    headings = sum(heading_credit(found.count(heading)) for heading in contract.SECTIONS)
    # The four and no others: a fifth or a repeated heading loses it.
    in_order = 0.25 if tuple(found) == contract.SECTIONS else 0.0
    # Tags: -0.5 to 0.5; headings: -0.25 to 0.25; the order: 0.25. Together -0.75 to 1.
    return single_tags(row.text) / 4 - 0.5 + headings / 16 + in_order

  @component(
    options,
    low=0.0,
    high=4.0,
    graded=reward_rows.every_row,
    advice="a right answer, stated once, and every section with content",
  )
  def reward_cast_math_and_completeness(row):
    """3 for the answer, 0.25 for the exact format, 0.75 for sections of five different words."""
    if row.response is None:
      return 3.0 * row.grade
    reasoning = row.response.reasoning
    # Under the tags style there are no sections: all of it is one.
    sections = list((contract.read_sections(reasoning) or {"": reasoning}).values())
    # Different words: "the the the the the" fills no section.
    fullness = sum(min(1.0, len(set(prose.words_of(body))) / 5) for body in sections)
    return 3.0 * row.grade + 0.25 + 0.75 * fullness / len(sections)

  return [reward_format_exact, reward_format_soft, reward_cast_math_and_completeness]


def heading_credit(count: int) -> int:
  """Of a heading that occurs `count` times: 0 for a missing one, 1 for one, -1 for more."""
  return count if count <= 1 else -1


def four_component(options: Options) -> list:
  """`four_component` write-up. Sum in [0, 1]: four parts in [0, 1] whose weights sum to 1.

  A malformed response earns a tenth of format per tag that occurs once, what its answer earns, and
  no more.
  """
  weights = options.weights
  # 0.1 + 0.2 + 0.7 is not quite 1 in floats.
  if abs(sum(weights) - 1.0) > 1e-6 or min(weights) < 0.0:
    raise InputError(
      f"the four weights {', '.join(f'{w:g}' for w in weights)} sum to {sum(weights):g}; "
      f"expected none below 0 and a sum of 1 ({', '.join(Weights._fields)})"
    )

  @component(options, low=0.0, high=weights.format, advice=EXACT_FORMAT)
  def format(row):
    return weights.format * (1.0 if row.response else 0.1 * single_tags(row.text))

  @component(
    options,
    low=0.0,
    high=weights.coherence,
    advice="three step markers and three connectives in sentences of 3 to 40 words",
  )
  def coherence(row):
    # Reasoning outside its block is not read: else the form would not matter to it.
    reasoning = row.response.reasoning if row.response else ""
    return weights.coherence * prose.coherence_score(reasoning)

  @component(
    options,
    low=0.0,
    high=weights.correctness,
    graded=reward_rows.every_row,
    advice="a right answer, stated once (creative domains: a better text)",
  )
  def correctness(row):
    """The answer, and 40 different words of thought, at half value where it is wrong."""
    # The grade counts without the form too; thought only inside its block.
    thought = row.response.reasoning if row.response else ""
    depth = min(1.0, len(set(prose.words_of(thought))) / 40) * prose.reads_well(thought)
    # A wrong answer with long thought: at most 0.2 · 0.5 = 0.1 of the weight.
    trust = 1.0 if row.grade == 1.0 else 0.5
    return weights.correctness * (0.8 * row.grade + 0.2 * depth * trust)

  @component(options, low=0.0, high=weights.efficiency, advice="20 to 300 words")
  def efficiency(row):
    return weights.efficiency * prose.length_score(row.text, target=300, shortest=20, longest=300)

  # A part of weight 0 stays in: its zeros show in the metrics that it is off.
  return [format, coherence, correctness, efficiency]


# The one place for a system's name: the scripts' flags, evaluation and the self-test read it here.
SYSTEMS = {
  "multi_domain": multi_domain,
  "curriculum": curriculum,
  "dual_stream": dual_stream,
  "four_component": four_component,
}


def style_of(system: str) -> str:
  """The response style that a --rewards value pays for; empty if it is all the user's own: any."""
  names = own_rewards.system_names(system)
  # Its headings are stricter than tags alone, so systems beside it can be paid too.
  if "dual_stream" in names:
    return "dual_stream"
  return "tags" if names else ""


def make_rewards(
  system: str,
  *,
  style: str = "",
  code_rewards: str = "on",
  progress: Callable[[], float] | None = None,
  phase: Callable[[], int] | None = None,
  judge: Callable | None = None,
  **weights: float,
) -> list:
  """The functions of a --rewards value, f(prompts, completions, **columns) -> list of floats.

  The reward is their sum. Each has `__name__`, its metric's name, and `range`, (low, high).
  Columns, one entry per completion: domain, question, answer, metadata (JSON text).

  system: a name in SYSTEMS, FILE.py:FUNCTION, or several with commas, each with =WEIGHT if need be.
  style: of the responses; empty: that of `style_of`.
  code_rewards: "off" runs no code and pays for none.
  progress: the fraction of the run that is done, for the curriculum; phase: 0, 1 or 2 in its place.
  judge: callable on [{"question", "response"}] giving verdicts, for the creative domains
    (`llm_judge.judge` with its url and model filled in).
  weights: format_weight, coherence_weight, correctness_weight, efficiency_weight of four_component.
  """
  style = style or style_of(system) or "tags"
  errors.check_option("style", style, contract.STYLES)
  errors.check_option("code_rewards", code_rewards, ("on", "off"))
  for name in weights:
    errors.check_option("option", name, [f"{field}_weight" for field in Weights._fields])
  # With the suffix, as options of one call share a namespace: `format` alone says too little.
  named = {name.removesuffix("_weight"): value for name, value in weights.items()}
  options = Options(style, code_rewards, judge, RewardRouter(progress, phase), Weights(**named))
  return own_rewards.make_functions(system, SYSTEMS, options)


def explain(text: str, row: dict, system: str = "four_component", **options) -> dict:
  """The analyzer and debugger of the `four_component` write-up, for one response to a data row.

  {"total", "components": {name: {"value", "most"}}, "correct", "problems": what is wrong,
  "advice": what would have earned more, the largest gain first}. `most` is infinite, and there is
  no advice, for a function of one's own that states neither.
  row: domain, question or prompt, answer, metadata (dict or JSON). options: `make_rewards`'s.
  """
  # A batch of one row, through the very functions that training calls.
  columns = {name: [row.get(name)] for name in own_rewards.COLUMNS}
  components = {}
  gains = []  # (what is missing to its most, name, advice)
  for function in make_rewards(system, **options):
    (value,) = function([row.get("prompt") or ""], [text], **columns)
    components[function.__name__] = {"value": value, "most": function.range[1]}
    gains.append((function.range[1] - value, function.__name__, getattr(function, "advice", "")))
  advice = [
    f"{name}: up to {gain:.2f} more: {words}"
    for gain, name, words in sorted(gains, reverse=True)
    # What would print as "0.00 more" is no advice.
    if words and gain > 0.005
  ]
  style = options.get("style") or style_of(system) or "tags"
  (read,) = reward_rows.read_rows([""], [text], columns, style)
  correct, problems = reward_rows.check_answer(read, options.get("code_rewards", "on"))
  return {
    "total": sum(part["value"] for part in components.values()),
    "components": components,
    "correct": correct,
    "problems": contract.format_problems(text, style) + problems,
    "advice": advice,
  }


def print_explanation(row: dict, result: dict):
  # None: nothing was checked, so nothing is said.
  verdict = {True: ", right", False: ", wrong", None: ""}[result["correct"]]
  lines = [f"{row.get('id', '?')} ({row.get('domain', '?')}) reward {result['total']:.3f}{verdict}"]
  for name, part in result["components"].items():
    most = f" of {part['most']:.2f}" if part["most"] < math.inf else ""
    lines.append(f"  {name:<34} {part['value']:6.3f}{most}")
  lines += [f"  problem: {line}" for line in result["problems"]]
  lines += [f"  advice:  {line}" for line in result["advice"]]
  command_line.say("\n".join(lines))


def self_test() -> list[str]:
  """Checks that honest responses earn strictly more than every cheat; returns the failures.

  In every system and domain, for a thorough right response and a plain honest one. In the
  curriculum's first phase, which reads no answers, a well-formed cheat may tie.
  """
  faults = []
  compared = 0
  for system in SYSTEMS:
    style = style_of(system)
    for phase in (0, 1, 2) if system == "curriculum" else (2,):
      # functools.partial(int, 1) is a function of nothing that returns 1.
      functions = make_rewards(system, phase=functools.partial(int, phase))
      for domain in cheats.domains(style):
        trial = cheats.try_task(functions, domain, style)
        for name, total in trial.cheats.items():
          # Where only the form is paid, form without content is as good as an honest answer.
          well_formed = parse_response(trial.texts[name], style)
          # Below 0: a tie is a failure. Above: rounding alone is none.
          margin = 1e-9 if phase == 0 and well_formed else -1e-9
          compared += len(trial.honest)
          faults += [
            f"{system} {domain}: {name!r} earns {total:.3f}, the {kind} response {best:.3f}"
            for kind, best in trial.honest.items()
            if total > best + margin
          ]
  command_line.say(f"self-test: {compared} comparisons, {len(faults)} failures")
  return faults


def own_self_test(system: str) -> list[str]:
  """What is wrong with a --rewards value, one line each: the known cheats that it pays.

  Prints them by domain. A domain it pays nobody in is no fault, unless that is all of them.
  """
  style = style_of(system) or "tags"
  functions = make_rewards(system)  # of a curriculum the last phase, which pays for everything
  trials = [cheats.try_task(functions, domain, style) for domain in cheats.domains(style)]
  command_line.say(cheats.describe(system, trials))
  # By name: a cheat that pays in five domains is one fault.
  paid = sorted({name for trial in trials for name in trial.paid()})
  if paid:
    return [f"{system} pays {len(paid)} known cheats: {', '.join(paid)}"]
  if not any(trial.pays_honesty() for trial in trials):
    return [f"{system} pays no honest response more than an empty one"]
  return []


FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "explain",
  "",
  "responses.jsonl of evaluate.py whose rewards to explain; empty: none.",
  flag_values=FLAGS,
)
flags.DEFINE_integer("limit", 20, "Most responses to explain; 0: all.", flag_values=FLAGS)
flags.DEFINE_bool(
  "self_test",
  False,
  "Check that honest responses earn more than every known cheat, under --rewards where it is "
  "given, else under every system.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "rewards",
  "four_component",
  f"{', '.join(SYSTEMS)}, or your own as FILE.py:FUNCTION; several with commas, each with =WEIGHT.",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "code_rewards",
  "on",
  ["on", "off"],
  "Run model-written code in the sandbox; off pays no code.",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "check",
  [],
  "How answers of domains of your own are checked, e.g. chess=exact,poetry=judge,go=my.py:right; "
  "empty: as their rows say (see lib/own_checks.py).",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "weights",
  [],
  "four_component weights, e.g. format=0.25,coherence=0.2,correctness=0.55,efficiency=0; "
  "empty: those.",
  flag_values=FLAGS,
)


def main():
  if not (FLAGS.self_test or FLAGS.explain):
    raise InputError("nothing to do; give --self_test or --explain=responses.jsonl")
  own_checks.use(FLAGS.check)
  if FLAGS.self_test:
    # Its default names one system; the self-test's default is all of them.
    chosen = FLAGS["rewards"].present
    faults = own_self_test(FLAGS.rewards) if chosen else self_test()
    if faults:
      raise InputError("the rewards pay cheats: " + "; ".join(faults))
  if FLAGS.explain:
    options = {"code_rewards": FLAGS.code_rewards, **read_weights(FLAGS.weights, FLAGS.rewards)}
    for row in jsonl.read_rows(FLAGS.explain)[: FLAGS.limit or None]:
      if not isinstance(row, dict) or not isinstance(row.get("response"), str):
        raise InputError(
          f"{FLAGS.explain} has a row without a response; expected the responses.jsonl that "
          "evaluate.py writes"
        )
      print_explanation(row, explain(row["response"], row, FLAGS.rewards, **options))


def read_weights(pairs: list[str], system: str) -> dict[str, float]:
  """["format=0.25", …] as `make_rewards`'s options."""
  if pairs and "four_component" not in own_rewards.system_names(system):
    raise InputError(
      f"--weights are four_component's, --rewards is {system}; leave them out, or choose that"
    )
  options = {}
  for pair in pairs:
    # "format=0.25" and "format=.25"; no sign, no exponent, no unknown name.
    if not re.fullmatch(rf"({'|'.join(Weights._fields)})=\d*\.?\d+", pair):
      raise InputError(
        f"--weights has {pair!r}; expected name=number, with the names {', '.join(Weights._fields)}"
      )
    name, value = pair.split("=")
    options[f"{name}_weight"] = float(value)
  return options


if __name__ == "__main__":
  import rewards  # under its own name: one InputError and one set of counts, whoever imports it

  command_line.launch(rewards.main, rewards.FLAGS, __doc__)
