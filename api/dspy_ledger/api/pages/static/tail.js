// The newest executions, as they come: the stream of events tells that there is something new, and the page
// itself, asked for what is newer, what of it fits the filters. So a row looks the same however it came.

import { localize } from "./base.js";

const MOST = 200; // rows kept in the table, or waiting while it is paused; more where the page began with more
const PAUSE = 400; // milliseconds between two questions, and nine times what the last one took
const LOST = 1000; // milliseconds after which a stream that broke off is opened again
const AGAIN = 10000; // and one that was refused, or a question that was

const table = document.querySelector("[data-tail]");
const body = table.querySelector("tbody");
const state = document.querySelector("[data-tail-state]");
const count = document.querySelector("[data-tail-count]");
const button = document.querySelector("[data-tail-pause]");
const next = document.querySelector('[rel="next"]');
const most = Math.max(MOST, body.rows.length);

let newest = Number(table.dataset.tail); // the position up to which it was asked
let paused = false;
let waiting = []; // rows that came while it was paused, newest first
let skipped = false; // more came at once than a page shows: what was there before no longer joins on
let source;
let refused = false; // the stream was
let problem = ""; // why the last question was not answered
let asking = false;
let wanted = false;
let ended = false;

function show(text, kind) {
  if (state.textContent !== text) state.textContent = text; // screen readers hear each change
  state.parentElement.className = `state ${kind}`;
}

function tell() {
  const more = `${skipped ? "more than " : ""}${waiting.length}${waiting.length >= most ? " or more" : ""}`;
  count.textContent = paused && waiting.length ? `${more} new` : "";
  if (paused) show("Paused", "paused");
  else if (problem) show(`Not live: ${problem}`, "lost");
  else if (source?.readyState === EventSource.OPEN) show("Live", "live");
  else show(refused ? "Not live" : "Connecting again", "lost");
}

function put() {
  if (!waiting.length) return;
  for (const row of waiting) row.classList.add("arrived");
  if (skipped) body.replaceChildren(...waiting);
  else body.prepend(...waiting);
  const cut = skipped || body.rows.length > most;
  while (body.rows.length > most) body.lastElementChild.remove();
  if (cut) goOnAfter(body.lastElementChild);
  localize(body);
  table.hidden = false;
  document.querySelector("[data-tail-empty]")?.remove();
  waiting = [];
  skipped = false;
}

/** Have the next page begin after the last row that is left. */
function goOnAfter(row) {
  const address = new URL(location.href);
  address.searchParams.set("cursor", row.dataset.cursor);
  address.hash = "";
  next.href = address.href;
  next.parentElement.hidden = false;
}

async function refresh() {
  wanted = true;
  if (asking) return;
  asking = true;
  do {
    const pause = await ask();
    if (ended) return;
    tell();
    await new Promise((resolve) => setTimeout(resolve, pause));
  } while (wanted && source);
  asking = false;
}

/** Ask once what is newer; the milliseconds until it may be asked again. */
async function ask() {
  const began = performance.now();
  wanted = false;
  try {
    const headers = { Accept: "text/html", "Ledger-After": newest };
    const answer = await fetch(location.href, { headers, cache: "no-store" });
    if (answer.redirected) {
      stop("Signed out: load the page again");
      return 0;
    }
    const part = new DOMParser().parseFromString(await answer.text(), "text/html");
    problem = answer.ok ? "" : (part.querySelector(".detail")?.textContent ?? answer.statusText);
    if (answer.ok) take(part.querySelector("[data-tail]"));
    else wanted = true;
  } catch {
    wanted = true; // the connection went away: the stream notices too
  }
  return problem ? AGAIN : Math.max(PAUSE, 9 * (performance.now() - began));
}

function take(part) {
  newest = Number(part.dataset.tail);
  const fresh = [...part.querySelectorAll("tbody tr")].map((row) => document.importNode(row, true));
  if (part.dataset.more !== undefined) {
    skipped = true;
    waiting = [];
  }
  waiting = [...fresh, ...waiting].slice(0, most);
  if (!paused) put();
}

function connect() {
  if (source || ended) return;
  const address = new URL("/v1/events/stream", location.href);
  address.searchParams.set("type", "ExecutionCompleted");
  if (table.dataset.tailProgram) address.searchParams.set("program_id", table.dataset.tailProgram);
  source = new EventSource(address);
  source.addEventListener("open", () => {
    refused = false;
    tell();
    refresh(); // what came before
  });
  source.addEventListener("ExecutionCompleted", refresh);
  source.addEventListener("error", () => {
    // Left to itself it would go on where it left off, with all that happened since: a new one begins now.
    refused = source.readyState === EventSource.CLOSED;
    disconnect();
    tell();
    if (refused) refresh(); // which notices when the session is over
    setTimeout(() => document.visibilityState === "visible" && connect(), refused ? AGAIN : LOST);
  });
}

function disconnect() {
  source?.close();
  source = undefined;
}

function stop(why) {
  ended = true;
  disconnect();
  show(why, "lost");
  count.textContent = "";
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
