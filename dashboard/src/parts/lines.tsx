// What reports and drawers are made of: what is loaded, short tables, columns, sums, links, commands, typed filters.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import * as format from "../format";
import type { Loaded } from "../load";
import { go, link, place, refine, type Screen } from "../place";
import { useValue } from "../value";
import { t, type Word } from "../words";
import { Copy, Empty, Failed, Field, Loading } from "./bits";
import type { Column } from "./table";

const TYPING_MS = 350;

export function Read<T>({ of: { data, error, again }, children }: { of: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {error !== null && <Failed error={error} again={again} />}
      {data !== null ? children(data) : error === null && <Loading />}
    </>
  );
}

/** A short table, or nothing without rows; the first cell of a row names it. Columns from `numbers` on are numbers. */
export function Lines({ title, heads, rows, numbers = 9, bare }: {
  title: string; heads: string[]; rows: ComponentChildren[][]; numbers?: number;
  /** Its title is shown elsewhere. */
  bare?: boolean;
}) {
  const kind = (n: number) => (n < numbers ? "" : "number");
  if (!rows.length) return null;
  return (
    <>
      {!bare && <h3>{title}</h3>}
      <div class="scroll" tabIndex={0} role="group" aria-label={title}>
        <table>
          <thead>
            <tr>
              {heads.map((head, n) => (
                <th key={head} scope="col" class={kind(n)}>
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(([name, ...cells], n) => (
              <tr key={n}>
                <th scope="row">{name}</th>
                {cells.map((cell, m) => (
                  <td key={m} class={kind(m + 1)}>
                    {cell}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

type Kind = NonNullable<Column<unknown>["kind"]>;

/** A column of a figure, named by its word. */
export const figure = <Row,>(
  word: Word, pick: (row: Row) => number | null | undefined, show: (value: number | null | undefined) => string = format.count, kind: Kind = "wide number",
): Column<Row> => ({ name: word, title: t(word), order: (row) => pick(row) ?? -1, cell: (row) => show(pick(row)), kind });

/** A column of a text; `cell`: as it is shown. */
export const text = <Row,>(word: Word, pick: (row: Row) => string, width: string, kind: Kind = "", cell: (row: Row) => ComponentChildren = pick): Column<Row> => ({
  name: word, title: t(word), order: pick, cell, width, kind,
});

export function Sums({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <ul class="figures">
      {of.map(([name, value]) => (
        <li key={name} class="sum">
          <strong>{value}</strong>
          <span>{name}</span>
        </li>
      ))}
    </ul>
  );
}

export const to = (screen: Screen, id: string) => <a href={link(screen, {}, id)}>{id}</a>;

/** A text to copy. */
export const Command = ({ text }: { text: string }) => (
  <span class="buttons">
    <code>{text}</code>
    <Copy text={text} />
  </span>
);

/** The proxy writes commands and options of its texts in backticks. */
export const coded = (text: string) => text.split("`").map((part, n) => (n % 2 ? <code key={n}>{part}</code> : part));

/** A filter of the place, in force once typing pauses. `list`: what to offer. */
export function Filter({ name, word, list, placeholder = "" }: { name: string; word: Word; list?: string[]; placeholder?: string }) {
  const value = useValue(place).filters[name] ?? "";
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text === value) return;
    const timer = setTimeout(() => refine({ [name]: text }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return <Field label={t(word)} value={text} onInput={setText} placeholder={placeholder} {...(list ? { list } : {})} />;
}

/** No rows: because of the filters, or because there are none yet. */
export function NoRows({ screen, filtered, none, next }: { screen: Screen; filtered: boolean; none: Word; next: Word }) {
  return (
    <Empty title={t(filtered ? "none-match" : none)}>
      {filtered ? (
        <button type="button" onClick={() => go(screen)}>
          {t("show-everything")}
        </button>
      ) : (
        <p>{t(next)}</p>
      )}
    </Empty>
  );
}
