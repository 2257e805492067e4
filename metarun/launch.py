"""Handing cells to Hydra's launchers, which give up where one cell's process dies: here the others still end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from metarun.grid import Planned

log = logging.getLogger(__name__)


def launch(launcher: Launcher, cells: list[Planned]) -> Sequence[JobReturn]:
    """Have the launcher run cells. What a cell raises is in its result; here its process may have died."""
    before = [written(cell) for cell in cells]
    try:
        with patience(launcher):
            returns = launcher.launch([cell.overrides for cell in cells], initial_job_idx=cells[0].number)
    except KeyboardInterrupt:
        if type(launcher).__name__ == "SlurmLauncher":
            log.error("the cells' jobs stay in Slurm's queue: scancel them before this multirun goes on")
        raise
    except Exception as error:
        log.error(f"the launcher failed ({shortened(error)})")
        rest = [cell for cell, when in zip(cells, before, strict=True) if written(cell) == when]
        return launch_again(launcher, rest) if len(cells) > 1 else []
    for returned in returns:
        if returned.status == JobStatus.FAILED:
            log.error(f"a cell failed ({shortened(returned._return_value)})")
    return returns


def launch_again(launcher: Launcher, rest: list[Planned]) -> Sequence[JobReturn]:
    """joblib ends all of its processes when one dies. Those that were under way start again one by one, for it was one
    of them; the others together."""
    begun = [cell for cell in rest if cell.folder.is_dir()]
    if type(launcher).__name__ != "JoblibLauncher" or not begun:
        return []
    for cell in begun:
        launch(launcher, [cell])
    others = [cell for cell in rest if cell not in begun]
    return launch(launcher, others) if others else []


def written(cell: Planned) -> int | None:
    """When a cell's result was written, in ns; None where there is none."""
    try:
        return (cell.folder / "result.json").stat().st_mtime_ns
    except OSError:
        return None


def shortened(error: object) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def patience(launcher: Launcher) -> Iterator[None]:
    """submitit and Ray raise for the first cell whose process died, while others run: have them wait for these too."""
    owner: Any
    if "submitit" in type(launcher).__module__:
        from submitit import Job as owner

        name = "results"
    elif type(launcher).__name__ == "RayLauncher":
        import ray as owner

        name = "get"
    else:
        yield
        return
    wait = getattr(owner, name)

    def wait_and_tell(*args: Any, **settings: Any) -> Any:
        try:
            return wait(*args, **settings)
        except Exception as error:
            failed = JobReturn(status=JobStatus.FAILED, _return_value=error)
            return failed if name == "get" else [failed]

    setattr(owner, name, wait_and_tell)
    try:
        yield
    finally:
        setattr(owner, name, wait)
