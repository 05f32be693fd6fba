"""The report of a fabricated experiment in a real Chromium: it opens, sorts, scrolls, prints, and can be read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CONTRAST, Visit, chromium, opened  # noqa: F401 (a fixture)
from playwright.sync_api import Browser
from test_stages_report import finish_experiment
from tiny_evaluation import enter_experiment, write_predictions

from pipeline import bundle
from pipeline.imaging.comparisons import AGREEMENT, PREDICTION, TRUTH
from pipeline.stages import report

HTML = Path("reports/tiny/index.html")


@pytest.fixture(scope="module", params=[6, 1], ids=["3D", "2D"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives the path of the report of the tiny experiment, of volumes and of single slices."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(bundle, "segment", write_predictions)
        enter_experiment(tmp_path_factory.mktemp("report"), monkeypatch, depth=request.param)
        finish_experiment()
        report.run("tiny")
        yield HTML.resolve()


@pytest.fixture
def visit(chromium: Browser, written: Path) -> Iterator[Visit]:  # noqa: F811
    """Gives the opened report, and demands after the test that it was content and loaded nothing."""
    with opened(chromium, written) as visit:
        yield visit
        assert visit.complaints == visit.requests == []


def first_column(visit: Visit, name: str) -> list[str]:
    """Returns the cells of a column of the case table, as they are shown."""
    headings = [text.split("\n")[0].strip() for text in visit.texts("#cases thead th")]
    return visit.texts(f"#cases tbody tr > :nth-child({headings.index(name) + 1})")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_text_has_contrast_and_the_page_fits_its_window(chromium: Browser, written: Path, scheme: str,  # noqa: F811
                                                       width: int) -> None:
    with opened(chromium, written, scheme=scheme, width=width) as visit:
        found = visit.page.evaluate(CONTRAST)
        assert len(found) > 150
        assert [entry for entry in found if entry["ratio"] < entry["wanted"]] == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in re.findall(r"\d+", paper)) < 384) == (scheme == "dark")
        assert visit.complaints == visit.requests == []


def test_headings_sort_by_click_and_by_keyboard(visit: Visit) -> None:
    recall = visit.page.get_by_role("button", name="Recall")
    recall.click()
    values = first_column(visit, "Recall")
    defined = [float(value) for value in values if value != "–"]
    assert defined == sorted(defined)
    assert len(set(defined)) > 1
    assert values[-1] == "–"
    recall.focus()
    visit.page.keyboard.press("Enter")
    assert [float(value) for value in first_column(visit, "Recall") if value != "–"] == defined[::-1]
    assert visit.page.locator("#cases th[aria-sort=descending]").inner_text().startswith("Recall")
    visit.page.keyboard.press("Space")
    assert [float(value) for value in first_column(visit, "Recall") if value != "–"] == defined


def test_signed_numbers_sort_as_numbers(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Error").click()
    errors = [text.replace("−", "-") for text in first_column(visit, "Error")]
    defined = [float(text) for text in errors if text != "–"]
    assert defined[0] == -100.0
    assert defined == sorted(defined)
    assert len(set(defined)) > 1


def test_the_filter_leaves_rows_with_all_its_words_and_says_how_many(visit: Visit) -> None:
    everything = first_column(visit, "Case")
    field, count = visit.page.get_by_label("Filter"), visit.page.locator(".filter output")
    assert count.inner_text() == f"{len(everything)} of {len(everything)} rows"
    assert count.get_attribute("aria-live") == "polite"
    field.fill("lesion t1")
    assert (first_column(visit, "Case"), first_column(visit, "Label")) == (["t1"], ["lesion"])
    assert count.inner_text() == f"1 of {len(everything)} rows"
    field.fill("FAILED")
    assert set(first_column(visit, "Case")) == {"t3"}
    field.fill("0.75")  # a number is no word
    assert first_column(visit, "Case") == []
    field.fill("")
    assert first_column(visit, "Case") == everything


def test_a_row_leads_to_the_picture_of_its_case(visit: Visit) -> None:
    details = visit.page.locator("details.every")
    details.evaluate("it => { it.open = false; }")
    visit.page.locator("#cases tbody").get_by_role("link", name="t1").first.click()
    figure = visit.page.locator("details.every figure", has_text="t1 · Dice organ 0.750")
    assert figure.is_visible()
    assert figure.evaluate("it => document.activeElement === it")
    assert figure.locator("img").evaluate("it => it.decode().then(() => it.naturalWidth)") > 20
    # A lost scan has none.
    assert visit.page.locator("#cases tbody").get_by_role("link", name="t3").count() == 0


def test_a_row_leads_to_its_picture_without_scripts(chromium: Browser, written: Path) -> None:  # noqa: F811
    with opened(chromium, written, scripts=False) as visit:
        visit.page.locator("#cases tbody").get_by_role("link", name="t2").first.click()
        box = visit.page.locator("details.every figure", has_text="t2").locator("img").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 900


def test_sections_are_landmarks_that_links_lead_to(visit: Visit) -> None:
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert visit.page.get_by_role(role).count() == 1, role
    links = visit.page.locator("nav a").all()
    targets = [str(link.get_attribute("href")) for link in links]
    assert targets == [f"#{section.get_attribute('id')}" for section in visit.page.locator("main > section").all()]
    for link, target in zip(links, targets, strict=True):
        link.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.evaluate("location.hash") == target
        heading = visit.page.locator(f"{target} h2")
        assert heading.evaluate("it => { const top = it.getBoundingClientRect().top; return 0 <= top && top < 900; }")
        assert visit.page.get_by_role("region", name=heading.inner_text()).count() == 1


def test_tab_goes_through_the_page_in_order_and_shows_where_it_is(visit: Visit) -> None:
    places = []
    for _ in range(400):
        visit.page.keyboard.press("Tab")
        place = visit.page.evaluate("""() => {
          const it = document.activeElement, style = getComputedStyle(it);
          const order = [...document.querySelectorAll("*")].indexOf(it);
          return it === document.body ? null : { order, outline: style.outlineStyle, name: it.outerHTML };
        }""")
        if place is None:
            break
        places.append(place)
    assert place is None, "the focus never leaves the page"
    assert [place["order"] for place in places] == sorted(place["order"] for place in places)
    assert [place["name"][:80] for place in places if place["outline"] == "none"] == []
    assert len(places) > 20


def test_it_prints_on_pages_in_light_colours(chromium: Browser, written: Path) -> None:  # noqa: F811
    with opened(chromium, written, scheme="dark") as visit:
        pages = len(re.findall(rb"/Type /Page\b", visit.page.pdf(format="A4", print_background=True)))
        assert 3 <= pages <= 30
        visit.page.emulate_media(media="print")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not visit.page.locator("nav").is_visible()
        # Between A4's margins, where nobody can scroll, every table is whole.
        visit.page.set_viewport_size({"width": 703, "height": 1032})
        assert visit.page.locator(".scroll").count() > 5
        assert visit.page.evaluate("""() => [...document.querySelectorAll(".scroll")]
          .filter((it) => it.scrollWidth > it.clientWidth).map((it) => it.getAttribute("aria-label"))""") == []


def slice_of(visit: Visit, plane: str) -> tuple[int, int]:
    """Returns which slice of how many a plane shows."""
    slider = visit.page.get_by_label(f"{plane} slice")
    said = str(slider.get_attribute("aria-valuetext"))
    assert said == f"slice {slider.input_value()} of {slider.get_attribute('max')}"
    return int(slider.input_value()), int(str(slider.get_attribute("max")))


def drawn(visit: Visit, plane: str, colour: tuple[int, int, int] | None = None) -> int:
    """Returns how many pixels of a plane have a colour; without one a sum that differs where the picture does."""
    visit.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return int(visit.page.locator(f"[data-plane={plane}] canvas").evaluate("""(canvas, colour) => {
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      let sum = 0;
      for (let at = 0; at < data.length; at += 4) {
        sum += colour ? colour.every((value, i) => Math.abs(value - data[at + i]) < 30) : data[at] * (1 + at % 997);
      }
      return sum;
    }""", colour))


@pytest.mark.parametrize("written", [6], ids=["3D"], indirect=True)
def test_the_viewer_scrolls_by_wheel_keys_and_slider(visit: Visit) -> None:
    canvas, slider = visit.page.locator("[data-plane=Axial] canvas"), visit.page.get_by_label("Axial slice")
    canvas.scroll_into_view_if_needed()
    canvas.hover()
    first, slices = slice_of(visit, "Axial")
    assert slices == 6
    assert 1 < first < 6
    before = drawn(visit, "Axial")
    visit.page.mouse.wheel(0, -100)
    visit.page.wait_for_function("([it, wanted]) => it.value === wanted", arg=[slider.element_handle(), str(first + 1)])
    assert drawn(visit, "Axial") != before
    slider.focus()
    visit.page.keyboard.press("ArrowLeft")
    assert drawn(visit, "Axial") == before
    assert slice_of(visit, "Axial") == (first, 6)
    slider.fill("6")
    drawn(visit, "Axial")
    assert slice_of(visit, "Axial") == (6, 6)
    # At the last slice the wheel scrolls the page.
    top = visit.page.evaluate("scrollY")
    canvas.hover()
    visit.page.mouse.wheel(0, -100)
    visit.page.wait_for_function("(top) => scrollY < top", arg=top)
    assert slice_of(visit, "Coronal")[1] == 10
    assert slice_of(visit, "Sagittal")[1] == 12


@pytest.mark.parametrize("written", [6], ids=["3D"], indirect=True)
def test_the_viewer_knows_what_lies_where_the_planes_meet(visit: Visit) -> None:
    visit.page.locator(".viewer select").select_option(label="t1 · worst: Dice organ 0.750, lesion 0.941")
    # From 1 on; lesion B is at 7, 7, 4 and missed, lesion A begins at 7, 1, 1, the organ has moved from x of 1 to 2.
    for place, truth, prediction in (((8, 8, 5), "lesion", "background"), ((8, 2, 2), "lesion", "lesion"),
                                     ((2, 2, 2), "organ", "background"), ((6, 2, 2), "background", "organ")):
        for plane, number in zip(("Sagittal", "Coronal", "Axial"), place, strict=True):
            visit.page.get_by_label(f"{plane} slice").fill(str(number))
        drawn(visit, "Axial")
        assert visit.page.locator(".here").inner_text().endswith(f"truth {truth} · predicted {prediction}")
    # The patient's right is at the left: pressed in the axial plane's left half, the sagittal plane goes to a high x.
    canvas = visit.page.locator("[data-plane=Axial] canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] / 2 - 40, "y": box["height"] / 2})
    drawn(visit, "Axial")
    assert 7 <= slice_of(visit, "Sagittal")[0] <= 12
    assert visit.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Axial slice"


def test_the_viewer_shows_either_outline_and_windows(visit: Visit) -> None:
    visit.page.locator(".viewer").scroll_into_view_if_needed()
    truth, prediction, both = (drawn(visit, "Axial", colour) for colour in (TRUTH, PREDICTION, AGREEMENT))
    assert min(truth, prediction, both) > 100
    visit.page.get_by_label("Prediction", exact=True).uncheck()
    assert drawn(visit, "Axial", PREDICTION) == 0
    assert drawn(visit, "Axial", TRUTH) > truth + 100
    visit.page.get_by_label("Truth", exact=True).uncheck()
    assert drawn(visit, "Axial", TRUTH) == 0
    before, level = drawn(visit, "Axial"), visit.page.get_by_label("Level").input_value()
    visit.page.get_by_label("Level").press("End")
    assert drawn(visit, "Axial") < before
    visit.page.get_by_role("button", name="Reset window").click()
    assert drawn(visit, "Axial") == before
    assert visit.page.get_by_label("Level").input_value() == level
    said = visit.page.locator(".here").inner_text()
    visit.page.get_by_label("Case", exact=True).select_option(index=1)
    visit.page.wait_for_function("(said) => document.querySelector('.here').textContent !== said", arg=said)
    assert drawn(visit, "Axial") != before


@pytest.mark.parametrize("how", [{"scripts": False}, {"before": "delete window.DecompressionStream"}],
                         ids=["without scripts", "in an old browser"])
def test_without_the_viewer_there_are_pictures(chromium: Browser, written: Path, how: dict[str, Any]) -> None:  # noqa: F811
    with opened(chromium, written, **how) as visit:
        assert not visit.page.locator(".viewer").is_visible()
        assert visit.page.get_by_alt_text("Worst case t1").is_visible()
        assert visit.complaints == []
