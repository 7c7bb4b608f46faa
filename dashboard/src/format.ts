// Numbers with units, money, spans and times as people read them.

import { locale, t } from "./words";

const DIMENSIONS: Record<string, string> = { rpm: "req/min", tpm: "tok/min", rpd: "req/day", tpd: "tok/day", ipm: "img/min" };

/** `1,234`, `45.6k`, `1.2M`. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const short = Math.abs(value) >= 10_000;
  const digits = Number.isInteger(value) || Math.abs(value) >= 100 ? 0 : 1;
  const text = new Intl.NumberFormat(locale(), short ? { notation: "compact", maximumFractionDigits: 1 } : { maximumFractionDigits: digits }).format(value);
  return text.replace(/(K|m|bn)$/, (unit) => ({ K: "k", m: "M", bn: "B" })[unit] ?? unit); // alike in all regions of a language
}

export const whole = (value: number): string => new Intl.NumberFormat(locale(), { maximumFractionDigits: 0 }).format(value);
export const share = (value: number): string =>
  new Intl.NumberFormat(locale(), { style: "percent", maximumFractionDigits: value > 0 && value < 0.1 ? 1 : 0 }).format(value);

/** As many digits as a small amount needs: `$12.30`, `$0.0004`. */
export function usd(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const digits = value === 0 || Math.abs(value) >= 0.1 ? 2 : Math.min(6, 1 - Math.floor(Math.log10(Math.abs(value))));
  return new Intl.NumberFormat(locale(), {
    style: "currency",
    currency: "USD",
    currencyDisplay: "narrowSymbol",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(value);
}

export const unit = (dimension: string): string => DIMENSIONS[dimension] ?? dimension;

/** `420 ms`, `1.25 s`. */
export function ms(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value < 1_000) return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  return seconds(value / 1_000);
}

/** `12 s`, `5 min`, `3 h`, `2 d`. */
export function seconds(value: number): string {
  if (value < 90) return t("span-s", { n: value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : Math.round(value) });
  if (value < 5_400) return t("span-min", { n: Math.round(value / 60) });
  if (value < 172_800) return t("span-h", { n: Math.round(value / 3_600) });
  return t("span-d", { n: Math.round(value / 86_400) });
}

export const minutes = (value: number): string => (value < 1 ? seconds(value * 60) : seconds(Math.max(90, value * 60)));

const date = (value: number | string): Date => new Date(typeof value === "number" ? value * 1_000 : value);
const isToday = (value: Date): boolean => value.toDateString() === new Date().toDateString();

/** Local time with its zone, short: the day only where it is not today's. */
export function time(value: number | string | null | undefined): string {
  if (value === null || value === undefined || value === 0 || value === "") return "–";
  const at = date(value);
  const day: Intl.DateTimeFormatOptions = isToday(at) ? {} : { month: "short", day: "numeric" };
  return new Intl.DateTimeFormat(locale(), { ...day, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(at);
}

/** Local day, hour and minute, and the zone. */
export function moment(value: number | string | null | undefined): string {
  if (value === null || value === undefined || value === 0 || value === "") return "–";
  return new Intl.DateTimeFormat(locale(), {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZoneName: "short",
  }).format(date(value));
}

/** A UTC day, as the proxy names it: `2026-12-20`. */
export function day(value: string | null | undefined): string {
  if (!value) return "–";
  const at = new Date(value.length === 10 ? `${value}T00:00:00Z` : value);
  return new Intl.DateTimeFormat(locale(), { year: "numeric", month: "short", day: "numeric", timeZone: "UTC" }).format(at);
}

/** `5 min ago`; `at` in Unix seconds or ISO 8601. */
export function ago(at: number | string): string {
  const passed = (Date.now() - date(at).getTime()) / 1_000;
  return passed < 5 ? t("just-now") : t("ago", { span: seconds(passed) });
}

/** `in 5 min`. */
export function until(at: number | string): string {
  return t("in", { span: seconds(Math.max(0, (date(at).getTime() - Date.now()) / 1_000)) });
}

/** The reader's zone: `UTC+1` or so. */
export const zone = (): string =>
  new Intl.DateTimeFormat(locale(), { timeZoneName: "short" }).formatToParts().find((part) => part.type === "timeZoneName")?.value ?? "";
