// Filters of lists. They are kept in the place, so that a link or a step back leads to the same rows.

import { useEffect, useState } from "preact/hooks";
import { go, look, place, refine, toMain } from "../place";
import { useValue } from "../value";
import { said, t, type Word } from "../words";
import { Empty, Field } from "./bits";

const TYPING_MS = 350;

/** `options`: what can be chosen, besides all. What is typed instead is in force once typing pauses; `list`: what to offer. */
export function Filter({ name, word = "search", options, list, placeholder = "" }: {
  name: string; word?: Word; options?: [string, string][]; list?: string[]; placeholder?: string;
}) {
  const value = useValue(place).filters[name] ?? "";
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text === value) return;
    const timer = setTimeout(() => refine({ [name]: text }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return options ? (
    <Field label={t(word)} value={value} onInput={(next) => look({ [name]: next })} options={[["", t("all")], ...options]} />
  ) : (
    <Field label={t(word)} value={text} onInput={setText} type="search" placeholder={placeholder} {...(list ? { list } : {})} />
  );
}

/** Names with what they are called. */
export const choices = (head: string, names: readonly string[]): [string, string][] => names.map((name) => [name, said(head, name)]);

/** No rows: because of the filters, or because there are none yet. */
export function NoRows({ filtered, none, next }: { filtered: boolean; none: Word; next?: Word }) {
  return (
    <Empty title={t(filtered ? "none-match" : none)}>
      {filtered ? (
        <button type="button" onClick={() => { toMain(); go(place.get().screen); }}>
          {t("show-everything")}
        </button>
      ) : (
        next && <p>{t(next)}</p>
      )}
    </Empty>
  );
}
