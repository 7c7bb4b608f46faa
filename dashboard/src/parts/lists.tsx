// What lists and forms share: filters that are kept in the place, plain tables, fields by name, files that are made in the page.

import type { ComponentChildren, ComponentProps } from "preact";
import { useState } from "preact/hooks";
import type { Loaded } from "../load";
import { link, look, place } from "../place";
import { useValue } from "../value";
import { said, t } from "../words";
import { Button, Facts, Failed, Field, Loading } from "./bits";

/** Changes filters without a step in the browser's history: for what is typed, and for what is done with. */
export function refine(changed: Record<string, string>): void {
  const { screen, id, filters } = place.get();
  const next = { ...filters, ...changed };
  history.replaceState(null, "", link(screen, next, id));
  place.set({ screen, id, filters: next });
}

/** `options`: what can be chosen, besides all. */
export function Filter({ name, label = t("filter"), options, ...more }: {
  name: string; label?: string; options?: [string, string][]; placeholder?: string;
}) {
  const { filters } = useValue(place);
  const field = { ...more, label, value: filters[name] ?? "" };
  return options ? (
    <Field {...field} onInput={(value) => look({ [name]: value })} options={[["", t("all")], ...options]} />
  ) : (
    <Field {...field} onInput={(value) => refine({ [name]: value })} type="search" />
  );
}

/** Names with what they are called. */
export const choices = (head: string, names: readonly string[]): [string, string][] => names.map((name) => [name, said(head, name)]);

/** What was read; the error, while there is one. */
export function Read<T>({ of: { data, error, again }, children }: { of: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {error !== null && <Failed error={error} again={again} />}
      {data !== null ? children(data) : error === null && <Loading />}
    </>
  );
}

/** A table of few rows. A heading that begins with `#` is that of a column of numbers. */
export function Plain({ label, heads, rows }: { label: string; heads: string[]; rows: ComponentChildren[][] }) {
  const kind = (n: number) => (heads[n]?.[0] === "#" ? "number" : "");
  if (!rows.length) return <p class="muted">{label}: {t("none")}</p>;
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={label}>
      <table>
        <thead>
          <tr>
            {heads.map((head, n) => (
              <th key={head} scope="col" class={kind(n)}>
                {head.replace("#", "")}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((cells, n) => (
            <tr key={n}>
              {cells.map((cell, n) => (n ? <td key={n} class={kind(n)}>{cell}</td> : <th key={n} scope="row">{cell}</th>))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Facts, without those that are not known. */
export const Known = ({ of }: { of: [string, ComponentChildren][] }) => <Facts of={of.filter(([, value]) => value)} />;

export type Draft = Record<string, string>;

/** What is being filled in, by name, and the field of a name. */
export function useDraft(start: Draft) {
  const [draft, setDraft] = useState(start);
  const field = (name: string, label: string, more: Partial<ComponentProps<typeof Field>> = {}) => (
    <Field label={label} value={draft[name] ?? ""} onInput={(value) => setDraft((all) => ({ ...all, [name]: value }))} {...more} />
  );
  return { draft, setDraft, field };
}

/** Rows as CSV. A spreadsheet would run a cell that begins like a formula, and some come from outside. */
export function csv(rows: unknown[][]): string {
  const cell = (value: unknown) => `"${String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  return rows.map((row) => row.map(cell).join()).join("\r\n");
}

/** A button that makes a file of this name. */
export function Save({ name, text }: { name: string; text: () => string }) {
  const save = () => {
    const file = document.createElement("a");
    file.href = URL.createObjectURL(new Blob([text()]));
    file.download = name;
    file.click();
    setTimeout(() => URL.revokeObjectURL(file.href), 1_000);
  };
  return <Button onClick={save}>{t("save-as", { name })}</Button>;
}
