// How the pool stands: one sentence, what to look at, what is left by model, the last hour, and who waits for what.

import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { get, path, post } from "../api";
import * as format from "../format";
import { now } from "../live";
import { Badge, Bar, Button, Choice, Empty, Loading, Panel } from "../parts/bits";
import { Chart, type Line } from "../parts/chart";
import { coded, to } from "../parts/facts";
import { ShortTable } from "../parts/short-table";
import { go, link } from "../place";
import type { Attention, CreditRow, Fact, Now as State, RoomRow, SampleSeries, Samples, WaitingRow } from "../shapes";
import { useValue } from "../value";
import { language, said, t, told } from "../words";
import { CachePanel } from "./cache";
import { TopUpQuestion } from "./top-up";

const MOST_ROWS = 12;

export function Now() {
  const state = useValue(now);
  if (state === null) return <Loading />;
  return (
    <>
      <h1 class="sentence">{state.facts.map(inWords).join(language.get() === "zh" ? "" : " ")}</h1>
      <Figures of={state} />
      <Tasks of={state.attention} />
      <Room of={state.room} />
      <LastHour />
      <div class="two">
        <Waiting of={state.waiting} />
        <Credit of={state.credit} />
      </div>
      <CachePanel />
    </>
  );
}

function inWords(fact: Fact): string {
  const { name = "", dimension = "", number = 0, of = 0, at = "" } = fact;
  switch (fact.code) {
    case "serving":
      return t("fact.serving", { n: format.whole(of), usable: format.whole(number) });
    case "not_serving":
      return t("fact.not_serving", { n: format.whole(of) });
    case "dry":
      return t("fact.dry", { name, dimension, span: format.minutes(number) });
    case "dry_now":
      return t("fact.dry_now", { name, dimension });
    case "not_dry":
      return t("fact.not_dry");
    case "credit":
      return t("fact.credit", { name, at: format.day(at) });
    case "queue":
      return t("fact.queue", { n: format.whole(number) });
    case "store_away":
      return t("fact.store_away");
    default:
      return "";
  }
}

function Figures({ of }: { of: State }) {
  const spent = format.usd(of.spent_today_usd);
  return (
    <ul class="figures">
      <Figure name={t("keys-usable")} value={`${format.whole(of.usable_keys)} / ${format.whole(Object.values(of.keys).reduce((a, b) => a + b, 0))}`} href={link("keys")} />
      <Figure name={t("accounts")} value={format.whole(of.accounts)} href={link("money")} />
      <Figure name={t("requests-per-minute")} value={format.count(of.requests_per_minute)} href={link("requests")} />
      <Figure name={t("errors-per-minute")} value={format.count(of.errors_per_minute)} href={link("requests", { errors: "true" })} bad={of.errors_per_minute > 0} />
      <Figure name={t("spent-today")} value={of.daily_limit_usd ? `${spent} / ${format.usd(of.daily_limit_usd)}` : spent} href={link("usage")} />
    </ul>
  );
}

function Figure({ name, value, href, bad = false }: { name: string; value: string; href: string; bad?: boolean }) {
  return (
    <li>
      <a href={href}>
        <strong class={bad ? "bad" : ""}>{value}</strong>
        <span>{name}</span>
      </a>
    </li>
  );
}

function Tasks({ of }: { of: Attention[] }) {
  return (
    <Panel title={t("attention")}>
      {of.length === 0 ? (
        <Empty title={t("attention-none")} />
      ) : (
        <ul class="tasks">
          {of.map((task) => (
            <Task key={`${task.kind} ${task.code} ${task.ids[0] ?? ""}`} of={task} />
          ))}
        </ul>
      )}
    </Panel>
  );
}

const TONES = { critical: "bad", warning: "warn", info: "info" } as const;

function Task({ of }: { of: Attention }) {
  const [toppingUp, setToppingUp] = useState(false);
  const [done, setDone] = useState("");
  const first = of.ids[0] ?? "";
  const names = of.count > 1 ? t("and-more", { name: first, n: format.whole(of.count - 1) }) : first;
  const act = async (action: Attention["actions"][number]): Promise<void> => {
    switch (action) {
      case "probe":
      case "enable":
        if (of.count > 1) return go("keys", { reason: of.code, then: action });
        await post(path("/keys", first, action));
        setDone(t(action === "probe" ? "probed" : "result.enabled"));
        return;
      case "replace":
        return go("keys", { add: "true", replace: first });
      case "topup":
        setToppingUp(true);
        return;
      case "show_client":
        return go("clients", {}, first);
      case "show_key":
        return of.count > 1 ? go("keys", { reason: of.code }) : go("keys", {}, first);
      case "show_account":
        return go("money", {}, first);
      case "show_requests":
        return go("requests", of.kind === "client" ? { client: first } : of.kind === "model" ? { model: first } : { errors: "true" });
    }
  };
  return (
    <li>
      <Badge tone={TONES[of.severity]}>{t(`severity.${of.severity}`)}</Badge>
      <p>
        <strong>{said("reason", of.code)}</strong> {names && <span>{names}</span>}
        <br />
        <span class="muted">
          {coded(told("next", of.code, of.next))} {of.since ? <>· {format.ago(of.since)}</> : null}
        </span>
      </p>
      <span class="buttons">
        {of.actions.map((action) => (
          <Button key={action} onClick={() => act(action)} change={!action.startsWith("show_")}>
            {t(`action.${action}`)}
          </Button>
        ))}
        {done && <span role="status">{done}</span>}
      </span>
      {toppingUp && <TopUpQuestion account={first} onClose={() => setToppingUp(false)} />}
    </li>
  );
}

