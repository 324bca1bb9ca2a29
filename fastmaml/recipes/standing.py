"""Where a run stands: what a training in its folder has done, and so what is left to do."""

from __future__ import annotations

from pathlib import Path

from fastmaml.runs import checkpoint

CHECKPOINTS = "checkpoints"
"""Where in the folder of a run a Trainer keeps its checkpoints."""


def done(folder: Path) -> int:
    """Iterations that the run in the folder has done, by its last checkpoint; 0 where there is none."""
    found = checkpoint.numbered(folder / CHECKPOINTS)
    return int(found[-1].stem.rpartition("-")[2]) if found else 0


def standing(folder: Path, iterations: int, meta_batch: int) -> str:
    """What training to `iterations` will do there, in a sentence."""
    before = done(folder)
    if before == 0:
        return f"training: {iterations:,} iterations of {meta_batch:,} tasks"
    if before < iterations:
        return f"training: from iteration {before:,}, where {folder} was left, to {iterations:,}"
    if before == iterations:
        return f"nothing is trained: the run in {folder} has all its {before:,} iterations"
    return (
        f"nothing is trained: the run in {folder} has {before:,} iterations already, more than the {iterations:,} "
        f"asked for, and what follows is of all {before:,}; for a shorter run give another folder by --out"
    )
