// The ledger: what the broker says, asked for once the page is there; dead letters retried and dropped.

import { localize, say } from "./base.js";

const part = document.querySelector("[data-part]");
try {
  const answer = await fetch(part.dataset.part, { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(answer.statusText);
  part.innerHTML = await answer.text();
  localize(part);
} catch {
  part.textContent = "The broker could not be asked.";
}

/** What an answer that is no success says to do. */
async function problem(answer) {
  const told = await answer.json().catch(() => ({}));
  return told.detail ?? answer.statusText;
}

async function act(button) {
  const { act: action, letter } = button.dataset;
  if (action === "drop" && !confirm(`Give dead letter ${letter} up for good?`)) return;
  const row = button.closest("tr");
  const buttons = row.querySelectorAll("button");
  for (const each of buttons) each.disabled = true;
  try {
    const answer = await fetch(`/v1/deadletters/${letter}/${action}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
    if (!answer.ok) throw new Error(await problem(answer));
    if (answer.status === 202) return say("Asked for; the projector is busy and will do it");
    const told = await answer.json();
    if (told.left) throw new Error("It still is no valid event");
    row.remove();
    say(action === "drop" ? `Dead letter ${letter} was given up` : `Dead letter ${letter} was read again`);
  } catch (error) {
    say(error.message);
  }
  for (const each of buttons) each.disabled = false;
}

for (const button of document.querySelectorAll("[data-act]")) {
  button.hidden = false;
  button.addEventListener("click", () => act(button));
}
