"""Hand jobs to Hydra's launchers, which give up where one job's process dies: here the others still end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from metarun.experiment.claim import LOCK
from metarun.experiment.multirun import SweepJob
from metarun.plain_text import described
from metarun.run_folder import result_mtime

log = logging.getLogger(__name__)


def launch(launcher: Launcher, jobs: list[SweepJob]) -> Sequence[JobReturn]:
    """Have the launcher run jobs. What a job raises is in its result; here its process may have died."""
    before = [result_mtime(job.folder) for job in jobs]
    try:
        with wait_for_all(launcher):
            returns = launcher.launch([job.overrides for job in jobs], initial_job_idx=jobs[0].number)
    except KeyboardInterrupt:
        if type(launcher).__name__ == "SlurmLauncher":
            log.error("the cells' jobs stay in Slurm's queue: scancel them before this multirun is resumed")
        raise
    except Exception as error:
        log.error(f"the launcher failed ({shortened(error)})")
        rest = [job for job, when in zip(jobs, before, strict=True) if result_mtime(job.folder) == when]
        return launch_again(launcher, rest) if len(jobs) > 1 else []
    for returned in returns:
        if returned.status == JobStatus.FAILED:
            log.error(f"a cell failed ({shortened(returned._return_value)})")
    return returns


def launch_again(launcher: Launcher, rest: list[SweepJob]) -> Sequence[JobReturn]:
    """joblib ends all of its processes when one dies. Jobs that were running start again one by one, for it was one
    of them; the others together."""
    started = [job for job in rest if (job.folder / LOCK).exists()]
    if type(launcher).__name__ != "JoblibLauncher" or not started:
        return []
    for job in started:
        launch(launcher, [job])
    others = [job for job in rest if job not in started]
    return launch(launcher, others) if others else []


def shortened(error: BaseException) -> str:
    return described(error)[:300]


@contextmanager
def wait_for_all(launcher: Launcher) -> Iterator[None]:
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
