"""Which row of each forward call a returned sequence is, where rows change places or end early."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.steering.token_records import Run, Text


def parent_rows(run: Run, text: Text) -> Tensor | None:
    """Which row of the forward call before each row goes on with, by its ids so far; None where none moved."""
    ids, before = run.ids, run.before
    if before is None or not text.steps or text.length < (text.prompt or 0):
        return None
    if ids is None or ids.shape[1] <= before.shape[1] or ids.shape[0] != before.shape[0]:
        text.unknown = "rows changed in a way that cannot be followed"
        return None
    if run.batch is None:
        raise ValueError("how many prompts the run was given is not known")
    group = text.rows // run.batch
    now = ids[:, : before.shape[1]].unflatten(0, (run.batch, group))
    same = (now.unsqueeze(2) == before.unflatten(0, (run.batch, group)).unsqueeze(1)).all(-1)  # [batch, now, before]
    if not bool(same.any(-1).all()):
        text.unknown = "rows changed in a way that cannot be followed"
        return None
    own = same.diagonal(dim1=1, dim2=2)
    if bool(own.all()):
        return None
    found = same.to(torch.uint8).argmax(-1)
    found = torch.where(own, torch.arange(group, device=own.device), found)
    return (found + torch.arange(run.batch, device=own.device)[:, None] * group).flatten().cpu()


def pick_rows(text: Text, run: Run, sequences: Tensor | None, offset: int) -> None:
    """Find in each step the row that each returned sequence is; their figures are then those of the sequences alone.

    Args:
        offset: places of the prompt that are not among the sequences, such as embeddings.
    """
    if run.batch is None:
        raise ValueError("how many prompts the run was given is not known")
    if text.unknown or sequences is None or sequences.ndim != 2 or len(sequences) % run.batch:
        text.unknown = text.unknown or "`generate` did not return sequences of ids"
        return
    sequences = sequences.cpu()
    prompt = text.prompt or 0
    group = text.rows // run.batch
    each = len(sequences) // run.batch
    of_batch = torch.arange(text.rows) // group
    may = torch.arange(len(sequences))[:, None] // each == of_batch  # [sequence, row]
    text.picked = []
    for step in text.steps:
        if step.parents is not None:
            may = may[:, step.parents]
        first = max(step.start, prompt)
        last = step.start + step.kept
        if first < last:
            theirs = sequences[:, first - offset : last - offset]
            if step.tokens is None or theirs.shape[1] < last - first:
                may = torch.zeros_like(may)
            else:
                tokens = step.tokens[:, first - step.start : step.kept].cpu()
                may = may & (tokens.unsqueeze(0) == theirs.unsqueeze(1)).all(-1)
        text.picked.append((may.to(torch.uint8).argmax(-1), may.any(-1)))


def counted_lengths(made: Tensor, pad: int, stops: Sequence[int]) -> Tensor:
    """How many generated tokens of each sequence count, where rows may have ended by anything and were then padded.

    A text alone never gives its last token to the model, so that token does not count in a batch either.
    """
    return torch.tensor([_last_place(row, pad, stops) for row in made.tolist()])


def _last_place(row: list[int], pad: int, stops: Sequence[int]) -> int:
    """Where the last token of its own is in a row of generated ids."""
    for place, one in enumerate(row):
        if one in stops:
            return place
    filled = len(row) - 1
    while filled > 0 and row[filled] == pad:
        filled -= 1
    return filled
