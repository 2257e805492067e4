"""A record made up, and those of the project."""

from __future__ import annotations

from scripts.results.records import Measure, Published, Record, SeedRun, load

RECORD = Record(
    cell="protonet 5-way 1-shot",
    target="small",
    algo="protonet",
    data="omniglot",
    experiment=None,
    command="metarun algo=protonet data=omniglot",
    metric="accuracy",
    better="higher",
    step=0,
    runs=[SeedRun(0, 0.5, 0.01, 84.0), SeedRun(1, 0.75, 0.02, None)],
    mean=0.625,
    tasks=200,
    iterations=2000,
    threads=1,
    device="a machine",
    commit="25ff4b5",
    date="2026-11-21",
    config={"algo": {"metric": "euclidean"}},
    origin="run",
    published=Published(0.988, None, "Snell et al. 2017", "table 1"),
    measures=[Measure("nll", 0, [SeedRun(0, 2.0, 0.1, None), SeedRun(1, 3.0, None, None)], 2.5)],
)

RECORDS = {f"{record.target}/{record.cell}": record for record in load()}
ONE_OF_EACH = sorted({record.target: name for name, record in RECORDS.items()}.values())
OTHERS = sorted(RECORDS.keys() - set(ONE_OF_EACH))
