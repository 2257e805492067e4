"""The documents hold the tables of today's records."""

from __future__ import annotations

import dataclasses

import pytest
from recorded import ONE_OF_EACH, OTHERS, RECORDS

from scripts.results.definitions import TABLES
from scripts.results.main import DOCUMENTS, MARKED, ROOT, refresh, with_published, with_tables
from scripts.results.records import Published, load
from scripts.results.tables import unsaid


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_of_a_document_are_up_to_date(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == len(MARKED.findall(text)) > 0
    assert with_tables(text, RECORDS) == text, "run `make tables`"


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_table_share_what_nothing_says(name):
    assert unsaid(TABLES[name], RECORDS) == []


def test_every_table_and_record_is_shown():
    text = (ROOT / "REPLICATION.md").read_text(encoding="utf-8")
    assert {match[1] for match in MARKED.findall(text)} == TABLES.keys() - {"readme"}
    shown = {entry.record for table in TABLES.values() for entry in table.entries()}
    assert shown >= RECORDS.keys()


def test_the_readme_shows_ten_lines_at_most():
    assert len(TABLES["readme"].rows) <= 10


def test_a_table_that_nobody_knows_is_refused():
    with pytest.raises(KeyError, match="there is no table nothing"):
        with_tables("<!-- table: nothing -->\n<!-- end -->", RECORDS)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_published_figures_are_those_of_conf(name):
    assert with_published(RECORDS[name]) == RECORDS[name], "run `make tables`"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_published_figure_is_that_of_conf(name):
    assert with_published(RECORDS[name]) == RECORDS[name], "run `make tables`"


def test_a_published_figure_that_conf_no_longer_has_goes(tmp_path, capsys):
    record = RECORDS["sinusoid/maml"]
    (fresh,) = refresh([dataclasses.replace(record, published=Published(0.1, None, "nobody", ""))], tmp_path)
    assert fresh == record and load(tmp_path) == [record]
    assert "sinusoid/maml: published" in capsys.readouterr().out
