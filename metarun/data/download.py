"""The command `metarun-download`: data sets of images, from where torchvision, learn2learn and their authors have them.

    metarun-download omniglot --root FOLDER

pooch downloads a file and checks its hash; only a file that passes gets its name, and one that is there and passes is
left alone. A download that breaks off is resumed by the same command. An archive is unpacked beside itself. Nothing
else in metarun needs a network, except the class lists of Omniglot's partition `vinyals` where the data has none.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pooch
import requests
from filelock import FileLock

from metarun.data import miniimagenet
from metarun.data.roots import data_roots, missing
from metarun.images.cache import Entry, cache_folder, clear, entries
from metarun.tasks import DataError, Split

PIECE = 1 << 15  # bytes written at once; pooch's own 1024 are slow for a file of a gigabyte
TIMEOUT = (15, 60)  # seconds to connect, and between two pieces

pooch.get_logger().setLevel("WARNING")  # the progress bar says it already


class Remote(NamedTuple):
    """A file to download.

    Attributes:
        name: its path below the root.
        urls: addresses of the same file, in the order in which they are tried.
        known_hash: pooch's `ALGORITHM:HEX`; None where the source publishes none.
        check: raises DataError for a file whose contents are wrong; None where the hash is enough.
        by_hand: where a person finds the file, for the error message.
        unpack: a folder in the archive, which is put beside it; where it is there, the archive is not needed. None: the
            file is used as it is.
    """

    name: str
    urls: tuple[str, ...]
    known_hash: str | None
    check: Callable[[Path], None] | None
    by_hand: str
    unpack: str | None = None


def _zip(half: str, md5: str) -> Remote:
    # Address and md5: torchvision 0.23, datasets/omniglot.py.
    url = f"https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{half}.zip"
    by_hand = f"folder python/ of the GitHub repository brendenlake/omniglot holds {half}.zip"
    return Remote(f"omniglot/{half}.zip", (url,), f"md5:{md5}", None, by_hand)


def _class_list(split: Split, sha256: str) -> Remote:
    # The commit is fixed, so the lists cannot change.
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


# Address and md5: torchvision 0.23, datasets/cifar.py.
CIFAR100 = Remote(
    "cifar-100-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    "md5:eb9058c3a382ffc7106e4002c42a8d85",
    None,
    "the python version of CIFAR-100, from www.cs.toronto.edu/~kriz/cifar.html; or a file of the data set's authors, "
    "such as cifar100.zip, which the README of the GitHub repository bertinetto/r2d2 links to, or FC100_*.pickle of "
    "kjunelee/MetaOptNet's, which is used as it is",
    "cifar-100-python",
)
# Address: record 65de6-vp158 of CaltechDATA; md5: torchmeta 1.8, datasets/cub.py.
CUB = Remote(
    "CUB_200_2011.tgz",
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",),
    "md5:97eceeb196236b17998738112f37df78",
    None,
    "CUB_200_2011.tgz is in record 65de6-vp158 of data.caltech.edu",
    "CUB_200_2011",
)
TIERED_IMAGENET = Remote(
    "tiered-imagenet.tar",
    (),  # Google Drive asks a person to confirm a file of 12.9 GB
    None,
    None,
    "the README of the GitHub repository renmengye/few-shot-ssl-public links to tiered-imagenet.tar (12.9 GB) on "
    "Google Drive; the folder that it holds, tiered-imagenet with {train,val,test}_images_png.pkl and "
    "{train,val,test}_labels.pkl, does as well",
    "tiered-imagenet",
)
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
    "cifar_fs": (CIFAR100,),
    "fc100": (CIFAR100,),
    "tiered_imagenet": (TIERED_IMAGENET,),
    "cub": (CUB,),
}


def fetch(remote: Remote, root: Path) -> Path:
    """The path of a file below `root`, or of what was unpacked from it, downloaded if it is not there.

    A file that is there is checked; a folder that was unpacked is taken as it is.

    Raises:
        DataError: no source has it, what came is something else, or the folder cannot be written; the message says why
            and what to do by hand.
    """
    target = root / remote.name
    unpacked = target.parent / remote.unpack if remote.unpack else None
    if unpacked is not None and unpacked.is_dir():
        return unpacked
    if target.exists() and not target.is_file():
        raise DataError(f"{target} must be a file; got a folder, a pipe or a device in its place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # pooch has no lock: of two processes, one waits for the other instead of downloading the same file.
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not (target.exists() and _passes(target, remote)):
                _download(remote, target)
            if unpacked is not None and not unpacked.is_dir():
                _unpack(target, unpacked)
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error}): free space there, or name another with --root") from error
    return unpacked or target


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a folder of a tar archive beside it; whole or not at all.

    Raises:
        DataError: the archive is damaged, holds no such folder, or names that lead out of it.
    """
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        try:
            with tarfile.open(archive) as tar:
                inside = (member for member in tar if Path(member.name).parts[:1] == (folder.name,))
                tar.extractall(temporary, inside, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive} cannot be unpacked ({error}): download it again") from error
        if not (Path(temporary) / folder.name).is_dir():
            raise DataError(f"{archive} must hold the folder {folder.name}, which it does not: download it again")
        os.replace(Path(temporary) / folder.name, folder)


