// Plotly, loaded once the page is drawn and in the colours of the style sheet.
//
// A page gives draw(element, (colours) => ({ data, layout })); it is drawn when it comes into sight, and again
// when the colours change. Say the same in words or a table beside it: a chart is hidden from screen readers.

import { theme } from "./base.js";

const quiet = { displayModeBar: false, displaylogo: false, responsive: true, showTips: false, doubleClick: false };
const drawn = new Map();
let loading;

function load() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.querySelector('meta[name="plotly"]').content;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("Plotly did not load"));
    document.head.append(script);
  });
  return loading;
}

/** The style sheet's colours as they are now; a variable by itself would still name both themes' colours. */
function colours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const resolved = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["surface", "raised", "line", "soft", "text", "accent", "good", "bad", "warn"];
  const found = {
    theme: theme(),
    sans: getComputedStyle(document.body).fontFamily,
    ...Object.fromEntries(names.map((name) => [name, resolved(name)])),
    series: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => resolved(`series-${number}`)),
  };
  probe.remove();
  return found;
}

function axis(c) {
  return { gridcolor: c.line, linecolor: c.line, zerolinecolor: c.line, tickcolor: c.line, automargin: true, fixedrange: true };
}

/** A layout with the page's type and colours under what it says itself. */
function themed(layout, c) {
  const { xaxis, yaxis, ...rest } = layout;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: c.sans, size: 12, color: c.soft },
    colorway: c.series,
    margin: { l: 8, r: 8, t: 8, b: 8 },
    hoverlabel: { bgcolor: c.surface, bordercolor: c.line, font: { family: c.sans, size: 12, color: c.text } },
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
    ...rest,
    xaxis: { ...axis(c), ...xaxis },
    yaxis: { ...axis(c), ...yaxis },
  };
}

async function render(element) {
  const Plotly = await load();
  const c = colours();
  const { data, layout = {} } = drawn.get(element)(c);
  await Plotly.react(element, data, themed(layout, c), quiet);
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.setAttribute("aria-busy", "true");
    render(target).catch(() => {
      target.textContent = "The chart could not be drawn; its numbers are in the table.";
      target.removeAttribute("aria-hidden");
    }).finally(() => target.removeAttribute("aria-busy"));
  }
}, { rootMargin: "200px" });

/** Draw a chart when its element comes into sight; once more with other content: draw it again. */
export function draw(element, make) {
  const again = drawn.has(element);
  drawn.set(element, make);
  element.setAttribute("aria-hidden", "true");
  if (again && element.classList.contains("js-plotly-plot")) render(element);
  else seen.observe(element);
}

/** The data that the page carries in <script type="application/json" id="…">. */
export function dataOf(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

document.addEventListener("themechange", () => {
  for (const element of drawn.keys()) if (element.classList.contains("js-plotly-plot")) render(element);
});
