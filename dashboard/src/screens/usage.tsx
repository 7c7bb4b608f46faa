// Who used and spent what, and when; a span of the chart can be marked to look closer.

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import * as format from "../format";
import { Bar, Choice, Empty, Field, Panel } from "../parts/bits";
import { Chart } from "../parts/chart";
import { figure, text } from "../parts/columns";
import { Command, Facts, Sums, to } from "../parts/facts";
import { Save } from "../parts/files";
import { Filter } from "../parts/filters";
import { Read } from "../parts/reading";
import { Table, type Column } from "../parts/table";
import { link, look, place } from "../place";
import type { UsageRow } from "../shapes";
import { useValue } from "../value";
import { t } from "../words";
import { SavingsPanel } from "./savings";
import { course, csvOf, MEASURES, nameOf, STEPS, useReport, type Measure, type Part, type Report } from "./usage-data";

const SPANS = ["1h", "24h", "7d", "30d", "395d"];
const BYS = ["client", "model", "key", "account", "client,model", "key,model", "account,model"];
const SCREENS = { client: "clients", key: "keys", account: "money" } as const;

const parted = (by: string) => by.split(",") as Part[];
const words = (by: string) => parted(by).map((part) => t(part)).join(" × ");
const quoted = (text: string) => (/[^\w.:,+-]/.test(text) ? `'${text}'` : text);
const iso = (at: number) => `${new Date(at * 1_000).toISOString().slice(0, 16)}Z`;

export function Usage() {
  const { by = "client", since = "24h", until = "", measure: asked, before = "" } = useValue(place).filters;
  const loaded = useReport(by, since, until);
  const measures = (Object.keys(MEASURES) as Measure[]).slice(0, /client/.test(by) ? 4 : 3); // refusals are known by client only
  const measure = measures.find((one) => one === asked) ?? "cost";
  const zoom = (since: string, until: string, before: string) => look({ since, until, before });
  const [last = "", ...earlier] = before.split(";");
  return (
    <>
      <div class="head">
        <h1>{t("screen.usage")}</h1>
        <Choice label={t("time")} value={until ? "" : since} onChange={(since) => zoom(since, "", "")}
          options={SPANS.map((span) => [span, span === "395d" ? t("span-months") : span.replace(/\D/, " $&")])} />
      </div>
      <div class="filters">
        <Field label={t("by")} value={by} onInput={(by) => look({ by })} options={BYS.map((one) => [one, words(one)])} />
        <Filter name="since" word="since" placeholder="24h" />
        <Filter name="until" word="until" />
        <Choice label={t("shown")} value={measure} options={measures.map((one) => [one, t(one)])} onChange={(measure) => look({ measure })} />
      </div>
      <Read of={loaded}>
        {(report) => (
          <Shown report={report} measure={measure} since={since} until={until}
            back={last && <button type="button" onClick={() => zoom(last.split("~")[0]!, last.split("~")[1]!, earlier.join(";"))}>{t("zoom-out")}</button>}
            onBrush={(from, end) => {
              const step = STEPS[report.step];
              const first = Math.floor(from / step) * step;
              zoom(iso(first), iso(Math.max(Math.ceil(end / step) * step, first + 2 * step)), `${since}~${until};${before}`);
            }} />
        )}
      </Read>
      <SavingsPanel />
    </>
  );
}

function Shown({ report, measure, since, until, back, onBrush }: {
  report: Report; measure: Measure; since: string; until: string; back: ComponentChildren; onBrush: (since: number, until: number) => void;
}) {
  const { sums, step } = report;
  const { total } = sums;
  const parts = parted(sums.by);
  const { at, lines } = useMemo(() => course(report, parts, measure), [report, measure]);
  const columns = useMemo(() => columnsOf(parts, measure, MEASURES[measure](total)), [report, measure]);
  const label = `${t("screen.usage")}: ${words(sums.by)}`;
  return (
    <>
      <Sums of={[
        [t("cost"), format.usd(total.usd)],
        [t("requests"), format.count(total.requests)],
        [t("tokens"), format.count(MEASURES.tokens(total))],
        [t("refusals"), format.count(total.refused_requests)],
        [t("this-month"), format.usd(sums.month_to_date_usd)],
      ]} />
      <Panel title={label} aside={<span class="buttons"><small>{format.moment(sums.since)} – {format.moment(sums.until)} · {step}</small>{back}</span>}>
        {lines.length ? (
          <>
            <Chart at={at} lines={lines} label={label} show={measure === "cost" ? format.usd : format.count} height={240} stack onBrush={onBrush} />
            <small>{t("zoom-about")}</small>
          </>
        ) : (
          <Empty title={t("usage-none")} />
        )}
      </Panel>
      <Table key={sums.by + measure} rows={sums.rows} columns={columns} id={(row) => nameOf(row, parts)} label={label} start={{ by: "share", down: true }} height="50vh" empty={null} />
      <Panel title={t("about-figures")} aside={<Save name={`usage-${sums.since.slice(0, 10)}.csv`} text={() => csvOf(report, parts)} />}>
        <Facts of={[
          [t("command"), <Command text={`quotapool usage --by ${sums.by} --since ${quoted(since)}${until && ` --until ${quoted(until)}`} --every ${step}`} />],
          [t("estimated"), `${format.usd(total.estimated_usd)} (${format.share(total.estimated_usd / (total.usd || 1))})`],
          [t("unpriced"), `${format.whole(total.unpriced_requests)} ${sums.unpriced.join(", ")}`],
          [t("not-seen"), sums.not_seen.join("; ")],
        ]} />
      </Panel>
    </>
  );
}

function columnsOf(parts: Part[], measure: Measure, all: number): Column<UsageRow>[] {
  const pick = MEASURES[measure];
  return [
    ...parts.map((part) => text<UsageRow>(part, (row) => row[part] ?? "", "minmax(7rem, 2fr)", "", (row) => {
      const id = row[part] ?? "";
      return /^(-|anonymous|other)$/.test(id) ? id : part === "model" ? <a href={link("requests", { model: id })}>{id}</a> : to(SCREENS[part], id);
    })),
    { ...figure("share", pick), kind: "", width: "minmax(7rem, 2fr)", cell: (row) => <><Bar value={pick(row) / all} tone="info" label={t("share")} /> {format.share(pick(row) / (all || 1))}</> },
    figure("cost", MEASURES.cost, format.usd, "number"),
    figure("requests", MEASURES.requests),
    figure("refusals", (row) => row.refused_requests),
    figure("tokens", MEASURES.tokens),
    figure("cached", (row) => row.cached_tokens),
    figure("output", (row) => row.completion_tokens),
  ];
}
