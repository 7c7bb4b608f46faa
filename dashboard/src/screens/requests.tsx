// The last requests, and new ones as they end; they stand still while somebody reads.

import { useMemo, useRef, useState } from "preact/hooks";
import { query } from "../api";
import * as format from "../format";
import { requests, skipped } from "../live";
import { useLoaded } from "../load";
import { Choice, StatusBadge, Time } from "../parts/bits";
import { figure, text } from "../parts/columns";
import { choices, Filter, NoRows } from "../parts/filters";
import { Read } from "../parts/reading";
import { Table, type Column } from "../parts/table";
import { look, open, place } from "../place";
import type { RequestRow, RequestRows } from "../shapes";
import { useValue } from "../value";
import { t } from "../words";
import { DryRunDrawer } from "./dry-run";
import { RequestDrawer } from "./request-drawer";

const MOST = 500;
const PRESETS = ["all", "errors", "waited", "retried"] as const;

const CACHE = ["hit", "miss", "coalesced", "bypass"];

const lastKey = (row: RequestRow) => row.attempts[row.attempts.length - 1]?.key ?? "";

/** The proxy's own filters (RequestQuery), for rows that come by the stream, and `q`, which only the page has. */
export const matches = ({ client, model, key, code, cache, errors, show, q = "" }: Record<string, string>) => (row: RequestRow): boolean =>
  (!client || row.client === client) &&
  (!model || row.model === model) &&
  (!key || row.attempts.some((one) => one.key === key)) &&
  (!code || row.code === code || row.attempts.some((one) => one.reason === code)) &&
  (!cache || row.cache === cache) &&
  (!errors || row.status >= 400 || row.cut) &&
  (show !== "waited" || row.queue_ms > 0) &&
  (show !== "retried" || row.attempts.length > 1) &&
  [row.id, row.endpoint, row.client, row.model, row.code, ...row.attempts.map((one) => one.key)].join(" ").toLowerCase().includes(q.toLowerCase());

const columns = (): Column<RequestRow>[] => [
  text("time", (row) => row.time, "5.5rem", "", (row) => <Time at={row.time} />),
  text("client", (row) => row.client || t("anonymous"), "minmax(6rem, 1fr)"),
  text("model", (row) => row.model || "–", "minmax(7rem, 2fr)", "wide"),
  text("status", (row) => `${row.status} ${row.code}`, "minmax(7rem, 2.6fr)", "", (row) => <StatusBadge status={row.status} code={row.code} cut={row.cut} />),
  figure("waited", (row) => row.queue_ms || null, format.ms),
  figure("first-byte", (row) => row.ttfb_ms, format.ms),
  figure("took", (row) => row.total_ms, format.ms),
  figure("tokens", (row) => row.prompt_tokens + row.completion_tokens),
  figure("cost", (row) => row.usd, format.usd),
  text("key", lastKey, "minmax(6rem, 1fr)", "wide", (row) => lastKey(row) + (row.attempts.length > 1 ? ` (${row.attempts.length}×)` : "") || (row.source === "cache" ? t("cache") : "–")),
];

export function Requests() {
  const { id, filters } = useValue(place);
  const { client, key, model, code, cache, errors, show } = filters;
  const loaded = useLoaded<RequestRows>(`/requests${query({ limit: MOST, client, key, model, code, cache, errors, ...(show ? { [show]: true } : {}) })}`);
  const stream = useValue(requests);
  const untold = useValue(skipped);
  const [paused, setPaused] = useState(false);
  const [reading, setReading] = useState(false); // the mouse is over the rows: they must not move below it
  const [asking, setAsking] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const kept = useRef(stream);
  const isStill = paused || reading;
  if (!isStill) kept.current = stream;
  const { data } = loaded;
  const all = useMemo(columns, []);
  const wanted = useMemo(() => matches(filters), [filters]);
  const rows = useMemo(() => {
    const known = new Map([...(data?.requests ?? []), ...kept.current].map((row) => [row.id, row]));
    return [...known.values()].filter(wanted).sort((a, b) => (a.time < b.time ? 1 : -1));
  }, [data, kept.current, wanted]);
  const list = (pick: (row: RequestRow) => string) => useMemo(() => [...new Set(rows.map(pick))].filter(Boolean).slice(0, 99), [data]);
  const seen = stream.findIndex((row) => row === kept.current[0]);
  const fresh = isStill ? stream.slice(0, seen < 0 ? stream.length : seen).filter(wanted).length : 0;
  const goOn = () => {
    kept.current = stream;
    setPaused(!fresh && !paused);
    if (fresh) box.current?.firstElementChild?.scrollTo(0, 0);
  };
  return (
    <>
      <div class="head">
        <h1>{t("screen.requests")}</h1>
        <button type="button" onClick={() => setAsking(true)}>
          {t("dry-run")}
        </button>
      </div>
      <div class="filters">
        <Filter name="q" />
        <Filter name="client" word="client" list={list((row) => row.client)} />
        <Filter name="model" word="model" list={list((row) => row.model)} />
        <Filter name="key" word="key" list={list(lastKey)} />
        <Filter name="code" word="code" list={list((row) => row.code)} />
        <Filter name="cache" word="cache" options={choices("cache", CACHE)} />
      </div>
      <div class="head">
        <Choice label={t("shown")} value={errors ? "errors" : (show ?? "all")} options={PRESETS.map((one) => [one as string, t(one)])}
          onChange={(next) => look({ errors: next === "errors" ? "true" : "", show: /ed/.test(next) ? next : "" })} />
        <button type="button" onClick={goOn}>
          {fresh ? t("new-n", { n: format.whole(fresh) }) : t(paused ? "resume" : "pause")}
        </button>
      </div>
      {untold > 0 && <p class="muted">{t("skipped-n", { n: format.whole(untold) })}</p>}
      <Read of={loaded}>
        {() => (
          <div ref={box} onScrollCapture={(event) => (event.target as Element).scrollTop && setPaused(true)} onFocusCapture={() => setPaused(true)}
            onMouseEnter={() => setReading(true)} onMouseLeave={() => setReading(false)}>
            <Table rows={rows} columns={all} id={(row) => row.id} label={t("screen.requests")} onOpen={(row) => open(row.id)}
              empty={<NoRows filtered={Object.values(filters).some(Boolean)} none="requests-none" next="requests-none-next" />} />
          </div>
        )}
      </Read>
      {id && <RequestDrawer key={id} id={id} />}
      {asking && <DryRunDrawer client={client ?? ""} onClose={() => setAsking(false)} />}
    </>
  );
}
