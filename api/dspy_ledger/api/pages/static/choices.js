// Choices that take effect once made; their button is for readers without scripts.

document.documentElement.classList.add("scripted");
for (const form of document.querySelectorAll("form[data-submit]")) {
  form.addEventListener("change", () => form.requestSubmit());
}
