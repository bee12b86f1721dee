// A program's charts: quality against price, and trends.

import { dataOf, draw } from "./charts.js";

/** A long name's beginning: a legend must not push the chart away. */
const short = (name) => (name.length > 24 ? `${name.slice(0, 23)}…` : name);
/** Text that Plotly shall show as it is: it reads some tags in what it is given. */
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const told = (value) => (value >= 1000 && value < 1e6 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4))));

/** Those of a front that have room for their names: the best first, then what is far enough from the last. */
function labelled(front, price) {
  const reach = (read) => Math.max(...front.map(read)) - Math.min(...front.map(read)) || 1;
  const across = reach((choice) => choice[price]);
  const up = reach((choice) => choice.quality);
  const named = new Set();
  let last;
  for (const choice of front.toReversed()) {
    const apart = last && Math.max(Math.abs(choice[price] - last[price]) / across, Math.abs(choice.quality - last.quality) / up);
    if (last && apart < 0.12) continue;
    named.add(choice);
    last = choice;
  }
  return named;
}

function tradeoff(element, { metric, choices, fronts }) {
  const price = element.dataset.tradeoff;
  const scale = price === "latency" ? 1e-3 : 1;
  const front = fronts[price];
  const models = [...new Set(choices.map((choice) => choice.model_id))];
  const named = labelled(front.map((at) => choices[at]), price);
  const spell = (choice) =>
    `${plain(short(choice.version))} on ${plain(short(choice.model_id))}<br>${plain(short(metric))} ${told(choice.quality)}<br>` +
    (price === "cost" ? `$${told(choice.cost)} an execution` : `${told(choice.latency * scale)} s on average`);
  draw(element, (c) => {
    const line = {
      x: front.map((at) => choices[at][price] * scale), y: front.map((at) => choices[at].quality),
      mode: "lines", line: { color: c.soft, width: 1.5, dash: "dot" }, hoverinfo: "skip", showlegend: false,
    };
    const series = models.map((model, at) => {
      const own = choices.map((choice, index) => ({ ...choice, index })).filter((choice) => choice.model_id === model && choice[price] !== null);
      const leads = own.map((choice) => front.includes(choice.index));
      return {
        x: own.map((choice) => choice[price] * scale), y: own.map((choice) => choice.quality),
        text: own.map((choice) => (named.has(choices[choice.index]) ? plain(short(choice.version)) : "")), textposition: "top center",
        textfont: { color: c.text, size: 11 }, cliponaxis: false,
        hovertext: own.map(spell), hoverinfo: "text", mode: "markers+text", name: plain(short(model)),
        marker: {
          color: c.series[Math.min(at, 7)], size: leads.map((lead) => (lead ? 12 : 7)), opacity: leads.map((lead) => (lead ? 1 : 0.55)),
          line: { color: c.text, width: leads.map((lead) => (lead ? 1.5 : 0)) },
        },
      };
    });
    const few = series.length > 1 && series.length <= 8;
    return {
      data: [line, ...series],
      layout: {
        showlegend: few, hovermode: "closest", margin: { l: 8, r: 24, t: few ? 8 : 24, b: 8 },
        xaxis: { tickprefix: price === "cost" ? "$" : "", exponentformat: "none", ticksuffix: price === "cost" ? "" : " s", nticks: 6 },
        yaxis: { nticks: 6, title: { text: plain(short(metric)), standoff: 4 } },
      },
    };
  });
  element.removeAttribute("aria-busy");
}

for (const element of document.querySelectorAll("[data-tradeoff]")) tradeoff(element, dataOf("tradeoff-data"));

const TRENDS = {
  executions: { of: (bucket) => bucket.executions },
  errors: { of: (bucket) => bucket.error_rate, axis: { tickformat: ".0%", rangemode: "tozero" } },
  cost: { of: (bucket) => bucket.cost_usd, axis: { tickprefix: "$", exponentformat: "none" } },
  p50: { of: (bucket) => bucket.p50_latency_ms && bucket.p50_latency_ms / 1e3, axis: { ticksuffix: " s" } },
  p95: { of: (bucket) => bucket.p95_latency_ms && bucket.p95_latency_ms / 1e3, axis: { ticksuffix: " s" } },
  tokens: { of: (bucket) => (bucket.input_tokens === null && bucket.output_tokens === null ? null : (bucket.input_tokens ?? 0) + (bucket.output_tokens ?? 0)) },
};

async function series({ asked, by }, line) {
  const answer = await fetch(`/v1/stats?${new URLSearchParams({ ...asked, [by]: line })}`);
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return (await answer.json()).buckets;
}

async function trends(elements, ask) {
  let found;
  try {
    found = await Promise.all(ask.lines.map((line) => series(ask, line)));
  } catch (error) {
    for (const element of elements) {
      element.textContent = `The chart could not be drawn (${error.message}); its totals are in the table.`;
      element.removeAttribute("aria-busy");
    }
    return;
  }
  for (const element of elements) {
    const { of, axis } = TRENDS[element.dataset.trend];
    if (!found.some((buckets) => buckets.some((bucket) => typeof of(bucket) === "number"))) {
      element.textContent = "No execution told it.";
      element.classList.add("untold");
      element.removeAttribute("aria-busy");
      continue;
    }
    draw(element, (c) => ({
      data: found.map((buckets, at) => ({
        x: buckets.map((bucket) => bucket.start), y: buckets.map(of),
        name: plain(short(ask.lines[at])), mode: "lines+markers", connectgaps: false,
        line: { color: c.series[at], width: 1.6, shape: "linear" }, marker: { size: buckets.length > 31 ? 3 : 5 },
        hovertemplate: "%{y}<extra>%{fullData.name}</extra>",
      })),
      layout: { showlegend: false, hovermode: "x unified", yaxis: { rangemode: "tozero", nticks: 5, ...axis }, xaxis: { type: "date", nticks: 6 } },
    }));
    element.removeAttribute("aria-busy");
  }
}

const trend = [...document.querySelectorAll("[data-trend]")];
if (trend.length) trends(trend, dataOf("trend-data"));
