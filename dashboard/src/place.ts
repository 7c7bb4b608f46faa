// Where in the page we are: `#/keys?state=removed`. The browser never sends that part of an address to a server.

import { Value } from "./value";

export const SCREENS = ["now", "requests", "usage", "keys", "clients", "money", "advice", "events", "configuration"] as const;
export type Screen = (typeof SCREENS)[number];

export interface Place {
  screen: Screen;
  /** What is looked at in it: the id of a key, a client or a request; "" if nothing is. */
  id: string;
  filters: Record<string, string>;
}

function read(): Place {
  const [names = "", filters = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [screen = "", ...rest] = names.split("/");
  const known = SCREENS.find((one) => one === screen) ?? "now";
  return { screen: known, id: decode(rest.join("/")), filters: Object.fromEntries(new URLSearchParams(filters)) };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

export const place = new Value<Place>(read());

export function link(screen: Screen, filters: Record<string, string> = {}, id = ""): string {
  const given = Object.entries(filters).filter(([, value]) => value !== "");
  const tail = given.length ? `?${new URLSearchParams(given)}` : "";
  return `#/${screen}${id ? `/${encodeURIComponent(id)}` : ""}${tail}`;
}

export function go(screen: Screen, filters: Record<string, string> = {}, id = ""): void {
  location.hash = link(screen, filters, id);
  place.set(read()); // the browser tells of it only later, and until then another change would begin from the old place
}

/** Changes some filters of the screen, or opens something in it; a step back leads to what was before. */
export function look(changed: Record<string, string>, id = read().id): void {
  const { screen, filters } = read();
  go(screen, { ...filters, ...changed }, id);
}

/** Changes filters without a step in the history: for what is typed, and for what is done with. */
export function refine(changed: Record<string, string>): void {
  const { screen, filters, id } = read();
  history.replaceState(null, "", link(screen, { ...filters, ...changed }, id));
  place.set(read()); // the browser does not tell of it
}

export const open = (id: string): void => look({}, id);
export const close = (): void => look({}, "");

/** Gives the focus to the screen: for when what had it is gone, and the keyboard would begin at the top of the page. */
export const toMain = (options: FocusOptions = {}): void => document.getElementById("main")?.focus(options);

export function start(): void {
  addEventListener("hashchange", () => place.set(read()));
}
