"""Adding samples to a ranked pool: what another run has computed of its samples stays."""

from __future__ import annotations

import shutil
from pathlib import Path

from seal.artifacts.provenance import RECORD, check_files, differences, load_provenance
from seal.artifacts.ranking import Ranking, load_ranking
from seal.artifacts.run_dir import RunDir
from seal.checkpoint import Checkpoint, Checkpoints
from seal.inputs import Inputs
from seal.rankers.ranker import Extended, Ranker

_STATE = "state"  # the folder of a ranking that holds what it can be gone on from


def known_tables(inputs: Inputs) -> list[Path]:
    """Folders of tables that may know rows of this run's pool."""
    extends = inputs.experiment.extends
    return [] if extends is None else [RunDir(extends).tables]


def keep_state(ranker: Ranker, checkpoints: Checkpoints, folder: Path) -> None:
    """Put the last state of a ranking beside it, if it can be gone on from."""
    last = checkpoints.latest() if ranker.RESUMES_STATE and not ranker.extends() else None
    if last is not None:
        shutil.copytree(last.folder, folder / _STATE)


def check(inputs: Inputs) -> None:
    """Find out before anything is ranked whether all rankings of the run can be added to.

    Raises:
        ValueError: If one cannot; see `extended`.
    """
    extended(inputs, inputs.ranker(None), inputs.rank_folder(None))
    for arm in inputs.experiment.arms:
        if arm.rank is not None:
            try:
                extended(inputs, arm.rank, inputs.rank_folder(arm))
            except ValueError as error:
                raise ValueError(f"arm {arm.name}: {error}") from error


def extended(inputs: Inputs, ranker: Ranker, folder: Path) -> Extended | None:
    """The ranking that one goes on from, for a method that goes on; None for all others.

    Args:
        inputs: Of the run.
        ranker: The method.
        folder: Of the ranking to be made, which the other run has at the same place.

    Raises:
        ValueError: If the run that is added to is of other settings, ranks samples that are not in
            this pool, lacks what is needed, or the method's scores would not be comparable.
    """
    extends = inputs.experiment.extends
    if extends is None:
        return None
    problem = ranker.extends()
    if problem:
        raise ValueError(
            f"extends={extends}: a ranking by {ranker.model_dump()['method']} cannot be added to: "
            f"{problem}. Leave extends out to rank the whole pool."
        )
    if extends.resolve() == inputs.run_dir.root.resolve():
        raise ValueError(
            f"extends={extends} is this run's own run_dir, which stays as it is. Give another "
            "run_dir for the larger pool."
        )
    other = extends / folder.relative_to(inputs.run_dir.root)
    ranking = _checked_ranking(inputs, ranker, extends, other)
    if not ranker.RESUMES_STATE:
        return None
    state = other / _STATE
    if not state.is_dir():
        raise ValueError(
            f"extends={extends}: {state} is missing, so the ranking cannot be gone on with. Leave "
            "extends out to rank the whole pool."
        )
    return Extended(_scored_ids(ranking, other), Checkpoint(0, state))


def _scored_ids(ranking: Ranking, folder: Path) -> list[str]:
    """Those of the ranking, and of the rows that were held out and scored among its pool."""
    held_out = folder / "reference.parquet"
    return sorted([*ranking.ids, *(load_ranking(held_out).ids if held_out.exists() else ())])


def _checked_ranking(inputs: Inputs, ranker: Ranker, extends: Path, folder: Path) -> Ranking:
    if not (folder / RECORD).is_file():
        raise ValueError(
            f"extends={extends}: there is no finished ranking in {folder}. Rank there first, or "
            "leave extends out."
        )
    check_files(folder)
    before = {"extends": None, **load_provenance(folder).identity}
    now = {**inputs.identity_with(ranker), "extends": before["extends"]}
    lines = differences({**before, "pool": ""}, {**now, "pool": ""})
    if lines:
        shown = "\n  ".join(lines[:8])
        raise ValueError(
            f"extends={extends}: that ranking was made from something else, so scores would not be "
            f"comparable:\n  {shown}\nPut these back, or leave extends out."
        )
    ranking = load_ranking(folder / "ranking.parquet")
    ids = {row.id for row in inputs.encoded_pool.encoded}
    gone = [key for key in ranking.ids if key not in ids]
    if gone:
        raise ValueError(
            f"extends={extends}: {len(gone)} of the {len(ranking.ids)} samples ranked there are "
            f"not in this pool (first: {gone[0]}). Add samples to the pool and take none away, or "
            "leave extends out."
        )
    if len(ranking.ids) == len(ids):
        raise ValueError(
            f"extends={extends}: this pool has the same {len(ids)} samples as the one ranked "
            "there, so there is nothing to add. Use that run, or leave extends out."
        )
    return ranking
