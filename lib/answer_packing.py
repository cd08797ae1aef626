"""Rows for the loss: prompts and their answers packed end to end, so that almost every position is
a real token.

  row_shape     how wide a row is, how many are in memory at once, and how many a batch can need
  choose_pieces which answers share one copy of their prompt
  pack_answers  those pieces laid into rows

A piece is [prompt | answer | answer | …]. Each answer sees the prompt and itself, and its positions
go on from the prompt's end, so its log-probs are those of [prompt | answer] alone.
"""

from typing import NamedTuple

import numpy as np

from lib import hosts, tokenization

# Tokens that keep a device busy at once. More would leave a larger part of the last turn empty.
TOKENS_AT_ONCE = 1024
# A row is as wide as a prompt with all its answers, up to this, or as the longest answer needs:
# what is left at its end is then a small part of it.
WIDE = 512
# A row that the longest answer just fills takes no two long ones; a quarter more, as far as
# TOKENS_AT_ONCE go, lets others fill it up (672 → 840: 9% fewer positions at 8 × 4).
WIDER = 5 / 4
# Tried as limits on the length of a piece, in parts of a row; see `fewest_rows`.
PIECES_A_ROW = (1, 2, 3, 4, 6)


class RowShape(NamedTuple):
  """The one shape (turns, rows, width) of all batches of a run, so that an update compiles once."""

  turns: int  # micro-batches a batch needs at most; those that stay empty are skipped
  rows: int  # rows in memory at once, a multiple of the fsdp devices
  width: int  # tokens of a row


class Piece(NamedTuple):
  """One copy of a prompt and the answers that follow it in a row."""

  prompt: int  # index into the B prompts
  answers: list[int]  # indices into the N answers
  tokens: int


class Rows(NamedTuple):
  """Packed rows, all (R, T) int32; stacked (M, R, T) for an update."""

  tokens: np.ndarray
  # Restart at 0 with each piece and go on from the prompt with each answer; 0 on padding.
  positions: np.ndarray
  answer: np.ndarray  # the slot at which the answer of this token begins; -1: prompt or padding
  previous: np.ndarray  # the slot whose hidden state predicts this token


