"""A run's folder from somebody else, with forty kinds of harm: none of its code runs, and none ends in a traceback."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import SMALL, metarun

import metarun as package
from metarun.report.main import main as report

TINY = (*SMALL, "run.iterations=4", "run.checkpoint_seconds=0", "backbone.hidden=[8]", "run.log_every=2")
RAN = "CODE_RAN"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run and, beside it, the same as it was before its test."""
    folder = tmp_path_factory.mktemp("foreign")
    assert metarun(*TINY, "hydra.run.dir=run", folder=folder).status == 0
    return folder / "run"


# ------------------------------------------------------------------------------------------------- kinds of harm


def in_config(*keys: str, value: object) -> Callable[[Path], None]:
    """A value at a place of config.yaml."""

    def harm(folder: Path) -> None:
        path = folder / ".hydra" / "config.yaml"
        config = yaml.safe_load(path.read_text())
        node = config
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
        path.write_text(yaml.safe_dump(config))

    return harm


def override(line: str) -> Callable[[Path], None]:
    """A line more in overrides.yaml."""

    def harm(folder: Path) -> None:
        path = folder / ".hydra" / "overrides.yaml"
        path.write_text(yaml.safe_dump([*yaml.safe_load(path.read_text()), line]))

    return harm


def content(name: str, text: str | bytes) -> Callable[[Path], None]:
    """Another content of a file; `*` in its name stands for the iteration."""

    def harm(folder: Path) -> None:
        for path in list(folder.glob(name)) or [folder / name]:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return harm


def in_json(name: str, **values: object) -> Callable[[Path], None]:
    """Other values in a JSON file."""

    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return harm


def in_choices(group: str, name: str) -> Callable[[Path], None]:
    """Another choice in hydra.yaml."""

    def harm(folder: Path) -> None:
        path = folder / ".hydra" / "hydra.yaml"
        saved = yaml.safe_load(path.read_text())
        saved["hydra"]["runtime"]["choices"][group] = name
        path.write_text(yaml.safe_dump(saved))

    return harm


