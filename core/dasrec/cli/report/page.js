"use strict";
// A click in a legend lights one series up in all plots that share the legend.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const scope = button.closest("[data-plots]"), on = button.getAttribute("aria-pressed") !== "true";
    for (const other of scope.querySelectorAll(".legend button")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(on));
    scope.toggleAttribute("data-lit", on);
    for (const mark of scope.querySelectorAll("g[data-series]"))
      mark.classList.toggle("lit", on && mark.dataset.series === button.dataset.series);
  });
}
