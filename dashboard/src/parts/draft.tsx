// Forms of many fields: what is being filled in, by name.

import type { ComponentProps } from "preact";
import { useState } from "preact/hooks";
import { Field } from "./bits";

export type Draft = Record<string, string>;

/** The draft, and the field of a name. */
export function useDraft(start: Draft) {
  const [draft, setDraft] = useState(start);
  const field = (name: string, label: string, more: Partial<ComponentProps<typeof Field>> = {}) => (
    <Field label={label} value={draft[name] ?? ""} onInput={(value) => setDraft((all) => ({ ...all, [name]: value }))} {...more} />
  );
  return { draft, setDraft, field };
}
