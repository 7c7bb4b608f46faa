// Every text of the page, in the reader's language. A language is a table with the same names; the compiler checks that.

import { Value } from "./value";
import { en } from "./words/en";

export type Word = keyof typeof en;
export type Words = Record<Word, string>;
export type Language = "en" | "zh";

const STORED = "language";
let table: Words = en;
let ofProxy: Record<string, string> = {}; // its own texts by their codes, in languages other than its own

function preferred(): Language {
  const chosen = localStorage.getItem(STORED);
  if (chosen === "en" || chosen === "zh") return chosen;
  return navigator.languages.some((one) => one.toLowerCase().startsWith("zh")) &&
    !navigator.languages[0]?.toLowerCase().startsWith("en")
    ? "zh"
    : "en";
}

export const language = new Value<Language>("en");

/** English is always here, another language is loaded first. */
async function load(chosen: Language): Promise<void> {
  const zh = chosen === "zh" ? await import("./words/zh") : null;
  table = zh?.zh ?? en;
  ofProxy = zh?.proxy ?? {};
  language.set(chosen);
}

export async function setLanguage(chosen: Language): Promise<void> {
  localStorage.setItem(STORED, chosen);
  await load(chosen);
}

/** The one that was chosen before, or the browser's. */
export async function start(): Promise<void> {
  try {
    await load(preferred());
  } catch {
    // The file did not come; English is better than no page.
  }
}

/** For Intl, with the reader's own region where it is of the same language. */
export function locale(): string {
  const chosen = language.get();
  return navigator.languages.find((one) => one.toLowerCase().startsWith(chosen)) ?? (chosen === "zh" ? "zh-CN" : "en");
}

/** The text of this name; `{n}` in it is replaced by `values.n`. Of `one key|{n} keys` the first is for n = 1. */
export function t(word: Word, values: Record<string, string | number> = {}): string {
  const text = table[word];
  const forms = text.split("|");
  const form = forms.length > 1 && values["n"] !== 1 && values["n"] !== "1" ? forms[1] : forms[0];
  return (form ?? text).replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

/** A word that comes from the proxy (a state, a reason, a code), if we have one for it; else as it came. */
export function said(head: string, word: string): string {
  const name = `${head}.${word}`;
  return ofProxy[name] ?? (name in en ? t(name as Word) : word.replaceAll("_", " "));
}

/** A text that the proxy wrote in English, by its code in the reader's language if we have that. */
export const told = (head: string, code: string, text: string): string => (text && ofProxy[`${head}.${code}`]) || text;
