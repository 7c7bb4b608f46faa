// A table of any number of rows: only those that can be seen are in the page.

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { whole } from "../format";
import { t } from "../words";

export interface Column<Row> {
  name: string;
  title: string;
  cell: (row: Row) => ComponentChildren;
  /** What to sort by; without it the column cannot be sorted. */
  order?: (row: Row) => number | string;
  /** `number`: to the right; `wide`: only where there is room for it, the first of them first; `grow`: takes the room that is left. */
  kind?: "number" | "wide" | "wide number" | "grow" | "";
  /** CSS grid width, such as `8rem`; else as its neighbours. */
  width?: string;
}

const ROW = 38; // pixels; style.css has the same
const REM = 14; // pixels, as in style.css, and so is the gap between columns
const GAP = 10.5;
const MORE = 12; // rows above and below those that can be seen

const widthOf = <Row,>({ width, kind }: Column<Row>): string => width ?? (kind === "grow" ? "minmax(8rem, 3fr)" : "minmax(4.5rem, 1fr)");

/** Those for which there is room. */
function fitting<Row>(columns: Column<Row>[], room: number): Column<Row>[] {
  const least = (one: Column<Row>) => parseFloat(/[\d.]+/.exec(widthOf(one))![0]) * REM + GAP;
  const isWide = (one: Column<Row>) => one.kind?.includes("wide");
  let left = columns.reduce((left, one) => (isWide(one) ? left : left - least(one)), room);
  return columns.filter((one) => !isWide(one) || (left -= least(one)) >= 0);
}

type Sort = { by: string; down: boolean };

function sorted<Row>(rows: Row[], columns: Column<Row>[], sort: Sort | null): Row[] {
  const order = columns.find((one) => one.name === sort?.by)?.order;
  if (!order || !sort) return rows;
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;
  const sign = sort.down ? -1 : 1;
  const keyed = rows.map((row) => [order(row), row] as const);
  keyed.sort(([a], [b]) => sign * (typeof a === "number" && typeof b === "number" ? a - b : compare(String(a), String(b))));
  return keyed.map(([, row]) => row);
}

