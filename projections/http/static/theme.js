// Chooses dark or light before the page is drawn: the remembered choice, or else what the system prefers.
"use strict";

(() => {
  const KEY = "projections-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function remembered() {
    try {
      const value = window.localStorage.getItem(KEY);
      return value === "dark" || value === "light" ? value : null;
    } catch {
      return null; // storage may be forbidden; the page works without it
    }
  }

  function apply() {
    const theme = remembered() ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
    if (button) button.setAttribute("aria-label", theme === "dark" ? "Light colours" : "Dark colours");
    window.dispatchEvent(new Event("themechange"));
  }

  function toggle() {
    const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      window.localStorage.setItem(KEY, other);
    } catch {
      // not remembered, but applied below
    }
    apply();
    if (document.documentElement.dataset.theme !== other) {
      document.documentElement.dataset.theme = other;
      window.dispatchEvent(new Event("themechange"));
    }
  }

  system.addEventListener("change", apply);
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", toggle);
  });
})();
