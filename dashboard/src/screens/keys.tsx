// All keys of the pool: what is wrong with which, and work on many of them at once.

import { useMemo, useState } from "preact/hooks";
import { mayChange, post } from "../api";
import * as format from "../format";
import { now } from "../live";
import { useLoaded } from "../load";
import { Bar, Button, StateBadge } from "../parts/bits";
import { Question } from "../parts/dialog";
import { choices, Filter, NoRows } from "../parts/filters";
import { OutsideMark } from "../parts/outside";
import { Read } from "../parts/reading";
import { Table, type Column } from "../parts/table";
import { link, look, open, place, refine, toMain } from "../place";
import type { Job, Jobs, KeyLine, KeyLines } from "../shapes";
import { useValue } from "../value";
import { said, t, told } from "../words";
import { AddKeys } from "./add-keys";
import { KeyDrawer } from "./key-drawer";
import { VERBS, Work, type Started } from "./work";

const STATES = ["active", "cooling", "suspect", "quarantined", "draining", "disabled", "removed", "locked"];

const stateOf = (key: KeyLine): string => (key.state === "active" && key.cooling_s > 0 ? "cooling" : key.state);

/** `gpt-5 · tok/min` of `gpt-5 tpm`. */
const emptiest = (key: KeyLine): string => key.emptiest.replace(/ (\w+)$/, (_, dimension: string) => ` · ${format.unit(dimension)}`);

const NARROW = 780; // pixels, as in style.css: there a mark stands in the place of the state

/** They are also what is told first about one key. `marked`: some have a mark beside their state. */
export const columns = (marked = false): Column<KeyLine>[] => [
  { name: "id", title: t("key"), cell: (key) => <strong title={key.id}>{key.id}</strong>, order: (key) => key.id, width: "minmax(7rem, 1.2fr)" },
  { name: "account", title: t("account"), cell: (key) => <a href={link("money", {}, key.account)}>{key.account}</a>, order: (key) => key.account, kind: "wide" },
  { name: "state", title: t("state"), cell: (key) => <><StateBadge state={stateOf(key)} /> <OutsideMark account={key.account} /></>, order: (key) => STATES.indexOf(stateOf(key)), width: !marked ? "7.5rem" : innerWidth > NARROW ? "15rem" : "8.5rem" },
  {
    name: "left", title: t("left"), order: (key) => key.left ?? 2, width: "minmax(6rem, 2.6fr)",
    cell: (key) =>
      key.left !== null && (
        <span title={emptiest(key)}>
          <Bar value={key.left} label={emptiest(key)} /> {format.share(key.left)} <small>{emptiest(key)}</small>
        </span>
      ),
  },
  { name: "reason", title: t("reason"), cell: (key) => said("reason", key.reason), order: (key) => key.reason, kind: "wide", width: "minmax(6rem, 1.5fr)" },
  { name: "next", title: t("next"), cell: (key) => key.next && <span title={told("next", key.reason, key.next)}>{told("next", key.reason, key.next)}</span>, kind: "wide", width: "minmax(6rem, 2fr)" },
  { name: "credit", title: t("credit"), cell: (key) => format.usd(key.credit_usd), order: (key) => key.credit_usd ?? -1, kind: "wide number", width: "4.5rem" },
  { name: "used", title: t("last-used"), cell: (key) => lastUsed(key.last_used), order: (key) => key.last_used ?? "", kind: "wide number", width: "8.5rem" },
];

/** It is known to the hour today, else to the day. */
const lastUsed = (at: string | null) =>
  at === null ? "–" : at.length === 10 ? format.day(at) : Date.now() - Date.parse(at) < 3_600_000 ? t("this-hour") : format.ago(at);

export function Keys() {
  const lines = useLoaded<KeyLines>("/key-lines", 15);
  return <Read of={lines}>{({ keys }) => <List keys={keys} again={lines.again} />}</Read>;
}

