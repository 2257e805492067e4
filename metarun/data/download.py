"""Brings Omniglot and mini-ImageNet from where torchvision and learn2learn bring them.

    python -m metarun.data.download omniglot --root FOLDER

A file is resumed where an earlier download broke off, checked (by hash where its source publishes one, else
by its contents), and only then given its name; what is there already and passes is left alone. Nothing else
in metarun needs a network, but for the class lists of Omniglot's split `vinyals` where the data has none.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import requests
from filelock import FileLock
from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from metarun.data import miniimagenet
from metarun.images.store import cache_folder, data_roots, missing, progress_bar
from metarun.tasks import DataError, Split

PIECE = 1 << 15  # bytes read at once; at most this much is fetched again after a break
TIMEOUT = (15, 60)  # seconds to connect, and between two pieces

pooch.get_logger().setLevel("WARNING")  # the bar says it already


class Remote(NamedTuple):
    """A file: its `name` below the root, where it is to be had (in that order), and how it is checked.

    `known_hash` is pooch's `ALGORITHM:HEX`, None where the source publishes none; `check` raises DataError on
    a file whose contents are wrong.
    """

    name: str
    urls: tuple[str, ...]
    known_hash: str | None
    check: Callable[[Path], None] | None
    by_hand: str


def _zip(half: str, md5: str) -> Remote:
    # Address and md5: torchvision 0.23, datasets/omniglot.py.
    url = f"https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{half}.zip"
    by_hand = f"folder python/ of the GitHub repository brendenlake/omniglot holds {half}.zip"
    return Remote(f"omniglot/{half}.zip", (url,), f"md5:{md5}", None, by_hand)


def _class_list(split: Split, sha256: str) -> Remote:
    # The commit is fixed, so the lists cannot change under us.
    repository, commit = "jakesnell/prototypical-networks", "c9bb4d258267c11cb6e23f0a19242d24ca98ad8a"
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/data/omniglot/splits/vinyals/{split}.txt"
    by_hand = f"data/omniglot/splits/vinyals/{split}.txt of the GitHub repository {repository}"
    return Remote(f"omniglot/splits/vinyals/{split}.txt", (url,), f"sha256:{sha256}", None, by_hand)


def _pickle(split: Split, dropbox: str) -> Remote:
    # Addresses: learn2learn 0.2.0, vision/datasets/mini_imagenet.py, which publishes no hash.
    name = f"mini-imagenet-cache-{miniimagenet.PICKLE[split]}.pkl"
    urls = (
        f"https://zenodo.org/record/7978538/files/{name}",
        f"https://www.dropbox.com/s/{dropbox}/{name}?dl=1",
    )

    def check(path: Path) -> None:
        contents = miniimagenet.pickle_contents(path)
        miniimagenet.check(path, split, len(contents.names), set(contents.counts))

    by_hand = (
        f"{name} is in record 7978538 of Zenodo; images from elsewhere do as well, as mini_imagenet/{split}/CLASS/*.jpg"
    )
    return Remote(f"mini_imagenet/{name}", urls, None, check, by_hand)


VINYALS: dict[Split, Remote] = {
    "train": _class_list("train", "984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0"),
    "val": _class_list("val", "11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a"),
    "test": _class_list("test", "845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204"),
}
DATASETS: dict[str, tuple[Remote, ...]] = {
    "omniglot": (
        _zip("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
        _zip("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
        *VINYALS.values(),
    ),
    "miniimagenet": (
        _pickle("train", "9g8c6w345s2ek03"),
        _pickle("val", "ip1b7se3gij3r1b"),
        _pickle("test", "ye9jeb5tyz0x01b"),
    ),
}


class _Resuming:
    """A downloader for pooch that goes on where the last one broke off, from `partial`."""

    def __init__(self, partial: Path):
        self.partial = partial

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:  # noqa: ARG002  (pooch's signature)
        have = self.partial.stat().st_size if self.partial.exists() else 0
        # Unencoded, since offsets count the bytes that come over the wire.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range") != f"bytes */{have}":
                    self.partial.unlink()
                    raise requests.ConnectionError("the partial download does not fit; it was removed, run again")
            else:
                response.raise_for_status()
                self._receive(response, have if response.status_code == requests.codes.partial_content else 0)
        os.replace(self.partial, output_file)

    def _receive(self, response: requests.Response, have: int) -> None:
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        label = self.partial.name.removeprefix(".").split(".part")[0]
        columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        with progress_bar(*columns) as bars, open(self.partial, "ab" if have else "wb") as file:
            bar = bars.add_task(f"downloading {label}", total=total, completed=have)
            for piece in response.iter_content(PIECE):
                file.write(piece)
                bars.advance(bar, len(piece))
        if total is not None and (size := self.partial.stat().st_size) != total:
            raise requests.ConnectionError(f"broke off after {size} of {total} bytes; run again to go on")


def fetch(remote: Remote, root: Path) -> Path:
    """The path of a file below `root`, downloaded if it is not there, and checked in any case.

    Raises
        DataError: no source has it or what came is not it; the message says why and what to do by hand.
    """
    target = root / remote.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists() and _passes(target, remote):
                return target
            failures = _try_all(remote, target)
    except PermissionError as error:
        raise DataError(f"{root} cannot be written ({error}): name another folder with --root") from error
    if len(failures) == len(remote.urls):
        reasons = "\n".join(f"    {failure}" for failure in failures)
        raise DataError(
            f"{target.name} could not be downloaded:\n{reasons}\n"
            f"Run this again if it broke off: it goes on from there. By hand: {remote.by_hand}; put it at\n"
            f"    {target}\nand run this again, which will check it."
        )
    return target


def _passes(target: Path, remote: Remote) -> bool:
    if remote.known_hash:
        algorithm, wanted = remote.known_hash.split(":")
        return bool(pooch.file_hash(str(target), algorithm) == wanted)
    try:
        if remote.check:
            remote.check(target)
    except DataError:
        return False
    return True


def _try_all(remote: Remote, target: Path) -> list[str]:
    """Tries source after source; returns why each of them failed, up to the one that did not."""
    failures: list[str] = []
    for url in remote.urls:
        origin = hashlib.sha256(url.encode()).hexdigest()[:8]  # a part of one source is none of another
        partial = target.with_name(f".{target.name}.part-{origin}")
        fetched = target.with_name(f".{target.name}.fetched")
        try:
            fetched.unlink(missing_ok=True)
            pooch.retrieve(url, remote.known_hash, fetched.name, str(target.parent), downloader=_Resuming(partial))
            if remote.check:
                remote.check(fetched)
            os.replace(fetched, target)
            break
        except (
            requests.RequestException,
            ValueError,
        ) as error:  # ValueError: pooch's wrong hash, our DataError
            fetched.unlink(missing_ok=True)
            failures.append(f"{url}: {error}")
    return failures


def vinyals_list(places: Sequence[Path], split: Split) -> Path:
    """A class list of split `vinyals`: splits/vinyals/PART.txt below one of `places`, else downloaded.

    Raises
        DataError: it is nowhere and cannot be downloaded.
    """
    local = [place / "splits" / "vinyals" / f"{split}.txt" for place in places]
    for path in local:
        if path.exists():
            return path
    try:
        return fetch(VINYALS[split], cache_folder() / "downloads")
    except DataError as error:
        command = "python -m metarun.data.download omniglot --root FOLDER"
        raise missing(f"the class list {split}.txt of Omniglot's split vinyals", local, command) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 1 if something could not be had."""
    parser = argparse.ArgumentParser(
        prog="python -m metarun.data.download",
        description="Download a data set, going on where an earlier download broke off, and check it.",
    )
    parser.add_argument("dataset", choices=[*DATASETS, "all"], help="what to download")
    parser.add_argument(
        "--root",
        type=Path,
        default=data_roots(None)[0],
        help="folder to put it in, later given as data.root=FOLDER (default: METARUN_DATA, else ./data)",
    )
    options = parser.parse_args(arguments)
    names = list(DATASETS) if options.dataset == "all" else [options.dataset]
    failed = 0
    for remote in (remote for name in names for remote in DATASETS[name]):
        try:
            print(f"{fetch(remote, options.root)}: complete")
        except DataError as error:
            print(error, file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
