from tests.browser.conftest import give, ready


def test_wide(browser, site, images):
    context = browser.new_context(viewport={"width": 320, "height": 900}, locale="de-DE")
    page = context.new_page()
    page.goto(site.url)
    ready(page)
    page.set_input_files("#file", images("long.png"))
    page.locator(".verdict").wait_for()
    print(
        page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > 321 && e.offsetParent).map((e) => e.tagName + "." + e.className + " " + Math.round(e.getBoundingClientRect().right) + " " + (e.textContent || "").slice(0, 40)).slice(0, 30).join("\\n")"""
        )
    )
    context.close()
