// The newest executions, as they come: the stream of events tells that there is something new, and the page
// itself, asked for once more, what of it fits the filters. So a row looks the same however it came.

import { localize } from "./base.js";

const MOST = 200; // rows kept in the table, or waiting while it is paused
const PAUSE = 400; // milliseconds between two questions
const AGAIN = 10000; // milliseconds after which a stream that was refused is asked for again

const table = document.querySelector("[data-tail]");
const body = table.querySelector("tbody");
const state = document.querySelector("[data-tail-state]");
const button = document.querySelector("[data-tail-pause]");

let newest = Number(table.dataset.tail);
let paused = false;
let waiting = []; // rows that came while it was paused, newest first
let skipped = false; // more came at once than a page shows: what was there before no longer joins on
let source;
let asking = false;
let wanted = false;

function show(text, kind = "") {
  if (state.textContent !== text) state.textContent = text;
  state.className = `state ${kind}`;
}

function tell() {
  const count = `${skipped ? "more than " : ""}${waiting.length}${waiting.length >= MOST ? " or more" : ""}`;
  if (paused) show(waiting.length ? `Paused, ${count} new` : "Paused", "paused");
  else if (source?.readyState === EventSource.OPEN) show("Live", "live");
  else show("Connecting again", "lost");
}

function put() {
  if (!waiting.length) return;
  for (const row of waiting) row.classList.add("arrived");
  if (skipped) body.replaceChildren(...waiting);
  else body.prepend(...waiting);
  while (body.rows.length > MOST) body.lastElementChild.remove();
  localize(body);
  table.hidden = false;
  document.querySelector("[data-tail-empty]")?.remove();
  waiting = [];
  skipped = false;
}

async function refresh() {
  if (asking) {
    wanted = true;
    return;
  }
  asking = true;
  wanted = false;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) return stop("Signed out: load the page again");
    if (answer.ok) take(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    wanted = true; // the connection went away: the stream notices too
  }
  setTimeout(() => {
    asking = false;
    if (wanted && source) refresh();
  }, PAUSE);
}

function take(page) {
  const rows = [...page.querySelectorAll("[data-tail] tbody tr")];
  const fresh = rows.filter((row) => Number(row.dataset.position) > newest).map((row) => document.importNode(row, true));
  if (fresh.length) {
    newest = Number(fresh[0].dataset.position);
    if (fresh.length === rows.length && page.querySelector('[rel="next"]')) {
      skipped = true;
      waiting = [];
    }
    waiting = [...fresh, ...waiting].slice(0, MOST);
    if (!paused) put();
  }
  tell();
}

function connect() {
  if (source) return;
  const address = new URL("/v1/events/stream", location.href);
  address.searchParams.set("type", "ExecutionCompleted");
  address.searchParams.set("after", newest);
  if (table.dataset.tailProgram) address.searchParams.set("program_id", table.dataset.tailProgram);
  source = new EventSource(address);
  source.addEventListener("open", () => {
    tell();
    refresh();
  });
  source.addEventListener("ExecutionCompleted", refresh);
  source.addEventListener("error", () => {
    tell();
    if (source?.readyState === EventSource.CLOSED) {
      disconnect();
      show("Not live", "lost");
      setTimeout(() => document.visibilityState === "visible" && connect(), AGAIN);
    }
  });
}

function disconnect() {
  source?.close();
  source = undefined;
}

function stop(why) {
  disconnect();
  show(why, "lost");
  button.hidden = true;
}

button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Go on" : "Pause";
  button.setAttribute("aria-pressed", String(paused));
  if (!paused) put();
  tell();
});

// A browser opens few connections to one server: a page that nobody looks at needs none.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") connect();
  else disconnect();
});
window.addEventListener("pagehide", disconnect);
window.addEventListener("pageshow", (event) => event.persisted && connect());

document.querySelector("[data-tail-bar]").hidden = false;
if (document.visibilityState === "visible") connect();
