// Choices made with a pointer take effect at once. With the keyboard one walks through them, and presses the button.

for (const form of document.querySelectorAll("form[data-submit]")) {
  let pointed = false;
  form.addEventListener("pointerdown", () => (pointed = true));
  form.addEventListener("keydown", () => (pointed = false));
  form.addEventListener("change", () => pointed && form.requestSubmit());
}
