// The options of a client or a team as a form, for new ones and for changes: only what differs is sent.

import { useState } from "preact/hooks";
import { patch, path, post } from "../api";
import * as format from "../format";
import { Button, Field } from "../parts/bits";
import { type Draft, useDraft } from "../parts/draft";
import { choices } from "../parts/filters";
import type { ClientAdded, ClientRow, TeamRow } from "../shapes";
import { said, t } from "../words";

const LIMITS = ["rpm", "tpm", "rpd", "tpd", "concurrent"];
const LISTS = ["models", "allowed_ips"];
const NULLABLE = ["team", "time_zone", "max_wait", "expires_on", "cache"];
const OF_ALL = ["name", "time_zone", "notes"];
const OF_CLIENT = [...OF_ALL, "team", "models", "priority", "weight", "max_wait", "expires_on", "allowed_ips", "on_stream_overrun", "cache"];
const USUAL = { priority: "normal", weight: "1", on_stream_overrun: "finish" };
const UNITS = ["usd", "tokens", "requests"];
/** What can be chosen, by option; values are shown as the configuration has them. */
const CHOICES: Record<string, string[]> = {
  unit: UNITS, per: ["minute", "hour", "day", "week", "month", "total"], mode: ["hard", "soft", "shadow"],
  priority: ["high", "normal", "batch"], on_stream_overrun: ["finish", "cut"], cache: ["", "true", "false"],
};

type Options = Record<string, unknown>;

/** `600` is a number; `500k` and `30s` stay as they are. */
const number = (text = ""): number | string => (/^[\d.]+$/.test(text.trim()) ? Number(text) : text.trim());

function optionsOf(draft: Draft, budgets: Draft[], names: string[]): Options {
  const option = (name: string): unknown => {
    const text = draft[name]?.trim() ?? "";
    if (name === "cache" && text) return text === "true";
    if (LISTS.includes(name)) return text.split(/[\s,]+/).filter(Boolean);
    return name === "weight" || name === "max_wait" ? (text ? number(text) : null) : text || (NULLABLE.includes(name) ? null : "");
  };
  return {
    limits: Object.fromEntries(LIMITS.map((name) => [name, draft[name]?.trim() ? number(draft[name]) : null])),
    budgets: budgets.map(({ amount, unit = "", ...rest }) => ({ [unit]: number(amount), ...rest })),
    ...Object.fromEntries(names.map((name) => [name, option(name)])),
  };
}

/** What of `after` is another than before; of limits each by itself. */
function changed(before: Options, after: Options): Options {
  const others = Object.entries(after).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]));
  return Object.fromEntries(others.map(([name, value]) => [name, name === "limits" ? changed(before[name] as Options, value as Options) : value]));
}

const draftOf = (row: ClientRow | TeamRow | undefined): Draft =>
  Object.fromEntries(Object.entries({ ...USUAL, ...row, ...row?.limits }).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value ?? "")]));

const budgetsOf = (row: ClientRow | TeamRow | undefined): Draft[] =>
  (row?.budgets ?? []).map(({ usd, tokens, requests, ...rest }) => ({
    amount: String(usd ?? tokens ?? requests), unit: usd ? "usd" : tokens ? "tokens" : "requests", models: "", mode: "hard",
    ...(rest as unknown as Draft), // `warn_at` goes along as it is
  }));

/** `onSaved` gets the new key of a new client. */
export function OptionsForm({ kind, row, teams, onSaved }: {
  kind: "client" | "team"; row?: ClientRow | TeamRow; teams: string[]; onSaved: (id: string, key?: string | null) => void;
}) {
  const { draft, field } = useDraft(draftOf(row));
  const [budgets, setBudgets] = useState(() => budgetsOf(row));
  const names = kind === "client" ? OF_CLIENT : OF_ALL;
  const changes = changed(optionsOf(draftOf(row), budgetsOf(row), names), optionsOf(draft, budgets, names));
  const submit = async () => {
    const id = row?.id ?? draft["id"]?.trim() ?? "";
    if (row) onSaved(id, void (await patch(path(`/${kind}s`, id), changes)));
    else onSaved(id, (await post<ClientAdded>(`/${kind}s`, { id, ...changes })).key);
  };
  const option = (name: string, hint?: string) =>
    (names.includes(name) || LIMITS.includes(name) || name === "id") &&
    field(name, LIMITS.includes(name) ? format.unit(name) : said("option", name), {
      ...(hint ? { hint } : {}), ...(name === "expires_on" ? { type: "date" } : {}), ...(CHOICES[name] ? { options: choices("", CHOICES[name]) } : {}),
      ...(name === "team" ? { options: choices("", ["", ...teams]) } : {}), ...(name === "notes" ? { rows: 2 } : {}),
    });
  return (
    <div class="form">
      <div class="pair">
        {!row && option("id")}
        {option("name")}
        {option("team")}
        {option("rpm", t("count-hint"))}
        {option("tpm")}
        {option("models", t("models-hint"))}
        {option("expires_on")}
      </div>
      {budgets.map((budget, n) => {
        const change = (...next: Draft[]) => setBudgets(budgets.flatMap((one, at) => (at === n ? next : one)));
        return (
          <fieldset key={n}>
            <legend>{t("budget")} {n + 1}</legend>
            <div class="pair">
              {["amount", "unit", "per", "models", "mode"].map((name) => (
                <Field key={name} label={said("option", name)} value={budget[name] ?? ""} onInput={(value) => change({ ...budget, [name]: value })}
                  {...(CHOICES[name] ? { options: choices("", CHOICES[name]) } : {})} />
              ))}
              <Button kind="link" onClick={() => change()}>{t("action.remove")}</Button>
            </div>
          </fieldset>
        );
      })}
      <Button kind="link" onClick={() => setBudgets([...budgets, { amount: "", unit: "usd", per: "month", models: "", mode: "hard" }])}>{t("add-budget")}</Button>
      <details>
        <summary>{t("more-options")}</summary>
        <div class="form">
          <div class="pair">
            {["rpd", "tpd", "concurrent", "priority", "weight"].map((name) => option(name))}
            {option("max_wait", "30s")}
            {option("allowed_ips", "10.0.0.0/8, 192.0.2.7")}
            {option("on_stream_overrun")}
            {option("cache")}
            {option("time_zone", "Europe/Berlin")}
          </div>
          {option("notes")}
        </div>
      </details>
      <p>
        <Button change kind="primary" onClick={submit} disabled={row ? !Object.keys(changes).length : !draft["id"]?.trim()}>{t("save")}</Button>
      </p>
    </div>
  );
}