def _passes(target: Path, remote: Remote) -> bool:
    if remote.known_hash:
        algorithm, digest = remote.known_hash.split(":")
        return bool(pooch.file_hash(str(target), algorithm) == digest)
    try:
        if remote.check:
            remote.check(target)
    except DataError:
        return False
    return True


def _download(remote: Remote, target: Path) -> None:
    """Try source after source: `pooch.retrieve` takes one address of a file, and cannot check contents."""
    failures: list[str] = []
    for url in remote.urls:
        try:
            _download_from(url, remote, target)
            return
        except (requests.RequestException, ValueError) as error:  # ValueError: a wrong hash, or a DataError of `check`
            failures.append(f"{url}: {error}")
    reasons = "\n".join(f"    {failure}" for failure in failures or ["no address serves it to a program"])
    resumed = "Run this again if the connection broke off: it is resumed. " if failures else ""
    raise DataError(
        f"{target.name} could not be downloaded:\n{reasons}\n"
        f"{resumed}By hand: {remote.by_hand}; put it at\n"
        f"    {target}\nand run this again, which will check it."
    )


def _download_from(url: str, remote: Remote, target: Path) -> None:
    bar = sys.stderr.isatty()
    if bar:
        print(f"downloading {target.name} from {url}", file=sys.stderr)
    source = hashlib.sha256(url.encode()).hexdigest()[:8]  # what came from one source is no start of another's
    downloader = ResumingDownloader(target.with_name(f".{target.name}.part-{source}"), progressbar=bar)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        path = Path(pooch.retrieve(url, remote.known_hash, target.name, folder, downloader=downloader))
        if remote.check:
            remote.check(path)
        path.chmod(0o644)  # pooch's 0600 would hide the data from others who share the folder
        os.replace(path, target)