export function Table<Row>({ rows, columns: all, id, label, onOpen, selected, onSelect, height, empty, start }: {
  rows: Row[];
  columns: Column<Row>[];
  id: (row: Row) => string;
  label: string;
  onOpen?: (row: Row) => void;
  /** With both, each row can be chosen. */
  selected?: ReadonlySet<string>;
  onSelect?: (selected: Set<string>) => void;
  /** CSS; a table of few rows is only as high as these. */
  height?: string;
  empty: ComponentChildren;
  start?: Sort;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [room, setRoom] = useState(600);
  const [width, setWidth] = useState(0);
  const [sort, setSort] = useState<Sort | null>(start ?? null);
  const [focus, setFocus] = useState(0);
  const shown = useMemo(() => sorted(rows, all, sort), [rows, all, sort]);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const watch = new ResizeObserver(() => {
      setRoom(element.clientHeight);
      setWidth(element.clientWidth);
    });
    watch.observe(element);
    return () => watch.disconnect();
  }, [shown.length === 0]);
  // One step with Tab is the row, the next ones are its own links, and then the table is over, of however many rows.
  useLayoutEffect(() => {
    for (const one of box.current?.querySelectorAll<HTMLElement>(".rows :is(a, button)") ?? []) one.tabIndex = one.closest<HTMLElement>(".row")!.tabIndex;
  });
  if (shown.length === 0) return <>{empty}</>;

  const first = Math.max(0, Math.floor(top / ROW) - MORE);
  const last = Math.min(shown.length, Math.ceil((top + room) / ROW) + MORE);
  const choosing = selected !== undefined && onSelect !== undefined;
  const columns = fitting(all, width - (choosing ? 2 * REM + GAP : 0));
  const widths = [...(choosing ? ["2rem"] : []), ...columns.map(widthOf)];
  const choose = (name: string) => {
    const next = new Set(selected);
    if (!next.delete(name)) next.add(name);
    onSelect?.(next);
  };
  const isAll = choosing && shown.every((row) => selected.has(id(row)));
  const move = (to: number) => {
    const next = Math.max(0, Math.min(shown.length - 1, to));
    setFocus(next);
    const element = box.current;
    if (!element) return;
    if (next * ROW < element.scrollTop) element.scrollTop = next * ROW;
    else if ((next + 2) * ROW > element.scrollTop + element.clientHeight) element.scrollTop = (next + 2) * ROW - element.clientHeight;
    requestAnimationFrame(() => element.querySelector<HTMLElement>(`[aria-rowindex="${next + 2}"]`)?.focus());
  };
  const press = (event: KeyboardEvent, row: Row, n: number) => {
    if (event.target !== event.currentTarget) return;
    const page = Math.max(1, Math.floor(room / ROW) - 2);
    const to = { ArrowDown: n + 1, ArrowUp: n - 1, PageDown: n + page, PageUp: n - page, Home: 0, End: shown.length - 1 }[event.key];
    if (to !== undefined) move(to);
    else if (event.key === "Enter") onOpen?.(row);
    else if (event.key === " " && choosing) choose(id(row));
    else return;
    event.preventDefault();
  };
  const headings = (
    <div role="row" aria-rowindex={1} class="row heading">
      {choosing && (
        <span role="columnheader">
          <input type="checkbox" aria-label={t("choose-all")} checked={isAll} onChange={() => onSelect(new Set(isAll ? [] : shown.map(id)))} />
        </span>
      )}
      {columns.map((one) => (
        <span key={one.name} role="columnheader" class={one.kind ?? ""}
          {...(sort?.by === one.name ? { "aria-sort": sort.down ? ("descending" as const) : ("ascending" as const) } : {})}>
          {one.order ? (
            <button type="button" class="link" onClick={() => setSort({ by: one.name, down: sort?.by === one.name ? !sort.down : one.kind?.includes("number") ?? false })}>
              {one.title}
              <span aria-hidden="true">{sort?.by === one.name ? (sort.down ? " ↓" : " ↑") : ""}</span>
            </button>
          ) : (
            one.title
          )}
        </span>
      ))}
    </div>
  );
  return (
    <div
      ref={box}
      class="table"
      role="grid"
      aria-label={`${label}, ${t("rows", { n: whole(shown.length) })}`}
      aria-rowcount={shown.length + 1}
      style={{ "--columns": widths.join(" "), maxHeight: height ?? "70vh" }}
      onScroll={(event) => setTop(event.currentTarget.scrollTop)}
    >
      {headings}
      <div class="rows" role="rowgroup" style={{ height: `${shown.length * ROW}px` }}>
        {shown.slice(first, last).map((row, index) => {
          const n = first + index;
          const name = id(row);
          return (
            <div key={name} role="row" aria-rowindex={n + 2} class={`row ${onOpen ? "opens" : ""}`} style={{ top: `${n * ROW}px` }}
              tabIndex={n === Math.min(focus, shown.length - 1) ? 0 : -1} {...(choosing ? { "aria-selected": selected.has(name) } : {})}
              onFocus={() => setFocus(n)} onKeyDown={(event) => press(event, row, n)} onClick={(event) => (event.target as Element).closest("a, button") ?? onOpen?.(row)}>
              {choosing && (
                <span role="gridcell" onClick={(event) => event.stopPropagation()}>
                  <input type="checkbox" tabIndex={-1} aria-label={t("choose", { name })} checked={selected.has(name)} onChange={() => choose(name)} />
                </span>
              )}
              {columns.map((one) => (
                <span key={one.name} role="gridcell" class={one.kind ?? ""}>
                  {one.cell(row)}
                </span>
              ))}
            </div>
          );
        })}
      </div>
    </div>
  );
}
