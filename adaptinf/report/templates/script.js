"use strict";
// The page is complete without this: it adds a switch of the theme, and tooltips that appear at once.
const root = document.documentElement;
const toggle = document.getElementById("toggle");
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
for (const title of document.querySelectorAll("svg title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.parentNode.setAttribute("aria-label", title.textContent);
  title.remove();
}
for (const element of document.querySelectorAll("[title]")) {
  element.dataset.tip = element.title;
  element.setAttribute("aria-description", element.title);
  element.removeAttribute("title");
}
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const target = event.target.closest("[data-tip]");
  tip.style.display = target ? "block" : "none";
  if (!target) return;
  tip.textContent = target.dataset.tip;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${event.clientY + 20 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 20}px`;
});
