"""The page of `metarun-report --html` in a real browser, opened from disk: what it shows, does and requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import config_of, write_config, write_run

from metarun.report.page.build import write_page
from metarun.run_folder import read_runs

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SCRIPT = "<script>alert(1)</script>"
IMAGE = '<b>"><img src=x onerror=alert(1)></b>'
RESULT = "mse ± 95 %"
NAMES = "#runs-table tbody th"
INK = "getComputedStyle(document.querySelector('#{plot} .xtitle')).fill"  # of the text in a plot


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of two learners at three rates, where one diverges, a run named like a script, and two broken runs."""
    folder = tmp_path_factory.mktemp("runs")
    means = {"maml_0.01": 0.5, "maml_0.1": 0.9, "maml_1": None, "tnet_0.1": 0.45, "tnet_1": 12.0}
    for name, mean in means.items():
        algo, rate = name.split("_")
        write_run(folder / name, algo, 0, float(rate), mean, "diverged" if mean is None else "completed")
    blown = [{"step": step, "mean": mean, "ci95": 0.1} for step, mean in enumerate((2.0, 0.6, 1e3, 1e6))]
    write_run(folder / "tnet_0.01", "tnet", 0, 0.01, 0.6, steps=blown)
    write_run(
        folder / SCRIPT, IMAGE, 0, 0.01, 0.7, config={"algo": {"note": IMAGE}}, paper={"source": IMAGE, "value": 0.4}
    )
    (write_run(folder / "broken") / "result.json").write_text('{"status": "comp')
    write_config(folder / "going", config_of("maml", 5, 0.01, "sinusoid"))
    write_page(read_runs([folder]), folder / "page.html", title=SCRIPT)
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def windows(browser, report: Path) -> Iterator[Callable]:
    """A function that opens the page in a new window; fails at the end if any requested, logged or raised something."""
    trouble: list[str] = []
    contexts = []

    def watch_request(request) -> None:
        if not request.url.startswith(("file://", "data:", "blob:")):
            trouble.append(f"request of {request.url}")

    def watch_dialog(dialog) -> None:
        trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_it(width: int = 1400, height: int = 1000, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", watch_request)
        page = context.new_page()
        page.on("dialog", watch_dialog)
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def open_page(browser, report) -> Iterator[Callable]:
    with windows(browser, report) as open_it:
        yield open_it


@pytest.fixture(scope="module")
def still(browser, report) -> Iterator:
    """A page for all the tests that do not change it."""
    with windows(browser, report) as open_it:
        yield open_it()


def names(page) -> list[str]:
    """Of the runs in the rows that are shown, in their order."""
    return page.locator(NAMES).all_text_contents()


def traces(page, plot: str) -> list[dict]:
    """The traces of a plot, without the faint ones."""
    drawn_traces = page.evaluate(
        "id => document.getElementById(id).data.map(({x, y, name, meta, hoverinfo, marker}) => "
        "({x, y, name, meta, hoverinfo, symbol: marker?.symbol}))",
        plot,
    )
    return [trace for trace in drawn_traces if trace["hoverinfo"] != "skip"]


def drawn(page, plot: str = "learning-plot") -> set[str]:
    return {trace["meta"] for trace in traces(page, plot)}


def box(page, name: str):
    return page.get_by_role("checkbox", name=f"plot {name}", exact=True)


def table(page, selector: str) -> list[list[str]]:
    rows = page.locator(f"{selector} tr")
    return [rows.nth(at).locator("th, td").all_text_contents() for at in range(rows.count())]


@pytest.mark.slow
def test_the_page_says_how_many_runs_there_are_by_status(still):
    assert still.locator("#summary").text_content() == "9 runs · 6 completed · 1 diverged · 1 unfinished · 1 broken"
    assert still.locator("h1").text_content() == still.title() == SCRIPT
    assert still.locator(".status").all_text_contents().count("completed") == 6
    assert still.locator("#trouble").is_hidden()


@pytest.mark.slow
def test_broken_runs_are_listed_with_what_is_wrong(still):
    assert "result.json cannot be read" in still.locator("#runs-table tbody tr", has_text="broken").text_content()
    assert "it is running" in still.locator("#runs-table tbody tr", has_text="going").text_content()


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_and_what_has_no_value_comes_last(open_page):
    page = open_page()
    heading = page.get_by_role("columnheader", name=RESULT)
    heading.click()
    sync_api.expect(heading).to_have_attribute("aria-sort", "ascending")
    ascending = ["tnet_0.1", "maml_0.01", "tnet_0.01", SCRIPT, "maml_0.1", "tnet_1"]
    assert names(page)[:6] == ascending
    heading.click()
    sync_api.expect(heading).to_have_attribute("aria-sort", "descending")
    assert names(page)[:6] == ascending[::-1]
    assert set(names(page)[6:]) == {"maml_1", "broken", "going"}


@pytest.mark.slow
@pytest.mark.parametrize("key", ("Enter", "Space"))
def test_a_key_on_a_heading_sorts(key, open_page):
    page = open_page()
    heading = page.get_by_role("columnheader", name=RESULT)
    page.get_by_role("button", name=f"{RESULT}: Activate to sort").focus()
    page.keyboard.press(key)
    sync_api.expect(heading).to_have_attribute("aria-sort", "ascending")
    assert names(page)[:3] == ["tnet_0.1", "maml_0.01", "tnet_0.01"]
    page.keyboard.press(key)
    sync_api.expect(heading).to_have_attribute("aria-sort", "descending")
    assert names(page)[:3] == ["tnet_1", "maml_0.1", SCRIPT]


@pytest.mark.slow
def test_words_filter_the_rows(open_page):
    page = open_page()
    page.get_by_label("Filter").fill("tnet 0.1")
    assert names(page) == ["tnet_0.1"]
    page.get_by_label("Filter").fill("<script")
    assert names(page) == [SCRIPT]
    page.get_by_label("Filter").fill("no such run")
    assert names(page) == []
    assert "No run matches." in page.locator("#runs-table").text_content()
    page.get_by_label("Filter").fill("")
    assert len(names(page)) == 9


@pytest.mark.slow
def test_status_and_learner_filter_the_rows(open_page):
    page = open_page()
    page.get_by_label("Status", exact=True).select_option("diverged")
    assert names(page) == ["maml_1"]
    page.get_by_label("Status", exact=True).select_option("completed")
    page.get_by_label("Learner", exact=True).select_option("tnet")
    assert set(names(page)) == {"tnet_0.01", "tnet_0.1", "tnet_1"}
    page.get_by_role("button", name="the filtered").click()
    assert drawn(page) == {"tnet_0.01", "tnet_0.1", "tnet_1"}
    assert page.locator("#chosen").text_content().startswith("3 of 9 runs selected")


@pytest.mark.slow
def test_pages_of_the_table_are_turned(open_page):
    page = open_page()
    page.evaluate("document.querySelector('.dt-length select').append(new Option('2', '2'))")
    page.get_by_label("runs a page").select_option("2")
    first = names(page)
    page.get_by_role("link", name="Next").press("Enter")
    assert len(first) == len(names(page)) == 2
    assert not set(first) & set(names(page))


@pytest.mark.slow
def test_a_run_that_is_unselected_leaves_the_plots_and_comes_back(open_page):
    page = open_page()
    everything = drawn(page)
    assert "maml_0.01" in everything & drawn(page, "steps-plot")
    box(page, "maml_0.01").uncheck()
    assert drawn(page) == everything - {"maml_0.01"}
    assert "maml_0.01" not in drawn(page, "steps-plot")
    box(page, "maml_0.01").press("Space")
    assert drawn(page) == everything
    page.get_by_role("button", name="none", exact=True).click()
    assert drawn(page) == drawn(page, "steps-plot") == set()
    page.get_by_role("button", name="all", exact=True).click()
    assert drawn(page) == everything


@pytest.mark.slow
def test_smoothing_changes_the_curve_and_no_smoothing_gives_it_as_logged(open_page):
    page = open_page()
    slider = page.get_by_label("Smoothing")
    first = next(trace["y"] for trace in traces(page, "learning-plot") if trace["meta"] == "maml_0.01")
    assert (slider.input_value(), page.locator("#smoothing-value").text_content()) == ("0", "off")

    def values(weight: str) -> list[float]:
        slider.fill(weight)
        return next(trace["y"] for trace in traces(page, "learning-plot") if trace["meta"] == "maml_0.01")

    def roughness(curve: list[float]) -> float:
        return sum(abs(second - first) for first, second in zip(curve, curve[1:], strict=False))

    logged, little, much = values("0"), values("0.5"), values("0.9")
    faint = page.evaluate(
        "document.getElementById('learning-plot').data"
        ".find((trace) => trace.meta === 'maml_0.01' && trace.hoverinfo === 'skip').y"
    )
    assert len(logged) == 20 and first == logged  # it is off until someone wants it
    assert little[0] == pytest.approx(logged[0])
    assert little[1] == pytest.approx((0.25 * logged[0] + 0.5 * logged[1]) / 0.75)
    assert roughness(much) < roughness(little) < roughness(logged)
    assert faint == logged
    assert page.locator("#smoothing-value").text_content() == "0.90"


@pytest.mark.slow
def test_another_curve_and_a_linear_axis_can_be_chosen(open_page):
    page = open_page()
    kind = "document.getElementById('learning-plot').layout.yaxis.type ?? 'linear'"
    assert page.evaluate(kind) == "log"
    page.locator("#learning").get_by_label("log axis").uncheck()
    assert page.evaluate(kind) == "linear"
    page.get_by_label("Curve", exact=True).select_option("val/mse")
    assert [trace["x"] for trace in traces(page, "learning-plot")][0] == [250, 500, 750, 1000]
    page.locator("#learning").get_by_label("Colours by").select_option("run")
    assert {trace["name"] for trace in traces(page, "learning-plot")} >= {"maml_0.01", "maml_0.1"}


def test_step_curves_hold_the_metric_after_each_step(still):
    (curve,) = [trace for trace in traces(still, "steps-plot") if trace["meta"] == "maml_0.01"]
    assert (curve["x"], curve["y"]) == ([0, 1, 2, 3], [2, 0.5, 0.45, 0.4])


@pytest.mark.slow
def test_a_learner_that_adapts_at_once_has_no_curve_over_steps_and_the_page_says_so(browser, tmp_path):
    write_run(tmp_path / "maml")
    once = [{"step": 0, "mean": 0.4, "ci95": 0.1}]
    write_run(tmp_path / "protonet", "protonet", 0, 0.01, 0.4, steps=once)
    write_page(read_runs([tmp_path]), tmp_path / "page.html")
    with windows(browser, tmp_path / "page.html") as open_it:
        page = open_it()
        note = page.locator("#steps-note").text_content()
        assert "1 selected run of a learner that adapts at once" in note and "measured no" not in note
        assert drawn(page, "steps-plot") == {"maml"}
        assert "train/mse: mean over the tasks of one meta-batch" in page.locator("#learning-note").text_content()
        page.get_by_label("Curve", exact=True).select_option("val/mse")
        assert "val/mse: mean over all validation tasks" in page.locator("#learning-note").text_content()


@pytest.mark.slow
def test_a_run_that_blows_up_while_adapting_leaves_the_others_readable(open_page):
    page = open_page()
    top = "document.getElementById('steps-plot').layout.yaxis.range[1]"
    assert "1 run blew up at later steps" in page.locator("#steps-note").text_content()
    assert page.evaluate(top) == pytest.approx(2.16, abs=0.01)  # log10 of thrice what the worst run began with
    page.get_by_label("whole range").check()
    assert page.evaluate(top) > 5
    assert "blew up" not in page.locator("#steps-note").text_content()


@pytest.mark.slow
def test_differences_of_two_runs_are_those_of_their_configurations(open_page):
    page = open_page()
    page.get_by_role("button", name="none", exact=True).click()
    assert page.locator("#differences-note").text_content() == "Select at least two runs."
    box(page, "maml_0.01").check()
    box(page, "tnet_0.1").check()
    assert table(page, "#differences-table") == [
        ["key", "maml_0.01", "tnet_0.1"],
        ["algo._target_", "metarun.algos.maml", "metarun.algos.tnet"],
        ["algo.inner_lr", "0.01", "0.1"],
    ]
    assert page.locator("#differences-note").text_content() == "2 keys of 9 differ."


def test_learners_are_compared_by_settings(still):
    rows = table(still, "#comparison-table")
    assert rows[0] == ["inner_lr", IMAGE, "maml", "tnet"]
    assert [row[0] for row in rows[1:]] == ["0.01", "0.1", "1"]
    assert rows[1][1:] == ["0.700 ± 0.020published 0.400", "★ 0.500 ± 0.020", "0.600 ± 0.020"]
    assert rows[3][2:] == ["–1 of 1 diverged", "★ 12.00 ± 0.02"]


def test_sensitivity_is_drawn_with_the_rates_that_diverged(still):
    lines = [trace for trace in traces(still, "rates-plot") if trace["symbol"] != "x-thin"]
    crosses = [trace for trace in traces(still, "rates-plot") if trace["symbol"] == "x-thin"]
    assert {trace["name"]: trace["y"] for trace in lines} == {"maml": [0.5, 0.9, None], "tnet": [0.6, 0.45, 12]}
    assert [(trace["name"], trace["x"]) for trace in crosses] == [("maml", [1])]
    assert table(still, "#rates-tables table:not([hidden])")[1:] == [
        ["maml", "0.01", "0.500", "0 decades"],
        ["tnet", "0.1", "0.450", "0 decades"],
    ]


@pytest.mark.slow
def test_text_of_runs_stays_text(open_page):
    page = open_page()
    assert SCRIPT in names(page)
    assert page.locator("img, main script").count() == 0
    box(page, "maml_0.1").uncheck()
    legend = page.locator("#learning-plot .legendtext").all_text_contents()
    assert IMAGE in legend
    page.get_by_role("button", name="none", exact=True).click()
    box(page, SCRIPT).check()
    box(page, "maml_0.01").check()
    differences = table(page, "#differences-table")
    assert differences[0] == ["key", SCRIPT, "maml_0.01"]
    assert ["algo.note", IMAGE, "–"] in differences
    page.evaluate("Plotly.Fx.hover('steps-plot', [{curveNumber: 0, pointNumber: 1}])")
    assert SCRIPT in page.locator("#steps-plot .hovertext").text_content()
    assert page.locator("img, main script").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("system", ("light", "dark"))
def test_the_theme_is_the_systems_until_another_is_chosen_and_kept(system, open_page):
    page = open_page(color_scheme=system)
    other = {"light": "dark", "dark": "light"}[system]
    background = "getComputedStyle(document.body).backgroundColor"
    ink = INK.format(plot="learning-plot")
    colours = {"light": ("rgb(255, 255, 255)", "rgb(27, 31, 36)"), "dark": ("rgb(20, 24, 29)", "rgb(230, 233, 237)")}
    assert (page.evaluate(background), page.evaluate(ink)) == colours[system]
    page.get_by_label("Theme").select_option(other)
    assert (page.evaluate(background), page.evaluate(ink)) == colours[other]
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert (page.evaluate(background), page.evaluate(ink)) == colours[other]
    page.get_by_label("Theme").select_option("auto")
    assert (page.evaluate(background), page.evaluate(ink)) == colours[system]


@pytest.mark.slow
def test_the_theme_follows_the_system_while_the_page_is_open(open_page):
    page = open_page(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    sync_api.expect(page.locator("body")).to_have_css("color", "rgb(230, 233, 237)")
    assert page.evaluate(INK.format(plot="rates-plot")) == "rgb(230, 233, 237)"


CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const channel = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
  };
  const ownText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  return [...document.querySelectorAll("body *")]
    .filter((node) => !node.closest("svg, script, .modebar") && node.getClientRects().length && ownText(node))
    .map((node) => {
      const [dark, bright] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => a - b);
      return [node.textContent.slice(0, 30), (bright + 0.05) / (dark + 0.05)];
    });
}"""


@pytest.mark.slow
@pytest.mark.parametrize("system", ("light", "dark"))
def test_all_text_stands_out_from_what_is_behind_it(system, open_page):
    contrasts = open_page(color_scheme=system).evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [(text, contrast) for text, contrast in contrasts if contrast < 4.5] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", (360, 390))
def test_a_phone_scrolls_the_page_only_downwards(width, open_page):
    page = open_page(width, 800, is_mobile=True, has_touch=True)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert page.evaluate("document.querySelector('#runs .scroll').scrollWidth") > width
    assert page.locator("#learning-plot").bounding_box()["width"] <= width


def test_every_control_has_a_name(still):
    nameless = still.evaluate(
        "[...document.querySelectorAll('input, select, button, a[href], [tabindex=\"0\"]')]"
        ".filter((node) => !node.labels?.length && !node.getAttribute('aria-label') && !node.textContent.trim()"
        " && !node.getAttribute('aria-labelledby')).map((node) => node.outerHTML)"
    )
    assert nameless == []


def test_plots_say_in_words_what_they_show(still):
    assert "train/mse against the iteration, 8 runs" in still.locator("#learning-plot").get_attribute("aria-label")
    assert "maml: robustness 0 decades" in still.locator("#rates-plot").get_attribute("aria-label")


@pytest.mark.slow
def test_the_keyboard_reaches_every_control_and_gets_out_again(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || ''")
        )
        if page.evaluate("document.activeElement === document.body"):
            break
    else:
        pytest.fail("the focus never left the page's controls")
    controls = {
        "filter",
        "status-filter",
        "choose-none",
        "curve",
        "smoothing",
        "learning-log",
        "steps-metric",
        "rates-log",
    }
    assert controls | {"plot maml_0.01", f"{RESULT}: Activate to sort"} <= reached


def test_no_button_of_a_plot_would_upload_it(still):
    labels = still.locator("#learning-plot .modebar-btn").evaluate_all("all => all.map((one) => one.ariaLabel)")
    assert labels == ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]


@pytest.mark.slow
def test_the_picture_of_a_plot_can_be_saved(open_page):
    page = open_page(accept_downloads=True)
    page.locator("#steps-plot").hover()
    with page.expect_download() as download:
        page.locator("#steps-plot .modebar-btn").first.click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def two_settings(tmp_path_factory) -> Path:
    """The page of eight learners at two rates on data sets with different metrics."""
    folder = tmp_path_factory.mktemp("settings")
    for number in range(8):
        for rate in (0.01, 0.1):
            for data, metric, mean in (("sinusoid", "mse", 0.5 + rate), ("omniglot", "accuracy", 0.9 - rate)):
                name = f"{data}_{number}_{rate}"
                write_run(folder / name, f"learner_{number}", 0, rate, mean, data=data, metric=metric)
    write_page(read_runs([folder]), folder / "page.html")
    return folder / "page.html"


@pytest.mark.slow
def test_another_setting_has_its_own_sensitivity(browser, two_settings):
    with windows(browser, two_settings) as open_it:
        page = open_it()
        metrics = {"data omniglot": ("accuracy", 80), "data sinusoid": ("mse", 0.6)}
        for setting, (metric, mean) in metrics.items():
            page.get_by_label("Setting", exact=True).select_option(setting)
            head = table(page, "#rates-tables table:not([hidden])")[0]
            assert head == ["learner", "best rate", f"best {metric}", "robustness"]
            lines = [trace for trace in traces(page, "rates-plot") if trace["symbol"] != "x-thin"]
            assert len(lines) == 8 and lines[0]["y"][1] == pytest.approx(mean)


@pytest.mark.slow
def test_groups_differ_in_colour_or_dash_and_keep_their_look(browser, two_settings):
    looks = (
        "id => Object.fromEntries(document.getElementById(id).data.filter((trace) => trace.hoverinfo !== 'skip')"
        ".map((trace) => [trace.name, trace.line.color + trace.line.dash + trace.marker.symbol]))"
    )
    with windows(browser, two_settings) as open_it:
        page = open_it(color_scheme="dark")
        learners = page.evaluate(looks, "learning-plot")
        assert len(learners) == len(set(learners.values())) == 8
        assert learners["learner_6"].startswith("#e6e9ed")  # the ink of the theme
        box(page, "omniglot_0_0.01").uncheck()
        assert page.evaluate(looks, "learning-plot") == learners
        page.locator("#learning").get_by_label("Colours by").select_option("setting")
        settings = page.evaluate(looks, "learning-plot")
        assert set(settings) == {f"data omniglot, inner_lr {rate}" for rate in (0.01, 0.1)}
        page.locator("#learning").get_by_label("Colours by").select_option("run")
        assert len(page.evaluate(looks, "learning-plot")) == 15


@pytest.mark.slow
def test_of_many_runs_thirty_are_selected_at_first_and_all_can_be(browser, two_settings):
    with windows(browser, two_settings) as open_it:
        page = open_it()
        assert page.locator("#chosen").text_content().startswith("30 of 32 runs selected")
        page.get_by_role("button", name="all", exact=True).click()
        assert len(drawn(page)) == len(drawn(page, "steps-plot")) == 16  # of one of the two metrics


def test_steps_are_labelled_with_integers_once_each(still):
    ticks = still.locator("#steps-plot .xtick text").all_text_contents()
    assert ticks == ["0", "1", "2", "3"]


def test_without_scripts_the_tables_can_be_read(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert len(names(page)) == 9 and SCRIPT in names(page)
    assert table(page, "#comparison-table")[0] == ["inner_lr", IMAGE, "maml", "tnet"]
    assert "scripts are switched off" in page.locator("noscript").inner_text()
    context.close()
