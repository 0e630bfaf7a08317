// Evaluated in a page of the book: what can be seen of it right now, as plain data.
() => {
  const article = document.querySelector("article") ?? document.body;

  const rgba = (text) => {
    const numbers = (text.match(/[\d.]+(e-?\d+)?%?/g) ?? []).map(parseFloat);
    if (text.startsWith("color(srgb")) return [...numbers.slice(0, 3).map((x) => x * 255), numbers[3] ?? 1];
    return [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const background = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const describe = (e) => {
    const classes = typeof e.className === "string" && e.className ? "." + e.className.trim().split(/\s+/).join(".") : "";
    return `<${e.tagName.toLowerCase()}${classes}> ${JSON.stringify(e.textContent.trim().slice(0, 40))}`;
  };
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });

  // Text whose contrast is too low by WCAG AA: 4.5, or 3 where it is large.
  const faint = [];
  for (const e of article.querySelectorAll("*")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !visible(e) || e.closest("svg, script, style, .headerlink, mjx-container, button, option")) continue;
    const style = getComputedStyle(e);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    const below = background(e);
    const [a, b] = [luminance(over(rgba(style.color), below)), luminance(below)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (large ? 3 : 4.5)) faint.push(`${contrast.toFixed(2)} ${describe(e)}`);
  }

  // Boxes that stick out of the window without scrolling inside themselves.
  const width = document.documentElement.clientWidth;
  const scrolls = (e) => ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX);
  const clipped = (e) => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (scrolls(p)) return true;
    return false;
  };
  const wide = [...article.querySelectorAll("*")]
    .filter((e) => visible(e) && e.getBoundingClientRect().right > width + 1 && !clipped(e))
    .map(describe);

  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container, .math").forEach((e) => e.remove());

  return {
    theme: document.documentElement.dataset.theme,
    page_luminance: luminance(background(article)),
    text_luminance: luminance(rgba(getComputedStyle(article.querySelector("p, h1") ?? article).color)),
    faint: faint.slice(0, 8),
    scroll_width: document.documentElement.scrollWidth,
    width,
    wide: wide.slice(0, 8),
    formulas: article.querySelectorAll(".math").length,
    drawn: article.querySelectorAll("mjx-container svg").length,
    raw_tex: [...article.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container")).map(describe),
    tex_errors: [...article.querySelectorAll('[data-mml-node="merror"], mjx-merror')].map(describe),
    images: [...document.querySelectorAll("img")].map((e) => ({
      src: e.getAttribute("src"), alt: e.getAttribute("alt") ?? "", loaded: e.complete && e.naturalWidth > 0,
      content: article.contains(e),
    })),
    codes: article.querySelectorAll("div.highlight pre").length,
    copy_buttons: article.querySelectorAll("div.highlight button.copybtn").length,
    heading: article.querySelector("h1")?.textContent ?? "",
    prose: prose.textContent,
    contents: [...document.querySelectorAll(".bd-sidebar-secondary")].map((e) => e.innerText).join(" "),
  };
}
