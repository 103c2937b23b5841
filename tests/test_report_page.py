"""The page in a real browser, from a file, with no network. All histories are synthetic."""

import base64
import csv
import dataclasses
import io
import itertools
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_icl.report import analyse, write_report
from hf_icl.report.page import render_page
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.task.evaluators import FLIP_SHARE, ICL, IWL
from tests.report_histories import make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>\'\u2028${1}{{7*7}}'


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Return a function that writes runs' page and opens it; at the end,
    nothing may have gone wrong in it."""
    troubles, contexts = [], []

    def open_page(runs, **options):
        path = tmp_path / "index.html"
        path.write_text(render_page(analyse(runs)), "utf-8")
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1200, "height": 900}, "offline": True} | options)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request", lambda request: troubles.append(request.url) if request.url != path.as_uri() else None
        )
        page.goto(path.as_uri())
        return page

    open_page.troubles = troubles
    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def small(name="one", **options):
    return make_run(name, n_rows=20, n_sequences=64, **options)


def cell(page, metric, series):
    return page.locator(f'#values td[data-metric="{metric}"][data-series="{series}"]').inner_text()


def hover_step(page, step):
    """Move the mouse to where the chart shows this step, by the ticks of its axis."""
    box = page.locator("#plot svg").bounding_box()
    pixel = page.evaluate("step => scale.x.to(step)", step)
    page.mouse.move(box["x"] + pixel, box["y"] + 120)


def axis_labels(page):
    return list(dict.fromkeys(page.locator("#plot .xtick").all_text_contents()))


def curves(page):
    return page.eval_on_selector_all(
        "#plot .curve", "all => all.map(c => [c.dataset.series, c.dataset.metric])"
    )


def test_hover_shows_the_numbers_of_that_step(open_page):
    run = small()
    page = open_page([run])
    assert page.locator("#step").inner_text() == "32,000"
    for row in run.rows[10:]:
        hover_step(page, row["step"] + 1)  # near it is enough
        assert page.locator("#step").inner_text() == f"{row['step']:,}"
        for metric in (ICL, IWL, FLIP_SHARE):
            value = row["metrics"][metric]
            assert float(cell(page, metric, "one")) == pytest.approx(value, abs=6e-4)
    assert page.locator("#plot .dot").count() == 6


@pytest.mark.integration
def test_arrow_keys_read_values_too(open_page):
    run = small()
    page = open_page([run])
    page.locator("#plot svg").focus()
    for key, index in [
        ("Home", 0),
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", -1),
        ("ArrowUp", -1),
    ]:
        page.keyboard.press(key)
        assert page.locator("#step").inner_text() == f"{run.rows[index]['step']:,}"
    assert page.locator("#plot svg").get_attribute("aria-valuetext") == "step 32,000"


@pytest.mark.integration
def test_log_steps_change_the_axis(open_page):
    page = open_page([small()])
    linear, width = axis_labels(page), page.evaluate("scale.x.to(1000)")
    assert linear[:3] == ["0", "5k", "10k"]
    page.get_by_label("Log steps").check()
    assert axis_labels(page) == ["100", "1k", "10k"]
    # step 1,000 moves from 3 % of the axis to the middle: log(1000 / 20) / log(32000 / 20) = 0.53
    left, right = page.evaluate("[scale.x.to(20), scale.x.to(32000)]")
    assert (page.evaluate("scale.x.to(1000)") - left) / (right - left) == pytest.approx(0.53, abs=0.005)
    assert width < left + 0.1 * (right - left)
    page.locator("#plot svg").focus()
    page.keyboard.press("Home")
    assert page.locator("#step").inner_text() == "20"  # step 0 has no place on a log axis
    page.get_by_label("Log steps").uncheck()
    assert axis_labels(page) == linear


@pytest.mark.integration
def test_evaluators_and_measures_are_chosen(open_page):
    page = open_page([small()])
    shown = {metric for _, metric in curves(page)}
    assert shown == {ICL, "icl_holdout/accuracy", IWL, "ciwl/accuracy", FLIP_SHARE, "train/loss"}
    page.get_by_label("Training sequences accuracy").check()
    page.get_by_label("IWL accuracy", exact=True).uncheck()
    assert {metric for _, metric in curves(page)} == shown - {IWL} | {"train/accuracy"}
    assert page.evaluate("document.activeElement.type") == "checkbox"  # the keyboard stays where it was
    page.get_by_label("Training sequences accuracy").uncheck()
    page.locator("#view").select_option("probability")
    assert {metric for _, metric in curves(page)} == {"icl/probability", "train/loss"}
    page.locator("#view").select_option("loss")
    assert [metric for _, metric in curves(page)] == ["icl/loss", "train/loss"]


def read_path(d):
    """Return the points of a drawn line, (n, 2)."""
    return np.array([[float(number) for number in point.split(",")] for point in d.strip("M").split("L")])


@pytest.mark.integration
@pytest.mark.parametrize(("seed", "log", "smooth"), [(0, False, "1"), (1, True, "1"), (2, False, "9")])
def test_markers_lie_on_their_own_curves(open_page, seed, log, smooth):
    page = open_page([small(seed=seed)])
    page.locator("#smooth").select_option(smooth)
    if log:
        page.get_by_label("Log steps").check()
    get = "all => all.map(e => [e.dataset.metric, e.getAttribute('d'), e.getAttribute('transform')])"
    drawn = page.eval_on_selector_all("#plot .curve:not(.smooth)", get)
    lines = {metric: read_path(d) for metric, d, _ in drawn}
    events = page.eval_on_selector_all("#plot .event", get)
    assert {metric for metric, _, _ in events} == {ICL, IWL, FLIP_SHARE}
    for metric, d, where in events:
        x, y = map(float, where.removeprefix("translate(").rstrip(")").split(","))
        assert y == pytest.approx(np.interp(x, *lines[metric].T), abs=2)
        corners = read_path(d.rstrip("Z"))
        if len(corners) == 3:  # a triangle's middle, not that of the box about it
            assert corners.mean(axis=0) == pytest.approx([0, 0], abs=0.01)


@pytest.mark.integration
def test_one_run_has_the_band_of_its_sequences(open_page):
    run = small()
    page = open_page([run])
    assert page.locator("#plot .band").count() == 5  # each evaluator with hits; not the loss
    steps, low, high = analyse([run]).bands["one", ICL]
    values = np.array([row["metrics"][ICL] for row in run.rows])
    normal = 1.96 * np.sqrt(values * (1 - values) / 64)  # far from 0 and 1 about what the bootstrap gives
    inner = (values > 0.2) & (values < 0.8)
    assert steps.tolist() == [row["step"] for row in run.rows] and inner.sum() > 3
    assert ((low <= values) & (values <= high)).all()
    assert (high - low)[inner] / 2 == pytest.approx(normal[inner], abs=0.03)
    assert open_page([small(f"run-{n}", width=2**n) for n in range(4)]).locator("#plot .band").count() == 0


def test_smoothing_leaves_what_was_measured(open_page):
    page = open_page([small()])
    find = f'#plot .curve[data-metric="{ICL}"]'
    raw = read_path(page.locator(find).get_attribute("d"))
    page.get_by_label("Smooth").select_option("5")
    kept, smooth = (read_path(page.locator(find).nth(n).get_attribute("d")) for n in (0, 1))
    reach = np.minimum(2, np.minimum(np.arange(20), np.arange(20)[::-1]))
    means = [raw[i - r : i + r + 1, 1].mean() for i, r in enumerate(reach)]
    assert (kept == raw).all() and smooth[:, 1] == pytest.approx(means, abs=0.11)
    assert float(cell(page, ICL, "one")) == pytest.approx(small().rows[-1]["metrics"][ICL], abs=6e-4)


def download(page, kind):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=kind, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.mark.integration
def test_files_of_what_is_shown(open_page):
    run = small("=HYPERLINK(1)")
    page = open_page([run], accept_downloads=True)
    page.get_by_label("Training sequences accuracy").check()
    name, content = download(page, "CSV")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert name == "transience-strategies.csv" and {row["run"] for row in rows} == {"'=HYPERLINK(1)"}
    for metric in (ICL, "train/accuracy", "train/loss"):
        own = [row for row in rows if row["metric"] == metric]
        assert [int(row["step"]) for row in own] == [row["step"] for row in run.rows]
        values = [row["metrics"][metric] for row in run.rows]
        assert [float(row["value"]) for row in own] == pytest.approx(values, rel=1e-5)
    low, high = analyse([run]).bands[run.name, ICL][1:]
    own = [row for row in rows if row["metric"] == ICL]
    assert [float(row["low"]) for row in own] == pytest.approx(low.tolist(), rel=1e-5)
    assert [float(row["high"]) for row in own] == pytest.approx(high.tolist(), rel=1e-5)

    drawing = ElementTree.fromstring(download(page, "SVG")[1])
    texts = [
        text for element in drawing.iter("{http://www.w3.org/2000/svg}text") for text in element.itertext()
    ]
    assert {"ICL accuracy", "CIWL accuracy", "Training sequences accuracy", "Training step"} <= set(texts)
    lines = [
        path for path in drawing.iter("{http://www.w3.org/2000/svg}path") if path.get("data-metric") == ICL
    ]
    assert lines[0].get("stroke") == "rgb(0, 114, 178)" and lines[0].get("fill") == "none"
    assert "var(" not in ElementTree.tostring(drawing, encoding="unicode")

    picture = Image.open(io.BytesIO(download(page, "PNG")[1])).convert("RGB")
    assert picture.width == 2 * round(float(drawing.get("width")))
    colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {(255, 255, 255), (0, 114, 178), (213, 94, 0)} <= colours  # paper, ICL, IWL


@pytest.mark.integration
def test_a_link_keeps_the_view(open_page, browser):
    runs = [small(f"run {n}", width=2**n) for n in range(3)]
    page = open_page(runs)
    page.get_by_label("IWL accuracy", exact=True).uncheck()
    page.get_by_label("run 1").uncheck()
    page.get_by_label("Log steps").check()
    page.get_by_label("Smooth").select_option("3")
    shown = curves(page), axis_labels(page)
    page.get_by_role("link", name="Link to this view").click()
    address = page.url
    other = page.context.new_page()
    other.goto(address)
    assert (curves(other), axis_labels(other)) == shown
    assert not other.get_by_label("run 1").is_checked() and other.locator("#smooth").input_value() == "3"
    other.evaluate("location.hash = '#view=nonsense&smooth=1e9&curves=icl+%3Cb%3E&runs=0+99+__proto__'")
    other.wait_for_function("document.querySelectorAll('#plot .curve').length === 4")
    assert {name for name, _ in curves(other)} == {"run 0"}  # what is known of it holds
    assert (
        other.locator("#view").input_value() == "strategies" and other.locator("#smooth").input_value() == "3"
    )


@pytest.mark.integration
def test_two_runs_compare(open_page):
    first, second = small("first"), small("second", seed=1, fades=False, width=128)
    page = open_page([first, second])
    hover_step(page, 32_000)
    for run in (first, second):
        assert float(cell(page, ICL, run.name)) == pytest.approx(run.rows[-1]["metrics"][ICL], abs=6e-4)
    dashes = page.eval_on_selector_all(
        f'#plot .curve[data-metric="{ICL}"]', "all => all.map(c => c.getAttribute('stroke-dasharray'))"
    )
    assert len(set(dashes)) == 2
    page.get_by_label("first").uncheck()
    assert {series for series, _ in curves(page)} == {"second"}
    page.get_by_label("second").uncheck()
    assert curves(page) == [] and "Nothing to show" in page.locator("#plot").inner_text()
    page.get_by_label("first").check()
    assert {series for series, _ in curves(page)} == {"first"}


@pytest.mark.integration
def test_replicas_have_a_mean_with_a_band(open_page):
    runs = [small(f"seed-{seed}", seed=seed) for seed in range(3)]
    page = open_page(runs)
    mean = "Mean of seeds 0–2"
    hover_step(page, 32_000)
    expected = sum(run.rows[-1]["metrics"][ICL] for run in runs) / 3
    assert float(cell(page, ICL, mean)) == pytest.approx(expected, abs=6e-4)
    assert page.locator("#plot .band").count() == 6
    page.get_by_label(mean).uncheck()
    assert page.locator("#plot .band").count() == 0


@pytest.mark.integration
def test_bands_of_means_are_drawn_while_they_can_be_told_apart(open_page):
    runs = [small(f"width={w},seed={seed}", seed=seed, width=w) for w in (1, 2, 4, 8) for seed in range(2)]
    page = open_page(runs)
    assert page.locator("#plot .band").count() == 0
    page.get_by_role("checkbox", name="Mean of width=8").uncheck()
    for seed in range(2):
        page.get_by_role("checkbox", name=f"width=8,seed={seed}").set_checked(False)
    assert page.locator("#plot .band").count() == 3 * 6


@pytest.mark.integration
def test_values_between_evaluations_are_marked(open_page):
    first, second = small("first"), small("second", width=128)
    rows = [row | {"step": row["step"] + 400} for row in second.rows]
    page = open_page([first, dataclasses.replace(second, rows=rows)])
    step = first.rows[-2]["step"]
    hover_step(page, step)
    assert page.locator("#step").inner_text() == f"{step:,}"
    assert cell(page, ICL, "second").startswith("≈") and not cell(page, ICL, "first").startswith("≈")
    page.locator("#plot svg").focus()
    page.keyboard.press("Home")
    assert cell(page, ICL, "second") == "–"  # not measured yet


@pytest.mark.integration
def test_hostile_names_and_values_do_not_run(open_page):
    run = small(HOSTILE)
    rows = [row | {"metrics": row["metrics"] | {f"{HOSTILE}/accuracy": 0.5}} for row in run.rows]
    hostile = dataclasses.replace(
        run, rows=rows, config={"seed": 0, "note": HOSTILE}, provenance={HOSTILE: HOSTILE},
        chance=run.chance | {f"{HOSTILE}/accuracy": 0.1},
    )  # fmt: skip
    page = open_page([hostile, small("plain", width=8)])
    assert page.evaluate("window.hacked") is None
    assert (
        page.locator("img").count() == 0 and page.locator("main b").count() == 8
    )  # our own, in the definitions
    assert page.locator("#columns th").nth(1).inner_text().startswith("</script><img src=x")
    assert page.locator("#values tr").filter(has_text="<b>'").count() == 1
    # even if someone got markup into the page, it could neither run nor load anything
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<i onclick=\"window.hacked=2\">x</i>')")
    page.locator("body > i").click()
    assert page.evaluate("window.hacked") is None
    assert "Content Security Policy" in open_page.troubles.pop()


def test_a_run_made_by_someone_else_runs_nothing(open_page, tmp_path):
    """A run folder as it is pulled, whose files are hostile wherever they hold names or free text."""
    overrides = [
        "task.bank.n_classes=24",
        "training.batch_size=64",
        "training.steps=32000",
        "training.arguments={run_name: " + json.dumps(HOSTILE) + "}",
    ]
    config = load_config("default", overrides)
    about = {
        "schema": 1,
        "config": config.to_dict(),
        "chance": {ICL: 0.1, f"{HOSTILE}/accuracy": 0.1},
        "n_sequences": {"icl": 64, HOSTILE: 64},
        "bank": {
            "name": HOSTILE,
            HOSTILE: HOSTILE,
            "n_classes": 24,
            "n_holdout_classes": 4,
            "n_exemplars": 1,
        },
        "provenance": {
            "seed": HOSTILE,
            "versions": {HOSTILE: HOSTILE},
            "commit": HOSTILE,
            "machine": HOSTILE,
            "command": HOSTILE,
            HOSTILE: {HOSTILE: [HOSTILE]},
        },
    }
    folder = tmp_path / "<img src=x onerror=window.hacked=1>"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(about["config"]))
    (folder / "run.json").write_text(json.dumps(about))
    rows = [row | {"metrics": row["metrics"] | {f"{HOSTILE}/accuracy": 0.5}} for row in small().rows]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = open_page([Run.open(folder).record()])
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
    assert page.locator("#columns th").nth(1).inner_text().startswith("<img src=x")
    assert page.locator("text=7*7").count() >= 3  # it is there, as text


@pytest.mark.integration
def test_phone_and_dark_scheme(open_page):
    page = open_page([small(f"a-run-with-a-rather-long-name-{i}", seed=i) for i in range(4)],
                     viewport={"width": 375, "height": 800}, color_scheme="dark")  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") == 375  # nothing sticks out
    assert page.locator("#plot svg").bounding_box()["width"] <= 375
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert (dark, page.evaluate("getComputedStyle(document.body).backgroundColor")) == (
        "rgb(20, 23, 27)", "rgb(255, 255, 255)",
    )  # fmt: skip


@pytest.mark.integration
def test_a_run_that_has_hardly_begun(open_page):
    run = small()
    page = open_page([dataclasses.replace(run, rows=[])])
    assert "Nothing to show" in page.locator("#plot").inner_text()
    page = open_page([dataclasses.replace(run, rows=run.rows[:1])])
    page.get_by_label("Log steps").check()  # step 0 alone: nothing is left
    assert "Nothing to show" in page.locator("#plot").inner_text()
    page.get_by_label("Log steps").uncheck()
    assert page.locator("#step").inner_text() == "0"


@pytest.mark.integration
def test_thinned_curves_say_so(open_page):
    run = small()
    rows = [{"step": s, "sequences": s, "metrics": {ICL: float(s % 7 == 0)}, "hits": {}} for s in range(5000)]
    page = open_page([dataclasses.replace(run, rows=rows, n_sequences={})])
    assert "more than 2,000 evaluations" in page.locator("#thinned").inner_text()
    assert len(json.loads(page.locator("#data").text_content())["series"][0]["curves"][ICL]["steps"]) <= 2002


@pytest.mark.integration
def test_without_scripts_the_numbers_stand(open_page):
    page = open_page([small()], java_script_enabled=False)
    assert "This chart needs JavaScript" in page.locator("noscript").inner_text()
    assert "half-decay, step" in page.locator(".numbers").inner_text()


def make_sweep(tmp_path, grid):
    """Write the report of a sweep over a grid, two seeds each."""
    keys = [key for key in grid if key != "seed"]
    runs = []
    for number, values in enumerate(itertools.product(*grid.values(), range(2))):
        name = ",".join(f"{key}={value}" for key, value in zip([*grid, "seed"], values, strict=True))
        run = small(name, seed=number)
        config = run.config | dict(zip([*grid, "seed"], values, strict=True))
        runs.append(dataclasses.replace(run, config=config))
    return write_report(runs, tmp_path / "report", varied={key: key for key in keys})


@pytest.mark.integration
@pytest.mark.parametrize(
    "sizes", [(2, 1), *(pytest.param(n, marks=pytest.mark.slow) for n in [(3, 2), (4, 3)])]
)
@pytest.mark.parametrize("width", [390, 1300])
def test_a_sweeps_page_fits(browser, tmp_path, sizes, width):
    """Nothing sticks out of the page, on a screen or on paper, and no name is cut."""
    report = make_sweep(tmp_path, {f"a_rather_long_key_{n}": [*range(size)] for n, size in enumerate(sizes)})
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark", offline=True)
    page.goto(report.page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    names = [column["name"] for column in (*report.document["groups"], *report.document["runs"])]
    heads = page.eval_on_selector_all(
        ".numbers:not(.varied) thead th + th", "all => all.map(e => e.textContent)"
    )
    assert heads == names
    checked = page.locator("#runs input:checked").count()
    assert checked == min(6, len(names))
    image = page.locator("picture img")
    is_tall = image.evaluate("e => e.naturalHeight > 1.2 * e.naturalWidth && e.naturalWidth < 800")
    assert is_tall == (width == 390)  # panels one below the other, drawn for that width
    if width == 390:  # nothing scrolls sideways: a row is a list of what its cells are
        page.eval_on_selector_all("details", "all => all.forEach(e => { e.open = true; })")
        sideways = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText.slice(0, 80))"
        assert page.eval_on_selector_all(".scroll", sideways) == []
        labels = "e => [...e.children].map(cell => getComputedStyle(cell, '::before').content)"
        for table, skipped in [(".varied", 0), (".readout table", 1), ("#numbers ~ .scroll .numbers", 1)]:
            table = page.locator(table).first
            heads = [text.replace(",", ",\u200b") for text in table.locator("thead th").all_text_contents()]
            row = table.locator("tbody tr").first.evaluate(labels)
            assert [json.loads(label) for label in row[skipped:]] == heads[skipped:]
        page.eval_on_selector_all("details", "all => all.forEach(e => { e.open = false; })")
    else:
        assert page.locator(".varied thead").is_visible()
    # the picture of a dark page is dark: its corner is the page's own colour
    source = image.evaluate("e => e.currentSrc")
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
    assert picture.getpixel((0, 0)) == (20, 23, 27)
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without margins
    page.emulate_media(media="print", color_scheme="light")
    wide = "all => all.filter(e => e.getBoundingClientRect().right > 719).map(e => e.className || e.tagName)"
    assert page.eval_on_selector_all("main *:not(wbr)", wide) == []
    broken = (
        "all => all.filter(e => e.offsetHeight > 20).map(e => e.textContent)"  # two lines of paper's letters
    )
    intervals = page.locator(".numbers:not(.varied) .whole > span")
    assert intervals.count() and intervals.evaluate_all(broken) == []
    page.close()


@pytest.mark.integration
def test_what_is_folded_is_printed_or_said_to_be_left_out(browser, tmp_path):
    """Folded results stand on paper; of folded origins a sentence says where they are."""
    report = make_sweep(tmp_path, {"width": [*range(7)]})
    page = browser.new_page(viewport={"width": 718, "height": 1000}, offline=True)
    page.goto(report.page.as_uri())
    folded = page.locator("details.results")
    height = "all => all.map(e => e.getBoundingClientRect().height)"
    closed = folded.evaluate_all(height)
    origins = page.locator("details:not(.results)")
    shut = origins.evaluate_all(height)
    assert folded.count() == 1 + 6 + 1 and origins.count() == 14  # verdicts, answers of six runs, numbers
    assert not page.locator("details[open]").count() and not page.locator(".paper").is_visible()
    page.emulate_media(media="print")
    printed = folded.evaluate_all(height)
    assert all(after > before + 40 for before, after in zip(closed, printed, strict=True)), (closed, printed)
    assert max(origins.evaluate_all(height)) < 2 * max(shut)
    assert "transience.json holds them all" in page.locator(".paper").inner_text()
    page.close()