class ResumingDownloader:
    """pooch's downloader, made to resume what broke off, which pooch does not do.

    Args:
        partial: keeps what has come so far, until all has.
        progressbar: show how far it is.
    """

    def __init__(self, partial: Path, progressbar: bool) -> None:
        self.partial, self.progressbar = partial, progressbar

    def __call__(self, url: str, output_file: str, client: Any) -> None:
        """Download to `output_file`.

        Raises:
            requests.RequestException: the connection broke off, or there is no such file.
        """
        with open(self.partial, "ab") as file:
            size = file.tell()

            def start_anew_unless_partial(response: requests.Response, **_: Any) -> None:
                if response.status_code == requests.codes.ok:  # the server cannot resume: here is the whole file
                    file.truncate(0)

            # Unencoded, since offsets count the bytes that come over the wire.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
            downloader = pooch.HTTPDownloader(
                progressbar=self.progressbar,
                chunk_size=PIECE,
                timeout=TIMEOUT,
                headers=headers,
                hooks={"response": start_anew_unless_partial},
            )
            try:
                downloader(url, file, client)
            except requests.HTTPError as error:
                response = error.response
                if response is None or response.status_code != requests.codes.requested_range_not_satisfiable:
                    raise
                if response.headers.get("Content-Range") != f"bytes */{size}":
                    self.partial.unlink()
                    raise requests.ConnectionError("the partial download does not fit; it was removed") from error
        os.replace(self.partial, output_file)


def vinyals_list(places: Sequence[Path], split: Split) -> Path:
    """A class list of partition `vinyals`: splits/vinyals/SPLIT.txt below one of `places`, else downloaded.

    Raises:
        DataError: it is in none of the places and cannot be downloaded.
    """
    local = [place / "splits" / "vinyals" / f"{split}.txt" for place in places]
    for path in local:
        if path.exists():
            return path
    try:
        return fetch(VINYALS[split], cache_folder() / "downloads")
    except DataError as error:
        command = "metarun-download omniglot --root FOLDER"
        raise missing(f"the class list {split}.txt of Omniglot's partition vinyals", local, command) from error


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="metarun-download",
        description="Download data sets and check them. What is there already and passes is left alone.",
        epilog="Decoded images of all data sets are kept in the cache folder of the user, or in the one that the "
        "environment variable METARUN_CACHE names. Exit status: 0 all is there, 1 something could not be had or "
        "removed, 2 the command was wrong.",
    )
    parser.add_argument(  # not `choices`, which argparse would hold no name at all to
        "datasets", nargs="*", type=_known, metavar="DATASET", help=f"{', '.join(DATASETS)}, or all"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=data_roots(None)[0],
        metavar="FOLDER",
        help="folder to put them in, later given as data.root=FOLDER (default: METARUN_DATA, else ./data)",
    )
    parser.add_argument("--list-cache", action="store_true", help="list the decoded images that are kept")
    parser.add_argument("--clear-cache", action="store_true", help="remove them: the next run decodes its images again")
    return parser


def _known(name: str) -> str:
    if name not in (*DATASETS, "all"):
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(DATASETS)}, all; got {name!r}")
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        Its exit status: 0, or 1 if something could not be had or removed (2, of a wrong command, is argparse's).
    """
    options = parser().parse_args(arguments)
    cache = options.clear_cache or options.list_cache
    if not options.datasets and not cache:
        parser().error(f"the following arguments are required: DATASET ({', '.join(DATASETS)}, or all)")
    failed = cache and not _cache(options.clear_cache)
    datasets = list(DATASETS) if "all" in options.datasets else list(dict.fromkeys(options.datasets))
    for remote in (remote for name in datasets for remote in DATASETS[name]):
        try:
            print(f"{fetch(remote, options.root)}: complete")
        except DataError as error:
            print(f"metarun-download: {error}", file=sys.stderr)
            failed = True
    return int(failed)


def _cache(remove: bool) -> bool:
    """List the decoded images, and remove them if asked to; whether all that was asked for was done."""

    def size(listed: Sequence[Entry]) -> str:
        return f"{sum(entry.size for entry in listed) / 1e6:,.1f} MB"

    listed, kept = clear() if remove else (entries(), [])
    for entry in listed:
        print(f"{'removed ' if remove else ''}{entry.path}: {size([entry])}")
    for entry in kept:
        print(f"metarun-download: {entry.path} is in use, or cannot be removed: {size([entry])}", file=sys.stderr)
    print(f"{cache_folder() / 'images'}: {size(listed)} {'removed' if remove else 'of decoded images'}")
    return not kept
