// Light or dark: as the system has it, unless the reader chose one.

import { Value } from "./value";

export type Theme = "auto" | "light" | "dark";
const STORED = "theme";

const chosen = localStorage.getItem(STORED);
export const theme = new Value<Theme>(chosen === "light" || chosen === "dark" ? chosen : "auto");

function show(): void {
  const now = theme.get();
  if (now === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = now;
}

export function setTheme(next: Theme): void {
  localStorage.setItem(STORED, next);
  theme.set(next);
  show();
}

show();
