// What happened in the pool and who did what, the newest first; and who is signed in.

import { useMemo, useState } from "preact/hooks";
import { get, mayChange, path, query, remove } from "../api";
import { events as live } from "../live";
import { useLoaded } from "../load";
import { Badge, Button, Panel, StateBadge, Time } from "../parts/bits";
import { Dialog } from "../parts/dialog";
import { Facts } from "../parts/facts";
import { csv, Save } from "../parts/files";
import { choices, Filter, NoRows } from "../parts/filters";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import { Table, type Column } from "../parts/table";
import { close, link, open, place, type Screen } from "../place";
import type { Event as PoolEvent, Events as PoolEvents, LoginRows } from "../shapes";
import { useValue } from "../value";
import { said, t, type Word } from "../words";

const AT_ONCE = 200;
const KINDS = ["state", "operator", "brake", "egress", "outside_use", "policy"];
const SUBJECTS: Record<string, [Word, Screen?]> = { k: ["key", "keys"], a: ["account", "money"], c: ["client", "clients"], t: ["team", "clients"], o: ["organization"] };

const text = ({ data }: PoolEvent, name: string): string => String(data[name] ?? "");
const newestFirst = (a: PoolEvent, b: PoolEvent): number => b.id.localeCompare(a.id, undefined, { numeric: true });

/** `state: active → disabled`, for each option; nothing for what is not JSON. */
function changesOf(event: PoolEvent): string[] {
  const shown = (value: unknown) => (typeof value === "string" ? value : value === null ? "–" : JSON.stringify(value));
  try {
    const changes = JSON.parse(text(event, "changes")) as Record<string, unknown[]>;
    return Object.entries(changes).map(([option, pair]) => `${option}: ${pair.map(shown).join(" → ")}`);
  } catch {
    return [];
  }
}

function Subject({ of }: { of: string }) {
  const [word, screen] = SUBJECTS[of.slice(0, of.indexOf("/"))] ?? [];
  const name = of.slice(2);
  const words = word ? `${t(word)} ${name}` : of;
  return screen ? <a href={word === "team" ? link(screen, { team: name }) : link(screen, {}, name)}>{words}</a> : <>{words}</>;
}

/** `active → removed`, or what an operator did. */
function What({ of }: { of: PoolEvent }) {
  const changes = changesOf(of).join(", ");
  if (text(of, "to")) return <><StateBadge state={text(of, "from")} /> → <StateBadge state={text(of, "to")} /></>;
  return <span title={changes}>{text(of, "action").replaceAll("_", " ") || text(of, "message")} <small>{changes}</small></span>;
}

/** They are also what is told about one event. */
const columns = (): Column<PoolEvent>[] => [
  { name: "time", title: t("time"), cell: (event) => <Time at={Number(event.at)} />, width: "7.5rem" },
  { name: "kind", title: t("kind"), cell: (event) => said("kind", text(event, "kind")), kind: "wide", width: "5rem" },
  { name: "subject", title: t("subject"), cell: (event) => text(event, "field") && <Subject of={text(event, "field")} />, width: "minmax(6rem, 1.2fr)" },
  { name: "what", title: t("what"), cell: (event) => <What of={event} />, width: "minmax(8rem, 2fr)" },
  { name: "reason", title: t("reason"), cell: (event) => said("reason", text(event, "reason")), kind: "wide" },
  { name: "who", title: t("who"), cell: (event) => <>{text(event, "actor") || text(event, "by")} <small>{text(event, "address")}</small></>, kind: "wide", width: "minmax(6rem, 1.5fr)" },
  { name: "message", title: t("message"), cell: (event) => (text(event, "message") || text(event, "request_id")) && <span title={text(event, "message")}>{text(event, "message")} <small>{text(event, "request_id")}</small></span>, kind: "wide", width: "minmax(6rem, 2fr)" },
];

