"""The report of a fabricated experiment in a real Chromium: it opens, sorts, scrolls, prints, and can be read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CONTRAST, Visit, chromium, opened  # noqa: F401 (a fixture)
from playwright.sync_api import Browser
from test_stages_report import finish_experiment
from tiny_evaluation import enter_experiment, write_predictions

from pipeline import bundle
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
    headings = [re.sub(r"\W+$", "", text) for text in visit.texts("#cases thead th")]
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
