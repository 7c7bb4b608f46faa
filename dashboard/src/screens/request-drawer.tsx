// One request, explained: what happened and why, what would help, each attempt, its tokens and cost.

import type { ComponentChildren } from "preact";
import { path } from "../api";
import * as format from "../format";
import { useLoaded } from "../load";
import { Bar, StatusBadge, Time } from "../parts/bits";
import { Dialog } from "../parts/dialog";
import { coded, Command, Facts, to } from "../parts/facts";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import { close, link } from "../place";
import type { Explanation, RequestRow } from "../shapes";
import { language, t, told } from "../words";

export function RequestDrawer({ id }: { id: string }) {
  const row = useLoaded<RequestRow>(path("/requests", id));
  const why = useLoaded<Explanation>(row.data ? path("/requests", id, "explanation") : "");
  return (
    <Dialog kind="drawer" title={id} onClose={close}>
      <Read of={row}>{(row) => <Read of={why}>{(why) => <Explained row={row} why={why} />}</Read>}</Read>
    </Dialog>
  );
}

function Explained({ row, why }: { row: RequestRow; why: Explanation }) {
  const used = ({ tokens, requests }: Explanation["most_used_by"][number]) => tokens || requests;
  const all = why.most_used_by.reduce((sum, one) => sum + used(one), 0);
  const facts: [string, ComponentChildren][] = [
    ["ID", <Command text={row.id} />],
    [t("command"), <Command text={`quotapool explain ${row.id}`} />],
    [t("trace"), row.trace_id && <Command text={row.trace_id} />],
    [t("client"), row.client ? to("clients", row.client) : t("anonymous")],
    [t("model"), <a href={link("requests", { model: row.model })}>{row.model}</a>],
    [t("endpoint"), row.endpoint + (row.streamed ? ", stream" : "")],
    [t("took"), t("took-of", { total: format.ms(row.total_ms), queue: format.ms(row.queue_ms), first: format.ms(row.ttfb_ms), own: format.ms(row.overhead_ms) })],
    ["", why.longest],
    [t("tokens"), [t("tokens-of", { n: format.whole(row.prompt_tokens), cached: format.whole(row.cached_tokens), out: format.whole(row.completion_tokens) }), row.certainty].filter(Boolean).join(" · ")],
    [t("asked-for"), row.asked_for && t("asked-for-of", { tokens: format.whole(row.asked_for.tokens), group: row.asked_for.group, wait: format.seconds(row.asked_for.max_wait_s) })],
    [t("cost"), format.usd(row.usd)],
    [t("cache"), why.cache && <span lang="en">{why.cache}</span>],
  ];
  if (why.until) facts.unshift([t("room-again"), <Time at={why.until} />]);
  if (why.since) facts.unshift([t("since"), <Time at={why.since} />]);
  return (
    <>
      <p class="buttons">
        <StatusBadge status={row.status} code={row.code} cut={row.cut} /> {format.moment(row.time)}
      </p>
      <p class="lead">{coded(told("cause", why.cause, why.summary))}</p>
      {language.get() !== "en" && <p class="muted" lang="en">{coded(why.summary)}</p>}
      {why.remedy && <p class="note">{coded(why.remedy)}</p>}
      <Facts of={facts} />
      <ShortTable bare title={t("rules")} numbers={1} heads={[t("rules"), t("used"), t("limit"), t("needed")]}
        rows={(row.waited_for?.rules ?? []).map((one) => [`${one.subject} ${one.rule}`, format.count(one.used + one.held), format.count(one.limit), format.count(one.needed)])} />
      <ShortTable title={t("used-by")} numbers={2} heads={[t("client"), t("share"), t("requests"), t("tokens")]}
        rows={why.most_used_by.map((one) => [
          <>{to("clients", one.client)} {one.model}</>,
          <><Bar value={used(one) / all} tone="info" label={t("share")} /> {format.share(used(one) / all)}</>,
          format.count(one.requests),
          format.count(one.tokens),
        ])} />
      <h3>{t("timeline")}</h3>
      <ul class="timeline">
        {why.timeline.map((step, n) => (
          <li key={n}>
            {step.text} {step.at_ms !== null && <small>{format.ms(step.at_ms)}</small>}
          </li>
        ))}
      </ul>
      <ShortTable title={t("attempts")} heads={[t("key"), t("account"), t("status"), t("waited"), t("took"), "OpenAI ID"]}
        rows={row.attempts.map((one) => [
          to("keys", one.key),
          to("money", one.account),
          <StatusBadge status={one.status} code={one.reason || one.outcome} />,
          format.ms(one.wait_ms),
          format.ms(one.ms),
          <code>{one.upstream_request_id}</code>,
        ])} />
    </>
  );
}
