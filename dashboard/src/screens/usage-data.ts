// Reports of usage: reading one and its course in time, and what is made of its rows.

import { get, query } from "../api";
import { useReading } from "../load";
import type { Line } from "../parts/chart";
import { csv } from "../parts/files";
import type { UsageRow, UsageRows, UsageSums } from "../shapes";
import { t } from "../words";

export const STEPS = { "1m": 60, "5m": 300, "1h": 3_600, "1d": 86_400 } as const;
export type Step = keyof typeof STEPS;
export type Part = "client" | "model" | "key" | "account";
export type Measure = "cost" | "tokens" | "requests" | "refusals";

const AGAIN_S = 60;
const NAMES_SHOWN = 8; // as many as there are colours
const MOST_NAMES = 30; // in steps: whichever of them are the largest by what is measured

export const MEASURES: Record<Measure, (row: UsageSums) => number> = {
  cost: (row) => row.usd,
  tokens: (row) => row.prompt_tokens + row.completion_tokens,
  requests: (row) => row.requests,
  refusals: (row) => row.refused_requests ?? 0,
};

/** `sums`: a row for each name; `course`: for each step and each of the largest names, the others together as `other`. */
export interface Report {
  sums: UsageRows;
  course: UsageRows;
  step: Step;
}

const unix = (iso = ""): number => Date.parse(iso) / 1_000;

/** The longest course that is legible, of what is kept: minutes for 48 hours, hours for 90 days. */
export function stepOf({ since, until }: { since: string; until: string }, now = Date.now() / 1_000): Step {
  const hours = (unix(until) - unix(since)) / 3_600;
  const age = (now - unix(since)) / 3_600;
  return hours <= 2 && age < 47 ? "1m" : hours <= 25 && age < 47 ? "5m" : hours <= 200 && age < 2_136 ? "1h" : "1d";
}

export const useReport = (by: string, since: string, until: string) =>
  useReading<Report>(async (signal) => {
    const ask = (given: Record<string, string>) => get<UsageRows>(`/usage${query(given)}`, signal);
    const sums = await ask({ by, since, until }).catch(() => ask({ by, since, until, top: "100" })); // of too many names
    const step = stepOf(sums);
    const course = await ask({ by, since: sums.since, until: sums.until, every: step, top: String(MOST_NAMES) });
    return { sums, course, step };
  }, [by, since, until].join(), AGAIN_S);

export const nameOf = (row: UsageRow, parts: Part[]): string => parts.map((part) => row[part]).join(" · ");

/** Lines for the largest names and one for the others, each with a value for every step; that of the moment is not over yet. */
export function course({ sums, course: { rows, since, until }, step }: Report, parts: Part[], measure: Measure): { at: number[]; lines: Line[] } {
  const pick = MEASURES[measure];
  const size = STEPS[step];
  const first = Math.floor(unix(since) / size) * size;
  const at: number[] = [];
  const end = Math.min(unix(until), Date.now() / 1_000);
  for (let start = first; start < end; start += size) at.push(start);
  const largest = sums.rows.filter(pick).sort((a, b) => pick(b) - pick(a)).slice(0, NAMES_SHOWN);
  const lines: Line[] = [];
  const add = (name: string, colour: Line["colour"]) => {
    const values = at.map(() => 0);
    lines.push({ name, values, colour });
    return values;
  };
  const of = new Map(largest.map((row, n) => [nameOf(row, parts), add(nameOf(row, parts), n)]));
  const others = sums.rows.length > NAMES_SHOWN ? add(t("others"), "limit") : [];
  for (const row of rows) {
    const values = of.get(nameOf(row, parts)) ?? others;
    const n = (unix(row.from) - first) / size;
    if (n in values) values[n]! += pick(row);
  }
  return { at, lines };
}

const NUMBERS = [
  "usd", "exact_usd", "estimated_usd", "probe_usd", "unpriced_requests", "requests", "prompt_tokens", "cached_tokens",
  "completion_tokens", "refused_requests",
] as const;

/** As `quotapool usage --csv` has it: a row for each step and name. */
export function csvOf({ course }: Report, parts: Part[]): string {
  const heads = ["from", ...parts, ...NUMBERS] as const;
  return csv([heads, ...course.rows.map((row) => heads.map((head) => row[head]))]);
}
