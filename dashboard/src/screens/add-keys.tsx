// New keys: one by hand, or many from text and files. Secrets stay in the page until they are sent, and not longer.

import { useState } from "preact/hooks";
import { post } from "../api";
import { Button, Check, Choice } from "../parts/bits";
import { Dialog } from "../parts/dialog";
import { useDraft } from "../parts/draft";
import { refine } from "../place";
import type { Job, KeyAdded } from "../shapes";
import { said, t } from "../words";
import type { Started } from "./work";

const MOST_BYTES = 8 * 2 ** 20; // of all files together, as the admin API takes them

/** The line that names the columns of a CSV file; "" if it has none. */
function header(text: string): string {
  const first = text.split("\n", 100).find((line) => line.trim() && line[0] !== "#") ?? "";
  return /(^|,)\s*secret\s*(,|$)/i.test(first) ? first.trim() : "";
}

/** One text of several. Each keeps its number of lines, so that a report can name them: the names of columns in the second
 *  and further ones become a comment. */
function joined(parts: [string, string][]): [text: string, files: [string, number][]] {
  const names = header(parts[0]?.[1] ?? "");
  const texts = parts.map(([, text], n) => {
    if (header(text) !== names) throw new Error(t("files-differ"));
    return n && names ? text.replace(names, "#") : text;
  });
  return [texts.join("\n"), parts.map(([name, text]) => [name, text.split("\n").length])];
}

export function AddKeys({ replaced, onStart, onDone }: { replaced: string; onStart: (job: Started) => void; onDone: () => void }) {
  const [kind, setKind] = useState<"one" | "many">("one");
  const { draft, setDraft, field } = useDraft({ id: replaced });
  const [files, setFiles] = useState<File[]>([]);
  const [check, setCheck] = useState(true);
  const [replace, setReplace] = useState(replaced !== "");
  const [dry, setDry] = useState(false);
  const [done, setDone] = useState("");
  const close = () => refine({ add: "", replace: "" });
  const take = (list: FileList | null | undefined) => setFiles([...(list ?? [])]);
  const add = async () => {
    const given = ["secret", "id", "account", "tier"].map((name) => [name, draft[name]?.trim()]).filter(([, text]) => text);
    setDone("");
    setDraft({ ...draft, secret: "" });
    const { id, result } = await post<KeyAdded>("/keys", { ...Object.fromEntries(given), check, replace });
    setDone(`${id}: ${said("result", result)}`);
    onDone();
  };
  const start = async () => {
    if (files.reduce((sum, file) => sum + file.size, 0) > MOST_BYTES) throw new Error(t("too-large"));
    const read = files.map(async (file): Promise<[string, string]> => [file.name, await file.text()]);
    const pasted: [string, string][] = draft["text"]?.trim() ? [[t("pasted"), draft["text"]]] : [];
    const [text, names] = joined([...pasted, ...(await Promise.all(read))]);
    const { id } = await post<Job>("/jobs/import", { text, check, replace, dry_run: dry });
    onStart({ id, files: names.length > 1 ? names : [] });
    close();
  };
  return (
    <Dialog kind="drawer" title={t("add-keys")} onClose={close}>
      <div class="form">
        <Choice label={t("add-keys")} value={kind} onChange={setKind} options={[["one", t("add-one")], ["many", t("add-many")]]} />
        {kind === "one" ? (
          <>
            {field("secret", t("secret"), { type: "password", required: true, hint: t("secret-hint") })}
            <div class="pair">
              {field("id", t("option.id"))}
              {field("account", t("account"))}
              {field("tier", t("tier"))}
            </div>
          </>
        ) : (
          <>
            {field("text", t("pasted"), { rows: 8, hint: t("import-hint") })}
            <label class="drop" onDragOver={(event) => event.preventDefault()} onDrop={(event) => { event.preventDefault(); take(event.dataTransfer?.files); }}>
              {t("files")} <input type="file" multiple accept=".txt,.csv" onChange={(event) => take(event.currentTarget.files)} />
              <span>{files.map((file) => file.name).join(", ")}</span>
            </label>
          </>
        )}
        <Check label={t("check-first")} checked={check} onChange={setCheck} />
        <Check label={t("replace-secret")} checked={replace} onChange={setReplace} />
        {kind === "many" && <Check label={t("action.dry run")} checked={dry} onChange={setDry} />}
        <p class="buttons">
          {kind === "one" ? (
            <Button kind="primary" onClick={add} disabled={!draft["secret"]?.trim()}>{t("add-keys")}</Button>
          ) : (
            <Button kind="primary" onClick={start} disabled={!draft["text"]?.trim() && !files.length}>{t("action.import")}</Button>
          )}
          <span role="status">{done}</span>
        </p>
      </div>
    </Dialog>
  );
}
