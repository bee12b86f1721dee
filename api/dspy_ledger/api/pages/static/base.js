// Every page: times in the reader's zone, copying, colours, tidy forms, and a few keys.

const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const today = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Write the times within an element as the reader's clock has them; UTC is in their title. Those of today may
 *  be short, and are written again when they no longer are. */
export function localize(within) {
  for (const time of within.querySelectorAll("time[datetime]:not([title]), time[data-short]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    time.title = `${time.dateTime.slice(0, 23).replace("T", " ").replace(/Z$/, "")} UTC`;
    const isToday = moment.toDateString() === new Date().toDateString();
    const text = (time.dataset.short !== undefined && isToday ? today : zoned).format(moment);
    if (time.textContent !== text) time.textContent = text;
  }
}

let fading;
/** Say something that passes; screen readers hear it too. */
export function say(text) {
  const toast = document.querySelector("[data-toast]");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => toast.classList.remove("shown"), 4000);
}

/** Let the buttons within an element copy what they carry. */
export function offerCopies(within) {
  if (!navigator.clipboard) return; // only there on https and localhost
  for (const button of within.querySelectorAll("[data-copy]")) button.hidden = false;
}

/** The colours in force, "light" or "dark". */
export function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function toggleTheme() {
  const next = theme() === "dark" ? "light" : "dark";
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  if (next === system) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === system) localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
  } catch {
    // It holds for this page only.
  }
  document.dispatchEvent(new Event("themechange"));
}

/** A time of the reader's clock as datetime-local fields write it. */
function local(moment) {
  return new Date(moment.valueOf() - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

// A field for a time in UTC gets one beside it that speaks the reader's zone, and stands back where it can.
for (const field of document.querySelectorAll("input[data-local]")) {
  const id = CSS.escape(field.dataset.local);
  const utc = document.getElementById(field.dataset.local);
  const moment = /^\d{4}-/.test(utc.value) ? new Date(utc.value) : undefined;
  const isMoment = moment && !Number.isNaN(moment.valueOf());
  if (isMoment) field.value = local(moment);
  for (const part of document.querySelectorAll(`[data-local="${id}"]`)) part.hidden = false;
  for (const part of document.querySelectorAll(`[data-utc="${id}"]`)) part.hidden = isMoment || !utc.value;
  field.addEventListener("input", () => {
    utc.value = field.value ? new Date(field.value).toISOString().replace(/\.000Z$/, "Z") : "";
  });
}

// A form's empty fields do not go into the address.
for (const form of document.querySelectorAll("form[data-tidy]")) {
  form.addEventListener("submit", () => {
    const unused = [...form.elements].filter((field) => field.name && !field.value && !field.disabled);
    for (const field of unused) field.disabled = true;
    setTimeout(() => unused.forEach((field) => (field.disabled = false)));
  });
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    await navigator.clipboard.writeText(button.dataset.copy).then(
      () => say("Copied"),
      () => say("The browser did not allow copying"),
    );
  }
  if (event.target.closest("[data-theme-toggle]")) toggleTheme();
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

let going = 0;
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, [contenteditable]")) return;
  const filter = document.querySelector("[data-filter]");
  if (event.key === "/" && filter) {
    event.preventDefault();
    const folded = filter.closest("details");
    if (folded) folded.open = true;
    filter.focus();
  } else if (event.key === "g") {
    going = event.timeStamp;
  } else if (event.timeStamp - going < 1500) {
    going = 0;
    const wanted = { o: "Overview", e: "Executions", l: "Ledger" }[event.key];
    for (const link of document.querySelectorAll(".sections a")) if (link.textContent === wanted) link.click();
  }
});

document.querySelector("[data-theme-toggle]").hidden = false;
document.querySelector("[data-zone]").textContent = `Times are in ${zone}`;
localize(document);
setInterval(() => localize(document), 60000); // a day may have ended
offerCopies(document);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