export function Events() {
  const { id, filters } = useValue(place);
  const { kind = "", subject = "" } = filters;
  const at = (before = "") => `/events${query({ limit: AT_ONCE, kind, subject, before })}`;
  const read = useLoaded<PoolEvents>(at());
  const [older, setOlder] = useState<{ of: string; pages: PoolEvent[][] }>({ of: "", pages: [] });
  const fresh = useValue(live);
  const shown = useMemo(columns, []);
  const first = read.data?.events ?? [];
  const pages = [first, ...(older.of === at() ? older.pages : [])];
  const events = useMemo(() => {
    const some = fresh.filter((event) => (!kind || text(event, "kind") === kind) && (!subject || text(event, "field") === subject));
    return [...new Map([...some, ...pages.flat()].map((event) => [event.id, event])).values()].sort(newestFirst);
  }, [fresh, first, older, kind, subject]);
  const goOn = async () => {
    const next = await get<PoolEvents>(at(events.at(-1)?.id));
    setOlder({ of: at(), pages: [...pages.slice(1), next.events] });
  };
  const table = () => {
    const names = [...new Set(events.flatMap(({ data }) => Object.keys(data)))];
    return csv([["id", "at", ...names], ...events.map((event) => [event.id, event.at, ...names.map((name) => text(event, name))])]);
  };
  const opened = events.find((event) => event.id === id);
  return (
    <>
      <h1>{t("screen.events")}</h1>
      <div class="filters">
        <Filter name="kind" word="kind" options={choices("kind", KINDS)} />
        <Filter name="subject" word="subject" placeholder="k/key-1" />
        <Save name="events.csv" text={table} />
        <Save name="events.json" text={() => JSON.stringify(events)} />
      </div>
      <Read of={read}>
        {() => <Table rows={events} columns={shown} id={(event) => event.id} label={t("screen.events")} onOpen={(event) => open(event.id)} empty={<NoRows filtered={!!kind || !!subject} none="events-none" />} />}
      </Read>
      {pages.at(-1)?.length === AT_ONCE && <p><Button onClick={goOn}>{t("older")}</Button></p>}
      {mayChange() && <Sessions />}
      {opened && (
        <Dialog kind="drawer" title={t("screen.events")} onClose={close}>
          <Facts of={shown.map(({ title, cell }) => [title, cell(opened)])} />
        </Dialog>
      )}
    </>
  );
}

/** The last events of one subject, or of two. */
export function Recorded({ of, also = "" }: { of: string; also?: string }) {
  const at = (subject: string) => subject && `/events${query({ limit: 20, subject })}`;
  const all = [useLoaded<PoolEvents>(at(of)), useLoaded<PoolEvents>(at(also))];
  const events = all.flatMap(({ data }) => data?.events ?? []).sort(newestFirst);
  return (
    <>
      <h3>{t("screen.events")}</h3>
      {!events.length && <p class="muted">{t("events-none")}</p>}
      <ul class="timeline">
        {events.slice(0, 20).map((event) => <li key={event.id}>{columns().filter((_, n) => n % 2 === 0 || n > 2).map(({ cell }) => <>{cell(event)} </>)}</li>)}
      </ul>
    </>
  );
}

function Sessions() {
  const read = useLoaded<LoginRows>("/logins", 30);
  return (
    <Panel title={t("signed-in")}>
      <Read of={read}>
        {({ logins }) => (
          <ShortTable bare title={t("signed-in")} heads={[t("who"), t("role"), t("address"), t("since"), t("expires"), t("state")]}
            ids={logins.map((one) => one.id)} rows={logins.map((one) => [
              one.actor, t(`role.${one.role}`), `${one.address} (${one.by})`, <Time at={one.started} />, <Time at={one.expires_at} />,
              one.current ? <Badge tone="info">{t("this-one")}</Badge> : <Button change onClick={() => remove(path("/logins", one.id)).then(read.again)}>{t("sign-out")}</Button>,
            ])}
          />
        )}
      </Read>
    </Panel>
  );
}
