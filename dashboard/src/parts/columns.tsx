// Columns of a table, named by their word.

import type { ComponentChildren } from "preact";
import * as format from "../format";
import { t, type Word } from "../words";
import type { Column } from "./table";

type Kind = NonNullable<Column<unknown>["kind"]>;

export const figure = <Row,>(
  word: Word, pick: (row: Row) => number | null | undefined, show: (value: number | null | undefined) => string = format.count, kind: Kind = "wide number",
): Column<Row> => ({ name: word, title: t(word), order: (row) => pick(row) ?? -1, cell: (row) => show(pick(row)), kind });

/** `cell`: as it is shown. */
export const text = <Row,>(word: Word, pick: (row: Row) => string, width: string, kind: Kind = "", cell: (row: Row) => ComponentChildren = pick): Column<Row> => ({
  name: word, title: t(word), order: pick, cell, width, kind,
});