function List({ keys, again }: { keys: KeyLine[]; again: () => void }) {
  const { id, filters } = useValue(place);
  const running = useLoaded<Jobs>("/jobs").data?.jobs.find((job) => !job.finished);
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [started, setStarted] = useState<Started | null | undefined>();
  const marked = (useValue(now)?.outside_use ?? []).length > 0;
  const shown = useMemo(() => columns(marked), [marked]);
  const { q = "", state = "", reason = "", add } = filters;
  const { rows, counts, reasons } = useMemo(() => {
    const alike = keys.filter(
      (key) =>
        `${key.id} ${key.account}`.toLowerCase().includes(q.toLowerCase()) &&
        (["reason", "account", "source"] as const).every((name) => !filters[name] || key[name] === filters[name]),
    );
    const counts: Record<string, number> = {};
    for (const key of alike) counts[stateOf(key)] = (counts[stateOf(key)] ?? 0) + 1;
    const reasons = new Set([reason, ...keys.map((key) => key.reason)].filter(Boolean));
    return { rows: alike.filter((key) => !state || stateOf(key) === state), counts, reasons: [...reasons].sort() };
  }, [keys, filters]);

  const change = mayChange();
  const chosen = rows.filter((key) => selected.has(key.id));
  const isAll = chosen.length === rows.length;
  // A button of the first screen, or a link, asks for all that match.
  const about = chosen.length ? chosen : rows;
  const verb = change && about.length > 0 && VERBS.find((one) => one === filters["then"]);
  const job = started === undefined ? running : started;
  const start = async () => {
    setStarted(await post<Job>("/jobs/keys", { action: verb, ids: about.map((key) => key.id) }));
    setSelected(new Set());
  };
  return (
    <>
      <div class="head">
        <h1>{t("screen.keys")}</h1>
        <Button change kind="primary" onClick={() => look({ add: "true" })}>{t("add-keys")}</Button>
      </div>
      {job && <Work key={job.id} of={job} onEnd={again} onClose={() => { toMain(); setStarted(null); }} />}
      <div class="buttons" role="group" aria-label={t("state")}>
        {STATES.filter((one) => counts[one] || one === state).map((one) => (
          <button key={one} type="button" class="chip" aria-pressed={one === state} onClick={() => look({ state: one === state ? "" : one })}>
            <StateBadge state={one} /> {format.whole(counts[one] ?? 0)}
          </button>
        ))}
      </div>
      <div class="filters">
        <Filter name="q" />
        <Filter name="account" word="account" />
        <Filter name="reason" word="reason" options={choices("reason", reasons)} />
        <Filter name="source" word="source" options={choices("source", ["configuration", "store"])} />
      </div>
      {change && rows.length > 0 && (
        <div class="buttons">
          <span role="status">{t("chosen-n", { n: format.whole(chosen.length) })}</span>
          <Button kind="link" onClick={() => setSelected(new Set(isAll ? [] : rows.map((key) => key.id)))}>
            {isAll ? t("choose-none") : t("choose-matching", { n: format.whole(rows.length) })}
          </Button>
          {chosen.length > 0 && VERBS.map((one) => <Button key={one} onClick={() => look({ then: one })}>{t(`action.${one}`)}</Button>)}
        </div>
      )}
      <Table rows={rows} columns={shown} id={(key) => key.id} label={t("screen.keys")} onOpen={(key) => open(key.id)}
        {...(change ? { selected, onSelect: setSelected } : {})} empty={<NoRows filtered={keys.length > 0} none="pool-empty" />} />
      {verb && (
        <Question title={`${t(`action.${verb}`)} ${t("n-keys", { n: format.whole(about.length) })}?`} verb={t(`action.${verb}`)}
          danger={verb === "forget" || verb === "remove"} onYes={start} onClose={() => refine({ then: "" })}>
          <p>{t(`about.${verb}`)}</p>
        </Question>
      )}
      {add && change && <AddKeys replaced={filters["replace"] ?? ""} onStart={setStarted} onDone={again} />}
      {id && <KeyDrawer key={id} id={id} line={keys.find((key) => key.id === id)} onChange={again} />}
    </>
  );
}
