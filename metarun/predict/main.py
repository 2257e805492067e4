"""`metarun-predict RUN --support FOLDER --query FILES...`: predictions on a user's own pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich import box
from rich.table import Table
from rich.text import Text

from metarun.plain_text import one_line, visible
from metarun.report.console import PlainConsole

if TYPE_CHECKING:
    from metarun.experiment.trained import TrainedLearner
    from metarun.predict.answers import Answers
    from metarun.predict.session import Session

ABOUT = """\
Adapts the learner of a finished run to a handful of labelled pictures, and says what others are. Any number of classes
and any number of pictures in each, where the learner's weights do not depend on it.
"""
EXAMPLES = """\
examples:
  metarun-predict outputs/omniglot/protonet/DATE --support mine/known --query mine/new.png
  metarun-predict RUN --support known --query 'new/*.jpg' --csv answers.csv --html answers.html
  metarun-predict RUN --support labels.csv --query held_out --reject     # held_out/CLASS/PICTURE: says the accuracy

Exit status: 0; 1 if a picture could not be read and was left out; 2 if nothing could be predicted.
"""
MOST_ROWS = 40  # of answers on the terminal
MOST_CLASSES = 12  # of the confusion matrix there


def parser() -> argparse.ArgumentParser:
    """The command line of `metarun-predict`."""
    arguments = argparse.ArgumentParser(
        "metarun-predict", description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = arguments.add_argument
    add("run", metavar="RUN", help="the folder of a finished run on images")
    add(
        "--support",
        required=True,
        type=Path,
        metavar="FOLDER|CSV",
        help="the labelled pictures: FOLDER/CLASS/PICTURE, or a table with the columns path and label",
    )
    add(
        "--query",
        required=True,
        nargs="+",
        metavar="PICTURE|FOLDER|CSV",
        help="what to predict; the names of subfolders, or a table's labels, are the truth to compare with",
    )
    add("--csv", type=Path, metavar="FILE", help="write path, label and the probability of each class")
    add("--json", type=Path, metavar="FILE", help="write the same as JSON")
    add("--html", type=Path, metavar="FILE", help="write a page: the support set, the queries with their answers")
    add("--png", type=Path, metavar="FILE", help="draw the same")
    add(
        "--reject",
        nargs="?",
        const=0.05,
        type=_share,
        metavar="SHARE",
        help="refuse queries that are far from every class: as far as SHARE (default 0.05) of the run's own "
        "validation queries, whose data must be there",
    )
    return arguments


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and below 1; got {one_line(text)!r}")
    return value


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script; exit statuses are those that `--help` names."""
    options = parser().parse_args(arguments)
    try:
        complete = run(options)
    except (OSError, ValueError, ArithmeticError) as error:
        print(f"metarun-predict: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if complete else 1)


def run(options: argparse.Namespace) -> bool:
    """Predict, show and write.

    Returns:
        Whether every picture could be read.

    Raises:
        OSError, ValueError, ArithmeticError: nothing could be predicted, or a file not be written.
    """
    from metarun.predict.examples import queries, support  # these import torch, which --help must not wait for

    labelled, asked = support(options.support), queries(options.query)
    from metarun.experiment.trained import load
    from metarun.images.notices import progress_bar
    from metarun.predict.session import predict, said_of

    trained = load(options.run)
    console = PlainConsole(soft_wrap=False)
    console.print(f"{_named(trained)}; pictures: {said_of(trained.preparation())}", style="dim", soft_wrap=True)
    with progress_bar() as bar:
        reading = bar.add_task("pictures", total=len(labelled.pictures) + len(asked.pictures))
        session = predict(trained, labelled.pictures, asked.pictures, options.reject, lambda: bar.advance(reading))
    for note in [*labelled.notes, *asked.notes, *session.notes]:
        print(f"metarun-predict: {one_line(note)}", file=sys.stderr)
    skipped = [*session.support.skipped, *session.queries.skipped]
    for why in skipped:
        print(f"metarun-predict: skipped: {one_line(why)}", file=sys.stderr)
    show(session, console)
    write(options, session, trained)
    return not skipped


def _named(trained: TrainedLearner) -> str:
    return f"{trained.choices['algo']} trained on {trained.choices['data']}"


def write(options: argparse.Namespace, session: Session, trained: TrainedLearner) -> None:
    """Write the files that are asked for.

    Raises:
        OSError: one cannot be written.
    """
    from metarun.predict.pictures import draw, write_page

    threshold = session.refusal.threshold if session.refusal else None
    about = {"run": str(trained.folder), **{group: trained.choices[group] for group in ("algo", "data")}}
    writers: dict[str, Callable[[Path], None]] = {
        "csv": session.answers.write_csv,
        "json": lambda path: session.answers.write_json(path, {**about, "threshold": threshold}),
        "html": lambda path: write_page(path, session, f"Predictions of {_named(trained)}"),
        "png": lambda path: draw(path, session),
    }
    for kind, writer in writers.items():
        path = getattr(options, kind)
        try:
            if path is not None:
                writer(path)
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror or error})") from error


def show(session: Session, console: PlainConsole) -> None:
    """Print the answers, and how good they are where that is known."""
    answers = session.answers
    truths = any(answer.truth is not None for answer in answers.answers)
    table = Table(box=box.SIMPLE, show_edge=False)
    for name in ("picture", "answer", *(("truth",) if truths else ())):
        table.add_column(name, overflow="fold")
    table.add_column("probability", justify="right")
    for answer in answers.answers[:MOST_ROWS]:
        style = "" if answer.truth in (None, answer.label) else "bold"
        said = answer.label or "refused"
        truth = (Text(one_line(answer.truth or "")),) if truths else ()
        probability = f"{max(answer.probabilities):.3f}"
        table.add_row(Text(one_line(str(answer.path))), Text(one_line(said)), *truth, probability, style=style)
    console.print(table)
    if (more := len(answers.answers) - MOST_ROWS) > 0:
        console.print(f"and {more} more: --csv or --html has all", style="dim")
    show_quality(answers, console)
    if session.refusal:
        console.print(f"refusing: {session.refusal}", soft_wrap=True)


def show_quality(answers: Answers, console: PlainConsole) -> None:
    """Print accuracy and the confusion matrix, where classes of queries are known."""
    if accuracy := answers.accuracy():
        console.print(f"accuracy: {accuracy}", soft_wrap=True)
    if strangers := answers.refused_strangers():
        console.print(f"queries of other classes that are refused: {strangers}", soft_wrap=True)
    if not answers.known or len(answers.classes) > MOST_CLASSES:
        return
    columns, rows = answers.confusion()
    table = Table(title="confusion: rows are true classes", box=box.SIMPLE, show_edge=False, title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(Text(one_line(name)), justify="right")
    for name, row in zip(answers.classes, rows, strict=True):
        table.add_row(Text(one_line(name)), *(str(count) if count else "·" for count in row))
    console.print(table)
