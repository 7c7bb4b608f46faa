// Work on many keys: how far it is, and what came of it. It goes on when nobody looks.

import { useEffect, useState } from "preact/hooks";
import { path, remove } from "../api";
import * as format from "../format";
import { useLoaded } from "../load";
import { Badge, Button, Copy, Panel } from "../parts/bits";
import { csv, Save } from "../parts/files";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import type { Job, KeyWork } from "../shapes";
import { said, t } from "../words";

export type Verb = KeyWork["action"];
export const VERBS: Verb[] = ["probe", "enable", "disable", "drain", "remove", "forget"];

/** A job, and of an import the files that it was made of: their names, and how many lines each has. */
export interface Started {
  id: string;
  files?: [string, number][];
}

/** `keys.csv:3`; the number alone if there is only one text. */
function lineOf(line: number, files: [string, number][] = []): string {
  let left = line;
  for (const [name, lines] of files) {
    if (left <= lines) return `${name}:${left}`;
    left -= lines;
  }
  return line ? String(line) : "";
}

export function Work({ of, onEnd, onClose }: { of: Started; onEnd: () => void; onClose: () => void }) {
  const [ended, setEnded] = useState(false);
  const read = useLoaded<Job>(path("/jobs", of.id), ended ? 0 : 0.5);
  const finished = read.data?.finished ?? false;
  useEffect(() => {
    setEnded(finished);
    if (finished) onEnd();
  }, [finished]);
  return <Read of={read}>{(job) => <Report of={job} files={of.files} onClose={onClose} />}</Read>;
}

function Report({ of: job, files, onClose }: { of: Job; files: Started["files"]; onClose: () => void }) {
  const heads = [t("line"), t("key"), t("result"), t("reason")];
  const rows = job.not_done.map((one) => [lineOf(one.line, files), one.id, said("result", one.result), one.why]);
  const text = csv([heads, ...rows]);
  const n = format.whole(job.total);
  const title = `${said("action", job.action)} ${t("n-keys", { n })}`;
  return (
    <Panel title={title}
      aside={job.finished ? <Button onClick={onClose}>{t("close")}</Button> : <Button change onClick={() => remove(path("/jobs", job.id))}>{t("stop")}</Button>}>
      {!job.finished && <progress aria-label={title} max={job.total || 1} {...(job.total ? { value: job.done } : {})} />}
      <p class="buttons" role="status" aria-busy={!job.finished /* then it is said once */}>
        {t("done-of", { done: format.whole(job.done), n })}
        {Object.entries(job.counts).map(([result, number]) => <Badge key={result}>{said("result", result)} {format.whole(number)}</Badge>)}
      </p>
      {job.problem && <p class="problem">{job.problem}</p>}
      {rows.length > 0 && (
        <>
          <div class="head">
            <h3>{t("not-done")}</h3>
            <span class="buttons"><Copy text={text} /> <Save name="not-done.csv" text={() => text} /></span>
          </div>
          <div class="short"><ShortTable bare title={t("not-done")} heads={heads} rows={rows} /></div>
        </>
      )}
    </Panel>
  );
}
