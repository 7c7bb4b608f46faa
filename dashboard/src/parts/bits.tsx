// Small parts that every screen is made of.

import type { ComponentChildren, TargetedEvent } from "preact";
import { useRef, useState } from "preact/hooks";
import { ApiError, mayChange } from "../api";
import * as format from "../format";
import { said, t } from "../words";

type Tone = "good" | "warn" | "bad" | "calm" | "info";

const STATE_TONES: Record<string, Tone> = {
  active: "good", cooling: "info", suspect: "warn", quarantined: "warn", draining: "calm", disabled: "calm", removed: "bad",
  locked: "bad", suspended: "bad",
};

/** `title`: what it says, where it may be too long for its place. */
export function Badge({ tone = "calm", title, children }: { tone?: Tone; title?: string; children: ComponentChildren }) {
  return <span class={`badge ${tone}`} {...(title ? { title } : {})}>{children}</span>;
}

export const StateBadge = ({ state }: { state: string }) => (
  <Badge tone={STATE_TONES[state] ?? "calm"}>{said("state", state)}</Badge>
);

/** Of a request: what it ended with. */
export function StatusBadge({ status, code, cut }: { status: number; code: string; cut?: boolean }) {
  const tone: Tone = status >= 500 || cut ? "bad" : status >= 400 ? "warn" : status ? "good" : "calm";
  const text = `${status || "–"} ${code || (cut ? t("cut") : "")}`;
  return <Badge tone={tone} title={text}>{text}</Badge>;
}

/** How much of something is left or used, as a bar; the words beside it say the same. */
export function Bar({ value, tone, label }: { value: number; tone?: Tone; label: string }) {
  const kept = Math.max(0, Math.min(1, Number.isFinite(value) ? value : 0));
  return (
    <span
      class={`bar ${tone ?? (kept < 0.1 ? "bad" : kept < 0.3 ? "warn" : "good")}`}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(kept * 100)}
    >
      <span style={{ width: `${kept * 100}%` }} />
    </span>
  );
}

export function Time({ at, relative = false }: { at: number | string | null | undefined; relative?: boolean }) {
  if (!at) return <span>–</span>;
  const iso = typeof at === "number" ? new Date(at * 1_000).toISOString() : at;
  return (
    <time dateTime={iso} title={format.moment(at)}>
      {relative ? format.ago(at) : format.time(at)}
    </time>
  );
}

export function Panel({ title, aside, children, class: name = "" }: {
  title: string; aside?: ComponentChildren; children: ComponentChildren; class?: string;
}) {
  return (
    <section class={`panel ${name}`} aria-label={title}>
      <header>
        <h2>{title}</h2>
        {aside}
      </header>
      {children}
    </section>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p>
        <strong>{title}</strong>
      </p>
      {children}
    </div>
  );
}

export const Loading = () => (
  <p class="loading" role="status">
    {t("loading")}
  </p>
);

/** What went wrong, and a button that tries again. */
export function Failed({ error, again }: { error: unknown; again?: () => void }) {
  return (
    <div class="failed" role="alert">
      <p>{words(error)}</p>
      {again && (
        <button type="button" onClick={again}>
          {t("try-again")}
        </button>
      )}
    </div>
  );
}

export function words(error: unknown): string {
  if (error instanceof ApiError) return error.code === "network" ? t("no-answer") : error.message || error.code;
  return error instanceof Error ? error.message : String(error);
}

type ButtonProps = {
  children: ComponentChildren; onClick: () => unknown; kind?: "primary" | "danger" | "plain" | "link"; disabled?: boolean; title?: string;
  /** Whether it changes something: then only operators have it. */
  change?: boolean;
};

/** While what it started is under way it cannot be pressed again, but stays enabled: disabled it would lose the focus.
 *  What fails is said beside it. */
export function Button({ children, onClick, kind = "plain", disabled = false, change = false, title }: ButtonProps) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  if (change && !mayChange()) return null;
  const press = async () => {
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      await onClick();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <button type="button" class={kind} disabled={disabled} aria-busy={busy} title={title} onClick={press}>
        {children}
      </button>
      {error !== null && (
        <span class="problem" role="alert">
          {words(error)}
        </span>
      )}
    </>
  );
}

export function Copy({ text, label }: { text: string; label?: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1_500);
  };
  return (
    <Button kind="plain" onClick={copy} title={label ?? t("copy")}>
      {done ? t("copied") : (label ?? t("copy"))}
    </Button>
  );
}

type FieldProps = {
  label: string; value: string; onInput: (value: string) => void; type?: "text" | "password" | "number" | "date" | "search" | "email"; hint?: string; options?: [string, string][];
  required?: boolean; rows?: number; placeholder?: string; list?: string[];
};

let serial = 0;

/** A labelled input, choice or text area. */
export function Field({ label, value, onInput, type = "text", hint, options, required, rows, placeholder, list }: FieldProps) {
  const id = useRef(`field-${++serial}`).current;
  const shared = { id, required: required ?? false, ...(hint ? { "aria-describedby": `${id}-hint` } : {}) };
  const take = (event: TargetedEvent<HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement>) => onInput(event.currentTarget.value);
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {options ? (
        <select {...shared} value={value} onChange={take}>
          {options.map(([name, text]) => (
            <option key={name} value={name}>
              {text}
            </option>
          ))}
        </select>
      ) : rows ? (
        <textarea {...shared} rows={rows} value={value} onInput={take} placeholder={placeholder} spellcheck={false} />
      ) : (
        <input {...shared} type={type as "text"} value={value} onInput={take} placeholder={placeholder} autocomplete="off" spellcheck={false}
          {...(list ? { list: `${id}-list` } : {})} />
      )}
      {list && (
        <datalist id={`${id}-list`}>
          {list.map((one) => (
            <option key={one} value={one} />
          ))}
        </datalist>
      )}
      {hint && <small id={`${id}-hint`}>{hint}</small>}
    </div>
  );
}

export function Check({ label, checked, onChange }: { label: string; checked: boolean; onChange: (checked: boolean) => void }) {
  return (
    <label class="check">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.currentTarget.checked)} />
      {label}
    </label>
  );
}

export function Choice<T extends string>({ label, value, options, onChange }: {
  label: string; value: T; options: [T, string][]; onChange: (value: T) => void;
}) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([name, text]) => (
        <button key={name} type="button" aria-pressed={name === value} onClick={() => onChange(name)}>
          {text}
        </button>
      ))}
    </div>
  );
}
