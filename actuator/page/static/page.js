// Fetches the page anew every few seconds and puts its <main> in the place of the old one. Without this script
// all is there too; the page is then loaded anew by the browser.
"use strict";

(() => {
  const FETCH_MS = 10000;
  const HOLDS_FOCUS = "input, select, textarea";
  const stale = document.getElementById("stale");
  const news = document.getElementById("news");
  const main = () => document.getElementById("main");
  if (!main().dataset.refresh) return;

  let paused = false;
  let lastAt = new Date();

  // WCAG 2.2.2: what moves by itself can be stopped.
  const button = document.createElement("button");
  button.type = "button";
  button.id = "pause-refresh";
  button.textContent = "Pause refresh";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
  });
  document.querySelector(".who").prepend(button);

  // Whoever types, selects a command to copy it, or has stopped it, is not disturbed.
  const disturbs = () => {
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && main().contains(selection.anchorNode);
    const types = main().contains(document.activeElement) && document.activeElement.matches(HOLDS_FOCUS);
    return paused || document.hidden || selects || types;
  };

  // How to find the same element in the page that comes.
  const address = (element) => {
    if (element.id) return `#${CSS.escape(element.id)}`;
    if (element.matches("summary")) return `details[data-key="${CSS.escape(element.parentElement.dataset.key)}"] > summary`;
    if (element.matches("a[href]")) return `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
    return null;
  };

  const replace = (next) => {
    const old = main();
    for (const details of old.querySelectorAll("details[open][data-key]")) {
      const same = next.querySelector(`details[data-key="${CSS.escape(details.dataset.key)}"]`);
      if (same) same.open = true;
    }
    const focused = document.activeElement;
    const had = focused !== old && old.contains(focused) ? address(focused) : null;
    const inside = old.contains(focused);
    old.replaceWith(next);
    // What had the focus may be gone: then the content has it, not the top of the page.
    if (inside) ((had && next.querySelector(had)) || next).focus({ preventScroll: true });
    if (next.dataset.news !== old.dataset.news) news.textContent = next.dataset.news;
  };

  const refresh = async () => {
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(FETCH_MS) });
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (disturbs()) return;
      replace(document.adoptNode(page.getElementById("main")));
      document.title = page.title;
      lastAt = new Date();
      stale.hidden = true;
    } catch (error) {
      if (stale.hidden) {
        stale.textContent = `What is shown is of ${lastAt.toISOString().slice(11, 19)} UTC and may be old: vmheal-actuator does not answer (${error.message}).`;
        stale.hidden = false;
      }
    }
  };

  const turn = async () => {
    if (!disturbs()) await refresh();
    const seconds = Number(main().dataset.refresh);
    if (seconds) setTimeout(turn, seconds * 1000);
  };

  setTimeout(turn, Number(main().dataset.refresh) * 1000);
})();
