"""What of a page a person with a keyboard, a screen reader, a phone or weak eyes could not use.

The rules are those of WCAG 2.2, AA, as far as a program can see them: asked of the page as Chromium has laid it out, and
of the tree that it gives to screen readers. Debian has no axe-core.
"""

from tests.browser import Browser

_FAULTS = """
const faults = [];
const name = (it) => `<${it.tagName.toLowerCase()}${it.id ? " id=" + it.id : ""}> ${(it.innerText || "").slice(0, 40)}`;
const shown = (it) => it.checkVisibility({ visibilityProperty: true });
const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);

// 3.1.1, 2.4.2, 1.4.10, 1.4.4
if (!document.documentElement.lang) faults.push("no language");
if (!document.title) faults.push("no title");
if (document.documentElement.scrollWidth > window.innerWidth) {
  const wide = all("body *").filter((it) => it.getBoundingClientRect().right > window.innerWidth + 1).map(name);
  faults.push(`wider than the window (${document.documentElement.scrollWidth} of ${window.innerWidth}): ${wide.slice(0, 3)}`);
}
if (/user-scalable|maximum-scale/.test(document.querySelector("meta[name=viewport]").content)) faults.push("no zoom");

// 1.3.1, 2.4.1, 2.4.6: landmarks and headings
for (const mark of ["header", "nav", "main", "footer"]) if (!all(mark).length) faults.push(`no ${mark}`);
if (all("main").length > 1) faults.push("two main");
for (const it of all("nav")) if (!it.ariaLabel) faults.push("a nav without a name");
let level = 0;
for (const it of all("h1, h2, h3, h4, h5, h6")) {
  const next = Number(it.tagName[1]);
  if (next > level + 1) faults.push(`heading ${next} after ${level}: ${name(it)}`);
  level = next;
}
if (all("h1").length !== 1) faults.push(`${all("h1").length} h1`);
for (const it of all("section")) if (!it.getAttribute("aria-labelledby")) faults.push(`section without a name: ${name(it)}`);

// 1.3.1: tables, lists, references
for (const it of all("table")) {
  if (!it.caption?.innerText.trim()) faults.push("a table without a caption");
  for (const cell of it.querySelectorAll("th")) if (!cell.scope) faults.push(`a th without a scope: ${name(cell)}`);
}
for (const it of all("ul, ol")) for (const child of it.children) if (child.tagName !== "LI") faults.push(`${name(child)} in a list`);
const ids = [...document.querySelectorAll("[id]")].map((it) => it.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id ${id} twice`);
for (const attribute of ["aria-labelledby", "aria-describedby", "for"]) {
  for (const it of document.querySelectorAll(`[${attribute}]`)) {
    for (const id of it.getAttribute(attribute).split(" ")) if (!ids.includes(id)) faults.push(`${attribute}=${id} leads nowhere`);
  }
}
if (document.querySelector("[tabindex]:not([tabindex='0']):not([tabindex='-1'])")) faults.push("an order of Tab of its own");

// 2.5.8: what is pressed is 24 pixels high, but for links within a sentence
for (const it of all("button, input:not([type=hidden]), select, summary, nav a, .more a, .who a")) {
  const box = it.getBoundingClientRect();
  if (box.height < 24) faults.push(`${box.height} pixels high: ${name(it)}`);
}

// 1.4.3: contrast
const parts = (color) => (color.match(/[0-9.]+/g) || []).map(Number);
const luminance = (color) => {
  const [r, g, b] = parts(color).map((it) => it / 255).map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (it) => {
  for (let at = it; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    const [, , , alpha = 1] = parts(color);
    if (alpha === 1) return color;
  }
  return "rgb(255, 255, 255)";
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let measured = 0;
while (texts.nextNode()) {
  const it = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !shown(it) || it.closest(".unseen, .skip, script, noscript")) continue;
  const [one, other] = [luminance(getComputedStyle(it).color), luminance(ground(it))].sort((a, b) => b - a);
  measured += 1;
  const contrast = (one + 0.05) / (other + 0.05);
  if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(2)}: ${name(it)}`);
}
if (measured < 5) faults.push("nothing was measured");
return faults;
"""

NAMELESS_ROLES = {"RootWebArea", "generic", "none", "main"}


def faults(browser: Browser) -> list[str]:
    """What is wrong with the page that is shown; empty: nothing that a program sees."""
    found = list(browser.script(_FAULTS))
    for node in _tree(browser):
        focusable = any(
            it["name"] == "focusable" and it["value"].get("value") for it in node.get("properties", ())
        )
        if focusable and _role(node) not in NAMELESS_ROLES and not node["name"]["value"].strip():
            found.append(f"a {_role(node)} without a name for a screen reader")
    return found


def roles(browser: Browser) -> set[str]:
    """What a screen reader is told that there is."""
    return {_role(node) for node in _tree(browser)}


def _tree(browser: Browser) -> list[dict]:
    browser.devtools("Accessibility.enable")
    nodes = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    return [node for node in nodes if not node["ignored"]]


def _role(node: dict) -> str:
    return str(node["role"]["value"])
