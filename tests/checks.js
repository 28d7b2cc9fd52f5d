// Every fault of a page as it stands, as sentences. Run in the page; leaves three functions for the keyboard check.
(width) => {
  const faults = [];
  const all = (what, from = document) => [...from.querySelectorAll(what)];
  const seen = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const name = (e) => {
    const text = (e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${e.tagName.toLowerCase()}${e.id ? "#" + e.id : ""}${e.getAttribute("class") ? "." + e.getAttribute("class").split(" ")[0] : ""}> "${text}"`;
  };
  const scrolls = (e) => /auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX);

  // -- layout
  if (document.scrollingElement.scrollWidth > width || innerWidth !== width)
    faults.push(`layout: the page is ${document.scrollingElement.scrollWidth} px wide in a window of ${width}`);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) {
    const node = walker.currentNode, e = node.parentElement;
    if (!node.data.trim() || /^(SCRIPT|STYLE|TITLE|DESC|NOSCRIPT)$/i.test(e.tagName) || !seen(e) || e.closest(".skip")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const rects = [...range.getClientRects()].filter((r) => r.width > 0);
    if (rects.length) texts.push({ e, rects });
  }
  if (!texts.length) faults.push("layout: the page shows no text");
  for (const { e, rects } of texts) {
    const svg = e.closest("svg");
    for (let box = svg || e; box && box !== document.documentElement; box = box.parentElement) {
      if (!svg && getComputedStyle(box).display === "inline") continue;
      const b = box.getBoundingClientRect();
      const out = rects.find((r) => r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 3 || r.bottom > b.bottom + 3);
      if (out && !(scrolls(box) && !svg)) {
        faults.push(`layout: the text of ${name(e)} leaves ${name(box)} (${Math.round(out.left)}..${Math.round(out.right)} in ${Math.round(b.left)}..${Math.round(b.right)})`);
        break;
      }
      if (scrolls(box)) {
        if (getComputedStyle(box).overflowX !== "auto" && getComputedStyle(box).overflowX !== "scroll" && out) faults.push(`layout: the text of ${name(e)} is cut off by ${name(box)}`);
        break;
      }
    }
  }
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const apart = (elements, what) => {
    const boxes = elements.filter(seen).map((e) => [e, e.getBoundingClientRect()]);
    boxes.forEach(([e, a], i) => boxes.slice(i + 1).forEach(([f, b]) => { if (overlap(a, b)) faults.push(`layout: ${what} ${name(e)} and ${name(f)} overlap`); }));
  };
  for (const list of all("ul, ol, dl, .columns, main")) apart([...list.children], "the neighbours");
  for (const plot of all("svg")) apart(all("text", plot), "the labels");

  // -- contrast
  const rgba = (text) => {
    const canvas = rgba.canvas ||= Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { r, g, b, a: a / 255 };
  };
  const light = ({ r, g, b }) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (e) => {
    for (let box = e; box; box = box.parentElement) {
      const found = rgba(getComputedStyle(box).backgroundColor);
      if (found.a > 0.99) return found;
    }
    return { r: 255, g: 255, b: 255, a: 1 };
  };
  for (const { e } of texts) {
    const style = getComputedStyle(e), size = parseFloat(style.fontSize);
    const color = rgba(e.closest("svg") ? style.fill : style.color);
    const [high, low] = [light(color), light(ground(e))].sort((a, b) => b - a);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) faults.push(`contrast: ${name(e)} has ${ratio.toFixed(2)}, needs ${least}`);
    const shown = e.closest("svg") ? e.getBoundingClientRect().height : size;
    if (shown < 9.5) faults.push(`layout: ${name(e)} is ${shown.toFixed(1)} px tall: too small to read`);
  }

  // -- structure
  const levels = all("h1, h2, h3, h4, h5, h6").filter(seen).map((e) => Number(e.tagName[1]));
  if (levels.filter((n) => n === 1).length !== 1) faults.push("structure: there must be one h1");
  levels.forEach((n, i) => { if (i && n > levels[i - 1] + 1) faults.push(`structure: an h${n} follows an h${levels[i - 1]}`); });
  for (const mark of ["header", "main", "footer"]) if (!document.querySelector(`body > ${mark}`)) faults.push(`structure: no ${mark}`);
  if (!document.documentElement.lang || !document.title) faults.push("structure: language or title is missing");
  const ids = all("[id]").map((e) => e.id);
  for (const id of new Set(ids.filter((x, i) => ids.indexOf(x) !== i))) faults.push(`structure: the id ${id} stands twice`);
  for (const e of all("[aria-labelledby]"))
    for (const id of e.getAttribute("aria-labelledby").split(" ")) if (!document.getElementById(id)) faults.push(`structure: ${name(e)} is named by ${id}, which is not there`);
  for (const e of all("img")) if (!e.alt || !e.complete || !e.naturalWidth) faults.push(`structure: ${name(e)} has no alt text or shows nothing`);
  for (const e of all("svg[role=img]")) if (!e.querySelector("title")?.textContent) faults.push("structure: a drawing without a title");
  for (const e of all("body *")) {
    if (seen(e) && !e.closest("svg") && /auto|scroll/.test(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth && !(e.tabIndex === 0 && e.getAttribute("aria-label")))
      faults.push(`structure: ${name(e)} scrolls, and has no tabindex and label`);
  }
  for (const e of all("table")) if (!e.querySelector("th[scope=col]") || !e.querySelector("th[scope=row]")) faults.push(`structure: ${name(e)} has no header cells`);

  // -- nothing from elsewhere
  for (const e of all("*"))
    for (const attribute of e.attributes)
      if (/^(src|href|action|poster|data|srcset|xlink:href|ping|formaction|background)$/i.test(attribute.name) && !/^(data:|#)/.test(attribute.value) &&
          !(e.tagName === "A" && /^[\w-]+\.\w+$/.test(attribute.value)))
        faults.push(`reference: ${name(e)} ${attribute.name}=${attribute.value.slice(0, 60)}`);
  for (const e of all("style")) if (/url\(|@import/.test(e.textContent)) faults.push("reference: the style fetches something");

  // -- for the keyboard
  window.fleetFocusable = () => all("a[href], button, summary, input, select, textarea, [tabindex]").filter((e) => e.tabIndex >= 0 && e.checkVisibility());
  window.fleetName = (e) => `${window.fleetFocusable().indexOf(e)} ${name(e)}`;
  window.fleetFocused = () => {
    const e = document.activeElement;
    if (!e || e === document.body || !e.dataset.fleet) return [e && e !== document.body ? name(e) : "", true];
    const style = getComputedStyle(e), r = e.getBoundingClientRect();
    const inside = r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth;
    return [e.dataset.fleet, inside && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
  };
  return faults;
}