/** The first to run dry first, then the emptiest. */
export function byUrgency(a: RoomRow, b: RoomRow): number {
  const dry = (row: RoomRow) => row.dry?.minutes ?? Infinity;
  const left = (row: RoomRow) => row.remaining / Math.max(1, row.limit);
  return dry(a) === dry(b) ? left(a) - left(b) : dry(a) - dry(b);
}

function Room({ of }: { of: RoomRow[] }) {
  const [all, setAll] = useState(false);
  const rows = useMemo(() => [...of].sort(byUrgency), [of]);
  const shown = all ? rows : rows.slice(0, MOST_ROWS);
  return (
    <Panel title={t("room")} aside={<small>{t("room-about")}</small>}>
      {rows.length === 0 ? (
        <Empty title={t("room-none")}>
          <p>{t("room-none-next")}</p>
        </Empty>
      ) : (
        <ShortTable bare title={t("room")} numbers={3} heads={[t("model"), t("limit-of"), t("left"), t("left-of-limit"), t("pace"), t("dry-in")]} ids={shown.map((row) => `${row.model} ${row.dimension}`)} rows={shown.map(roomCells)} />
      )}
      {rows.length > MOST_ROWS && (
        <button type="button" class="link" onClick={() => setAll(!all)}>
          {all ? t("show-fewer") : t("show-all", { n: rows.length })}
        </button>
      )}
    </Panel>
  );
}

function roomCells(row: RoomRow): ComponentChildren[] {
  const left = row.limit ? row.remaining / row.limit : 0;
  const dry = row.dry;
  const latest = dry?.latest == null ? t("never") : format.minutes(dry.latest);
  return [
    <>
      <a href={link("requests", { model: row.model })}>{row.model}</a>
      {row.cooling > 0 && <Badge tone="info">{t("cooling-n", { n: row.cooling, of: row.accounts })}</Badge>}
    </>,
    <span title={row.dimension}>{format.unit(row.dimension)}</span>,
    <><Bar value={left} label={t("left-label", { model: row.model, dimension: row.dimension })} /> {format.share(left)}</>,
    `${format.count(row.remaining)} / ${format.count(row.limit)}`,
    <span title={t("refill", { n: format.count(row.refill_per_minute) })}>{format.count(row.used_per_minute)}/min</span>,
    dry ? (
      <span class={dry.minutes < 10 ? "bad" : ""} title={t("dry-range", { a: format.minutes(dry.earliest), b: latest })}>
        {dry.minutes ? format.minutes(dry.minutes) : t("dry-now")} {dry.minutes > 0 && <small>({format.minutes(dry.earliest)}–{latest})</small>}
      </span>
    ) : (
      t("not-at-this-pace")
    ),
  ];
}

// ---- the last hour

const EVERY_S = 10;

