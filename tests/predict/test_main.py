"""`metarun-predict` as it is typed."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from coloured import picture
from commands import small
from PIL import Image

from metarun.predict.main import main


def predict(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, what it printed, and what it complained of."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out, shown.err


def test_unequal_classes_answer_folders_and_say_how_good_they_are(run, pictures, capsys):
    files = {kind: pictures / f"out.{kind}" for kind in ("csv", "json", "html", "png")}
    flags = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    words = (run, "--support", pictures / "support", "--query", pictures / "asked", *flags)
    status, out, err = predict(*words, capsys=capsys)
    assert (status, err) == (0, "")
    assert "nearest_centroid trained on imagefolder; pictures: RGB, stretched to 8 x 8 pixels" in out
    assert "accuracy: 6 of 6 (100.0 %, 95 % interval 61.0 to 100.0 %)" in out and "confusion" in out
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["label"] for row in rows] == ["blue", "blue", "green", "green", "red", "red"]
    assert all(abs(sum(float(row[f"p({name})"]) for name in ("blue", "green", "red")) - 1) < 1e-4 for row in rows)
    assert json.loads(files["json"].read_text())["classes"] == ["blue", "green", "red"]
    page = files["html"].read_text()
    assert page.count("<img") == 12 and "http" not in page and "Confusion matrix" in page
    assert Image.open(files["png"]).size[0] == 1500


def test_another_class_is_refused_where_that_is_asked_for(run, pictures, capsys):
    stranger = picture(pictures / "asked" / "yellow" / "0.png", "yellow")
    words = (run, "--support", pictures / "support", "--query", pictures / "asked")
    assert "none of them" not in predict(*words, capsys=capsys)[1]
    _, out, _ = predict(*words, "--reject", 0.3, "--json", pictures / "a.json", capsys=capsys)
    assert (
        "queries of other classes that are refused: 1 of 1" in out and "on 100 validation tasks (3-way 2-shot)" in out
    )
    answers = {entry["path"]: entry["label"] for entry in json.loads((pictures / "a.json").read_text())["predictions"]}
    assert answers[str(stranger)] is None and list(answers.values()).count(None) < len(answers)


def test_what_cannot_be_read_is_named_and_left_out(run, pictures, capsys):
    broken = pictures / "asked" / "red" / "broken.png"
    broken.write_text("no picture")
    words = (run, "--support", pictures / "support", "--query", pictures / "asked")
    status, out, err = predict(*words, capsys=capsys)
    assert status == 1 and "accuracy: 6 of 6" in out
    assert err.startswith(f"metarun-predict: skipped: {broken} cannot be read as an image") and err.count("\n") == 1


def test_a_class_without_a_picture_that_can_be_read_is_refused(run, pictures, capsys):
    (pictures / "support" / "green" / "0.png").write_text("no picture")
    words = (run, "--support", pictures / "support", "--query", pictures / "asked")
    status, _, err = predict(*words, capsys=capsys)
    assert status == 2 and "no picture of the class green can be read" in err


def test_names_are_text_on_the_page(run, pictures, capsys):
    shutil.move(pictures / "support" / "red", pictures / "support" / "<script>$x&")
    words = (run, "--support", pictures / "support", "--query", pictures / "asked")
    status, _, _ = predict(*words, "--html", pictures / "p.html", "--png", pictures / "p.png", capsys=capsys)
    page = (pictures / "p.html").read_text()
    assert status == 0 and "<script" not in page and "&lt;script&gt;$x&amp;" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is no run's folder"),
        (["{run}", "--support", "nowhere"], "--support must be a folder of classes or a CSV"),
        (["{run}", "--query", "nowhere.png"], "--query must name pictures that are there"),
        (["{run}", "--reject", "2"], "must be a number above 0 and below 1; got '2'"),
        (["{run}", "--csv", "/dev/null/x"], "/dev/null/x cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(words, message, run, pictures, capsys):
    typed = [word.format(run=run) for word in words]
    for flag, place in (("--support", "support"), ("--query", "asked")):
        typed += [] if flag in typed else [flag, str(pictures / place)]
    status, _, err = predict(*typed, capsys=capsys)
    assert status == 2 and message in err and "Traceback" not in err


def test_runs_that_cannot_answer_say_why(pictures, tmp_path, capsys):
    small("run.iterations=1", folder=tmp_path)
    words = ("--support", pictures / "support", "--query", pictures / "asked")
    status, _, err = predict(tmp_path / "run", *words, capsys=capsys)
    assert status == 2 and "data must be a set of images, to have a preparation; got sinusoid" in err


def test_help(capsys):
    status, out, _ = predict("--help", capsys=capsys)
    assert status == 0 and "--support FOLDER|CSV" in out
