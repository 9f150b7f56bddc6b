"""The pages of all generations and of one."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

#: It is refused before anything is trained: its teacher is larger.
TOO_SMALL = "efficientnet@width=0.5"


def test_every_generation_is_a_line_that_leads_to_its_page(page: Page, house, shot: Callable[[str], None]):
    """With its state, its student and its accuracy."""
    page.goto("/generations")
    for generation in house.client.generations():
        line = page.get_by_role("row").filter(has_text=f"Generation {generation.number}")
        expect(line).to_contain_text(generation.state)
        expect(line).to_contain_text(generation.version or "–")
    shot("generations")
    page.get_by_role("link", name="Generation 1", exact=True).click()
    expect(page.get_by_role("heading", name="Generation 1")).to_be_visible()


def test_a_generation_shows_how_it_learned_and_from_what(page: Page, house, shot: Callable[[str], None]):
    """Steps that are done, curves with lines in them, the selection, the noised samples, and what was replaced."""
    page.goto("/generations/1")
    expect(page.locator(".us-step-done")).to_have_count(8)
    for described in ("Loss on labeled", "Accuracy of the averaged student", "Learning rate and images"):
        expect(page.get_by_role("img", name=described).locator("svg path").first).to_be_attached()
    labels = page.get_by_role("img", name="Loss on labeled").locator("svg text")
    expect(labels.filter(has_text="pseudo-labeled")).to_be_attached()
    chosen = house.client.selection(1)
    expect(page.get_by_text(f"{chosen.num_kept:,} of {chosen.num_labels:,} pseudo-labels are kept")).to_be_visible()
    replaced = page.get_by_role("row").filter(has_text="teacher_steps")
    expect(replaced).to_contain_text("40")
    expect(replaced).to_contain_text("replaced")
    samples = page.locator("img.us-crisp")
    samples.scroll_into_view_if_needed()
    expect(samples).to_have_js_property("complete", True)
    assert samples.evaluate("image => image.naturalWidth") > 0
    shot("generation")


def test_a_generation_is_opened_with_a_button_and_a_failure_is_told(page: Page, house):
    """A field that no recipe has is refused in words and keeps the form; what only the trainer finds is on its page."""
    page.goto("/generations")
    page.get_by_role("button", name="Open a generation").click()
    fields = page.get_by_role("textbox", name="Fields to replace")
    fields.fill("treshold")
    page.get_by_role("button", name="Open it").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("FIELD=VALUE")
    fields.fill("label_smoothing=0.05")
    page.get_by_role("textbox", name="Student").fill(TOO_SMALL)
    number = house.client.generations()[0].number + 1
    page.get_by_role("button", name="Open it").click()
    page.wait_for_url(f"**/generations/{number}")
    expect(page.locator(".us-step-failed")).to_contain_text("Plan")
    expect(page.get_by_role("alert")).to_contain_text(TOO_SMALL)
    opened = house.client.generation(number)
    assert opened.request.overrides == {"label_smoothing": 0.05}


def test_what_is_no_generation_is_said_to_be_none(page: Page):
    """By its number, or by what is no number."""
    page.goto("/generations/soon")
    expect(page.get_by_text("soon is no generation's number")).to_be_visible()
    page.goto("/generations/999")
    expect(page.get_by_role("alert")).to_contain_text("999")