/** The hour is read once, then only what is new. */
function useSamples(): Samples | null {
  const [samples, setSamples] = useState<Samples | null>(null);
  useEffect(() => {
    const stop = new AbortController();
    let known: Samples | null = null;
    const read = async () => {
      try {
        const part = await get<Samples>(known ? "/samples?minutes=1" : "/samples", stop.signal);
        known = known ? joined(known, part) : part;
        setSamples(known);
      } catch {
        // The stream shows that the proxy does not answer; the next turn may succeed.
      }
    };
    void read();
    const timer = setInterval(read, EVERY_S * 1_000);
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, []);
  return samples;
}

/** `old` and what is newer in `part`, an hour of both. */
export function joined(old: Samples, part: Samples): Samples {
  const last = old.at[old.at.length - 1] ?? 0;
  const fresh = part.at.findIndex((at) => at > last);
  if (fresh < 0) return old;
  const oldest = (part.at[part.at.length - 1] ?? 0) - 3_600;
  const from = old.at.findIndex((at) => at >= oldest);
  const kept = from < 0 ? old.at.length : from;
  const join = <V,>(a: V[], b: V[]): V[] => [...a.slice(kept), ...b.slice(fresh)];
  const none = (n: number): null[] => new Array<null>(n).fill(null);
  const name = (series: SampleSeries) => `${series.model} ${series.dimension}`;
  const of = (all: SampleSeries[]) => new Map(all.map((series) => [name(series), series]));
  const before = of(old.series);
  const after = of(part.series);
  const series = [...new Map([...before, ...after]).values()].map((one) => {
    const a = before.get(name(one));
    const b = after.get(name(one));
    const both = (pick: (series: SampleSeries) => (number | null)[]) =>
      join(a ? pick(a) : none(old.at.length), b ? pick(b) : none(part.at.length));
    return { ...one, remaining: both((s) => s.remaining), limit: both((s) => s.limit), used: both((s) => s.used) };
  });
  return { every_s: part.every_s, at: join(old.at, part.at), waiting: join(old.waiting, part.waiting), series };
}

function LastHour() {
  const samples = useSamples();
  const [chosen, setChosen] = useState("");
  const [shown, setShown] = useState<"used" | "left" | "queue">("used");
  if (samples === null) return <Loading />;
  const names = samples.series.map((one) => `${one.model} · ${format.unit(one.dimension)}`);
  const urgent = [...(now.get()?.room ?? [])].sort(byUrgency)[0];
  const of = urgent ? `${urgent.model} · ${format.unit(urgent.dimension)}` : "";
  const at = Math.max(0, names.indexOf(chosen || of));
  const series = samples.series[at];
  const lines: Line[] =
    shown === "queue"
      ? [{ name: t("waiting"), values: samples.waiting, colour: 3, fill: true }]
      : series
        ? [
            { name: shown === "used" ? t("used-per-minute") : t("left"), values: shown === "used" ? series.used : series.remaining, colour: 0, fill: true },
            { name: t("limit"), values: series.limit, colour: "limit" },
          ]
        : [];
  const aside: ComponentChildren = (
    <span class="buttons">
      <Choice label={t("shown")} value={shown} onChange={setShown} options={[["used", t("used")], ["left", t("left")], ["queue", t("queue")]]} />
      {shown !== "queue" && names.length > 1 && (
        <select aria-label={t("model")} value={names[at]} onChange={(event) => setChosen(event.currentTarget.value)}>
          {names.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      )}
    </span>
  );
  return (
    <Panel title={t("last-hour")} aside={aside}>
      {samples.at.length < 2 || lines.every(({ values }) => values.every((value) => value === null)) ? (
        <Empty title={t("samples-none")} />
      ) : (
        <Chart at={samples.at} lines={lines} label={`${t("last-hour")}: ${shown === "queue" ? t("queue") : (names[at] ?? "")}`} show={format.count} />
      )}
    </Panel>
  );
}

function Waiting({ of }: { of: WaitingRow[] }) {
  return (
    <Panel title={t("queue")}>
      {of.length === 0 && <Empty title={t("queue-none")} />}
      <ShortTable bare title={t("queue")} numbers={2} heads={[t("client"), t("waits-for"), t("waiting"), t("longest")]}
        ids={of.map((row) => `${row.client} ${row.rule} ${row.model} ${row.dimension}`)} rows={of.map((row) => [
          row.client ? to("clients", row.client) : t("anonymous"),
          row.rule ? t("own-rule", { rule: row.rule }) : `${row.model} · ${format.unit(row.dimension)}`,
          format.whole(row.waiting),
          format.seconds(row.longest_s),
        ])} />
    </Panel>
  );
}

function Credit({ of }: { of: CreditRow[] }) {
  return (
    <Panel title={t("credit")} aside={<a href={link("money")}>{t("screen.money")}</a>}>
      {of.length === 0 ? (
        <Empty title={t("credit-none")}>
          <p>{t("credit-none-next")}</p>
        </Empty>
      ) : (
        <ShortTable bare title={t("credit")} numbers={1} heads={[t("account"), t("left"), t("per-day"), t("lasts-until")]}
          ids={of.map((row) => row.account)} rows={of.slice(0, MOST_ROWS).map((row) => [
            to("money", row.account),
            format.usd(row.remaining_usd),
            format.usd(row.per_day_usd),
            <>
              {row.empty_at ? format.day(row.empty_at) : t("not-at-this-pace")}
              {row.error_days !== null && row.empty_at && <small> ± {format.count(row.error_days)} d</small>}
              {row.expiring_unused_usd ? <small class="below">{t("expires-unused", { usd: format.usd(row.expiring_unused_usd), at: format.day(row.next_expiry) })}</small> : null}
            </>,
          ])} />
      )}
    </Panel>
  );
}