class Evil:
    """Unpickled, it makes the file."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch ${RAN}",)


def pickled_arrays(folder: Path) -> None:
    np.savez(folder / "episodes.npz", mse=np.array([Evil()], dtype=object), headline_step=0)


def torch_pickle(folder: Path) -> None:
    for path in folder.glob("checkpoint/*.state"):
        torch.save({"optimizers": Evil()}, path)


def flipped_bit(folder: Path) -> None:
    for path in folder.glob("checkpoint/*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))


def without(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def pipe_for_config(folder: Path) -> None:
    path = folder / ".hydra" / "config.yaml"
    path.unlink()
    os.mkfifo(path)


def file_for_folder(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoint")
    (folder / "checkpoint").write_text("x")


SHELL = {"_target_": "os.system", "command": f"touch ${RAN}"}
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
HARMS: dict[str, Callable[[Path], None]] = {
    # code
    "data is a command": in_config("data", value=SHELL),
    "an argument is a command": in_config("data", "noise", value=SHELL),
    "a list holds a command": in_config("backbone", "hidden", value=[SHELL]),
    "the learner is a command": in_config("algo", "_target_", value="subprocess.call"),
    "the network is a command": in_config("backbone", "_target_", value="os.system"),
    "the optimizer is a command": in_config("optimizer", "optimizer", "_target_", value="builtins.eval"),
    "the schedule is a command": in_config("scheduler", "_target_", value="os.system"),
    "a tracker is a command": in_config("tracker", "x", value=SHELL),
    "a module's own import": in_config("data", "_target_", value="metarun.experiment.multirun.shutil.rmtree"),
    "a look at the environment": in_config("data", "noise", value="${oc.env:SECRET,0.0}"),
    "a look by a name that is made": in_config("data", "noise", value="${oc.${seed}env:SECRET}"),
    "a look in a list": in_config("paper", value=[{"source": "${oc.env:SECRET}", "value": 1}]),
    "arguments by place": in_config("data", "_args_", value=[1]),
    "another kind of class": in_config("algo", "_target_", value="metarun.data.sinusoid.Sinusoid"),
    "a class in the overrides": override("data._target_=os.system"),
    "a rerun from a pickle": override("--experimental-rerun=evil.pkl"),
    "a folder of configurations": override("--config-dir=evil"),
    "a multirun": override("--multirun"),
    "a callback": override("+hydra.callbacks.x._target_=os.system"),
    "a search path": override("hydra.searchpath=[file://evil]"),
    "a launcher": override("hydra/launcher=joblib"),
    "another folder": override("hydra.run.dir=elsewhere"),
    "two lines in one": override("seed=0\n--multirun"),
    "a choice outside": in_choices("algo", "../../evil"),
    "a YAML tag": content(".hydra/config.yaml", f'!!python/object/apply:os.system ["touch ${RAN}"]'),
    "a pickle for weights": content("checkpoint/*.safetensors", pickle.dumps(Evil())),
    "a pickle for the state": content("checkpoint/*.state", pickle.dumps(Evil())),
    "a pickle in torch's form": torch_pickle,
    "pickled arrays": pickled_arrays,
    "files elsewhere": in_json("checkpoint/last.json", files="../../../../etc/passwd"),
    "escape sequences": in_json("result.json", algo="\x1b]0;x\x07\x1b[2J", error="\x1b[31m"),
    # damage
    "an empty configuration": content(".hydra/config.yaml", ""),
    "a configuration that is a list": content(".hydra/config.yaml", "[1, 2]"),
    "a configuration of bytes": content(".hydra/config.yaml", b"\xff\xfe\x00\x80"),
    "a deep configuration": content(".hydra/config.yaml", "[" * 100_000),
    "aliases of aliases": content(".hydra/config.yaml", ALIASES),
    "a huge number": in_config("data", "shots", value=10**40),
    "an interpolation of nothing": in_config("algo", "inner_lr", value="${no.such}"),
    "a pipe for the configuration": pipe_for_config,
    "no choices": without(".hydra/hydra.yaml"),
    "overrides that are a mapping": content(".hydra/overrides.yaml", "{a: 1}"),
    "a result that is a list": content("result.json", "[]"),
    "half a result": content("result.json", '{"status": "comp'),
    "half the weights": content("checkpoint/*.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
    "a flipped bit": flipped_bit,
    "a pointer that is none": content("checkpoint/last.json", "null"),
    "a file for the checkpoints": file_for_folder,
    "metrics of bytes": content("metrics.jsonl", b"\x00\xff" * 100),
}
COMMANDS = ("run.resume={}", "run.evaluate={}")


def test_there_are_forty_kinds_of_harm():
    assert len(HARMS) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARMS)
def test_a_harmed_folder_runs_nothing_and_crashes_nothing(kind, whole, tmp_path, monkeypatch, capsys):
    ran = tmp_path / "ran"
    monkeypatch.setenv(RAN, str(ran))
    monkeypatch.setenv("SECRET", "s3cr3t")
    for number, words in enumerate(COMMANDS):
        folder = tmp_path / f"run{number}"
        shutil.copytree(whole, folder)
        if words.startswith("run.resume"):  # as a kill during the test leaves it
            (folder / "result.json").unlink()
        if kind not in ("a result that is a list", "half a result", "escape sequences") or number:
            HARMS[kind](folder)
        where = [f"hydra.run.dir={tmp_path}/new"] if number else []
        outcome = metarun(words.format(folder), *where, folder=tmp_path)
        assert outcome.status in (0, 2), (words, outcome)
        assert "Traceback" not in outcome.out + outcome.err, (words, outcome.err)
        assert "\x1b]0" not in outcome.out + outcome.err
        assert outcome.status == 0 or len(outcome.err.splitlines()) <= 4, (words, outcome.err)
    try:
        package.load(tmp_path / "run1")
    except (package.ConfigError, ValueError, FileNotFoundError):
        pass
    monkeypatch.setattr("sys.argv", ["metarun-report", str(tmp_path / "run1")])
    with pytest.raises(SystemExit) as ended:
        report()
    assert ended.value.code in (None, 0, 1, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err and "\x1b]0" not in shown.out
    assert not ran.exists(), "code from the folder ran"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes(), f"{path} has what no folder may read"


def test_a_whole_one_is_resumed_tested_and_loaded(whole, tmp_path):
    """What the harmed ones are copies of."""
    for number, words in enumerate(COMMANDS):
        folder = tmp_path / f"run{number}"
        shutil.copytree(whole, folder)
        where = [f"hydra.run.dir={tmp_path}/new"] if number else []
        outcome = metarun(words.format(folder), *where, folder=tmp_path)
        assert outcome.status == 0, outcome.err
    assert package.load(tmp_path / "run1").learner is not None
