"""Equal batches: every batch has the same size, so that one program is compiled for all."""


def filled_batches(items: list, size: int) -> list[list]:
  """Batches of exactly `size` items, the last filled up: [1, 2, 3] by 2 → [[1, 2], [3, 3]].

  What comes back for the repeats is cut off by the caller, `[: len(items)]`.
  """
  batches = []
  for start in range(0, len(items), size):
    batch = list(items[start : start + size])
    missing = size - len(batch)
    # A real item fills up: a blank one would be a prompt without tokens, a case of its own.
    batches.append(batch + [batch[-1]] * missing)
  return batches
