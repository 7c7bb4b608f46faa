// Files that are made in the page.

import { t } from "../words";

/** A spreadsheet would run a text that begins like a formula, and some come from outside. */
export function cell(value: unknown): string {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export const csv = (rows: readonly (readonly unknown[])[]): string => rows.map((row) => row.map(cell).join()).join("\r\n");

/** A button that makes a file of this name. */
export function Save({ name, text }: { name: string; text: () => string }) {
  const save = () => {
    const file = document.createElement("a");
    file.href = URL.createObjectURL(new Blob([text()]));
    file.download = name;
    file.click();
    setTimeout(() => URL.revokeObjectURL(file.href), 1_000);
  };
  return (
    <button type="button" onClick={save}>
      {t("save-as", { name })}
    </button>
  );
}
