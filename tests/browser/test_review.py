"""The review page: keys and buttons become reviews that count, undo takes them back, and an audit finds a precision."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from understudy.records import GenerationRequest

#: As little as a generation can be.
TURN = GenerationRequest(
    recipe="tiny", overrides={"teacher_steps": 5, "student_steps": 5, "warmup_steps": 1, "size": 16}
)


@pytest.fixture(autouse=True)
def labeled(house, until):
    """The champion has labeled the bucket: a new one needs a moment."""
    until(lambda: house.client.review_queue().items)


def card(page: Page) -> Locator:
    """The image in sight, when the page listens to keys."""
    page.wait_for_function("() => window.usReview")
    found = page.locator(".us-one:visible")
    expect(found).to_have_count(1)
    return found


def sha256_of(shown: Locator) -> str:
    return str(shown.get_attribute("data-sha256"))


def counting(house, sha256: str):
    return next(house.client.reviews(sha256=sha256, counting=True, limit=1), None)


def figure(page: Page, name: str) -> Locator:
    """The number over a name."""
    return page.locator(".us-figure", has=page.get_by_text(name, exact=True)).locator(".us-value")


def test_a_key_accepts_and_the_next_image_is_there_at_once(page: Page, house, until, shot: Callable[[str], None]):
    """Before the system has answered; Enter accepts as what was shown, r rejects, s says nothing."""
    page.goto("/review")
    first = sha256_of(card(page))
    label = page.locator(".us-one:visible .us-label").inner_text()
    following = page.locator(".us-one").nth(1)
    second, picture = sha256_of(following), following.locator(".us-look img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    shot("review")
    assert (
        page.evaluate(
            """() => { document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
        return [...document.querySelectorAll('.us-one')].find(one => one.offsetParent).dataset.sha256; }"""
        )
        == second
    )
    until(lambda: counting(house, first))
    said = counting(house, first)
    assert (said.verdict, said.class_name) == ("accept", label)
    expect(figure(page, "accepted")).to_have_text("1")

    page.keyboard.press("r")
    until(lambda: counting(house, second))
    assert counting(house, second).verdict == "reject"
    third = sha256_of(card(page))
    page.keyboard.press("s")
    expect(figure(page, "skipped")).to_have_text("1")
    assert sha256_of(card(page)) != third
    assert counting(house, third) is None


def test_a_correction_is_in_the_log_and_undo_brings_the_image_back(page: Page, house, until):
    """By the beginning of a class, whose words are no keys meanwhile; twice undone it is as before."""
    page.goto("/review?by=uncertain&bucket=street")
    shown = card(page)
    sha256 = sha256_of(shown)
    label = page.locator(".us-one:visible .us-label").inner_text()
    other = next(name for name in ("amber", "jade", "lilac") if name != label)
    page.keyboard.press("c")
    expect(shown.get_by_role("textbox")).to_be_focused()
    page.keyboard.type(other[:3])
    expect(shown.locator(".us-found button").first).to_have_text(other)
    page.keyboard.press("Enter")
    until(lambda: counting(house, sha256))
    said = counting(house, sha256)
    assert (said.verdict, said.class_name, said.label) == ("correct", other, label)
    assert next(house.client.reviews(limit=1)).sha256 == sha256
    past = page.locator(".us-past").first
    expect(past).to_contain_text(other)

    page.keyboard.press("Control+z")
    expect(page.locator(f'.us-one[data-sha256="{sha256}"]')).to_be_visible()
    until(lambda: counting(house, sha256) is None)
    expect(past).to_contain_text("undone")


def test_an_image_that_was_looked_at_can_be_reviewed_from_there(page: Page, house, until):
    """Its own button leads to it, before whatever the queue would ask first."""
    wanted = house.client.review_queue(limit=30).items[-1].sha256
    page.goto(f"/pseudo-labels/{wanted}")
    page.get_by_role("link", name="Review", exact=True).last.click()
    assert sha256_of(card(page)) == wanted
    page.keyboard.press("Enter")
    until(lambda: counting(house, wanted))


def test_a_class_that_nobody_knows_is_one_only_if_that_is_said(page: Page, house, until):
    """Enter takes nothing that it does not know; whatever the name is, it is words."""
    name = "<img src=x onerror=document.title='run'>"
    page.goto("/review")
    shown = card(page)
    sha256 = sha256_of(shown)
    shown.get_by_role("textbox").fill(name)
    shown.get_by_role("textbox").press("Enter")
    expect(shown).to_be_visible()
    shown.get_by_role("button", name="is a new class").click()
    until(lambda: counting(house, sha256))
    assert (counting(house, sha256).class_name, counting(house, sha256).is_new_class) == (name, True)
    page.get_by_role("button", name="Undo: <img").click()
    until(lambda: counting(house, sha256) is None)
    assert "Review" in page.title()


def test_what_was_corrected_is_in_the_labeled_set_of_the_next_generation(page: Page, house, until):
    """Its student has learned from it, as its model card says; no rejected or undone one is among them."""
    page.goto("/review")
    sha256 = sha256_of(card(page))
    other = {"amber": "jade", "jade": "lilac", "lilac": "amber"}[page.locator(".us-one:visible .us-label").inner_text()]
    page.locator(".us-one:visible .us-choice", has_text=other).click()
    until(lambda: counting(house, sha256))
    assert counting(house, sha256).class_name == other
    joined = [each for each in house.client.reviews(counting=True) if each.class_name and not each.is_new_class]
    turn = house.client.wait_for_generation(house.client.generate(TURN).number)
    student = next(each for each in house.client.models() if each.id == turn.version)
    assert student.card.data["num_reviewed"] == len(joined)
    house.client.undo_reviews([counting(house, sha256).id])


def test_several_are_chosen_and_said_at_once_and_undone(page: Page, house, until, shot: Callable[[str], None]):
    """A click, and a shift-click to the end of the row; one request has them all, one undo takes them back."""
    page.goto("/review?view=grid")
    page.wait_for_function("() => window.usReview")
    tiles = page.locator(".us-tile")
    some = [sha256_of(tiles.nth(i)) for i in range(4)]
    tiles.nth(0).click()
    tiles.nth(3).click(modifiers=["Shift"])
    expect(page.locator('.us-tile[aria-pressed="true"]')).to_have_count(4)
    shot("review-grid")
    page.keyboard.press("c")
    page.keyboard.type("jade")
    page.keyboard.press("Enter")
    until(lambda: all(counting(house, sha256) for sha256 in some))
    assert {counting(house, sha256).class_name for sha256 in some} == {"jade"}
    expect(page.locator(f'.us-tile[data-sha256="{some[0]}"]')).to_have_count(0)

    page.get_by_role("button", name="Undo the last").click()
    expect(page.locator('.us-tile[aria-pressed="true"]')).to_have_count(4)
    assert not any(counting(house, sha256) for sha256 in some)


def test_an_audit_is_blind_and_its_answer_changes_the_precision(page: Page, house, until, shot: Callable[[str], None]):
    """No label, no confidence, no skipping; the answer is one of the audit, and the figures have it."""
    page.goto("/review?by=audit&threshold=0.2")
    shown = card(page)
    sha256 = sha256_of(shown)
    expect(shown).not_to_contain_text("%")
    expect(shown.get_by_role("button", name=re.compile("Accept|Skip"))).to_have_count(0)
    before = house.client.audit(threshold=0.2).num_audited
    page.keyboard.press("2")
    until(lambda: counting(house, sha256))
    said = counting(house, sha256)
    assert (said.is_audit, said.class_name, said.audit_threshold) == (True, "jade", 0.2)
    now = house.client.audit(threshold=0.2)
    assert now.num_audited == before + 1
    expect(figure(page, "of the labels are right")).to_have_text(f"{100 * now.precision:.1f} %")
    expect(figure(page, "answers agreed")).to_have_text(f"{now.num_right} of {now.num_audited}")
    page.keyboard.press("r")
    expect(figure(page, "answers agreed")).to_have_text(f"{now.num_right} of {now.num_audited + 1}")
    shot("review-audit")


def test_words_in_the_address_that_no_queue_knows_are_refused_in_words(page: Page):
    """Also where they are markup."""
    page.goto("/review?class=%3Cimg+src%3Dx+onerror%3Ddocument.title%3D1%3E")
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    page.goto("/review?by=luck")
    expect(page.get_by_role("alert")).to_contain_text("by")