def row_shape(
  prompt: int, new: int, generations: int, prompts: int, prompts_at_once: int, fsdp: int
) -> RowShape:
  """The shape for batches of `prompts` × `generations` answers.

  prompt, new: the longest prompt and the longest answer, in tokens. prompts_at_once: no more rows
  than answers to these are in memory at once (--micro_batch_size).
  """
  group = prompt + generations * new  # a prompt and all its answers
  longest = prompt + new
  wide = max(WIDE, min(int(WIDER * longest), TOKENS_AT_ONCE))
  width = max(longest, min(group, wide))
  width = -(-width // 16) * 16
  most = prompts_at_once * generations // fsdp
  rows = fsdp * max(1, min(TOKENS_AT_ONCE // width, most))
  # Each row holds an answer at the least. Turns that stay empty cost a few bytes and no arithmetic.
  turns = -(-prompts * generations // rows)
  return RowShape(turns, rows, width)


def choose_pieces(
  prompt_lengths: np.ndarray, lengths: np.ndarray, counted: np.ndarray, limit: int
) -> list[Piece]:
  """Pieces of all counted answers: as many answers share a prompt's copy as `limit` tokens hold.

  limit: the sliding window, or the row where that is shorter. Tunix's local mask counts slots, not
  positions: within a window's length it hides nothing, so sharing is exact; a longer piece holds
  one answer.
  """
  generations = len(lengths) // len(prompt_lengths)
  pieces = []
  for prompt, prompt_length in enumerate(prompt_lengths):
    answers, tokens = [], int(prompt_length)
    for answer in range(prompt * generations, (prompt + 1) * generations):
      if not counted[answer]:
        continue
      if answers and tokens + lengths[answer] > limit:
        pieces.append(Piece(prompt, answers, tokens))
        answers, tokens = [], int(prompt_length)
      answers.append(answer)
      tokens += int(lengths[answer])
    if answers:
      pieces.append(Piece(prompt, answers, tokens))
  return pieces


def first_fit(sizes: list[int], width: int) -> list[int]:
  """The row of each size: the longest first, each into the first row with room for it."""
  row_of = [0] * len(sizes)
  used = []  # tokens in each row
  longest_first = sorted(range(len(sizes)), key=lambda i: -sizes[i])
  for i in longest_first:
    row = 0
    while row < len(used) and used[row] + sizes[i] > width:
      row += 1
    if row == len(used):
      used.append(0)
    used[row] += sizes[i]
    row_of[i] = row
  return row_of


def fewest_rows(
  prompt_lengths: np.ndarray, lengths: np.ndarray, counted: np.ndarray, width: int, window: int
) -> tuple[list[Piece], list[int]]:
  """(pieces, the row of each): the limit on pieces that needs the fewest rows.

  Long pieces repeat fewer prompts, short ones leave less of a row empty.
  """
  best = None
  for parts in PIECES_A_ROW:
    pieces = choose_pieces(prompt_lengths, lengths, counted, min(window, width // parts))
    row_of = first_fit([piece.tokens for piece in pieces], width)
    rows = max(row_of, default=-1) + 1
    if best is None or rows < best[0]:
      best = rows, pieces, row_of
  _, pieces, row_of = best
  return pieces, row_of


class Packed(NamedTuple):
  """Rows of a batch and where its N answers lie in them."""

  rows: Rows  # (M, R, T)
  place: (
    np.ndarray
  )  # (N, 2) row and slot at which each answer begins, rows counted over all turns; -1: left out
  lengths: np.ndarray  # (N,) tokens


def empty_rows(shape: RowShape) -> Rows:
  """Rows (M, R, T) of padding."""
  return Rows(
    tokens=np.full(shape, tokenization.PAD_ID, np.int32),
    positions=np.zeros(shape, np.int32),
    answer=np.full(shape, -1, np.int32),
    previous=np.zeros(shape, np.int32),
  )


def pack_answers(
  prompts: list[np.ndarray],
  completions: np.ndarray,
  lengths: np.ndarray,
  counted: np.ndarray,
  shape: RowShape,
  window: int,
) -> Packed:
  """prompts: B arrays of ids without padding; completions (N, L); lengths, counted (N,)."""
  prompt_lengths = np.array([len(prompt) for prompt in prompts])
  pieces, row_of = fewest_rows(prompt_lengths, lengths, counted, shape.width, window)

  rows = empty_rows(shape)
  tokens, positions, answer, previous = (x.reshape(-1, shape.width) for x in rows)  # views
  place = np.full((len(lengths), 2), -1)
  filled = np.zeros(len(tokens), int)
  for piece, row in zip(pieces, row_of, strict=True):
    start = filled[row]
    split = start + prompt_lengths[piece.prompt]  # the slot behind the prompt
    tokens[row, start:split] = prompts[piece.prompt]
    positions[row, start:split] = np.arange(split - start)
    begin = split
    for i in piece.answers:
      end = begin + lengths[i]
      tokens[row, begin:end] = completions[i, : lengths[i]]
      positions[row, begin:end] = split - start + np.arange(lengths[i])
      answer[row, begin:end] = begin
      previous[row, begin:end] = np.arange(begin - 1, end - 1)
      previous[row, begin] = split - 1  # the prompt's last token predicts each answer's first
      place[i] = row, begin
      begin = end
    filled[row] = begin
  return Packed(rows, place, lengths)


def turns_of(rows: Rows) -> int:
  """How many of the M micro-batches hold anything, at least 1; first-fit leaves the empty ones at
  the end.
  """
  return max(1, int((hosts.fetch(rows.positions) > 0).any((1, 2)).sum()))


def spread(values: np.ndarray, packed: Packed) -> np.ndarray:
  """values (N,) or (N, L) of the answers at their tokens in the rows, (M, R, T) float32; 0
  elsewhere.
  """
  turns, rows, width = packed.rows.tokens.shape
  out = np.zeros((turns * rows, width), np.float32)
  for value, (row, begin), length in zip(values, packed.place, packed.lengths, strict=True):
    if row >= 0:
      out[row, begin : begin + length] = value if values.ndim == 1 else value[:length]
  return out.reshape(turns, rows, width)


def gather(values, packed: Packed) -> np.ndarray:
  """The way back: (M, R, T) → (N, longest), 0 behind each answer's end and for those left out."""
  values = np.asarray(values).reshape(-1, packed.rows.tokens.shape[2])
  out = np.zeros((len(packed.lengths), packed.lengths.max()), np.float32)
  for i, (row, begin) in enumerate(packed.place):
    if row >= 0:
      length = packed.lengths[i]
      out[i, :length] = values[row, begin : begin + length]
  return out


def fill(rows: Rows) -> float:
  """Real tokens ÷ positions that an update computes."""
  tokens = np.asarray(rows.tokens)
  real = (np.asarray(rows.positions) > 0) | (tokens == tokenization.BOS_ID)
  return float(real.sum() / (turns_of(rows) * tokens[0].size))
