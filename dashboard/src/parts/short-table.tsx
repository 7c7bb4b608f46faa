// A table of few rows, all of them in the page.

import type { ComponentChildren } from "preact";
import { t } from "../words";

/** The first cell of a row names it. Nothing without rows. */
export function ShortTable({ title, heads, rows, ids, numbers = 99, bare, orNone }: {
  title: string; heads: string[]; rows: ComponentChildren[][];
  /** One for each row, where rows come, go or change places: what has the focus stays with its row. */
  ids?: string[];
  /** The first column of numbers: those from there on are to the right. */
  numbers?: number;
  /** Its title is shown elsewhere, or would say nothing more. */
  bare?: boolean;
  /** That there are no rows is worth saying. */
  orNone?: boolean;
}) {
  const kind = (n: number) => (n < numbers ? "" : "number");
  if (!rows.length) return orNone ? <p class="muted">{title}: {t("none")}</p> : null;
  return (
    <>
      {!bare && <h3>{title}</h3>}
      <div class="scroll" tabIndex={0} role="group" aria-label={title}>
        <table>
          <thead>
            <tr>
              {heads.map((head, n) => (
                <th key={n} scope="col" class={kind(n)}>
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(([name, ...cells], n) => (
              <tr key={ids?.[n] ?? n}>
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
