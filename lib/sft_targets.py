"""TODO-DOC sft_targets."""

import ast
import itertools
import operator
import re
from fractions import Fraction
from typing import NamedTuple

from lib import contract, overlap

# ---------------------------------------------------------------------------------------------------------------- SFT targets
MARK = re.compile(r"<<([^<>]*)>>")  # GSM8K's calculator marks: "48/2 = <<48/2=24>>24"
OPERATORS = {
  ast.Add: (operator.add, "-", "add {} and {}"),
  ast.Sub: (operator.sub, "+", "subtract {1} from {0}"),
  ast.Mult: (operator.mul, "/", "multiply {} by {}"),
  ast.Div: (operator.truediv, "*", "divide {} by {}"),
}
CALCULATION_END = re.compile(r"[-−]?\s*[$€£(.\d][\d\s.,$€£%()+*/xX×÷−–-]*$")
CALCULATION_START = re.compile(
  r"\s*[-−]?[$€£(\s]*[.\d][\d.,]*\)*%?(?:\s*[-+*/xX×÷−–]\s*[$€£(]*[.\d][\d.,]*\)*%?)*"
)
UNIT = re.compile(
  r"(?<=[\d)%])\s*[A-Za-z][A-Za-z'’]*(?:[ /-][A-Za-z'’]+){0,3}\s*(?=[-+*/×÷]|\s[xX]\s|$)"
)


class Calculation(NamedTuple):
  tree: ast.expr
  value: Fraction


def calculate(text: str) -> Calculation | None:
  """Exact value of +, -, *, / over numbers, brackets, currency and percent signs; None for anything else."""
  text = re.sub(r"[$€£,]", "", text).translate(str.maketrans("×÷−–", "*/--"))
  text = re.sub(r"(?<=[\d)\s.])[xX](?=[\s\d(.])", "*", text)
  text = re.sub(r"(\d*\.?\d+)\s*%", r"(\1/100)", text).strip()

  def value(node):
    if isinstance(node, ast.BinOp):
      return OPERATORS[type(node.op)][0](value(node.left), value(node.right))
    return (
      -value(node.operand)
      if isinstance(node, ast.UnaryOp)
      else Fraction(ast.get_source_segment(text, node))
    )

  try:
    tree = ast.parse(
      re.fullmatch(r"[\d\s.()+*/-]*", text)[0], mode="eval"
    ).body  # no letters, so no exponents
    return Calculation(tree, value(tree))
  except (SyntaxError, ValueError, ArithmeticError, RecursionError, TypeError, LookupError):
    return None


def decimal(value: Fraction) -> str | None:
  """A terminating decimal, written exactly; None for others."""
  digits = next((n for n in range(7) if (value * 10**n).denominator == 1), None)
  return f"{float(value):.{digits}f}" if digits is not None and abs(value) < 2**52 else None


def equations(text: str) -> list[Calculation] | None:
  """The left sides of all equations in a solution; None where one is wrong, or is algebra or prose that cannot be checked."""
  found = []
  for before, after in (
    pair for line in text.split("\n") for pair in itertools.pairwise(line.split("="))
  ):
    before = UNIT.sub(" ", before.rstrip())
    left, right = CALCULATION_END.search(before), CALCULATION_START.match(after)
    if (
      not left
      or not right
      or before[: left.start()].rstrip().endswith(("+", "-", "*", "/", "×", "÷"))
    ):
      return None
    left, right = calculate(left[0]), calculate(right[0].strip().rstrip(".,"))
    scales = (1, 100, Fraction(1, 100)) if "%" in before + after else (1,)
    if not left or not right or all(left.value * scale != right.value for scale in scales):
      return None
    found.append(left)
  return found


def monologue(solution: str, answer: str) -> dict | None:
  """The four dual-stream sections of a worked solution; None where its calculations do not end in the answer.

  Plan names each step's operation, Evidence holds the calculations with values computed here, Sanity_check undoes the last.
  """
  text, final = MARK.sub("", solution), calculate(answer)
  steps = (
    [calculate(mark.rpartition("=")[0]) for mark in MARK.findall(solution)]
    or equations(text)
    or [None]
  )
  steps = [step for step in steps if step is None or isinstance(step.tree, ast.BinOp)]
  if not steps or not final or None in steps or steps[-1].value != final.value:
    return None
  values, last = [decimal(step.value) for step in steps], steps[-1].tree
  (_, undo, _), sides = (
    OPERATORS[type(last.op)],
    [calculate(ast.unparse(side)) for side in (last.left, last.right)],
  )
  start, by = (decimal(side.value) for side in sides)
  if None in (start, by, *values) or undo == "/" and not sides[1].value:
    return None
  plan, known = [], {}
  for number, (step, value) in enumerate(zip(steps, values), 1):
    named = [known.get(side, side) for side in map(ast.unparse, (step.tree.left, step.tree.right))]
    plan.append(f"{number}) {OPERATORS[type(step.tree.op)][2].format(*named)}")
    known[value] = f"the result of step {number}"
  back = f"{values[-1]} {undo} {f'({by})' if by.startswith('-') else by} = {start}"
  return {
    "Plan": "; ".join(plan),
    "Reasoning": text.strip(),
    "Evidence": "; ".join(
      f"{ast.unparse(step.tree)} = {value}" for step, value in zip(steps, values)
    ),
    "Sanity_check": f"{back}, so undoing the last step leads back to {start}.",
  }


def make_target(row: dict, style: str) -> str | None:
  """The SFT target, where a solution is known, all its equations are right, and the format can hold it."""
  if (
    row["metadata"].get("use") == "grpo"
  ):  # of the built-in pool: SFT must not see the rows that GRPO trains on
    return None
  solution, sections, metadata = row["reasoning"], row["sections"], row["metadata"]
  if row["domain"] == "math" and not overlap.is_builtin(row) and solution:
    text = MARK.sub("", solution)
    if equations(text) is None:
      return None
    solution, sections = text, style == "dual_stream" and monologue(solution, row["answer"])
  elif row["domain"] == "logic" and not solution:
    solution = " ".join(map(str, metadata.get("facts") or []))
  elif row["domain"] == "coding" and not solution and metadata.get("shown_test"):
    solution = f"The function to write is `{metadata['entry_point']}`. It must satisfy: {metadata['shown_test']}"
  if style == "dual_stream":
    solution = sections and "\n" + "".join(
      f"{name}: {sections.get(name, '')}\n" for name in contract.SECTIONS
    )
  target = contract.format_response(solution, row["answer"]) if solution else ""
  return target if contract.parse_response(target, style) else None
