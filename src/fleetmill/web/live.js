// Keeps the page fresh: replaces what changed by its id, keeps focus, scroll and what was opened, and says when the
// connection is lost. It reads nothing but /live and sends nothing.
(() => {
  "use strict";
  const FOCUSABLE = "a[href],summary,button,[tabindex]";
  const SILENT_MS = 5000;
  const link = document.getElementById("link");
  const asOf = document.getElementById("as-of");
  let since = document.body.dataset.since;
  let source = null, heard = performance.now(), wait = 1000, timer = 0;

  const all = (element, what) => [...element.querySelectorAll(what)];

  function put(id, html) {
    const place = document.getElementById(id);
    if (!place) return;
    const focused = place.contains(document.activeElement) ? all(place, FOCUSABLE).indexOf(document.activeElement) : -1;
    const opened = all(place, "details").map((d) => d.open);
    const scrolled = all(place, ".scroll").map((s) => [s.scrollLeft, s.scrollTop]);
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    place.replaceChildren(fresh.content);
    all(place, "details").forEach((d, i) => { d.open = Boolean(opened[i]); });
    all(place, ".scroll").forEach((s, i) => { if (scrolled[i]) [s.scrollLeft, s.scrollTop] = scrolled[i]; });
    if (focused >= 0) all(place, FOCUSABLE)[focused]?.focus({ preventScroll: true });
  }

  function age(seconds) {
    if (seconds < 2) return "just now";
    if (seconds < 90) return `${Math.round(seconds)} s ago`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
    return `${Math.round(seconds / 86400)} days ago`;
  }

  function tell(now) {
    asOf.dateTime = new Date(now).toISOString();
    asOf.textContent = asOf.dateTime.slice(11, 19);
    for (const time of all(document, "time[data-ago]")) {
      const text = age((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
      time.title = time.dateTime;
    }
  }

  function alive() {
    heard = performance.now();
    wait = 1000;
    if (!link.hidden) link.hidden = true;
    document.body.classList.remove("lost");
  }

  function lost() {
    document.body.classList.add("lost");
    if (!link.hidden) return;
    link.textContent = `The connection to the factory is lost; trying again. What you see is of ${asOf.textContent} UTC.`;
    link.hidden = false;
  }

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(`live?since=${encodeURIComponent(since)}`);
    source.addEventListener("hello", (e) => { if (e.data !== document.body.dataset.assets) location.reload(); });
    source.addEventListener("part", (e) => { const part = JSON.parse(e.data); put(part.id, part.html); });
    source.addEventListener("now", (e) => { since = e.lastEventId || since; alive(); tell(Number(e.data)); });
    source.onerror = () => { lost(); again(); };
  }

  function again() {
    source?.close();
    clearTimeout(timer);
    timer = setTimeout(open, wait);
    wait = Math.min(wait * 2, 10000);
  }

  setInterval(() => {
    if (performance.now() - heard > SILENT_MS && source?.readyState === EventSource.OPEN) { heard = performance.now(); lost(); again(); }
  }, 1000);
  addEventListener("pagehide", () => { clearTimeout(timer); source?.close(); });
  addEventListener("pageshow", (e) => { if (e.persisted) open(); });
  open();
})();
